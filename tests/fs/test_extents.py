"""Layers of extents against bytes that are really written and cut."""

from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from drivefs.fs import extents
from drivefs.fs.extents import Extent, Layer

LONGEST = 60

writes = st.tuples(st.just("write"), st.integers(0, LONGEST), st.integers(1, 20), st.booleans())
truncations = st.tuples(st.just("truncate"), st.integers(0, LONGEST), st.just(0), st.booleans())
steps = st.lists(st.one_of(writes, truncations, st.just(("layer", 0, 0, False))), max_size=25)


@dataclass
class Content:
    """A content as layers, and the same one as plain bytes."""

    base: bytes
    layers: list[Layer] = field(default_factory=list)
    expected: bytearray = field(default_factory=bytearray)
    log: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.layers = [Layer(len(self.base))]
        self.expected = bytearray(self.base)

    def write(self, start: int, length: int, *, separate: bool) -> None:
        data = bytes((len(self.log) + index) % 250 + 1 for index in range(length))
        offset = len(self.log)
        self.log += data
        source = f"separate {offset}" if separate else "log"
        self.layers[0].write(Extent(start, start + length, source, offset))
        self.expected.extend(bytes(max(0, start - len(self.expected))))
        self.expected[start : start + length] = data

    def truncate(self, size: int) -> None:
        self.layers[0].truncate(size)
        del self.expected[size:]
        self.expected.extend(bytes(size - len(self.expected)))

    def read(self, start: int, end: int) -> bytes:
        parts = []
        for extent in extents.resolve(self.layers, start, end):
            length = extent.end - extent.start
            if extent.source is extents.BASE:
                parts.append(self.base[extent.offset : extent.offset + length])
            elif extent.source is extents.ZEROS:
                parts.append(bytes(length))
            else:
                parts.append(bytes(self.log[extent.offset : extent.offset + length]))
            assert len(parts[-1]) == length
        return b"".join(parts)


def replay(base_size: int, done: list[tuple[str, int, int, bool]]) -> Content:
    content = Content(bytes([255]) * base_size)
    for kind, position, length, flag in done:
        if kind == "write":
            content.write(position, length, separate=flag)
        elif kind == "truncate":
            content.truncate(position)
        else:
            content.layers.insert(0, Layer(len(content.expected)))
    return content


@given(st.integers(0, LONGEST), steps)
def test_any_writes_and_truncations_read_back(base_size: int, done: list[tuple[str, int, int, bool]]) -> None:
    content = replay(base_size, done)
    assert content.read(0, len(content.expected)) == bytes(content.expected)


@given(st.integers(0, LONGEST), steps, st.integers(0, LONGEST), st.integers(0, LONGEST))
def test_any_range_reads_back(base_size: int, done: list[tuple[str, int, int, bool]], first: int, last: int) -> None:
    content = replay(base_size, done)
    end = min(max(first, last), len(content.expected))
    start = min(first, last, end)
    assert content.read(start, end) == bytes(content.expected[start:end])


@given(st.integers(0, LONGEST), steps)
def test_layers_joined_show_the_same(base_size: int, done: list[tuple[str, int, int, bool]]) -> None:
    content = replay(base_size, done)
    while len(content.layers) > 1:
        upper, lower = content.layers[:2]
        lower.cover(upper)
        del content.layers[0]
    assert content.read(0, len(content.expected)) == bytes(content.expected)


@given(st.integers(0, LONGEST), steps)
def test_extents_stay_sorted_apart_and_joined(base_size: int, done: list[tuple[str, int, int, bool]]) -> None:
    for layer in replay(base_size, done).layers:
        found = list(layer)
        for before, after in pairwise(found):
            assert before.end <= after.start
        assert all(extent.start < extent.end for extent in found)
        assert layer.length == sum(extent.end - extent.start for extent in found)


@given(st.integers(0, LONGEST), steps)
def test_what_is_not_dirty_is_the_base(base_size: int, done: list[tuple[str, int, int, bool]]) -> None:
    content = replay(base_size, done)
    size = len(content.expected)
    dirty = {at for start, end in extents.dirty_ranges(content.layers, size) for at in range(start, end)}
    assert {at for at in range(size) if content.expected[at] != 255} <= dirty
    assert all(at < base_size for at in range(size) if at not in dirty)


def test_writes_in_sequence_are_one_extent() -> None:
    layer = Layer(0)
    for start in range(0, 1000, 10):
        layer.write(Extent(start, start + 10, "staging", start + 7))
    assert list(layer) == [Extent(0, 1000, "staging", 7)]


def test_an_empty_write_leaves_nothing() -> None:
    layer = Layer(0)
    layer.write(Extent(5, 5, "staging", 0))
    assert list(layer) == []


def test_a_range_that_is_empty_resolves_to_nothing() -> None:
    lower, upper = Layer(0), Layer(3)
    lower.write(Extent(0, 3, "staging", 0))
    upper.truncate(1)
    upper.write(Extent(0, 2, "staging", 3))
    assert extents.resolve([upper, lower], 0, 2) == [Extent(0, 2, "staging", 3)]
    assert extents.resolve([upper, lower], 2, 1) == []
