"""Brings here what is to be here before anyone asks: all that pins cover, and what others changed of what is used here.

Owns when to walk and what to fetch; whether a block is kept and for how long is the block cache's. Pinned trees are
walked through at the start of a mount and when pins change; afterwards only what the feed brings is looked at. Blocks
are fetched behind all that readers wait for, `BATCH_BYTES` at a time.

Invariants: a pinned file's present blocks are protected from eviction as soon as they are here, also while a change of
this device, which may be refused, hides the file or its content; what no pin covers any more loses that protection with
the next walk, never before a walk has confirmed all that keeps it; nothing that is proportional to the drive is in
memory.
"""

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import trio

from drivefs.protocol.errors import Code
from drivefs.protocol.ids import BlockId, InodeId, Seq, WorkspaceId
from drivefs.protocol.messages import FeedPage, InodesRequest
from drivefs.protocol.model import BlockRef, InodeKind, InodeState, unpack_blocks
from drivefs.remote import errors
from drivefs.sync.ends import Ends
from drivefs.sync.lister import Lister
from drivefs.sync.pins import PinnedTrees
from drivefs.sync.signal import Signal

log = logging.getLogger(__name__)

BATCH_BYTES = 16 * 2**20
BATCH_BLOCKS = 256
MOST_CHANGED = 10_000
"""So many changed inodes are remembered; if there are more, all pinned trees are walked through again."""
MOST_AHEAD = 500
USED_BLOCKS = 4
"""A file counts as used here if one of its first blocks is cached."""
STALE_SECONDS = 600.0
"""How long blocks of older revisions stay protected at most, beside the newer ones."""
IDLE_SECONDS = 30.0
GONE = frozenset({Code.NOT_FOUND})


class BlocksBehind(Protocol):
    """Fetches blocks when nobody waits for others."""

    async def fetch_behind(self, workspace: WorkspaceId, blocks: Mapping[BlockId, int]) -> None:
        """Bring blocks, given with their sizes, into the cache."""
        ...


