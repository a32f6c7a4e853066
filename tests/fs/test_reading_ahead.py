"""Reading ahead, from a descriptor's reads to what the fetcher is asked for."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import trio

from drivefs.fs.content import Basis, Content
from drivefs.fs.readahead import ReadState
from drivefs.fs.reading import Reader
from drivefs.protocol.changes import Base
from drivefs.protocol.ids import BlockId, InodeId, WorkspaceId
from drivefs.protocol.model import BlockRef

WORKSPACE, INODE = WorkspaceId(3), InodeId(7)
SIZE = 100_000
BLOCKS = [BlockId(bytes([number]) * 32) for number in range(20)]


class Fetcher:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[BlockId] = []

    def expect(self, workspace: WorkspaceId, refs: Sequence[BlockRef]) -> None:
        assert workspace == WORKSPACE
        self.asked += [ref.block for ref in refs]


def read(refs: list[BlockRef] | None, offsets: list[int], length: int) -> list[BlockId]:
    """What is fetched ahead of reads at these offsets."""
    fetcher = Fetcher()
    nothing = cast(Any, SimpleNamespace())
    blocks = SimpleNamespace(can_adopt_from=lambda directory: False)
    staging = SimpleNamespace(directory=None)
    local = SimpleNamespace(offload=None, journal=SimpleNamespace(drafts=nothing), staging=staging, blocks=blocks)
    reader = Reader(cast(Any, local), cast(Any, fetcher), nothing, workspace=WORKSPACE, deadline_seconds=1)

    async def scenario() -> None:
        state = ReadState()
        for offset in offsets:
            state = reader.read_ahead(content, state, offset, length)

    content = Content(INODE, Basis(Base(), sum(ref.size_bytes for ref in refs or []), refs))
    trio.run(scenario)
    return fetcher.asked


def test_a_sequential_reader_has_all_later_blocks_fetched_once() -> None:
    refs = [BlockRef(block, SIZE) for block in BLOCKS]
    assert read(refs, list(range(0, len(BLOCKS) * SIZE, 50_000)), 50_000) == BLOCKS[1:]


def test_a_jumping_reader_has_nothing_fetched() -> None:
    refs = [BlockRef(block, 100 * SIZE) for block in BLOCKS]
    assert read(refs, [7_000_000, 190_000_000, 33_000_000, 120_000_000], 4096) == []


def test_a_content_whose_blocks_are_not_known_has_nothing_fetched() -> None:
    assert read(None, [0, 4096, 8192], 4096) == []


def test_a_read_past_the_end_is_no_matter() -> None:
    assert read([BlockRef(block, SIZE) for block in BLOCKS[:2]], [0, SIZE * 2, SIZE * 3], SIZE) == BLOCKS[1:2]
