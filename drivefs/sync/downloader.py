"""Brings blocks of the backend into the block cache: what someone waits for first, what may be wanted soon behind it.

Owns the queue, the batches and the verification; the cache decides what it keeps. Whoever runs the mount starts
`serve` `PARALLEL_REQUESTS` times, in a nursery of its own.

Invariants: a block is asked for once at a time, however many want it, and whoever gives up waiting disturbs nobody
else; nothing is given out or cached that does not have its id; at most `PARALLEL_REQUESTS` times one group of blocks as
they arrive, some 12 MiB each, are in memory. While the backend cannot be reached, callers wait `GRACE_SECONDS` in all
for it to come back; after that, they are told at once, except for one in `PROBE_SECONDS` that tries.
"""

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from cache.blocks import BlockCache
from drivefs.protocol import blocks as codec
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.ground import Offload
from drivefs.protocol.ids import BlockId, InodeId, WorkspaceId
from drivefs.remote import errors

PARALLEL_REQUESTS = 4
BATCH_BLOCKS = 8
"""How many blocks a request asks for at most: about 8 MiB."""
MOST_PREFETCHED = 256
"""How many blocks nobody waits for may be queued; the oldest are forgotten first."""
WAIT_SECONDS = 60.0
"""How long a caller waits for the next of its blocks at most."""
GRACE_SECONDS = 10.0
PROBE_SECONDS = 2.0
RETRY_SECONDS = 0.5
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
    """A block that is queued or on its way; of `waiter_count` callers, `reader_count` wait for its bytes."""

    workspace: WorkspaceId
    block: BlockId
    waiter_count: int = 0
    reader_count: int = 0
    damaged_count: int = 0
    done: trio.Event = field(default_factory=trio.Event)
    error: errors.RemoteError | None = None
    plaintext: bytes | None = None


Key = tuple[WorkspaceId, BlockId]
Queue = OrderedDict[Key, _Want]


