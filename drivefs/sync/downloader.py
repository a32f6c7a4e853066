"""Brings blocks of the backend into the block cache: what someone waits for first, what may be wanted soon behind it,
and what is only to be here in case, when there is nothing else to do.

Owns the queues, the batches and the verification; the cache decides what it keeps. Whoever runs the mount starts
`serve` `PARALLEL_REQUESTS` times, in a nursery of its own.

Invariants: a block is asked for once at a time, however many want it, and whoever gives up waiting disturbs nobody
else; nothing is given out or cached that does not have its id; at most `PARALLEL_REQUESTS` times one group of blocks as
they arrive, some 12 MiB each, are in memory. Whether the backend can be reached is `connection`'s to say: when it
cannot, all who wait are told.
"""

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from cache.blocks import BlockCache
from drivefs.protocol import blocks as codec
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.ground import Offload
from drivefs.protocol.ids import BlockId, InodeId, WorkspaceId
from drivefs.protocol.model import BlockRef
from drivefs.remote import errors
from drivefs.sync.connection import Reach

PARALLEL_REQUESTS = 4
BATCH_BLOCKS = 8
"""How many blocks a request asks for at most: about 8 MiB."""
MOST_PREFETCHED = 256
"""How many blocks nobody waits for may be queued; the oldest are forgotten first."""
SMALL_BLOCKS = 64
SMALL_BYTES = 2**19
"""A request for blocks that may be wanted soon may have so many, if they have no more bytes than this together."""
BEHIND_BLOCKS = 64
BEHIND_BYTES = 8 * 2**20
"""What a request for blocks that nobody waits for asks for at most."""
PARALLEL_BEHIND = 2
MOST_FAILURES = 3
"""How often the transfer of a block may fail, though the backend can be reached, before whoever waits is told."""
MOST_DAMAGED = 2
"""How often a block may arrive damaged before it counts as lost."""


class BlockSource(Protocol):
    """The part of the backend that gives blocks."""

    async def get_blocks(
        self,
        workspace: WorkspaceId,
        blocks: Sequence[BlockId],
        arrived: Callable[[list[codec.Frame]], Awaitable[None]],
    ) -> None:
        """Fetch blocks; `arrived` gets each once."""
        ...


@dataclass(slots=True, eq=False)
class _Want:
    """A block that is queued or on its way; of `waiter_count` callers, `reader_count` wait for its bytes.

    `size_bytes` is that of one that no program waits for, else 0.
    """

    workspace: WorkspaceId
    block: BlockId
    size_bytes: int = 0
    waiter_count: int = 0
    reader_count: int = 0
    damaged_count: int = 0
    failure_count: int = 0
    done: trio.Event = field(default_factory=trio.Event)
    error: errors.RemoteError | None = None
    plaintext: bytes | None = None


Key = tuple[WorkspaceId, BlockId]
Queue = OrderedDict[Key, _Want]


