"""Parts of a content: which bytes a header means, and which blocks have them."""

import pytest

from backend.api import ranges
from backend.api.ranges import NOTHING, Part
from drivefs.protocol.ids import BlockId
from drivefs.protocol.model import BlockRef


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", Part(0, 1)),
        ("bytes=3-", Part(3, 10)),
        ("bytes=3-99", Part(3, 10)),
        ("BYTES= 2-4 ", Part(2, 5)),
        ("bytes=-4", Part(6, 10)),
        ("bytes=-99", Part(0, 10)),
        ("bytes=10-", NOTHING),
        ("bytes=-0", NOTHING),
    ],
)
def test_one_range_is_what_it_says(header: str, part: Part) -> None:
    assert ranges.asked(header, 10) == part


@pytest.mark.parametrize("header", [None, "", "bytes=", "bytes=-", "bytes=5-4", "bytes=0-1,3-4", "lines=0-1"])
def test_any_other_wish_is_for_all(header: str | None) -> None:
    assert ranges.asked(header, 10) is None


def test_of_nothing_all_is_given() -> None:
    assert ranges.asked("bytes=0-", 0) is None


def test_a_part_is_in_the_blocks_that_cover_it() -> None:
    contents = [b"abcde", b"fgh", b"i", b"klmnopq"]
    whole = b"".join(contents)
    refs = [BlockRef(BlockId(bytes([n]) * 32), len(content)) for n, content in enumerate(contents)]
    for start in range(len(whole)):
        for end in range(start + 1, len(whole) + 1):
            blocks, before = ranges.covering(refs, Part(start, end))
            joined = b"".join(contents[block[0]] for block in blocks)
            assert joined[before : before + end - start] == whole[start:end]
            assert before < len(contents[blocks[0][0]])
            assert len(joined) - before - (end - start) < len(contents[blocks[-1][0]])
    assert ranges.covering(refs, NOTHING) == ([], 0)
