"""Turns the frozen content of files into blocks that the backend holds.

Owns cutting, hashing, compressing and sending; it knows nothing of mutations. It declares what it needs of the file
system (`Snapshot`) and of the network (`BlockSink`). Invariant: what `Uploader` returns as stored is a complete block
list of the snapshot, every block of which the backend has acknowledged or had already.

Memory is bounded by `WINDOW_BYTES` and `PARALLEL_WINDOWS`, whatever the size of the file.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

import trio

from drivefs.protocol import blocks as codec
from drivefs.protocol.ground import Offload
from drivefs.protocol.ids import BlockId, InodeId, WorkspaceId
from drivefs.protocol.model import BlockRef
from drivefs.sync import recut

WINDOW_BYTES = 8 * 2**20
PARALLEL_WINDOWS = 3
SMALL_BYTES = codec.MIN_BLOCK_BYTES
"""Content up to this size is one block, and travels together with that of other files."""

FAST_ABOVE_BYTES = 64 * 2**20
"""Files larger than this are compressed at the fast level."""


class Snapshot(Protocol):
    """The frozen content of one file: what was written up to a record of its draft, over a base revision."""

    inode: InodeId
    size: int
    base_blocks: Sequence[BlockRef]

    def dirty_ranges(self) -> list[tuple[int, int]]:
        """The ranges (start, end) that differ from the base, in order."""
        ...

    def is_staged(self, start: int, end: int) -> bool:
        """Whether the block cache will have these bytes anyway when the content is published."""
        ...

    async def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes, fetching base blocks where needed."""
        ...


class BlockSink(Protocol):
    """The part of the backend that takes blocks."""

    async def missing(self, workspace: WorkspaceId, blocks: list[BlockId]) -> list[BlockId]:
        """Which of the blocks to send; the others are pinned."""
        ...

    async def put_blocks(self, workspace: WorkspaceId, payloads: list[tuple[BlockId, bytes]]) -> None:
        """Send payloads; on return they are durable on the backend and pinned."""
        ...


class BlockKeeper(Protocol):
    """The local cache of blocks."""

    async def keep(self, blocks: list[tuple[BlockId, bytes | memoryview]]) -> None:
        """Put plaintexts into the cache, as far as there is room."""
        ...


@dataclass(slots=True)
class _Window:
    """One stretch of new blocks: where they go in the block list, their plaintexts, and which the cache is to copy."""

    first: int
    plaintexts: list[memoryview]
    is_copied: list[bool]


@dataclass(slots=True)
class Traffic:
    """Bytes of payload sent, and bytes of content done, since the start of the mount."""

    sent_bytes: int = 0
    content_bytes: int = 0


