"""What this device knows by the feed and the backend has lost, since it was put back to an older state.

Owns the comparison: each inode that the replica has in a state younger than what is common to both histories is asked
for as it was then. Contents that differ, and inodes that the backend never had, become changes of this device again, as
far as their bytes are here; what others have made since is never overwritten, it is met like any change of theirs.
Names and attributes that were changed, and removals, are not made again: there is nothing in them to lose.

It works on the replica before that is set aside, page by page; what it makes is in the journal. A crash, or a
connection that breaks, leaves a part of it made: all is compared again then, and what is there is left as it is.
"""

import logging
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec
import trio

from cache.overlay import MISSING
from drivefs.protocol.changes import Base, Create, Rename, Unlink
from drivefs.protocol.errors import Code
from drivefs.protocol.ids import NO_INODE, NO_REVISION, InodeId, Seq
from drivefs.protocol.messages import InodesRequest, ListRequest
from drivefs.protocol.model import InodeKind, InodeState, unpack_blocks
from drivefs.remote import errors
from drivefs.sync.ends import Ends
from drivefs.sync.lister import Lister

log = logging.getLogger(__name__)

PAGE_INODES = 500
KEPT_NOTES = 5
LONGEST_NAME = 255


class Standing(NamedTuple):
    """A name, and the file that the backend has there instead: to be replaced if it is still in that state."""

    parent: InodeId
    name: bytes
    replaced: InodeId = NO_INODE
    base: Base = Base()


class Offered(Protocol):
    """Makes changes of this device of what was lost; False: not all bytes are here, and nothing was done."""

    async def offer_again(self, lost: InodeState, base: Base) -> bool:
        """A content, as a change on the revision `base`."""
        ...

    async def make_again(self, lost: InodeState, places: Sequence[Standing]) -> bool:
        """An inode, under these names."""
        ...