class Downloader:
    """Fetches blocks for one mount; satisfies `fs`'s `BlockFetcher`."""

    def __init__(self, source: BlockSource, cache: BlockCache, offload: Offload) -> None:
        self.received_bytes = 0
        """Payload received since the mount began."""
        self._source = source
        self._cache = cache
        self._offload = offload
        self._wants: dict[Key, _Want] = {}
        self._urgent: Queue = OrderedDict()
        self._prefetch: Queue = OrderedDict()
        self._here: deque[BlockId] = deque(maxlen=MOST_PREFETCHED)
        self._prefetching_count = 0
        self._work = trio.Event()
        self._failing_since: float | None = None
        self._answered_at = 0.0
        self._next_probe = 0.0
        self._failure: errors.RemoteError = errors.Offline("the server has not been reached yet")

    # For those who want blocks

    async def fetch(self, workspace: WorkspaceId, inode: InodeId, blocks: Sequence[BlockId], *, urgent: bool) -> None:
        """Bring blocks into the cache, as far as it takes them.

        Urgent: returns when all have arrived. Otherwise: returns at once, they come when nothing urgent is left, and
        those that are here already are made ready for reading. Cancellation leaves what is on its way, no more.

        Raises:
            errors.RemoteError: some of them cannot be had now; `BlockLost` if the backend does not have one.
        """
        if not urgent:
            self._expect(workspace, blocks)
            return
        lacking = [block for block in dict.fromkeys(blocks) if not self._cache.contains(block)]
        if lacking:
            await self._wait_for([self._want(workspace, block) for block in self._hopeful(lacking)])

    async def read(self, workspace: WorkspaceId, inode: InodeId, block: BlockId) -> bytes:
        """The verified plaintext of one block, whether or not the cache takes it.

        Raises:
            as `fetch`.
        """
        plaintext = await self._cache.get(block)
        if plaintext is not None:
            return plaintext
        (block,) = self._hopeful([block])
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

    def came_online(self) -> None:
        """The backend answers again: whoever wants a block need not be told otherwise."""
        self._failing_since = None
        self._work.set()

    def _hopeful(self, blocks: list[BlockId]) -> list[BlockId]:
        """The blocks, if there is a chance to get them.

        Raises:
            errors.RemoteError: the backend was not there a moment ago, nor for a while before.
        """
        now = trio.current_time()
        if self._is_given_up(now):
            if now < self._next_probe:
                raise self._failure
            self._next_probe = now + PROBE_SECONDS
        return blocks

    def _is_given_up(self, now: float) -> bool:
        return self._failing_since is not None and now - self._failing_since >= GRACE_SECONDS

    def _want(self, workspace: WorkspaceId, block: BlockId) -> _Want:
        """The want for a block that someone waits for, queued before all that nobody waits for."""
        key = workspace, block
        want = self._wants.get(key)
        if want is None:
            want = self._wants[key] = self._urgent[key] = _Want(workspace, block)
            self._work.set()
        elif self._prefetch.pop(key, None) is not None:
            self._urgent[key] = want
            self._work.set()
        return want

    def _expect(self, workspace: WorkspaceId, blocks: Iterable[BlockId]) -> None:
        for block in blocks:
            key = workspace, block
            if self._cache.contains(block):
                self._here.append(block)
            elif key not in self._wants:
                self._wants[key] = self._prefetch[key] = _Want(workspace, block)
        while len(self._prefetch) > MOST_PREFETCHED:
            key, _ = self._prefetch.popitem(last=False)
            del self._wants[key]
        self._work.set()

    async def _wait_for(self, wants: Sequence[_Want]) -> None:
        for want in wants:
            want.waiter_count += 1
        try:
            for want in wants:
                with trio.move_on_after(WAIT_SECONDS):
                    await want.done.wait()
                if want.error is not None:
                    raise want.error
                if not want.done.is_set():
                    raise errors.Offline(f"a block did not arrive within {WAIT_SECONDS:.0f} seconds")
        finally:
            for want in wants:
                want.waiter_count -= 1
                self._forget_unwanted(want)

    def _forget_unwanted(self, want: _Want) -> None:
        key = want.workspace, want.block
        if not want.waiter_count and self._urgent.get(key) is want:
            del self._urgent[key], self._wants[key]

    # The work

    async def serve(self) -> None:
        """Fetch what is queued until cancelled; then whoever still waits is told."""
        while True:
            if batch := self._take(self._urgent):
                await self._fetch_batch(batch)
            elif self._here:
                await self._cache.prepare([self._here.popleft()])
            elif self._prefetching_count < PARALLEL_REQUESTS - 1 and (batch := self._take(self._prefetch)):
                self._prefetching_count += 1
                try:
                    await self._fetch_batch(batch)
                finally:
                    self._prefetching_count -= 1
            else:
                if self._work.is_set():
                    self._work = trio.Event()
                await self._work.wait()

    def _take(self, queue: Queue) -> list[_Want]:
        """The next batch of one workspace: a fair part of the queue, so that all requests have something to do."""
        most = min(BATCH_BLOCKS, -(-len(queue) // PARALLEL_REQUESTS))
        batch: list[_Want] = []
        while queue and len(batch) < most:
            key, want = next(iter(queue.items()))
            if batch and want.workspace != batch[0].workspace:
                break
            del queue[key]
            batch.append(want)
        return batch

    async def _fetch_batch(self, batch: list[_Want]) -> None:
        on_its_way = {want.block: want for want in batch}

        async def arrived(frames: list[codec.Frame]) -> None:
            await self._take_in(on_its_way, frames)

        began = trio.current_time()
        try:
            await self._source.get_blocks(batch[0].workspace, list(on_its_way), arrived)
        except errors.Offline as error:
            if self._failing_since is None:
                self._failing_since = max(began, self._answered_at)
            await self._not_reached(list(on_its_way.values()), error)
        except errors.RemoteError as error:
            self._finish(on_its_way.values(), error)
        except BaseException:
            self._finish(on_its_way.values(), errors.Offline("the mount is ending"))
            raise
        else:
            self._failing_since = None
            self._finish(on_its_way.values(), errors.BlockLost("the server did not send a block that was asked for"))

    async def _take_in(self, on_its_way: dict[BlockId, _Want], frames: list[codec.Frame]) -> None:
        """Verify and keep what has arrived, and wake those who wait for it."""
        self._failing_since, self._answered_at = None, trio.current_time()
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
                self._finish([want], errors.BlockLost(f"the server does not have block {block.hex()[:16]} any more"))
            else:
                self._was_damaged(want, plaintext)

    def _was_damaged(self, want: _Want, problem: ProtocolError) -> None:
        want.damaged_count += 1
        if want.damaged_count >= MOST_DAMAGED:
            self._finish([want], errors.BlockLost(f"block {want.block.hex()[:16]} arrives damaged. {problem.message}"))
        else:
            self._requeue([want])

    async def _not_reached(self, wants: Sequence[_Want], error: errors.Offline) -> None:
        """Try again for a while; past that, tell all who wait."""
        now = trio.current_time()
        self._failure = error
        if self._is_given_up(now):
            self._next_probe = now + PROBE_SECONDS
            waiting = [*wants, *self._urgent.values(), *self._prefetch.values()]
            self._urgent.clear()
            self._prefetch.clear()
            self._finish(waiting, error)
            return
        self._requeue(wants)
        await trio.sleep(RETRY_SECONDS)

    def _requeue(self, wants: Sequence[_Want]) -> None:
        """Queue again, before others, what someone waits for, and forget the rest."""
        for want in reversed(wants):
            key = want.workspace, want.block
            if want.waiter_count:
                self._urgent[key] = want
                self._urgent.move_to_end(key, last=False)
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
