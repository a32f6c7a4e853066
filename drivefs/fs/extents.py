"""Byte ranges of a file and where their bytes are: the arithmetic of drafts; pure.

Owns `Layer`, what was written and cut off over something below it, and `resolve`, which looks through layers down to
the base. A content is a base revision, over it the layer that a publication in flight covers (if any), and over that
the layer of what came later.

Invariants of a layer: extents are sorted, not empty, do not overlap, and two neighbours that continue each other in
one source are one. `length` is how many bytes they have. `floor` is the lowest size since the layer began: what lies
below the layer shows only before `floor`.
"""

import enum
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Extent(NamedTuple):
    """Bytes `start` to `end` of the file are those of `source` from `offset` on."""

    start: int
    end: int
    source: Any
    offset: int


class _Elsewhere(enum.Enum):
    BASE = enum.auto()
    ZEROS = enum.auto()


BASE = _Elsewhere.BASE
"""The source of bytes that the base revision has; the offset is that in the file."""
ZEROS = _Elsewhere.ZEROS
"""The source of bytes that nobody wrote."""


class Layer:
    """What writes and truncations did to the content below; empty at first."""

    __slots__ = ("_extents", "_starts", "floor", "length")

    def __init__(self, floor: int) -> None:
        """Begin over a content of `floor` bytes."""
        self.floor = floor
        self.length = 0
        self._starts: list[int] = []
        self._extents: list[Extent] = []

    def __iter__(self) -> Iterator[Extent]:
        return iter(self._extents)

    def __len__(self) -> int:
        return len(self._extents)

    def covering(self, start: int, end: int) -> Extent | None:
        """The one extent that has all bytes of a range, if there is one."""
        index = bisect_right(self._starts, start) - 1
        if index < 0 or self._extents[index].end < end:
            return None
        return self._extents[index]

    def write(self, extent: Extent) -> None:
        """Put an extent over whatever was there."""
        start, end, source, offset = extent
        if start >= end:
            return
        starts, extents = self._starts, self._extents
        if not starts or extents[-1].end <= start:
            first = last = len(starts)
        else:
            first = bisect_left(starts, start)
            if first and extents[first - 1].end > start:
                first -= 1
            last = bisect_left(starts, end, lo=first)
        replaced = [extent]
        if first < last:
            head, tail = extents[first], extents[last - 1]
            if head.start < start:
                replaced.insert(0, Extent(head.start, start, head.source, head.offset))
            if tail.end > end:
                replaced.append(Extent(end, tail.end, tail.source, tail.offset + end - tail.start))
        elif first:
            before = extents[first - 1]
            if before.end == start and before.source == source and before.offset + start - before.start == offset:
                extents[first - 1] = Extent(before.start, end, source, before.offset)
                self.length += end - start
                return
        self.length += _length(replaced) - _length(extents[first:last])
        extents[first:last] = replaced
        starts[first:last] = [each.start for each in replaced]

    def truncate(self, size: int) -> None:
        """Cut off what lies at or behind `size`; what is written there later shows zeros around it."""
        self.floor = min(self.floor, size)
        keep = bisect_left(self._starts, size)
        self.length -= _length(self._extents[keep:])
        del self._starts[keep:], self._extents[keep:]
        if keep and (last := self._extents[-1]).end > size:
            self._extents[-1] = Extent(last.start, size, last.source, last.offset)
            self.length -= last.end - size

    def copy(self) -> "Layer":
        """Another layer that did the same so far."""
        layer = Layer(self.floor)
        layer.length = self.length
        layer._starts, layer._extents = self._starts[:], self._extents[:]
        return layer

    def cover(self, upper: "Layer") -> None:
        """Take over all that `upper`, a layer directly over this one, did."""
        self.truncate(upper.floor)
        for extent in upper:
            self.write(extent)

    def between(self, start: int, end: int) -> Iterator[Extent]:
        """The extents that touch a range, whole."""
        index = max(0, bisect_right(self._starts, start) - 1)
        while index < len(self._extents) and self._extents[index].start < end:
            if self._extents[index].end > start:
                yield self._extents[index]
            index += 1


def _length(extents: Sequence[Extent]) -> int:
    return sum(each.end - each.start for each in extents)


def resolve(layers: Sequence[Layer], start: int, end: int) -> list[Extent]:
    """Where the bytes `start` to `end` are, in order and without gaps; `layers` begins with the topmost."""
    if start >= end:
        return []
    if not layers:
        return [Extent(start, end, BASE, start)]
    found: list[Extent] = []
    position = start
    for extent in layers[0].between(start, end):
        found += _below(layers, position, extent.start)
        first, last = max(extent.start, start), min(extent.end, end)
        found.append(Extent(first, last, extent.source, extent.offset + first - extent.start))
        position = last
    return found + _below(layers, position, end)


def _below(layers: Sequence[Layer], start: int, end: int) -> list[Extent]:
    """What shows through where the topmost layer has no extent."""
    if start >= end:
        return []
    found = resolve(layers[1:], start, min(end, layers[0].floor))
    first = max(start, layers[0].floor)
    if first < end:
        found.append(Extent(first, end, ZEROS, 0))
    return found


def dirty_ranges(layers: Sequence[Layer], size: int) -> list[tuple[int, int]]:
    """The ranges (start, end) of a content of `size` bytes that do not show the base, in order and not touching."""
    ranges: list[tuple[int, int]] = []
    for extent in resolve(layers, 0, size):
        if extent.source is BASE:
            continue
        if ranges and ranges[-1][1] == extent.start:
            ranges[-1] = (ranges[-1][0], extent.end)
        else:
            ranges.append((extent.start, extent.end))
    return ranges
