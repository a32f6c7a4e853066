"""Gives up what the backend will never take: its content goes to this device's `lost+found`, and people are told.

Owns what is given up, the order of steps, and the sentences about it. The order for a file:

1. Its content that no revision has is written to a file of its own, durably.
2. In one journal transaction the draft and the refused changes go, what the backend has shows again (a file that it
   does not know has no name any more), and it is noted where the content is.

A crash between the two leaves the refusal in the journal, and the same file is written once more. Invariant: no content
is dropped that is not in `lost+found`. A file that somebody is writing to waits until it is closed, a directory until
all in it was dealt with, and everything that was sent until it has its answer.
"""

import logging
import os
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import trio

from cache.drafts import DraftRow
from cache.effects import entries
from cache.errors import Corrupt, DiskFull
from cache.journal import JournalRow, RowState
from drivefs.protocol import wire
from drivefs.protocol.changes import Base, Create, Rename, Restore, Status, Store
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import NO_INODE, NO_OP, InodeId
from drivefs.protocol.messages import ContentRequest, InodesRequest
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.protocol.names import MAX_NAME_BYTES, with_mark
from drivefs.remote import errors
from drivefs.sync import left_behind, planner
from drivefs.sync.amends import Amends
from drivefs.sync.commits import NO_CONTENT
from drivefs.sync.contents import Contents, Shown
from drivefs.sync.draft_files import DraftFiles, Written, finish, write_at
from drivefs.sync.ends import Ends
from drivefs.sync.publications import Publications
from drivefs.sync.publisher import BASE_GONE
from drivefs.sync.resolver import Drop
from drivefs.sync.signal import Signal

log = logging.getLogger(__name__)

SCANNED_ROWS = 1000
FETCHED_BYTES = 4 * 2**20
KEPT_NOTES = 20
META = "given_up"
WHY = {
    "role": "you may not change anything there any more",
    "limit": "it is larger than the server allows",
    "predecessor": "what it depends on was not taken",
    "no_parent": "the directory that it is in was not taken",
    "absent": "what it depends on was not taken",
    "workspace": "what is in a share stays in it, and nothing is moved there: the folder was shared meanwhile",
    "share": "a share hangs there",
    BASE_GONE: "parts of it are as they were before it was changed here, and the server has let those go since",
    NO_CONTENT: "a part of it is neither on this device, after a power cut, nor on the server any more",
    left_behind.REASON: "it was ignored, only on this device, and another device has removed its directory",
}
KINDS = {InodeKind.FILE: "file", InodeKind.DIRECTORY: "directory", InodeKind.SYMLINK: "link"}


class Kept(msgspec.Struct, frozen=True):
    """Content in `lost+found`: the path that it had on the drive, where it is, why, and whether some of it is missing.

    `is_gone`: the drive does not have the file at all any more.
    """

    path: bytes
    place: bytes
    why: str
    is_part: bool
    is_gone: bool


class _Content(NamedTuple):
    """What is written out: if it is another one when that is done, it is written out again."""

    draft: DraftRow
    last_record: int


