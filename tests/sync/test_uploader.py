"""Contents become blocks that the backend holds, and of changed contents only the changed blocks travel."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from drivefs.protocol import blocks as codec
from drivefs.protocol.ids import BlockId, InodeId, WorkspaceId
from drivefs.protocol.model import BlockRef
from drivefs.remote import errors
from drivefs.sync.uploader import LARGE_WINDOW_BYTES, SMALL_BYTES, WINDOW_BYTES, Uploader
from tests.support.examples import examples

MIB = 2**20
INODE = InodeId(5)


@dataclass
class Backend:
    """Blocks held, and how many bytes of plaintext were sent."""

    held: dict[BlockId, bytes] = field(default_factory=dict)
    sent_bytes: int = 0
    largest_request_bytes: int = 0
    kept: set[BlockId] = field(default_factory=set)

    async def missing(self, workspace: WorkspaceId, blocks: list[BlockId]) -> list[BlockId]:
        await trio.lowlevel.checkpoint()
        return [block for block in blocks if block not in self.held]

    async def put_blocks(self, workspace: WorkspaceId, payloads: list[tuple[BlockId, codec.Parts]]) -> None:
        await trio.lowlevel.checkpoint()
        for block, payload in payloads:
            self.held[block] = codec.decode_payload(b"".join(payload), block)
            self.sent_bytes += len(self.held[block])
        request_bytes = sum(len(part) for _, payload in payloads for part in payload)
        self.largest_request_bytes = max(self.largest_request_bytes, request_bytes)

    async def keep(self, blocks: list[tuple[BlockId, bytes | memoryview]]) -> None:
        await trio.lowlevel.checkpoint()
        self.kept.update(block for block, _ in blocks)

    def content(self, refs: list[BlockRef]) -> bytes:
        return b"".join(self.held[ref.block] for ref in refs)


@dataclass
class Frozen:
    """A content in memory, with the ranges that differ from its base; what lies before `staged_until` is staged."""

    data: bytes
    base_blocks: list[BlockRef] = field(default_factory=list)
    dirty: list[tuple[int, int]] | None = None
    inode: InodeId = INODE
    read_bytes: int = 0
    staged_until: int = 0
    is_over_past: bool = False

    @property
    def size(self) -> int:
        return len(self.data)

    def dirty_ranges(self) -> list[tuple[int, int]]:
        return [(0, self.size)] if self.dirty is None else self.dirty

    def is_staged(self, start: int, end: int) -> bool:
        return end <= self.staged_until

    async def read(self, offset: int, length: int) -> bytes:
        await trio.lowlevel.checkpoint()
        self.read_bytes += length
        return self.data[offset : offset + length]

    async def read_into(self, offset: int, target: memoryview) -> None:
        target[:] = await self.read(offset, len(target))


def uploader(backend: Backend) -> Uploader:
    return Uploader(backend, backend, trio.to_thread.run_sync, WorkspaceId(1))


def stored(backend: Backend, content: Frozen) -> list[BlockRef]:
    async def main() -> list[BlockRef]:
        return await uploader(backend).store_large(content, lambda done: None)

    return trio.run(main)


def test_what_keeps_a_large_content_from_being_stored_is_told_as_it_is() -> None:
    class Gone(Backend):
        async def put_blocks(self, workspace: WorkspaceId, payloads: list[tuple[BlockId, codec.Parts]]) -> None:
            raise errors.Offline("gone")

    with pytest.raises(errors.Offline, match="gone"):
        stored(Gone(), Frozen(random.Random(1).randbytes(20 * MIB)))


def test_what_is_kept_of_another_revision_is_pinned() -> None:
    asked: set[BlockId] = set()

    class Noting(Backend):
        async def missing(self, workspace: WorkspaceId, blocks: list[BlockId]) -> list[BlockId]:
            asked.update(blocks)
            return await super().missing(workspace, blocks)

    backend, data = Noting(), random.Random(2).randbytes(5 * MIB)
    base = stored(backend, Frozen(data))
    asked.clear()
    assert stored(backend, Frozen(data, base, [(0, 1)], is_over_past=True))[1:] == base[1:]
    assert asked >= {ref.block for ref in base}


def test_small_contents_travel_together_and_empty_ones_not_at_all() -> None:
    backend = Backend()
    contents = [Frozen(b"one"), Frozen(b""), Frozen(b"two"), Frozen(b"one")]

    async def main() -> list[list[BlockRef]]:
        return await uploader(backend).store_small(contents)

    refs = trio.run(main)
    assert [backend.content(ref) for ref in refs] == [b"one", b"", b"two", b"one"]
    assert backend.sent_bytes == 6


@pytest.mark.parametrize("size", [1, SMALL_BYTES, SMALL_BYTES + 1, 5 * MIB, 33 * MIB + 7])
def test_content_of_any_size_comes_back_from_its_blocks(size: int) -> None:
    backend = Backend()
    data = random.Random(size).randbytes(size)
    refs = stored(backend, Frozen(data))
    assert backend.content(refs) == data
    assert backend.largest_request_bytes <= LARGE_WINDOW_BYTES + 64


@pytest.mark.parametrize(("seconds", "most_bytes"), [(0.1, LARGE_WINDOW_BYTES), (2.0, WINDOW_BYTES)])
def test_a_quick_server_is_sent_more_at_once(seconds: float, most_bytes: int) -> None:
    class Far(Backend):
        async def put_blocks(self, workspace: WorkspaceId, payloads: list[tuple[BlockId, codec.Parts]]) -> None:
            await trio.sleep(seconds)
            await super().put_blocks(workspace, payloads)

    async def at_once(work: Callable[..., Any], /, *args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return work(*args)

    backend, content = Far(), Frozen(random.Random(4).randbytes(60 * MIB))

    async def main() -> list[BlockRef]:
        return await Uploader(backend, backend, at_once, WorkspaceId(1)).store_large(content, lambda done: None)

    refs = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert backend.content(refs) == content.data
    assert most_bytes - 4 * MIB < backend.largest_request_bytes <= most_bytes + 64


def test_the_cache_copies_only_what_it_cannot_take_over() -> None:
    backend = Backend()
    refs = stored(backend, Frozen(random.Random(3).randbytes(20 * MIB), staged_until=9 * MIB))
    ends = accumulate(ref.size_bytes for ref in refs)
    assert backend.kept == {ref.block for ref, end in zip(refs, ends, strict=True) if end > 9 * MIB}
    assert 0 < len(backend.kept) < len(refs)


def test_one_changed_byte_sends_and_reads_only_its_neighbourhood() -> None:
    backend = Backend()
    data = random.Random(1).randbytes(64 * MIB)
    base = stored(backend, Frozen(data))
    changed = bytearray(data)
    changed[40 * MIB] ^= 1
    backend.sent_bytes = 0
    content = Frozen(bytes(changed), base, [(40 * MIB, 40 * MIB + 1)])
    refs = stored(backend, content)
    assert backend.content(refs) == changed
    assert backend.sent_bytes <= 8 * MIB
    assert content.read_bytes <= 16 * MIB


def test_inserting_at_the_head_sends_little_although_all_was_written_anew() -> None:
    backend = Backend()
    data = random.Random(2).randbytes(32 * MIB)
    stored(backend, Frozen(data))
    backend.sent_bytes = 0
    refs = stored(backend, Frozen(b"ten bytes!" + data))
    assert backend.content(refs) == b"ten bytes!" + data
    assert backend.sent_bytes <= 8 * MIB


def test_appending_cuts_the_last_block_anew_instead_of_leaving_crumbs() -> None:
    backend = Backend()
    data = b"line of a log\n" * 50_000
    refs = stored(backend, Frozen(data))
    for round_ in range(20):
        addition = b"more %d\n" % round_
        end = len(data)
        data += addition
        refs = stored(backend, Frozen(data, refs, [(end, len(data))]))
    assert backend.content(refs) == data
    assert len(refs) <= 4


@settings(max_examples=examples(25), deadline=None)
@given(
    st.integers(0, 6 * MIB),
    st.integers(0, 6 * MIB),
    st.lists(st.tuples(st.integers(0, 6 * MIB), st.integers(1, 300_000)), max_size=4),
    st.integers(0, 2**32),
)
def test_any_change_of_a_base_gives_exactly_the_new_content(
    old_size: int, new_size: int, writes: list[tuple[int, int]], seed: int
) -> None:
    backend, source = Backend(), random.Random(seed)
    data = source.randbytes(old_size)
    base = stored(backend, Frozen(data))
    fresh = bytearray(data[:new_size].ljust(new_size, b"\0"))
    dirty = [(old_size, new_size)] if new_size > old_size else []
    for offset, length in writes:
        end = min(offset + length, new_size)
        if offset < end:
            fresh[offset:end] = source.randbytes(end - offset)
            dirty.append((offset, end))
    refs = stored(backend, Frozen(bytes(fresh), base, dirty))
    assert backend.content(refs) == fresh
    assert all(ref.size_bytes == len(backend.held[ref.block]) for ref in refs)