class Downloader:
    """Fetches blocks for one mount; satisfies `fs`'s `BlockFetcher`."""

    def __init__(self, source: BlockSource, cache: BlockCache, offload: Offload, reach: Reach) -> None:
        self.received_bytes = 0
        """Payload received since the mount began."""
        self._source = source
        self._cache = cache
        self._offload = offload
        self._reach = reach
        self._wants: dict[Key, _Want] = {}
        self._urgent: Queue = OrderedDict()
        self._prefetch: Queue = OrderedDict()
        self._behind: Queue = OrderedDict()
        self._here: deque[BlockId] = deque(maxlen=MOST_PREFETCHED)
        self._urgent_count = 0
        self._prefetching_count = 0
        self._behind_count = 0
        self._work = trio.Event()

    # For those who want blocks

    async def fetch(self, workspace: WorkspaceId, blocks: Sequence[BlockId]) -> None:
        """Bring blocks into the cache, as far as it takes them; returns when all have arrived.

        Cancellation leaves what is on its way, no more.

        Raises:
            errors.RemoteError: some of them cannot be had now; `BlockGone` if the backend does not have one.
        """
        lacking = [block for block in dict.fromkeys(blocks) if not self._cache.contains(block)]
        if lacking:
            await self._reach.reachable()
            await self._wait_for([self._want(workspace, block) for block in lacking])

    def is_coming(self, workspace: WorkspaceId, block: BlockId) -> bool:
        """Whether a block is queued or on its way."""
        return (workspace, block) in self._wants

    async def fetch_behind(self, workspace: WorkspaceId, blocks: Mapping[BlockId, int]) -> None:
        """Bring blocks, given with their sizes, into the cache while nothing is fetched that a reader waits for.

        Returns when all have arrived, or cannot be had. Cancellation leaves what is on its way, no more.

        Raises:
            as `fetch`; all others are here then.
        """
        lacking = {block: size for block, size in blocks.items() if not self._cache.contains(block)}
        wants = []
        for block, size in lacking.items():
            key = workspace, block
            if key not in self._wants:
                self._wants[key] = self._behind[key] = _Want(workspace, block, size)
            wants.append(self._wants[key])
        self._work.set()
        await self._wait_for(wants, all_of_them=True)

    async def read(self, workspace: WorkspaceId, inode: InodeId, block: BlockId) -> bytes:
        """The verified plaintext of one block, whether or not the cache takes it.

        Raises:
            as `fetch`.
        """
        plaintext = await self._cache.get(block)
        if plaintext is not None:
            return plaintext
        await self._reach.reachable()
        want = self._want(workspace, block)
        want.reader_count += 1
        try:
            await self._wait_for([want])
        finally:
            want.reader_count -= 1
        plaintext = want.plaintext or await self._cache.get(block)
        if plaintext is None:
            raise errors.BlockLost(f"block {block.hex()[:16]} could not be read after it was fetched")
        return plaintext

    def _want(self, workspace: WorkspaceId, block: BlockId) -> _Want:
        """The want for a block that someone waits for, queued before all that nobody waits for."""
        key = workspace, block
        want = self._wants.get(key)
        if want is None:
            want = self._wants[key] = self._urgent[key] = _Want(workspace, block)
            self._work.set()
        elif self._prefetch.pop(key, None) is not None or self._behind.pop(key, None) is not None:
            self._urgent[key] = want
            self._work.set()
        want.size_bytes = 0
        return want

    def expect(self, workspace: WorkspaceId, refs: Sequence[BlockRef]) -> None:
        """Bring blocks into the cache when nothing is left to be asked for that somebody waits for.

        Those that are here already are made ready for reading.
        """
        for block, size_bytes in refs:
            key = workspace, block
            if self._cache.contains(block):
                self._here.append(block)
            elif key not in self._wants:
                self._wants[key] = self._prefetch[key] = _Want(workspace, block, size_bytes)
        while len(self._prefetch) > MOST_PREFETCHED:
            key, want = self._prefetch.popitem(last=False)
            if want.waiter_count:
                self._behind[key] = want
            else:
                del self._wants[key]
        self._work.set()

    async def _wait_for(self, wants: Sequence[_Want], *, all_of_them: bool = False) -> None:
        for want in wants:
            want.waiter_count += 1
        try:
            for want in wants:
                await want.done.wait()
                if want.error is not None and not all_of_them:
                    raise want.error
            if failures := [want.error for want in wants if want.error is not None]:
                raise failures[0]
        finally:
            for want in wants:
                want.waiter_count -= 1
                self._forget_unwanted(want)

    def _forget_unwanted(self, want: _Want) -> None:
        key = want.workspace, want.block
        for queue in (self._urgent, self._behind):
            if not want.waiter_count and queue.get(key) is want:
                del queue[key], self._wants[key]

    # The work

    async def serve(self) -> None:
        """Fetch what is queued until cancelled; then whoever still waits is told."""
        while True:
            if batch := self._take(self._urgent):
                self._urgent_count += 1
                try:
                    await self._fetch_batch(batch)
                finally:
                    self._urgent_count -= 1
                    self._work.set()
            elif self._here:
                await self._cache.prepare([self._here.popleft()])
            elif self._may_prefetch() and (batch := self._take(self._prefetch)):
                self._prefetching_count += 1
                try:
                    await self._fetch_batch(batch)
                finally:
                    self._prefetching_count -= 1
                    self._work.set()
            elif self._may_fetch_behind() and (batch := self._take_behind()):
                self._behind_count += 1
                try:
                    await self._fetch_batch(batch)
                finally:
                    self._behind_count -= 1
            else:
                if self._work.is_set():
                    self._work = trio.Event()
                await self._work.wait()

    def _may_prefetch(self) -> bool:
        """One request is left for what someone waits for."""
        return self._prefetching_count + self._behind_count < PARALLEL_REQUESTS - 1

    def _may_fetch_behind(self) -> bool:
        return not self._urgent_count and not self._prefetching_count and self._behind_count < PARALLEL_BEHIND

    def _take_behind(self) -> list[_Want]:
        """The next batch that nobody waits for: many if they are small."""
        batch: list[_Want] = []
        size_bytes = 0
        while self._behind and len(batch) < BEHIND_BLOCKS:
            key, want = next(iter(self._behind.items()))
            size_bytes += want.size_bytes
            if batch and (want.workspace != batch[0].workspace or size_bytes > BEHIND_BYTES):
                break
            del self._behind[key]
            batch.append(want)
        return batch

    def _take(self, queue: Queue) -> list[_Want]:
        """The next batch of one workspace: a fair part of the queue, so that all requests have something to do.

        Small blocks that nobody waits for come with it: parts of them would cost more than they bring.
        """
        most = min(BATCH_BLOCKS, -(-len(queue) // PARALLEL_REQUESTS))
        batch: list[_Want] = []
        size_bytes = 0
        while queue and len(batch) < SMALL_BLOCKS:
            key, want = next(iter(queue.items()))
            size_bytes += want.size_bytes or SMALL_BYTES
            if batch and want.workspace != batch[0].workspace:
                break
            if len(batch) >= most and size_bytes > SMALL_BYTES:
                break
            del queue[key]
            batch.append(want)
        return batch

    async def _fetch_batch(self, batch: list[_Want]) -> None:
        on_its_way = {want.block: want for want in batch}

        async def arrived(frames: list[codec.Frame]) -> None:
            await self._take_in(on_its_way, frames)

        try:
            await self._source.get_blocks(batch[0].workspace, list(on_its_way), arrived)
        except errors.Offline as error:
            self._reach.lost(error)
            await self._not_reached(list(on_its_way.values()), error)
        except errors.RemoteError as error:
            self._finish(on_its_way.values(), error)
        except BaseException:
            self._finish(on_its_way.values(), errors.Offline("the mount is ending"))
            raise
        else:
            self._finish(on_its_way.values(), errors.BlockLost("the server did not send a block that was asked for"))

    async def _take_in(self, on_its_way: dict[BlockId, _Want], frames: list[codec.Frame]) -> None:
        """Verify and keep what has arrived, and wake those who wait for it."""
        self.received_bytes += sum(len(frame.payload) for frame in frames if frame.payload)
        plaintexts = await self._offload(_decode_all, frames)
        await self._cache.keep([(block, plaintext) for block, plaintext in plaintexts if isinstance(plaintext, bytes)])
        for block, plaintext in plaintexts:
            want = on_its_way.pop(block)
            if isinstance(plaintext, bytes):
                if want.reader_count:
                    want.plaintext = plaintext
                self._finish([want], None)
            elif plaintext is None:
                gone = errors.BlockGone(f"the server does not have block {block.hex()[:16]} any more", block)
                self._finish([want], gone)
            else:
                self._was_damaged(want, plaintext)

    def _was_damaged(self, want: _Want, problem: ProtocolError) -> None:
        want.damaged_count += 1
        if want.damaged_count >= MOST_DAMAGED:
            self._finish([want], errors.BlockLost(f"block {want.block.hex()[:16]} arrives damaged. {problem.message}"))
        else:
            self._requeue([want])

    async def _not_reached(self, wants: Sequence[_Want], error: errors.Offline) -> None:
        """Try again as long as the backend can be reached; once it cannot, tell all who wait."""
        for want in wants:
            want.failure_count += 1
        self._finish([want for want in wants if want.failure_count >= MOST_FAILURES], error)
        left = [want for want in wants if want.failure_count < MOST_FAILURES]
        try:
            # Until it is known, they stay out of the queues: another worker would try at once, and wait as long again.
            await self._reach.reachable()
        except errors.RemoteError as gone:
            waiting = [*left, *self._urgent.values(), *self._prefetch.values(), *self._behind.values()]
            self._urgent.clear()
            self._prefetch.clear()
            self._behind.clear()
            self._finish(waiting, gone)
        except BaseException:
            self._finish(left, errors.Offline("the mount is ending"))
            raise
        else:
            self._requeue(left)

    def _requeue(self, wants: Sequence[_Want]) -> None:
        """Queue again, before others, what someone waits for, and forget the rest."""
        for want in reversed(wants):
            key = want.workspace, want.block
            if want.waiter_count:
                queue = self._behind if want.size_bytes else self._urgent
                queue[key] = want
                queue.move_to_end(key, last=False)
            else:
                self._wants.pop(key, None)
        self._work.set()

    def _finish(self, wants: Iterable[_Want], error: errors.RemoteError | None) -> None:
        for want in list(wants):
            self._wants.pop((want.workspace, want.block), None)
            want.error = error
            want.done.set()


def _decode_all(frames: Sequence[codec.Frame]) -> list[tuple[BlockId, bytes | ProtocolError | None]]:
    """Each block's plaintext, None where the sender has none, or why it is not what its id says."""
    found: list[tuple[BlockId, bytes | ProtocolError | None]] = []
    for block, payload in frames:
        try:
            found.append((block, None if payload is None else codec.decode_payload(payload, block)))
        except ProtocolError as error:
            found.append((block, error))
    return found