class GivingUp:
    """What was refused for good and is not given up yet."""

    def __init__(
        self, ends: Ends, amends: Amends, shown: Shown, *, contents: Contents, publications: Publications
    ) -> None:
        self._ends = ends
        self._local = ends.local
        self._journal = ends.local.journal
        self._overlay = ends.local.journal.overlay
        self._replica = ends.local.replica
        self._amends = amends
        self._places = amends.places
        self._shown = shown
        self._contents = contents
        self._publications = publications
        self._files = DraftFiles(ends.local)
        self._refused: dict[InodeId, str] = {}
        """Files whose content is not taken, and the reason, without a change in the journal that says so."""
        self._waiting: dict[InodeId, str] = {}
        """What cannot be given up yet, and what people should know of it."""
        self._dropped: deque[str] = deque(maxlen=KEPT_NOTES)
        self._wanted = Signal()
        self._is_asked = self._is_at_work = False
        self.count = 0
        """How many inodes were given up, in whole or in part, since the mount began."""

    @property
    def notes(self) -> list[str]:
        """What people should know, for as long as the contents are in `lost+found`."""
        kept = [each for each in self._kept() if os.path.lexists(each.place)]
        return [*map(_sentence, kept), *filter(None, self._waiting.values()), *self._dropped]

    def refused(self, inode: InodeId, reason: str) -> None:
        """The content of a file will never be taken."""
        self._refused[inode] = reason
        self.look()

    async def is_base_gone(self, inode: InodeId) -> bool:
        """Whether unpublished content was made on what the backend has let go.

        What it keeps still, and cannot give now, it may find again, or a device that has it may send it again.

        Raises:
            RemoteError: what the backend has of the file is not known here, and cannot be had now.
        """
        draft = self._journal.drafts.draft(inode)
        if draft is None or draft.base.revision_op:
            return False
        if self._replica.inode_now(inode) is None and self._is_made_here(inode):
            # A copy: its content is that of another file in part.
            return not draft.base.revision
        theirs = await self._theirs(inode)
        if theirs is not None and theirs.nlink and draft.base.revision >= theirs.revision:
            return False
        try:
            await self._ends.remote.content(
                self._ends.workspace, ContentRequest(inode=inode, revision=draft.base.revision)
            )
        except errors.Refused as error:
            return error.code in (Code.NOT_FOUND, Code.FORBIDDEN)
        return False

    def renumber(self, fresh: Mapping[InodeId, InodeId]) -> None:
        """Inodes have new ids, by the old ones."""
        self._refused = {fresh.get(inode, inode): reason for inode, reason in self._refused.items()}

    def look(self) -> None:
        """Something may have been refused, or closed."""
        self._is_asked = True
        self._wanted.raise_()

    async def wait(self, longest_seconds: float) -> None:
        """Wait until there may be something to give up, at most so long; cancellation changes nothing."""
        await self._wanted.wait(longest_seconds)

    @property
    def is_waiting(self) -> bool:
        """Whether something has to wait before it is given up."""
        return bool(self._waiting)

    @property
    def is_done(self) -> bool:
        """Whether all is given up but what has to wait, and was found to since it was asked for."""
        return not self._inodes() or (self._is_all_waiting and not self._is_asked and not self._is_at_work)

    @property
    def _is_all_waiting(self) -> bool:
        return all(inode in self._waiting for inode in self._inodes())

    async def work(self, undisturbed: trio.Lock) -> None:
        """Give up all that can be given up now; `undisturbed` keeps commits away while the journal changes.

        Cancellation leaves the rest for later.

        Raises:
            RemoteError: what the backend has of a file is not known here, and cannot be had now.
            DiskFull: the content could not be written.
        """
        self._is_at_work = True
        try:
            while await self._give_up_once(undisturbed):
                pass
        finally:
            self._is_at_work = False

    async def _give_up_once(self, undisturbed: trio.Lock) -> bool:
        """Try each one; whether another try may give more up: one that went had others wait, or more was refused."""
        self._is_asked = False
        self._waiting.clear()
        was = self.count
        for inode in self._inodes():
            if not await self._give_up(inode, undisturbed):
                self._waiting.setdefault(inode, "")
            await trio.lowlevel.checkpoint()
        return self.count > was or not self._is_all_waiting

    def _inodes(self) -> list[InodeId]:
        """What is to be given up, the latest first: what is in a directory comes before it."""
        rows = self._journal.rejected(SCANNED_ROWS)
        return list(dict.fromkeys([*self._refused, *(row.mutation.inode for row in rows)]))

    async def _give_up(self, inode: InodeId, undisturbed: trio.Lock) -> bool:
        """Give one inode up; False: not yet."""
        try:
            return await self._give_up_whole(inode, undisturbed)
        except Corrupt as error:
            self._waiting[inode] = (
                f"{_text(self._places.called(inode))} is not taken by the server, and is damaged here: {error}"
            )
            return False

    async def _give_up_whole(self, inode: InodeId, undisturbed: trio.Lock) -> bool:
        """The same, if all of it verifies."""
        while not self._has_to_wait(inode):
            is_known = await self._is_known(inode)
            if self._has_to_wait(inode, is_known=is_known):
                break
            content = self._content(inode, is_known=is_known)
            written: Kept | None = None
            if content is not None:
                written = await self._write_out(content.draft)
            elif not is_known:
                written = await self._write_link(inode)
            async with undisturbed:
                if self._has_to_wait(inode, is_known=is_known) or content != self._content(inode, is_known=is_known):
                    continue
                with self._journal.transaction():
                    self._drop(inode, written, is_known=is_known)
                self.count += 1
                return True
        return False

    # -- what there is -----------------------------------------------------------------------------------------------

    def _has_to_wait(self, inode: InodeId, *, is_known: bool = True) -> bool:
        """Whether one inode has to wait, as far as can be said without asking the backend whether it knows it."""
        rows = self._journal.touching(inode)
        if any(row.state is RowState.SENT for row in rows):
            return True
        if self._contents.is_written(inode) and (not is_known or self._is_content_refused(inode, rows)):
            self._waiting[inode] = (
                f"the server does not take {_text(self._places.called(inode))}: {self._why(inode, rows)}. A program has"
                " it open: when it is closed, what was written goes to lost+found on this device"
            )
            return True
        return any(child for _, child in self._overlay.children(inode)) and _is_made(rows)

    def _is_content_refused(self, inode: InodeId, rows: list[JournalRow]) -> bool:
        carrying = (row for row in rows if isinstance(row.mutation, Create | Store | Restore))
        return inode in self._refused or any(map(_is_rejected, carrying))

    def _content(self, inode: InodeId, *, is_known: bool) -> _Content | None:
        """The content that would be lost; None: there is none, or it was removed here.

        Whatever was refused, content goes with a file that the backend does not know.
        """
        draft, state = self._journal.drafts.draft(inode), self._places.state(inode)
        if draft is None or state is None or not state.nlink:
            return None
        if is_known and not self._is_content_refused(inode, self._journal.touching(inode)):
            return None
        records = self._journal.drafts.records(inode)
        return _Content(draft, records[-1].id if records else 0)

    async def _is_known(self, inode: InodeId) -> bool:
        """Whether the backend has an inode, under a name."""
        state = self._replica.inode_now(inode) if self._is_made_here(inode) else await self._theirs(inode)
        return state is not None and state.nlink > 0

    def _is_made_here(self, inode: InodeId) -> bool:
        """Whether what makes the inode is not settled yet."""
        return any(isinstance(row.mutation, Create) for row in self._journal.touching(inode))

    async def _theirs(self, inode: InodeId) -> InodeState | None:
        """What the backend has of an inode.

        It is asked where no name leads there: it may not have been listed, or was in a share that was left since, of
        which what was known is known still.
        """
        if (state := self._replica.inode_now(inode)) is not None and self._places.is_reached(inode):
            return state
        reply = await self._ends.remote.inodes(self._ends.workspace, InodesRequest(inodes=[inode]))
        return next(iter(reply.inodes), None)

    def _why(self, inode: InodeId, rows: list[JournalRow]) -> str:
        reason = self._refused.get(inode) or next((row.reason for row in rows if _is_rejected(row)), "")
        return WHY.get(reason, f"the server calls it {reason.replace('_', ' ')}")

    # -- first: the content ------------------------------------------------------------------------------------------

    async def _write_out(self, draft: DraftRow) -> Kept:
        """Write a draft to `lost+found`, with what the backend can still give of its base; durable on return."""
        lost, offload = self._local.lost, self._local.offload
        inode, rows = draft.inode, self._journal.touching(draft.inode)
        state, path = self._places.state(inode), self._places.called(inode)
        assert state is not None, "it has a name here"
        records = self._journal.drafts.records(inode)
        try:
            name = _name(path, records[-1].id if records else 0)
            descriptor = lost.begin_file(name)
            try:
                written = await self._files.write(draft, descriptor)
                await self._fetch(inode, written, descriptor)
                await offload(finish, descriptor, state, 0)
            finally:
                os.close(descriptor)
            place = await offload(lost.complete_file, name)
        except OSError as error:
            raise DiskFull(f"{_text(path)} could not be written to {lost.directory}: {error.strerror}") from error
        is_part = bool(written.missing.ranges)
        return Kept(path, os.fsencode(place), self._why(inode, rows), is_part=is_part, is_gone=False)

    async def _write_link(self, inode: InodeId) -> Kept | None:
        """The same of a symbolic link, of which the target is the content; None of anything else."""
        state, path = self._places.state(inode), self._places.called(inode)
        if state is None or not state.nlink or state.kind is not InodeKind.SYMLINK:
            return None
        lost, why = self._local.lost, self._why(inode, self._journal.touching(inode))
        try:
            # Of links to one place there are many: each has the number of its inode.
            place = await self._local.offload(lost.keep_link, _name(path, inode), state.target)
        except OSError as error:
            raise DiskFull(f"{_text(path)} could not be written to {lost.directory}: {error.strerror}") from error
        return Kept(path, os.fsencode(place), why, is_part=False, is_gone=False)

    async def _fetch(self, inode: InodeId, written: Written, descriptor: int) -> None:
        """Get what is lacking of the base; what the backend does not give stays missing."""
        for start, end in written.fetchable():
            for offset in range(start, end, FETCHED_BYTES):
                until = min(end, offset + FETCHED_BYTES)
                try:
                    data = await self._contents.base_bytes(inode, offset, until)
                except errors.BlockLost as error:
                    log.warning("bytes of inode %d that were not written here cannot be had: %s", inode, error)
                    continue
                except errors.Refused as error:
                    log.warning("nothing of inode %d that was not written here can be had: %s", inode, error)
                    return
                await self._local.offload(write_at, descriptor, data, offset)
                written.missing.remove(offset, until)

    # -- then: the changes -------------------------------------------------------------------------------------------

    def _drop(self, inode: InodeId, kept: Kept | None, *, is_known: bool) -> None:
        """Let the backend's state of an inode show, in the caller's journal transaction."""
        rows = self._rows(inode)
        if kept is not None:
            self._keep(msgspec.structs.replace(kept, is_gone=not is_known))
        elif any(map(_is_rejected, rows)):
            self._tell_dropped(inode, rows, is_known=is_known)
        if is_known:
            self._drop_refused(inode, rows)
        else:
            self._drop_all(inode, rows)
        self._refused.pop(inode, None)
        self._publications.dropped(inode)
        if any(isinstance(row.mutation, Store) for row in rows):
            self._publications.arrived(inode)

    def _rows(self, inode: InodeId) -> list[JournalRow]:
        """What is about an inode, and what was refused that was about one which was found to be it since."""
        rows = {row.n: row for row in self._journal.touching(inode)}
        if self._journal.aliases.is_target(inode):
            rows |= {row.n: row for row in self._journal.rejected(SCANNED_ROWS) if row.mutation.inode == inode}
        return [rows[n] for n in sorted(rows)]

    def _drop_refused(self, inode: InodeId, rows: list[JournalRow]) -> None:
        """Of an inode that the backend has, only what was refused goes; what else waits may still be taken."""
        if self._is_content_refused(inode, rows):
            self._drop_content(inode)
        for row in reversed(rows):
            if _is_rejected(row):
                self._amends.make(row, [Drop()])
                if isinstance(row.mutation, Store):
                    self._rebase(row.mutation)

    def _drop_content(self, inode: InodeId) -> None:
        self._contents.given_up(inode)
        own, theirs = self._overlay.inode(inode), self._replica.inode(inode)
        if own is not None and theirs is not None:
            shown = msgspec.structs.replace(
                own,
                size=theirs.size,
                mtime_ns=theirs.mtime_ns,
                ctime_ns=theirs.ctime_ns,
                revision=theirs.revision,
                blocks=theirs.blocks,
            )
            self._overlay.put_inode(shown, NO_OP)
        self._shown.views.forget_cached([inode], [])
        self._shown.invalidator.inode(inode, content=True)

    def _rebase(self, store: Store) -> None:
        """What was made on the outcome of a store that goes is made on what that was made on."""
        waiting = [row.mutation for row in self._journal.touching(store.inode) if row.state is RowState.PENDING]
        for mutation in planner.rebase(waiting, inode=store.inode, old=Base(revision_op=store.n), new=store.base):
            self._journal.replace(mutation)

    def _drop_all(self, inode: InodeId, rows: list[JournalRow]) -> None:
        """What the backend does not know is as if it had been removed here: whoever reads it goes on reading it."""
        state = self._overlay.inode(inode)
        if not self._contents.is_open(inode):
            self._contents.given_up(inode)
        for row in reversed(rows):
            if isinstance(row.mutation, Rename) and row.mutation.replaced == inode:
                # Another file took its name meanwhile, and for the backend that name is free.
                self._journal.replace_unsent(msgspec.structs.replace(row.mutation, replaced=NO_INODE, base=Base()))
            else:
                self._amends.make(row, [Drop()])
        if state is not None and self._journal.drafts.draft(inode) is not None:
            self._overlay.put_inode(msgspec.structs.replace(state, nlink=0), NO_OP)
        for other in {row.mutation.replaced for row in rows if isinstance(row.mutation, Rename)} - {inode, NO_INODE}:
            self._drop_replaced(other)
        self._shown.views.forget_cached([inode], [])
        self._shown.invalidator.inode(inode, content=False)

    def _drop_replaced(self, inode: InodeId) -> None:
        """What was made here, and replaced by what went just now, is not made: nothing is left that would remove it."""
        rows, state = self._journal.touching(inode), self._overlay.inode(inode)
        is_made_here = any(isinstance(row.mutation, Create) for row in rows)
        if is_made_here and state is not None and not state.nlink and _are_unsent(rows):
            self._drop_all(inode, rows)

    # -- what people are told ----------------------------------------------------------------------------------------

    def _kept(self) -> list[Kept]:
        try:
            return wire.decode(self._journal.meta(META) or b"\x90", list[Kept])
        except ProtocolError:
            return []

    def _keep(self, kept: Kept) -> None:
        """Note where content is, as durably as that it went from the drive."""
        log.warning("%s", _sentence(kept))
        self._journal.set_meta(META, wire.encode([*self._kept(), kept][-KEPT_NOTES:]))

    def _tell_dropped(self, inode: InodeId, rows: list[JournalRow], *, is_known: bool) -> None:
        state, why = self._places.state(inode), self._why(inode, rows)
        kind = KINDS.get(state.kind, "special file") if state is not None else "file"
        given_up = f"a change made here to the {kind}" if is_known else f"the {kind} that was made here as"
        path = self._places.called(inode)
        if not self._places.names_of(inode):
            # It was removed here, which is what was refused.
            path = next((self._places.path_of(name) for row in rows for name in entries(row.mutation)), path)
        note = f"{given_up} {_text(path)} was given up, the server does not take it: {why}"
        log.warning("%s", note)
        self._dropped.append(note)


