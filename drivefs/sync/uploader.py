"""Turns the frozen content of files into blocks that the backend holds.

Owns cutting, hashing, compressing and sending; it knows nothing of mutations. It declares what it needs of the file
system (`Snapshot`) and of the network (`BlockSink`). Invariant: what `Uploader` returns as stored is a complete block
list of the snapshot, every block of which the backend has acknowledged or had already.

Memory is bounded by `LARGE_WINDOW_BYTES` and `PARALLEL_WINDOWS`, whatever the size of the file.
"""

import mmap
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Protocol

import trio

from drivefs.protocol import blocks as codec
from drivefs.protocol.ground import Offload, T
from drivefs.protocol.ids import BlockId, InodeId, WorkspaceId
from drivefs.protocol.model import BlockRef
from drivefs.sync import recut

WINDOW_BYTES = 8 * 2**20
"""How much is cut, asked for and sent at once. What is on its way when a connection breaks is sent again."""
LARGE_WINDOW_BYTES = 16 * 2**20
QUICK_BYTES_PER_SECOND = 32 * 2**20
"""The same when the last request went so fast: each costs both sides milliseconds, whatever it carries."""
PARALLEL_WINDOWS = 2
SMALL_BYTES = codec.MIN_BLOCK_BYTES
"""Content up to this size is one block, and travels together with that of other files."""

UNASKED_BYTES = 16 * 2**10
"""So little is sent without asking whether the backend has it: the question takes as long."""
READ_FILES = 16
"""So many small contents are read in one step."""

FAST_ABOVE_BYTES = 64 * 2**20
"""Files larger than this are compressed at the fast level."""


class Snapshot(Protocol):
    """The frozen content of one file: what was written up to a record of its draft, over a base revision.

    `is_over_past`: the blocks of the base are those of a past revision, which the backend has, but not as part of the
    revision that is replaced.
    """

    inode: InodeId
    size: int
    base_blocks: Sequence[BlockRef]
    is_over_past: bool

    def dirty_ranges(self) -> list[tuple[int, int]]:
        """The ranges (start, end) that differ from the base, in order."""
        ...

    def is_staged(self, start: int, end: int) -> bool:
        """Whether the block cache will have these bytes anyway when the content is published."""
        ...

    async def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes, fetching base blocks where needed."""
        ...

    async def read_into(self, offset: int, target: memoryview) -> None:
        """The same for as many bytes as there is room in `target`."""
        ...


class BlockSink(Protocol):
    """The part of the backend that takes blocks."""

    async def missing(self, workspace: WorkspaceId, blocks: list[BlockId]) -> list[BlockId]:
        """Which of the blocks to send; the others are pinned."""
        ...

    async def put_blocks(self, workspace: WorkspaceId, payloads: list[tuple[BlockId, codec.Parts]]) -> None:
        """Send payloads; on return they are durable on the backend and pinned."""
        ...

    async def let_go(self, workspace: WorkspaceId, kept: list[BlockId]) -> None:
        """Give the room back of what is pinned and not committed, but for these."""
        ...


class BlockKeeper(Protocol):
    """The local cache of blocks."""

    async def keep(self, blocks: list[tuple[BlockId, bytes | memoryview]]) -> None:
        """Put plaintexts into the cache, as far as there is room; nothing refers to them after the return."""
        ...


@dataclass(slots=True)
class _Window:
    """One stretch of new blocks: where they go in the block list, their plaintexts, which the cache is to copy, and
    whose they will be."""

    first: int
    plaintexts: list[memoryview]
    is_copied: list[bool]
    workspace: WorkspaceId


@dataclass(slots=True)
class _Stretch:
    """Plaintexts of blocks that follow each other, and the memory in which they lie."""

    plaintexts: list[memoryview]
    memory: mmap.mmap


class _Memory:
    """Memory for windows, used again and again: having it made anew for each takes longer than filling it.

    Mapped, so that the system has it back when the content is stored.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def take(self) -> mmap.mmap:
        """Memory for one window; what is in it is of no meaning."""
        return self._free.pop() if self._free else mmap.mmap(-1, LARGE_WINDOW_BYTES)

    def give_back(self, memory: mmap.mmap) -> None:
        """Nobody refers to it any more."""
        self._free.append(memory)


@dataclass(slots=True)
class Traffic:
    """Bytes of payload sent since the start of the mount."""

    sent_bytes: int = 0


Turn = Callable[[], Awaitable[None]]
"""Awaited before each step of work that others may go before."""


