"""Which blocks of a file's base revision still hold after writes, and which ranges have to be cut anew; pure.

Owns the arithmetic of delta upload. Cutting is content-defined and starts afresh at each block, so a cut that begins at
a boundary of the base and meets another boundary of the base behind the last dirty byte finds the same blocks from
there on: they are kept without being read.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from drivefs.protocol.model import BlockRef


class Base:
    """The blocks of the base revision that writes have left whole, by offset.

    `dirty` are the ranges (start, end) written since the base, in any order. The last block of the base is not kept
    when the size has changed: its end was the end of the file, not a boundary that the content made.
    """

    def __init__(self, blocks: Sequence[BlockRef], dirty: Iterable[tuple[int, int]], size: int) -> None:
        self._blocks = blocks
        self._offsets = [0, *accumulate(ref.size_bytes for ref in blocks)]
        self._size = size
        clean = [True] * len(blocks)
        base_size = self._offsets[-1]
        for start, end in dirty:
            self._spoil(clean, start, min(end, base_size))
        if size != base_size:
            self._spoil(clean, min(size, base_size - 1), base_size)
        self._clean = clean

    def _spoil(self, clean: list[bool], start: int, end: int) -> None:
        if start >= end or not clean:
            return
        first = max(0, bisect_left(self._offsets, start + 1) - 1)
        for index in range(first, len(clean)):
            if self._offsets[index] >= end:
                break
            clean[index] = False

    def kept_from(self, offset: int) -> tuple[BlockRef, ...]:
        """The unbroken run of whole blocks that begins exactly at `offset`; empty if there is none."""
        index = bisect_left(self._offsets, offset)
        if index >= len(self._blocks) or self._offsets[index] != offset:
            return ()
        end = index
        while end < len(self._blocks) and self._clean[end]:
            end += 1
        return tuple(self._blocks[index:end])

    def cut_until(self, offset: int) -> int:
        """How far to read when cutting from `offset`: past the last byte before a kept block, or the end of the file.

        Cutting may have to go on beyond it, when no cut falls on the boundary there.
        """
        index = bisect_left(self._offsets, offset)
        while index < len(self._blocks):
            if self._clean[index] and self._offsets[index] > offset:
                return self._offsets[index]
            index += 1
        return self._size