def _is_rejected(row: JournalRow) -> bool:
    """Whether no state of the drive would let a change pass."""
    return row.state is RowState.FAILED and row.status is Status.REJECTED


def _are_unsent(rows: list[JournalRow]) -> bool:
    return all(row.state is RowState.PENDING for row in rows)


def _is_made(rows: list[JournalRow]) -> bool:
    """Whether an inode was to be made, or brought back, by a change that was refused for good."""
    return any(_is_rejected(row) and isinstance(row.mutation, Create | Restore) for row in rows)


def _text(path: bytes) -> str:
    """A path in a sentence."""
    return repr(path.decode(errors="backslashreplace"))


def _name(path: bytes, record: int) -> str:
    """The name of content in `lost+found`: the same for the same content, and each content its own."""
    name = path.rpartition(b"/")[2]
    return os.fsdecode(with_mark(name, b" (not taken, %x)" % record, MAX_NAME_BYTES - len(b".part")))


def _sentence(kept: Kept) -> str:
    part = " (without what was never on this device and cannot be had any more)" if kept.is_part else ""
    then = "is not in the drive any more" if kept.is_gone else "is in the drive as the server has it"
    if kept.why == WHY[left_behind.REASON]:
        return (
            f"{_text(kept.path)} lost its place: {kept.why}. It is now in {_text(kept.place)}. Copy it to where it is "
            "wanted, then delete it there"
        )
    return (
        f"the server does not take {_text(kept.path)}: {kept.why}. What was written here is now in "
        f"{_text(kept.place)}{part}, and the file {then}. Copy it to where it is wanted, then delete it there"
    )