class Uploader:
    """Stores snapshots as blocks of a drive, and of the shares in it."""

    def __init__(self, sink: BlockSink, keeper: BlockKeeper, offload: Offload, workspace: WorkspaceId) -> None:
        self._sink = sink
        self._keeper = keeper
        self._offload = offload
        self._workspace = workspace
        self._window_bytes = WINDOW_BYTES
        self.traffic = Traffic()
        self.share_of: Callable[[InodeId], WorkspaceId | None] = lambda inode: None
        """The share that an inode is in: its contents go there; None: to the drive itself."""

    async def store_small(
        self, snapshots: Sequence[Snapshot], turn: Turn = trio.lowlevel.checkpoint
    ) -> list[list[BlockRef]]:
        """Store contents of at most `SMALL_BYTES` each, together; gives their block lists in the same order.

        Cancellation leaves blocks behind that are pinned for a while, nothing else.

        Raises:
            what `Snapshot.read` and the sink raise; nothing is stored for certain then.
        """
        by_workspace: dict[WorkspaceId, list[int]] = {}
        for index, snapshot in enumerate(snapshots):
            by_workspace.setdefault(self.workspace_of(snapshot.inode), []).append(index)
        found: dict[int, list[BlockRef]] = {}
        for workspace, places in by_workspace.items():
            stored = await self._store_together(workspace, [snapshots[place] for place in places], turn)
            found.update(zip(places, stored, strict=True))
        return [found[index] for index in range(len(snapshots))]

    def workspace_of(self, inode: InodeId) -> WorkspaceId:
        """Where the contents of an inode go, as far as is known here."""
        return self.share_of(inode) or self._workspace

    async def _store_together(
        self, workspace: WorkspaceId, snapshots: Sequence[Snapshot], turn: Turn
    ) -> list[list[BlockRef]]:
        contents: list[memoryview] = []
        for index, snapshot in enumerate(snapshots):
            if index % READ_FILES == 0:
                await turn()
            contents.append(memoryview(await snapshot.read(0, snapshot.size)))
        filled = [content for content in contents if content]
        ids = iter(await self._store(_Window(0, filled, [True] * len(filled), workspace), codec.Compression.AUTO, turn))
        return [[BlockRef(next(ids), len(content))] if content else [] for content in contents]

    async def store_large(
        self, snapshot: Snapshot, progress: Callable[[int], None], turn: Turn = trio.lowlevel.checkpoint
    ) -> list[BlockRef]:
        """Store one content of any size; unchanged blocks of its base are neither read nor sent.

        `progress` is told how many bytes of the content are done. Cancellation as for `store_small`.

        Raises:
            what `Snapshot.read` and the sink raise.
        """
        compression = codec.Compression.FAST if snapshot.size > FAST_ABOVE_BYTES else codec.Compression.AUTO
        refs: list[BlockRef] = []
        workspace = self.workspace_of(snapshot.inode)
        slots, memory = trio.Semaphore(PARALLEL_WINDOWS), _Memory()

        async def finish(window: _Window, stretch: _Stretch) -> None:
            try:
                ids = await self._store(window, compression, turn)
                for position, (block, plaintext) in enumerate(zip(ids, window.plaintexts, strict=True)):
                    refs[window.first + position] = BlockRef(block, len(plaintext))
                progress(sum(map(len, window.plaintexts)))
                memory.give_back(stretch.memory)
            finally:
                slots.release()

        if snapshot.is_over_past:
            # They are not part of what the store is made on, so they have to be pinned for it. What is missing of them
            # the backend asks for when it is committed.
            await self._sink.missing(workspace, [ref.block for ref in snapshot.base_blocks])
        with _alone():
            async with aclosing(self._pieces(snapshot, memory)) as pieces, trio.open_nursery() as nursery:
                offset = 0
                async for piece in pieces:
                    if isinstance(piece, tuple):
                        refs.extend(piece)
                        kept_bytes = sum(ref.size_bytes for ref in piece)
                        progress(kept_bytes)
                        offset += kept_bytes
                        continue
                    plaintexts = piece.plaintexts
                    window = _Window(len(refs), plaintexts, _is_copied(snapshot, offset, plaintexts), workspace)
                    refs.extend([BlockRef(BlockId(b""), 0)] * len(plaintexts))
                    offset += sum(map(len, plaintexts))
                    await slots.acquire()
                    nursery.start_soon(finish, window, piece)
        return refs

    async def _pieces(
        self, snapshot: Snapshot, memory: _Memory
    ) -> AsyncGenerator[tuple[BlockRef, ...] | _Stretch, None]:
        """The content in order: runs of kept blocks of the base, and windows of plaintexts cut anew."""
        base = recut.Base(snapshot.base_blocks, snapshot.dirty_ranges(), snapshot.size)
        position = 0
        while position < snapshot.size:
            if kept := base.kept_from(position):
                yield kept
                position += sum(ref.size_bytes for ref in kept)
                continue
            async with aclosing(self._cut(snapshot, base, position, memory)) as cut:
                async for stretch in cut:
                    yield stretch
                    position += sum(map(len, stretch.plaintexts))

    async def _cut(
        self, snapshot: Snapshot, base: recut.Base, start: int, memory: _Memory
    ) -> AsyncGenerator[_Stretch, None]:
        """Cut from `start` on, until a cut meets a kept block of the base or the content ends.

        What lies behind the last cut of a window is read again with the next one: that costs less than moving it.
        """
        position = start
        while position < snapshot.size:
            reach = max(base.cut_until(position), position + codec.MAX_BLOCK_BYTES)
            reach = min(reach, position + self._window_bytes, snapshot.size)
            whole = memory.take()
            window = memoryview(whole)[: reach - position]
            await snapshot.read_into(position, window)
            lengths = await self._offload(_cut_lengths, window, reach == snapshot.size)
            plaintexts, used, met = [], 0, False
            for length in lengths:
                plaintexts.append(window[used : used + length])
                used += length
                if met := bool(base.kept_from(position + used)):
                    break
            yield _Stretch(plaintexts, whole)
            position += used
            if met:
                return

    async def _store(self, window: _Window, compression: codec.Compression, turn: Turn) -> list[BlockId]:
        """Make sure that the backend has these plaintexts as blocks, and that the cache will have them."""
        plaintexts = window.plaintexts
        if not plaintexts:
            return []
        is_small = sum(map(len, plaintexts)) <= UNASKED_BYTES
        # A thread, and the way back from it through a busy loop, would take many times as long as the work.
        run = _at_once if is_small else self._offload
        ids = await run(_hash_all, plaintexts)
        by_id = dict(zip(ids, plaintexts, strict=True))
        missing = list(by_id)
        if not is_small:
            await turn()
            missing = await self._sink.missing(window.workspace, missing)
        payloads = await run(_encode_all, [by_id[block] for block in missing], compression)
        kept = zip(ids, plaintexts, window.is_copied, strict=True)
        copied: list[tuple[BlockId, bytes | memoryview]] = [
            (block, plaintext) for block, plaintext, is_copied in kept if is_copied
        ]
        with _alone():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keeper.keep, copied)
                await self._send(window.workspace, list(zip(missing, payloads, strict=True)), turn)
        return ids

    async def _send(self, workspace: WorkspaceId, payloads: Sequence[tuple[BlockId, codec.Parts]], turn: Turn) -> None:
        """Send payloads in requests of a window each."""
        total, batch = 0, list[tuple[BlockId, codec.Parts]]()
        for block, payload in payloads:
            size_bytes = sum(map(len, payload))
            if batch and total + size_bytes > self._window_bytes:
                await turn()
                await self._put(workspace, batch)
                total, batch = 0, []
            batch.append((block, payload))
            total += size_bytes
        if batch:
            await turn()
            await self._put(workspace, batch)

    async def let_go(self, inode: InodeId, kept: Collection[BlockId]) -> None:
        """Where the contents of an inode go, give back the room of what was sent and is not committed, but for these.

        Raises:
            what the sink raises.
        """
        await self._sink.let_go(self.workspace_of(inode), list(kept))

    async def store_again(self, block: BlockId, plaintext: bytes, workspace: WorkspaceId | None = None) -> None:
        """Send one block that the backend has lost, or lacks in a workspace, whatever it says of having it."""
        payloads = await self._offload(_encode_all, [memoryview(plaintext)], codec.Compression.AUTO)
        await self._put(workspace or self._workspace, [(block, payloads[0])])

    async def _put(self, workspace: WorkspaceId, batch: list[tuple[BlockId, codec.Parts]]) -> None:
        began = trio.current_time()
        await self._sink.put_blocks(workspace, batch)
        sent_bytes = sum(len(part) for _, payload in batch for part in payload)
        if sent_bytes >= WINDOW_BYTES // 2:
            is_quick = sent_bytes >= QUICK_BYTES_PER_SECOND * (trio.current_time() - began)
            self._window_bytes = LARGE_WINDOW_BYTES if is_quick else WINDOW_BYTES
        self.traffic.sent_bytes += sent_bytes


@contextmanager
def _alone() -> Iterator[None]:
    """Of the failures of tasks that work side by side, raise the first one as it is."""
    try:
        yield
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from group


def _is_copied(snapshot: Snapshot, offset: int, plaintexts: Sequence[memoryview]) -> list[bool]:
    """For each block from `offset` on, whether the cache has to copy it: it takes over the others as they are."""
    ends = list(accumulate(map(len, plaintexts), initial=offset))
    return [not snapshot.is_staged(start, end) for start, end in pairwise(ends)]


async def _at_once(work: Callable[..., T], /, *args: Any) -> T:
    """An `Offload` that needs no thread, for work that takes no longer than a system call."""
    return work(*args)


def _hash_all(plaintexts: Sequence[memoryview]) -> list[BlockId]:
    return [codec.block_id(plaintext) for plaintext in plaintexts]


def _encode_all(plaintexts: Sequence[memoryview], compression: codec.Compression) -> list[codec.Parts]:
    return [codec.payload_parts(plaintext, compression) for plaintext in plaintexts]


def _cut_lengths(buffer: memoryview, final: bool) -> list[int]:
    return codec.cut(buffer, final=final)
