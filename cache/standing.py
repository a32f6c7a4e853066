"""Which writes of a content on its way can stand over what its store makes of the file, where others lack bytes; pure.

A write that stands shows the bytes that the store has there. So none does that is covered by one without its bytes, by
one that does not stand itself, or by a change of size: older bytes would show in their place.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from cache.drafts import Record

END = 2**63
"""Behind all bytes that a file can have."""


class Found(NamedTuple):
    """A record as it was found: whether its bytes are what was written, and its row is what was put there."""

    record: Record
    is_good: bool
    row_is_good: bool


def standing(found: Sequence[Found]) -> set[int]:
    """The ids of those that can stay, of records in their order."""
    stay, gone = set[int](), _Ranges()
    for record, is_good, row_is_good in reversed(found):
        start, end = record.file_offset, record.file_offset + record.length
        if not row_is_good:
            start, end = 0, END
        elif record.is_truncation:
            end = END
        elif is_good and not gone.meets(start, end):
            stay.add(record.id)
            continue
        gone.add(start, end)
    return stay


class _Ranges:
    """Byte ranges, sorted; those that touch are one."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def meets(self, start: int, end: int) -> bool:
        index = bisect_right(self._ends, start)
        return index < len(self._starts) and self._starts[index] < end

    def add(self, start: int, end: int) -> None:
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]