class Uploader:
    """Stores snapshots as blocks of one workspace."""

    def __init__(self, sink: BlockSink, keeper: BlockKeeper, offload: Offload, workspace: WorkspaceId) -> None:
        self._sink = sink
        self._keeper = keeper
        self._offload = offload
        self._workspace = workspace
        self.traffic = Traffic()

    async def store_small(self, snapshots: Sequence[Snapshot]) -> list[list[BlockRef]]:
        """Store contents of at most `SMALL_BYTES` each, together; gives their block lists in the same order.

        Cancellation leaves blocks behind that are pinned for a while, nothing else.

        Raises:
            what `Snapshot.read` and the sink raise; nothing is stored for certain then.
        """
        contents = [memoryview(await snapshot.read(0, snapshot.size)) for snapshot in snapshots]
        filled = [content for content in contents if content]
        ids = iter(await self._store(_Window(0, filled, [True] * len(filled)), codec.Compression.AUTO))
        self.traffic.content_bytes += sum(map(len, contents))
        return [[BlockRef(next(ids), len(content))] if content else [] for content in contents]

    async def store_large(self, snapshot: Snapshot, progress: Callable[[int], None]) -> list[BlockRef]:
        """Store one content of any size; unchanged blocks of its base are neither read nor sent.

        `progress` is told how many bytes of the content are done. Cancellation as for `store_small`.

        Raises:
            what `Snapshot.read` and the sink raise.
        """
        compression = codec.Compression.FAST if snapshot.size > FAST_ABOVE_BYTES else codec.Compression.AUTO
        refs: list[BlockRef] = []
        slots = trio.Semaphore(PARALLEL_WINDOWS)

        async def finish(window: _Window) -> None:
            try:
                ids = await self._store(window, compression)
                for position, (block, plaintext) in enumerate(zip(ids, window.plaintexts, strict=True)):
                    refs[window.first + position] = BlockRef(block, len(plaintext))
                done = sum(map(len, window.plaintexts))
                self.traffic.content_bytes += done
                progress(done)
            finally:
                slots.release()

        with _alone():
            async with aclosing(self._pieces(snapshot)) as pieces, trio.open_nursery() as nursery:
                offset = 0
                async for piece in pieces:
                    if isinstance(piece, tuple):
                        refs.extend(piece)
                        kept_bytes = sum(ref.size_bytes for ref in piece)
                        progress(kept_bytes)
                        offset += kept_bytes
                        continue
                    window = _Window(len(refs), piece, _is_copied(snapshot, offset, piece))
                    refs.extend([BlockRef(BlockId(b""), 0)] * len(piece))
                    offset += sum(map(len, piece))
                    await slots.acquire()
                    nursery.start_soon(finish, window)
        return refs

    async def _pieces(self, snapshot: Snapshot) -> AsyncGenerator[tuple[BlockRef, ...] | list[memoryview], None]:
        """The content in order: runs of kept blocks of the base, and windows of plaintexts cut anew."""
        base = recut.Base(snapshot.base_blocks, snapshot.dirty_ranges(), snapshot.size)
        position = 0
        while position < snapshot.size:
            if kept := base.kept_from(position):
                yield kept
                position += sum(ref.size_bytes for ref in kept)
                continue
            async with aclosing(self._cut(snapshot, base, position)) as cut:
                async for plaintexts in cut:
                    yield plaintexts
                    position += sum(map(len, plaintexts))

    async def _cut(self, snapshot: Snapshot, base: recut.Base, start: int) -> AsyncGenerator[list[memoryview], None]:
        """Cut from `start` on, until a cut meets a kept block of the base or the content ends."""
        buffer, position = b"", start
        while position < snapshot.size:
            reach = max(base.cut_until(position), position + len(buffer) + codec.MAX_BLOCK_BYTES)
            reach = min(reach, position + WINDOW_BYTES, snapshot.size)
            buffer += await snapshot.read(position + len(buffer), reach - position - len(buffer))
            lengths = await self._offload(_cut_lengths, buffer, reach == snapshot.size)
            plaintexts, used, met = [], 0, False
            for length in lengths:
                plaintexts.append(memoryview(buffer)[used : used + length])
                used += length
                if met := bool(base.kept_from(position + used)):
                    break
            yield plaintexts
            position += used
            buffer = buffer[used:]
            if met:
                return

    async def _store(self, window: _Window, compression: codec.Compression) -> list[BlockId]:
        """Make sure that the backend has these plaintexts as blocks, and that the cache will have them."""
        plaintexts = window.plaintexts
        if not plaintexts:
            return []
        ids = await self._offload(_hash_all, plaintexts)
        by_id = dict(zip(ids, plaintexts, strict=True))
        missing = await self._sink.missing(self._workspace, list(by_id))
        payloads = await self._offload(_encode_all, [by_id[block] for block in missing], compression)
        total, batch = 0, list[tuple[BlockId, bytes]]()
        for block, payload in zip(missing, payloads, strict=True):
            if batch and total + len(payload) > WINDOW_BYTES:
                await self._put(batch)
                total, batch = 0, []
            batch.append((block, payload))
            total += len(payload)
        if batch:
            await self._put(batch)
        kept = zip(ids, plaintexts, window.is_copied, strict=True)
        await self._keeper.keep([(block, plaintext) for block, plaintext, is_copied in kept if is_copied])
        return ids

    async def store_again(self, block: BlockId, plaintext: bytes) -> None:
        """Send one block that the backend has lost, whatever it says of having it."""
        payloads = await self._offload(_encode_all, [memoryview(plaintext)], codec.Compression.AUTO)
        await self._put([(block, payloads[0])])

    async def _put(self, batch: list[tuple[BlockId, bytes]]) -> None:
        await self._sink.put_blocks(self._workspace, batch)
        self.traffic.sent_bytes += sum(len(payload) for _, payload in batch)


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


def _hash_all(plaintexts: Sequence[memoryview]) -> list[BlockId]:
    return [codec.block_id(plaintext) for plaintext in plaintexts]


def _encode_all(plaintexts: Sequence[memoryview], compression: codec.Compression) -> list[bytes]:
    return [codec.encode_payload(plaintext, compression) for plaintext in plaintexts]


def _cut_lengths(buffer: bytes, final: bool) -> list[int]:
    return codec.cut(buffer, final=final)
