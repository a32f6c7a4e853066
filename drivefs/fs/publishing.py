"""Unpublished content on its way to the backend: what is frozen, and what becomes of a draft when it is published.

Satisfies `drivefs.sync.contents.Contents`. Owns the freezing of drafts; it sends nothing. The order of steps, each
`*` one transaction of the journal:

1. `snapshot`: all that was written becomes a layer that does not change any more, and staging begins a new file.
   In memory only: if nothing comes of it, the next snapshot takes the layers together again.
2. The blocks of the snapshot are stored with the backend.
3. `*` `storing`, with the `Store` appended: the draft remembers the last record and the op. From here on nothing else
   of this inode is frozen until the op is settled.
4. The op is committed.
5. `*` `published`, with the op settled: the records up to the frozen one are dropped, the new revision is the base of
   what came later (if nothing did, the draft ends), and the inode's state has the revision's number and blocks. The
   staging files that only those records needed go to the block cache, and from staging after the next barrier.

A crash after any step leaves either the draft as it was (before 3) or a draft with its op (before 5): both go on from
there. Records are never dropped before the revision that has their bytes is committed.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from weakref import ref

import msgspec

from cache.drafts import DraftRow
from cache.errors import CacheError
from cache.journal import Journal
from cache.workspace import LocalState
from drivefs.fs import extents
from drivefs.fs.content import Content
from drivefs.fs.contents import Contents
from drivefs.fs.extents import Layer
from drivefs.fs.mutations import Mutations
from drivefs.fs.quota import Quota
from drivefs.fs.snapshots import Snapshot, staged_piece
from drivefs.fs.strays import Strays
from drivefs.fs.view import View
from drivefs.protocol.changes import Base, Store
from drivefs.protocol.ids import NO_OP, BlockId, InodeId, OpNumber, RevisionNumber
from drivefs.protocol.model import (
    MAX_INLINE_BLOCKS,
    PACKED_BLOCK_BYTES,
    BlockRef,
    InodeState,
    cut_runs,
    pack_blocks,
    run_id,
    unpack_blocks,
)


class Publishing:
    """The drafts of a mount, as those who publish them see them."""

    def __init__(
        self, local: LocalState, view: View, contents: Contents, quota: Quota, *, mutations: Mutations
    ) -> None:
        self._mutations = mutations
        self._local = local
        self._journal: Journal = local.journal
        self._drafts = local.journal.drafts
        self._view = view
        self._contents = contents
        self._quota = quota
        self._strays = Strays(local, view)
        self._stored: dict[InodeId, bytes] = {}
        """Packed block lists of the stores on their way; the journal has them too."""

    @property
    def notes(self) -> list[str]:
        """What people should know of content here."""
        return list(self._strays.notes.values())

    def unpublished_bytes(self, inode: InodeId) -> int | None:
        """The size of a file that has content which no `Store` carries yet, or is open for writing; else None."""
        content = self._contents.peek(inode)
        state = self._strays.state(inode)
        if state is None or not state.nlink or self._journal.ignored.has(inode):
            return None
        if content is not None and content.writers:
            return state.size
        draft = self._drafts.draft(inode)
        if draft is None or (self._is_sending(draft) and self._contents.load(inode).last_record <= draft.frozen):
            return None
        return state.size

    def _is_sending(self, draft: DraftRow) -> bool:
        """Whether a store of a draft is in the journal: one that was given up there, or was damaged, sends nothing."""
        return bool(draft.frozen_op) and self._journal.get(draft.frozen_op) is not None

    async def snapshot(self, inode: InodeId) -> Snapshot | None:
        """Freeze what was written so far; None if there is nothing to publish now, or the inode has no name left.

        Writes go on behind what is frozen. Nothing durable happens; a snapshot may simply be dropped.

        Raises:
            drivefs.remote.errors.RemoteError: the block list of the base is not here and cannot be had.
        """
        if (content := self._publishable(inode)) is None:
            return None
        size = self._view.inode(inode).size
        await self._contents.reader.learn_base(content, extents.resolve(content.layers, 0, size))
        if (content := self._publishable(inode)) is None:
            return None
        state = self._view.inode(inode)
        self._contents.freeze(content)
        snapshot = Snapshot(
            content, self._contents.reader, size=state.size, mtime_ns=state.mtime_ns, ctime_ns=state.ctime_ns
        )
        content.held = ref(snapshot)
        return snapshot

    def _publishable(self, inode: InodeId) -> Content | None:
        """The content of an inode with a name and a draft of which nothing is on its way."""
        draft, state = self._drafts.draft(inode), self._strays.state(inode)
        if draft is None or state is None or not state.nlink or self._journal.ignored.has(inode):
            return None
        return None if self._is_sending(draft) else self._contents.load(inode)

    def storing(self, snapshot: Snapshot, op: OpNumber, blocks: bytes) -> bool:
        """Note, in the caller's transaction, that `op` is the `Store` of this snapshot, with the packed list `blocks`.

        The snapshot gets the file's mtime as it is now: one that was set meanwhile stands before `op` in the journal.
        False if the inode has lost its last name, or the snapshot its meaning, in the meantime: append nothing then.
        """
        inode = snapshot.inode
        draft, state = self._drafts.draft(inode), self._strays.state(inode)
        if draft is None or draft.base != snapshot.base or state is None or not state.nlink:
            return False
        if self._drafts.number(inode) != snapshot.draft or self._is_sending(draft):
            return False
        self._drafts.put_draft(msgspec.structs.replace(draft, frozen=snapshot.record, frozen_op=op))
        if snapshot.base_blocks and self._drafts.base_blocks(inode) is None:
            self._drafts.put_base_blocks(inode, pack_blocks(snapshot.base_blocks))
        content = self._contents.load(inode)
        if content.frozen != snapshot.record:
            self._contents.reload(content)
        if content.last_record <= snapshot.record:
            snapshot.mtime_ns = state.mtime_ns
        self._stored[inode] = blocks
        self._mutations.storing(inode, is_first=not state.revision)
        return True

    def frozen(self, inode: InodeId) -> tuple[Snapshot, bytes] | None:
        """The content and packed block list of the store on its way, as given to `storing`; after a crash too."""
        draft = self._drafts.draft(inode)
        store = None if draft is None else self._store(inode, draft.frozen_op)
        if store is None:
            return None
        content = self._contents.load(inode)
        blocks = self._stored.get(inode) or self._blocks_of(inode, store)
        snapshot = Snapshot(
            content, self._contents.reader, size=store.size, mtime_ns=store.mtime_ns, ctime_ns=store.time_ns
        )
        return snapshot, blocks

    def _store(self, inode: InodeId, op: OpNumber) -> Store | None:
        row = self._journal.get(op) if op else None
        return row.mutation if row is not None and isinstance(row.mutation, Store) else None

    def _blocks_of(self, inode: InodeId, store: Store) -> bytes:
        """The packed block list of a store, from the runs that it names and those of its base."""
        base = unpack_blocks(self._drafts.base_blocks(inode) or b"")
        runs = {run_id(run): run for run in [*cut_runs(base), *store.new_runs]}
        return b"".join(runs[run] for run in store.runs)

    def published(self, inode: InodeId, op: OpNumber, revision: RevisionNumber) -> None:
        """Note, in the caller's transaction, that the store is committed: the content's new base.

        A draft that was dropped meanwhile (its file was removed) stays dropped.
        """
        draft = self._drafts.draft(inode)
        blocks = self._stored.pop(inode, None)
        if draft is None or draft.frozen_op != op:
            return
        if blocks is None:
            if (store := self._store(inode, op)) is None:
                return
            blocks = self._blocks_of(inode, store)
        content = self._contents.load(inode)
        state = copy.copy(self._strays.state(inode) or self._strays.take_in(draft))
        refs = unpack_blocks(blocks)
        self._hand_over(content.layers[-1], refs)
        self._quota.pend(-content.layers[-1].length)
        content.rebase(Base(revision=revision), refs, state.size)
        if content.layers:
            self._drafts.drop_records(inode, draft.frozen)
            self._rest_over(draft, revision, blocks, content)
        else:
            self._drafts.drop_draft(inode)
        if not self._journal.pending_bytes:
            self._quota.pend(-self._quota.pending_bytes)
        state.revision = revision
        inline = len(blocks) <= MAX_INLINE_BLOCKS * PACKED_BLOCK_BYTES
        state.blocks = blocks if inline else None
        if not inline:
            self._local.replica.put_content(inode, revision, blocks)
        self._view.put_inode(state)

    def _hand_over(self, layer: Layer, refs: list[BlockRef]) -> None:
        """Let the block cache have the staging files of what is published now, so that nothing is copied."""
        if not self._contents.reader.can_hand_over:
            return
        pieces: defaultdict[int, list[tuple[BlockId, int, int]]] = defaultdict(list)
        position = 0
        for block, size in refs:
            staged = staged_piece(layer, position, position + size)
            if staged is not None:
                pieces[staged.file].append((block, staged.offset, size))
            position += size
        staging = self._local.staging
        for file, found in pieces.items():
            self._local.blocks.adopt_file(staging.path(file), found, is_verified=not staging.is_earlier(file))

    def _rest_over(self, draft: DraftRow, revision: RevisionNumber, blocks: bytes, content: Content) -> None:
        """What was written after the freeze is a draft over the new revision."""
        self._drafts.put_draft(
            msgspec.structs.replace(
                draft,
                base=Base(revision=revision),
                base_size=content.base_size,
                low_size=content.layers[0].floor,
                frozen=0,
                frozen_op=NO_OP,
                is_over_past=False,
            )
        )
        self._drafts.put_base_blocks(draft.inode, blocks)

    def await_forgetting(self) -> None:
        """From now on `forgotten` is told: what has lost its last name stays whole for who is on the way to open it."""
        self._contents.awaits_forgetting = True

    def forgotten(self, inode: InodeId) -> None:
        """The kernel knows an inode no more; if the disk fails now, what is left of it goes with the next start."""
        with suppress(CacheError):
            self._contents.forgotten(inode)

    def remember(self, inodes: Iterable[InodeId]) -> Callable[[], None]:
        """Give what puts the contents of these back, in memory, when a transaction fails that moved them."""
        inodes = list(inodes)
        put_back, stored, pending = self._contents.remember(inodes), dict(self._stored), self._quota.pending_bytes

        def undo() -> None:
            put_back()
            self._stored, self._quota.pending_bytes = stored, pending
            self._view.forget(inodes, [])

        return undo

    def moved(self, inode: InodeId, copy: InodeId, op: OpNumber = NO_OP) -> None:
        """Note, in the caller's transaction, that unpublished content now belongs to the new inode `copy`.

        The whole draft, and the descriptors that may write, follow; `inode` shows again what the backend has. `op` is
        the `Store` of the copy that has what was frozen; without one, all of it is to be published again.
        """
        if self._drafts.draft(inode) is None:
            return
        self._drafts.move_draft(inode, copy)
        draft = self._drafts.draft(copy)
        assert draft is not None, "it was moved there"
        frozen = draft.frozen if op else 0
        self._drafts.put_draft(msgspec.structs.replace(draft, base=Base(), frozen=frozen, frozen_op=op))
        content = self._contents.move(inode, copy)
        content.base = Base()
        if not op:
            content.thaw()
        if (blocks := self._stored.pop(inode, None)) is not None and op:
            self._stored[copy] = blocks

    def is_open(self, inode: InodeId) -> bool:
        """Whether somebody has the file open."""
        return self._contents.is_open(inode)

    def is_written(self, inode: InodeId) -> bool:
        """Whether somebody may write to the file."""
        return self._contents.is_written(inode)

    async def base_bytes(self, inode: InodeId, start: int, end: int) -> bytes:
        """Bytes of the revision on which the unpublished content of a file was made.

        Raises:
            drivefs.remote.errors.RemoteError: they are not here and cannot be had.
        """
        return await self._contents.reader.fetch(self._contents.load(inode), [], start, end)

    def given_up(self, inode: InodeId) -> None:
        """Note, in the caller's transaction, that unpublished content is dropped: no revision will have it."""
        self._stored.pop(inode, None)
        self._contents.give_up(inode)

    def renumber(self, fresh: Mapping[InodeId, InodeId]) -> None:
        """Inodes have new ids (by the old ones) in the databases."""
        self._stored = {fresh.get(inode, inode): blocks for inode, blocks in self._stored.items()}

    def merged(self, inode: InodeId, into: InodeState, op: OpNumber) -> None:
        """Note, in the caller's transaction, that a file is another one, which has the same content.

        `op` is the `Store` of the same content that is not needed any more, or `NO_OP`. What was written since lies
        over the revision of `into`; all descriptors follow.
        """
        if op:
            self.published(inode, op, into.revision)
        base = Base(revision=into.revision)
        if self._drafts.draft(inode) is not None:
            self._drafts.move_draft(inode, into.inode)
            draft = self._drafts.draft(into.inode)
            assert draft is not None, "it was moved there"
            self._drafts.put_draft(msgspec.structs.replace(draft, base=base))
        self._contents.merge(inode, into.inode).base = base