class Salvage:
    """Finds what the backend has lost; `notes` are sentences for people about what is not here either."""

    def __init__(self, ends: Ends, offered: Offered, lister: Lister) -> None:
        self._local = ends.local
        self._remote = ends.remote
        self._workspace = ends.workspace
        self._offered = offered
        self._lister = lister
        self.notes: deque[str] = deque(maxlen=KEPT_NOTES)

    async def run(self, shared: Seq) -> list[InodeId]:
        """Offer what is younger than the commit `shared` (0: nobody knows what is common); gives what was offered.

        Raises:
            RemoteError: the backend cannot be asked now; call it again.
            DiskFull: there is no room to keep it.
        """
        after, missing, offered = NO_INODE, 0, []
        while page := self._local.replica.inodes_after(after, PAGE_INODES):
            after = page[-1].inode
            younger = [state for state in page if state.seq > shared]
            known = await self._ask([state.inode for state in younger], shared) if younger else {}
            for was in younger:
                is_done = await self._compare(was, known.get(was.inode), shared)
                missing += is_done is False
                if is_done:
                    offered.append(was.inode)
            await trio.lowlevel.checkpoint()
        if missing:
            note = (
                f"the server was put back to an older state, and has lost {missing} files whose content is not on this "
                "device either: another device that has it sends it, else it is gone"
            )
            log.warning("%s", note)
            self.notes.append(note)
        return offered

    async def _ask(self, inodes: Sequence[InodeId], shared: Seq) -> dict[InodeId, InodeState]:
        reply = await self._remote.inodes(self._workspace, InodesRequest(inodes=list(inodes), as_of=shared))
        return {state.inode: state for state in reply.inodes}

    async def _compare(self, was: InodeState, then: InodeState | None, shared: Seq) -> bool | None:
        """Offer an inode if it was lost; whether that could be done, None if there is nothing to do."""
        is_there = then is not None and (then.nlink or not shared)
        base = await self._base_of(was, then, shared) if then is not None and is_there else None
        if not is_there:
            # The backend has no content of it, and what it is given has the numbers anew.
            lowest = Base(revision=then.revision if then is not None else NO_REVISION)
            self._lower_removals(was.inode, lowest, lowest.revision + 1)
        elif base is not None:
            # Where nobody knows what is common, of the earlier ones the backend may have what was done on them.
            first_lost = base.revision + 1 if shared or base.revision else was.revision
            self._lower_removals(was.inode, base, first_lost)
        own = self._local.journal.overlay.inode(was.inode)
        draft = self._local.journal.drafts.draft(was.inode)
        if own is not None and not own.nlink and draft is None:
            return None
        if not is_there:
            return await self._make_again(was, shared)
        if base is None:
            return None
        if draft is not None and draft.base.revision <= base.revision:
            return None  # it stands on what the backend has, and is met there like any change
        return await self._offered.offer_again(was, base)

    async def _base_of(self, was: InodeState, then: InodeState, shared: Seq) -> Base | None:
        """The revision on which a content is to be offered; None: the backend has it.

        Where nobody knows what is common, the same number may name another content; that goes beside it, as a copy.
        """
        if was.kind is not InodeKind.FILE:
            return None
        if shared or was.revision > then.revision:
            return Base(revision=then.revision) if was.revision != then.revision else None
        if (was.revision, was.blocks, was.size) == (then.revision, then.blocks, then.size):
            return None
        packed = was.blocks if was.blocks is not None else self._local.replica.content(was.inode, was.revision)
        try:
            past = await self._lister.past_content(was.inode, was.revision)
        except errors.Refused as error:
            if error.code is not Code.NOT_FOUND:
                raise
            past = None
        if packed is not None:
            return Base() if past != packed else None
        # Which blocks it had nobody here knows: of another size, it was another one.
        return Base() if past is not None and sum(ref.size_bytes for ref in unpack_blocks(past)) != was.size else None

    def _lower_removals(self, inode: InodeId, base: Base, first_lost: int) -> None:
        """Have removals of a file remove no other content than they meant: the numbers of lost ones are given anew."""
        journal = self._local.journal
        with journal.transaction():
            for row in journal.touching(inode):
                change = row.mutation
                if not isinstance(change, Unlink | Rename) or change.base.revision < first_lost:
                    continue
                if inode == (change.inode if isinstance(change, Unlink) else change.replaced):
                    # What was done on a revision that the backend has lost, it has lost too.
                    journal.say_anew(msgspec.structs.replace(change, base=base))

    async def _make_again(self, was: InodeState, shared: Seq) -> bool | None:
        rows = self._local.journal.touching(was.inode)
        if any(isinstance(row.mutation, Create) for row in rows):
            return None
        overlay, replica, places = self._local.journal.overlay, self._local.replica, []
        for parent, name in dict.fromkeys([*replica.names_of(was.inode), *overlay.names_of(was.inode)]):
            if overlay.dentry(parent, name) not in (MISSING, was.inode):
                continue
            above = replica.inode(parent)
            if above is not None and above.seq > shared and not await self._ask([parent], shared):
                await self._make_again(above, shared)
            places.append(await self._standing(was, Standing(parent, name), shared))
        return await self._offered.make_again(was, places) if places else None

    async def _standing(self, was: InodeState, place: Standing, shared: Seq) -> Standing:
        """What the backend had under a name: what was saved by rename goes over it again.

        What lives on under another name here was moved away, and not saved over; there it has no other name. No
        directory goes over a file.
        """
        if was.kind is InodeKind.DIRECTORY:
            return place
        parent, name = place.parent, place.name
        before = name[:-1] + (bytes([name[-1] - 1]) + b"\xff" * (LONGEST_NAME - len(name)) if name[-1] else b"")
        request = ListRequest(directory=parent, as_of=shared, after=before, limit=1)
        try:
            reply = await self._remote.list_directory(self._workspace, request) if shared else None
        except errors.Refused as error:
            if error.code is not Code.NOT_FOUND:
                raise
            reply = None
        found = reply.entries[0] if reply is not None and reply.entries else None
        if found is None or found.name != name or found.inode.kind is not InodeKind.FILE:
            return place
        if found.inode.nlink == 1 and self._lives(found.inode.inode):
            return place
        return place._replace(replaced=found.inode.inode, base=Base(revision=found.inode.revision))

    def _lives(self, inode: InodeId) -> bool:
        """Whether an inode has a name, as far as this device knows."""
        state = self._local.journal.overlay.inode(inode) or self._local.replica.inode(inode)
        return state is not None and state.nlink > 0
