"""The contents of all files in use: loading, reading, writing, truncating.

Owns the in-memory contents of open files, and a bounded number of those that were open lately. What it accepts is in
the journal (or in staging, with its record in the journal) before it returns, in one transaction with the new size
and times; it survives the death of the process, and a power cut after the next barrier.

Invariants: there is one `Content` for each inode; a file that is open keeps its content whether or not it has a name,
and the draft of one that was removed here goes with its last descriptor. A draft is made on one revision: the one that
its first writer has seen last. Where that is not the newest any more, or the file is gone elsewhere, the backend will
refuse the draft, and it becomes a copy of its own; it is never laid over what another device made meanwhile.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from weakref import WeakValueDictionary

from cache.drafts import DraftRow
from cache.errors import DiskFull
from cache.workspace import LocalState
from drivefs.fs import compaction, errors, recording
from drivefs.fs.content import Basis, Content, basis_of
from drivefs.fs.handles import FileHandle, Handles
from drivefs.fs.interfaces import Publisher
from drivefs.fs.quota import Quota
from drivefs.fs.reading import Reader
from drivefs.fs.view import View, shrink
from drivefs.protocol.changes import Base
from drivefs.protocol.ground import NowNs
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeState, pack_blocks, unpack_blocks, with_content_of

MAX_INLINE_BYTES = 65_536
MAX_SYNCED_INLINE_BYTES = 2**20
"""The same of a file that is fsynced while it is written: each write that stays in the log spares a sync of staging."""
"""Up to this much of a draft is kept in the journal database itself; what is written past it goes to staging."""
PAGE_BYTES = 4096
MAX_IDLE_CONTENTS = 2048
MAX_EMPTIED = 4096
MAX_ENDED = 4096
MAX_LEAVING = 256
MAX_IDLE_BLOCKS = 64
"""Contents with longer block lists are not kept when they are closed."""


class Contents:
    """Contents of files, by inode."""

    def __init__(self, local: LocalState, view: View, reader: Reader, quota: Quota, now_ns: NowNs) -> None:
        self.handles: Handles[FileHandle] = Handles()
        self._journal = local.journal
        self._drafts = local.journal.drafts
        self._staging = local.staging
        self._view = view
        self.reader = reader
        self._quota = quota
        self._now_ns = now_ns
        self._open: dict[InodeId, Content] = {}
        self._idle: dict[InodeId, Content] = {}
        self._frozen: WeakValueDictionary[InodeId, Content] = WeakValueDictionary()
        """Contents of which a snapshot exists: what is frozen, only memory knows until its store is in the journal."""
        self.followed: Callable[[InodeId, InodeId], None] = lambda inode, other: None
        """Hears that what is open as one inode goes on as another, its descriptors and their pages with it.

        Heard twice, it is as it was.
        """
        self.offer: Callable[[InodeId], None] = lambda inode: None
        """Hears of a file that nobody writes to, and whose changes are to be published again."""
        self.awaits_forgetting = False
        """Whether `forgotten` says when nobody can be on the way any more to what has lost its last name."""
        self._leaving: dict[InodeId, None] = {}
        """Removed files that have changes, until then."""
        self._emptied: dict[InodeId, None] = {}
        """Removed files whose unpublished content went with the last name: there is nothing left to read."""
        self._ended: dict[InodeId, set[int]] = {}
        """Where files ended that were not open when another device changed them: the kernel may be told of it later."""
        self._followed: list[tuple[InodeId, InodeId]] = []
        self._of_before: set[InodeId] = set()
        """Contents known from a history that the backend may have lost: their numbers may be those of others now."""
        view.keep_while(self._open.__contains__)
        view.came_back = self._came_back
        view.coming_back = self._with_own_content
        self._drop_left_over()

    def _drop_left_over(self) -> None:
        """Drop the drafts of files that were removed while they were open, when the last mount ended."""
        for inode in self._drafts.draft_inodes():
            state = self._journal.overlay.inode(inode)
            if state is not None and not state.nlink:
                self._drafts.drop_draft(inode)

    def peek(self, inode: InodeId) -> Content | None:
        """The content of an inode if it is open."""
        return self._open.get(inode)

    def is_open(self, inode: InodeId) -> bool:
        """Whether a descriptor of the inode exists."""
        return inode in self._open

    def is_written(self, inode: InodeId) -> bool:
        """Whether a descriptor exists that may write to the inode."""
        content = self._open.get(inode)
        return content is not None and content.writers > 0

    def load(self, inode: InodeId) -> Content:
        """The content of a file, from the databases if it is not in use.

        Raises:
            NotFound: nothing is known of the inode.
        """
        content = self._open.get(inode) or self._idle.get(inode) or self._frozen.get(inode)
        if content is not None:
            return content
        draft = self._drafts.draft(inode)
        if draft is None:
            content = Content(inode, basis_of(self._view.inode(inode)))
        else:
            packed = self._drafts.base_blocks(inode)
            refs = None if packed is None else unpack_blocks(packed)
            content = Content(inode, Basis(draft.base, draft.base_size, refs))
            if not draft.base_size:
                content.know([])
            content.replay(draft, self._drafts.records(inode))
        self._keep_idle(content)
        return content

    def freeze(self, content: Content) -> None:
        """What there is of changes stays as it is; for as long as a snapshot refers to the content, that is known."""
        before = content.dirty_bytes
        content.freeze(self._view.inode(content.inode).size)
        self._frozen[content.inode] = content
        self._quota.pend(content.dirty_bytes - before)
        self._staging.roll(content.inode)

    def reload(self, content: Content) -> None:
        """Rebuild the changes of a content from its draft."""
        draft = self._drafts.draft(content.inode)
        assert draft is not None, "a content is reloaded because its draft changed"
        before = content.dirty_bytes
        content.replay(draft, self._drafts.records(content.inode))
        self._quota.pend(content.dirty_bytes - before)

    def _keep_idle(self, content: Content) -> None:
        if len(content.offsets) <= MAX_IDLE_BLOCKS:
            self._idle[content.inode] = content
            shrink(self._idle, MAX_IDLE_CONTENTS)

    def forget(self, inode: InodeId, before: InodeState | None) -> None:
        """The databases have something newer: what is clean is read afresh from now on."""
        content = self._open.get(inode) or self._frozen.get(inode)
        if content is not None and not content.handles and not content.layers:
            # Nothing is known of it now if it is in a share that comes back: it is looked up when it is wanted.
            del self._frozen[inode]
            content = None
        if before is not None:
            (self._ended.setdefault(inode, set()) if content is None else content.ends_before).add(before.size)
            shrink(self._ended, MAX_ENDED)
        if content is None:
            self._idle.pop(inode, None)
        elif not content.layers:
            self._refresh(content)

    def _refresh(self, content: Content) -> None:
        """Show what the databases have; whoever may write remembers which revision they have seen last."""
        try:
            state = self._view.inode(content.inode)
        except errors.NotFound:
            return
        seen, fresh, is_of_before = content.basis, basis_of(state), content.inode in self._of_before
        if self._view.replica.earlier is None:
            self._of_before.discard(content.inode)  # until then what is known may still be of the history before
        is_same = seen.is_same(fresh, by_number=not is_of_before)
        if is_same and (not is_of_before or fresh.refs is not None):
            return
        content.stand_on(fresh)
        if is_same or not content.writers or (fresh.base == seen.base and not is_of_before):
            return
        for handle in self.handles:
            if handle.content is content and handle.writes and handle.older is None:
                # The number that a lost one had says nothing: what is made on that becomes a copy.
                handle.older = seen._replace(base=Base()) if is_of_before else seen

    def _came_back(self, before: InodeState) -> None:
        self.forget(before.inode, before)
        if self._drafts.draft(before.inode) is not None and not self.is_written(before.inode):
            self.offer(before.inode)

    def _with_own_content(self, before: InodeState, now: InodeState) -> InodeState:
        """What was written to a removed file goes on where it is open, on what it was; else it went with the name."""
        if self._drafts.draft(now.inode) is None:
            return now
        if now.inode in self._open:
            return with_content_of(before, now)
        self.give_up(now.inode)
        return now

    def acquire(self, inode: InodeId, *, writing: bool) -> Content:
        """A descriptor of the inode begins.

        Raises:
            NotFound: nothing is known of the inode, or it was removed and with it what nobody else has of it.
        """
        if inode in self._emptied and inode not in self._open and not self._has_name(inode):
            raise errors.NotFound
        content = self.load(inode)
        self._idle.pop(inode, None)
        self._open[inode] = content
        content.ends_before |= self._ended.pop(inode, set())
        content.handles += 1
        content.writers += writing
        return content

    def release(self, content: Content, *, writing: bool, publisher: Publisher) -> None:
        """A descriptor of the inode ends."""
        content.handles -= 1
        content.writers -= writing
        inode = content.inode
        if not content.handles:
            has_name = self._has_name(inode)
            del self._open[inode]
            if not has_name:
                self._leave(inode, publisher)
                return
            self._keep_idle(content)
        if writing and not content.writers and (content.layers or content.fresh):
            content.fresh = False
            if content.is_cut:
                content.is_cut = False
                self._journal.content_goes()
            publisher.closed(inode)

    def _has_name(self, inode: InodeId) -> bool:
        """Whether an inode has a name, be it one that came back from elsewhere since it was removed here."""
        with suppress(errors.NotFound, DiskFull):
            return self._view.under_name(inode).nlink > 0
        # It was removed elsewhere, and is known nowhere any more.
        return False

    def remember(self, inodes: Iterable[InodeId]) -> Callable[[], None]:
        """Give what puts the contents of these back as they are now; of others only what is open is left alone."""
        found = [
            (known, content, content.kept())
            for known in (self._open, self._frozen)
            for inode in inodes
            if (content := known.get(inode)) is not None
        ]
        handles = [(each, each.content, each.older) for each in self.handles]
        self._followed.clear()

        def put_back() -> None:
            self._idle.clear()
            for known, content, before in found:
                for inode in [inode for inode, each in known.items() if each is content]:
                    del known[inode]
                content.become(before)
                known[content.inode] = content
            for handle, content, older in handles:
                handle.content, handle.older = content, older
            for inode, other in self._followed:
                self.followed(inode, other)

        return put_back

    def move(self, inode: InodeId, other: InodeId) -> Content:
        """Let the content with all changes be that of another inode; descriptors that wrote follow it.

        The kernel has one set of pages for all descriptors of an inode: where one of them follows, all do. A name
        leads to what it belongs to all the same, for whoever opens it next.
        """
        content = self.load(inode)
        for known in (self._idle, self._open, self._frozen):
            known.pop(inode, None)
        content.inode = other
        handles = [each for each in self.handles if each.content is content] if content.handles else []
        if any(handle.has_written for handle in handles):
            self._open[other] = content
            self._followed.append((inode, other))
            self.followed(inode, other)
            return content
        content.handles = content.writers = 0
        self._keep_idle(content)
        for handle in handles:
            handle.content = self.acquire(inode, writing=handle.writes)
        return content

    def merge(self, inode: InodeId, other: InodeId) -> Content:
        """Let the content of an inode, with all changes and all descriptors, be that of another one without changes."""
        content = self.load(inode)
        there = self._open.get(other)
        for known in (self._idle, self._open, self._frozen):
            known.pop(inode, None)
            known.pop(other, None)
        content.inode = other
        if there is not None:
            content.handles += there.handles
            content.writers += there.writers
        for handle in self.handles if content.handles else ():
            if handle.content in (content, there):
                handle.content, handle.older = content, None
        if content.handles:
            self._open[other] = content
        else:
            self._keep_idle(content)
        return content

    def begin_again(self) -> None:
        """The history may be another one: what is in use is looked at anew when its state is known, the rest goes."""
        self._idle.clear()
        self._of_before = {*self._open, *self._frozen}

    def open_inodes(self) -> list[InodeId]:
        """The inodes that somebody has open."""
        return list(self._open)

    def renumber(self, fresh: Mapping[InodeId, InodeId]) -> None:
        """Inodes have new ids (by the old ones) in the databases."""
        self._idle.clear()
        self._leaving = {fresh.get(inode, inode): None for inode in self._leaving}
        for known in (self._open, self._frozen):
            moved = [known.pop(inode) for inode in fresh if inode in known]
            for content in moved:
                content.inode = fresh.get(content.inode, content.inode)
                known[content.inode] = content

    def nameless(self, inode: InodeId, publisher: Publisher) -> None:
        """The inode has lost its last name: its changes go, unless a descriptor still needs them."""
        if inode not in self._open:
            self._leave(inode, publisher)

    def _leave(self, inode: InodeId, publisher: Publisher) -> None:
        """Let the changes of a file go that has no name and is not open, once nobody can be on the way to open it."""
        if not self.is_kept(inode):
            self._drop(inode)
        elif self._drafts.draft(inode) is not None:
            self._leaving[inode] = None
            if len(self._leaving) > MAX_LEAVING:
                self.forgotten(next(iter(self._leaving)))
        publisher.dropped(inode)

    def is_kept(self, inode: InodeId) -> bool:
        """Whether changes of a file are kept when it loses its last name now."""
        return self.awaits_forgetting or inode in self._open

    def forgotten(self, inode: InodeId) -> None:
        """The kernel knows an inode no more: nobody opens it again if it has no name."""
        if inode in self._leaving:
            del self._leaving[inode]
            if inode not in self._open and not self._has_name(inode):
                with self._journal.transaction():
                    self._drop(inode)

    def _drop(self, inode: InodeId) -> None:
        if self.give_up(inode):
            self._emptied[inode] = None
            shrink(self._emptied, MAX_EMPTIED)

    def give_up(self, inode: InodeId) -> bool:
        """Drop the changes of a content, in a journal transaction; False if there are none.

        Who has it open for reading reads what the databases have then.
        """
        self._idle.pop(inode, None)
        self._frozen.pop(inode, None)
        before = self._journal.pending_bytes
        if not self._drafts.drop_draft(inode):
            return False
        left = self._journal.pending_bytes
        self._quota.pend(left - before if left else -self._quota.pending_bytes)
        if (content := self._open.get(inode)) is not None:
            content.layers, content.frozen = [], 0
        return True

    async def read(self, content: Content, offset: int, length: int) -> bytes | bytearray:
        """Up to `length` bytes of the present content from `offset` on.

        Raises:
            Unavailable: some bytes are not here and could not be had within the deadline.
        """
        while True:
            end = min(offset + length, self._view.inode(content.inode).size)
            if offset >= end:
                return b""
            now = self.reader.read_now(content, offset, end)
            if now is not None:
                return now
            base, layers = content.base, [layer.copy() for layer in content.layers]
            data = await self.reader.read(content, layers, offset, end)
            if content.base == base:
                return data

    def write(self, handle: FileHandle, offset: int, data: bytes) -> None:
        """Write bytes at an offset, growing the file where they lie past its end.

        Raises:
            TooLarge, OverQuota, cache.errors.DiskFull: nothing was written.
        """
        content, end = handle.content, offset + len(data)
        self._quota.check_size(end)
        self._quota.check_write(content.inode, len(data))
        self._journal.admit(len(data))
        state = self._view.draft_of(content.inode)
        basis = self._seen_by(handle, offset, end)
        compaction.thaw_if_given_up(content, self._drafts, self._quota)
        with self._view.change():
            if not content.layers:
                self._put_draft(basis, state)
            most = MAX_SYNCED_INLINE_BYTES if content.is_synced else MAX_INLINE_BYTES
            inline_bytes = content.inline_bytes + len(data)
            if inline_bytes <= most:
                record, written = recording.in_log(self._drafts, state.inode, offset, data)
            else:
                record, written = recording.in_staging(self._drafts, self._staging, state.inode, offset, data)
            state.size = max(state.size, end)
            state.mtime_ns = state.ctime_ns = self._now_ns()
            self._view.put_inode(state)
        self._begin_draft(content, basis)
        handle.draft, handle.older = content.draft_count, None
        layer = content.layers[0]
        before = layer.length
        for extent in written:
            layer.write(extent)
        content.last_record = record
        if inline_bytes <= most:
            content.inline_bytes += len(data)
        content.written_bytes += len(data)
        self._quota.pend(layer.length - before)
        compaction.keep_small(content, state.size, self._journal, self._staging)

    def _seen_by(self, handle: FileHandle, start: int, end: int) -> Basis:
        """The revision on which a write through a descriptor is made, if the content has no changes yet.

        The kernel writes mapped pages back through any descriptor that may write: where it does not look like anything
        else, the pages are taken to be those of the descriptor that has seen the oldest revision.
        """
        content = handle.content
        if handle.older is not None:
            return handle.older
        if content.writers > 1 and not start % PAGE_BYTES and (not end % PAGE_BYTES or end == content.base_size):
            older = [each.older for each in self.handles if each.content is content and each.older is not None]
            if older:
                return min(older, key=lambda basis: basis.base.revision)
        return content.basis

    def _put_draft(self, basis: Basis, state: InodeState) -> None:
        """Begin a draft, before the content changes, and let `state` show its base; inside a transaction.

        A file that is gone elsewhere is there again: the edit survives.
        """
        if not state.nlink and self._view.is_lost(state.inode):
            state.nlink = 1
        state.size = size = basis.size
        draft = DraftRow(
            inode=state.inode, base=basis.base, base_size=size, low_size=size, size=size, mtime_ns=state.mtime_ns
        )
        self._drafts.put_draft(draft)
        if basis.refs:
            self._drafts.put_base_blocks(state.inode, pack_blocks(basis.refs))

    @staticmethod
    def _begin_draft(content: Content, basis: Basis) -> None:
        """The same in memory, when the transaction is over; nothing if there is a draft already."""
        if not content.layers:
            if basis.base != content.base:
                content.stand_on(basis)
            content.begin_draft(basis.size)
            content.draft_count += 1

    def truncate(self, content: Content, size: int, handle: FileHandle | None = None) -> None:
        """Cut or extend a file to `size` bytes; the times move even if the size does not.

        Raises:
            TooLarge, cache.errors.DiskFull: nothing was changed.
        """
        state = self._view.draft_of(content.inode)
        basis = content.basis if handle is None or handle.older is None else handle.older
        was = state.size if content.layers else basis.size
        if size > was:
            self._quota.check_size(size)
        compaction.thaw_if_given_up(content, self._drafts, self._quota)
        with self._view.change():
            if not content.layers:
                self._put_draft(basis, state)
            if not size and not content.is_frozen:
                self._staging.roll(state.inode)
                self._drafts.drop_records(state.inode, content.last_record)
            record = self._drafts.add_truncate(state.inode, size)
            state.size = size
            state.mtime_ns = state.ctime_ns = self._now_ns()
            self._view.put_inode(state)
        self._begin_draft(content, basis)
        content.is_cut = content.is_cut or size < was
        if handle is not None:
            handle.draft, handle.older = content.draft_count, None
        before = content.layers[0].length
        content.layers[0].truncate(size)
        if not size and not content.is_frozen:
            content.inline_bytes = content.written_bytes = 0
        content.last_record = record
        self._quota.pend(content.layers[0].length - before)