class Prefetcher:
    """Keeps pinned trees here. `ahead_bytes`: up to which size a changed file that is used here is fetched ahead."""

    def __init__(
        self, ends: Ends, trees: PinnedTrees, fetcher: BlocksBehind, lister: Lister, *, ahead_bytes: int
    ) -> None:
        self._local = ends.local
        self._blocks = ends.local.blocks
        self._replica = ends.local.replica
        self._remote = ends.remote
        self._workspace = ends.workspace
        self._trees = trees
        self._fetcher = fetcher
        self._lister = lister
        self._ahead_bytes = ahead_bytes
        self._wanted = Signal()
        self._must_walk = bool(trees.pins.roots) or self._blocks.protected_bytes > 0
        self._is_stale = False
        self._walked_at = 0.0
        self._changed: dict[InodeId, None] = {}
        self._ahead: dict[InodeId, None] = {}
        self._batch: dict[BlockId, int] = {}
        self._batch_bytes = 0
        self.lacking_bytes = 0
        """How much of what is pinned could not be kept for lack of room, as of the last walk."""
        self.is_busy = self._must_walk
        """Whether there is anything to look at or to fetch."""
        if self._must_walk:
            self._wanted.raise_()

    # -- what there is to do -----------------------------------------------------------------------------------------

    def pins_changed(self) -> None:
        """Walk through all that is pinned, soon."""
        self._must_walk = self.is_busy = True
        self._wanted.raise_()

    def coming(self, page: FeedPage) -> None:
        """Changes are about to be applied: note what may have to be fetched. Costs nothing to speak of without pins."""
        roots = self._trees.pins.roots
        for state in page.inodes:
            if state.kind is not InodeKind.FILE:
                continue
            if roots:
                self._changed[state.inode] = None
            if 0 < state.size <= self._ahead_bytes and self._is_used(state):
                self._ahead[state.inode] = None
        for dentry in page.dentries if roots else ():
            if dentry.inode:
                self._changed[dentry.inode] = None
            # A pinned inode that loses a name may be gone, and another have taken its place.
            self._must_walk |= self._replica.dentry(dentry.parent, dentry.name) in roots
        if len(self._changed) > MOST_CHANGED:
            self._changed.clear()
            self._must_walk = True
        while len(self._ahead) > MOST_AHEAD:
            del self._ahead[next(iter(self._ahead))]
        if self._must_walk or self._changed or self._ahead:
            self.is_busy = True
            self._wanted.raise_()

    def _is_used(self, state: InodeState) -> bool:
        before = self._replica.inode(state.inode)
        if before is None or before.revision == state.revision or not before.blocks:
            return False
        return any(self._blocks.contains(ref.block) for ref in unpack_blocks(before.blocks)[:USED_BLOCKS])

    async def wait(self) -> None:
        """Return when there may be something to do."""
        await self._wanted.wait(IDLE_SECONDS)

    # -- doing it ----------------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Do all that there is to do; cancellation and failure leave the rest for the next time.

        Raises:
            RemoteError: the backend cannot be had now.
            DiskFull: there is no room here.
        """
        if self._is_stale and trio.current_time() - self._walked_at > STALE_SECONDS:
            self._must_walk = True
        while self._must_walk or self._changed or self._ahead:
            if self._must_walk:
                await self._walk_all()
            elif self._changed:
                await self._look_at_changed()
            else:
                await self._fetch_ahead()
        self.is_busy = False

    async def _walk_all(self) -> None:
        moment, self.lacking_bytes = self._blocks.protection_now(), 0
        self._must_walk = False
        try:
            for root in list(self._trees.pins.roots):
                await self._see_to_root(root)
            await self._flush()
        except BaseException:
            self._must_walk = True
            raise
        while self._blocks.unprotect_before(moment):
            await trio.lowlevel.checkpoint()
        self._is_stale, self._walked_at = False, trio.current_time()

    async def _look_at_changed(self) -> None:
        keeps = self._trees.keeping()
        changed, self._changed = self._changed, {}
        try:
            while changed:
                inode = next(iter(changed))
                if keeps(inode):
                    self._is_stale = True
                    await self._see_to(inode)
                del changed[inode]
            await self._flush()
        except BaseException:
            self._changed = changed | self._changed
            self._must_walk |= bool(self._batch)
            self._forget_batch()
            raise

    async def _fetch_ahead(self) -> None:
        inode = next(iter(self._ahead))
        state = self._replica.inode(inode)
        if state is not None:
            lacking: dict[BlockId, int] = {}
            async for refs in self._refs(state):
                lacking.update((ref.block, ref.size_bytes) for ref in refs if not self._blocks.contains(ref.block))
            with _skipping(inode):
                await self._fetcher.fetch_behind(self._workspace, lacking)
        self._ahead.pop(inode, None)

    async def _see_to_root(self, root: InodeId) -> None:
        """One pin: find it, and the way to it, should the replica have begun again; then all below it."""
        path = self._trees.path_of(root)
        if self._replica.inode(root) is None or path is None:
            if self._local.journal.overlay.inode(root) is not None or not await self._find(root):
                return
            path = self._trees.path_of(root)
        if path is not None:
            self._trees.pins.put(root, path)
        await self._see_to(root)

    async def _find(self, root: InodeId) -> bool:
        """List the way to where a pinned inode was last seen; False if it is not there.

        One that the backend does not have any more is pinned no longer; what took its name is pinned in its place, as
        when a program saves by renaming.
        """
        path = self._trees.pins.roots[root]
        here, there = self._trees.root, InodeId(0)
        for name in path.split(b"/"):
            with _skipping(here):
                await self._lister.list_directory(here)
            found = self._replica.dentry(here, name)
            there = here = found if isinstance(found, int) else InodeId(0)
            if not there:
                break
        if there == root:
            return True
        cursor = self._replica.cursor(self._workspace)
        request = InodesRequest(inodes=[root], as_of=cursor.seq if cursor else Seq(0))
        reply = await self._remote.inodes(self._workspace, request)
        if any(state.nlink for state in reply.inodes):
            return False
        self._trees.pins.remove(root)
        if there:
            self._trees.pins.put(there, path)
            self._must_walk = True
        else:
            log.info("what was pinned as %r is gone, and with it the pin", path)
        return False

    async def _see_to(self, inode: InodeId) -> None:
        """An inode that is covered, and all below it."""
        pending = [inode]
        while pending:
            state = self._replica.inode(pending.pop())
            if state is None:
                continue
            if state.kind is InodeKind.FILE:
                await self._see_to_file(state)
            elif state.kind is InodeKind.DIRECTORY:
                with _skipping(state.inode):
                    await self._lister.list_directory(state.inode)
                async for children in self._trees.kept_children(state.inode):
                    pending += [child.inode for child in children if child.kind is InodeKind.DIRECTORY]
                    for child in children:
                        if child.kind is InodeKind.FILE:
                            await self._see_to_file(child)

    async def _see_to_file(self, state: InodeState) -> None:
        with _skipping(state.inode):
            async for refs in self._refs(state):
                here = [ref for ref in refs if self._blocks.contains(ref.block)]
                safe = self._blocks.protect([ref.block for ref in here])
                self.lacking_bytes += sum(ref.size_bytes for ref in here if ref.block not in safe)
                for ref in refs:
                    if not self._blocks.contains(ref.block):
                        await self._add(ref)

    async def _refs(self, state: InodeState) -> AsyncIterator[list[BlockRef]]:
        """The blocks of a file, in groups."""
        packed = state.blocks
        if packed is None:
            packed = await self._lister.content(state.inode, state.revision)
        refs = unpack_blocks(packed)
        for start in range(0, len(refs), BATCH_BLOCKS):
            yield refs[start : start + BATCH_BLOCKS]
            await trio.lowlevel.checkpoint()

    async def _add(self, ref: BlockRef) -> None:
        """Fetch a block with the next batch, if there will be room to keep it."""
        if ref.block in self._batch:
            return
        room = self._blocks.protected_limit_bytes - self._blocks.protected_bytes - self._batch_bytes
        if ref.size_bytes > room:
            self.lacking_bytes += ref.size_bytes
            return
        self._batch[ref.block] = ref.size_bytes
        self._batch_bytes += ref.size_bytes
        if self._batch_bytes >= BATCH_BYTES or len(self._batch) >= BATCH_BLOCKS:
            await self._flush()

    async def _flush(self) -> None:
        batch = dict(self._batch)
        self._forget_batch()
        if not batch:
            return
        with _skipping(InodeId(0)):
            await self._fetcher.fetch_behind(self._workspace, batch)
        safe = self._blocks.protect(batch)
        self.lacking_bytes += sum(size for block, size in batch.items() if block not in safe)

    def _forget_batch(self) -> None:
        self._batch.clear()
        self._batch_bytes = 0


@contextmanager
def _skipping(inode: InodeId) -> Iterator[None]:
    """Around what concerns one inode: what the backend has lost or removed meanwhile holds up nothing else."""
    try:
        yield
    except errors.BlockLost as error:
        log.warning("inode %d cannot be fetched ahead: %s", inode, error)
    except errors.Refused as error:
        if error.code not in GONE:
            raise
        log.info("inode %d went while it was fetched ahead", inode)
