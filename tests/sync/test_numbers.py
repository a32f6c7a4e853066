"""Sets of op numbers as ranges, against plain sets."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from drivefs.sync.numbers import Numbers

NUMBERS = st.lists(st.tuples(st.booleans(), st.integers(0, 30)))


@given(NUMBERS, NUMBERS, st.sampled_from([1, 10]))
def test_ranges_are_a_set(steps: list[tuple[bool, int]], others: list[tuple[bool, int]], stride: int) -> None:
    ours, theirs = Numbers(stride=stride), set[int]()
    for is_added, number in steps:
        (ours.add if is_added else ours.discard)(number * stride)
        (theirs.add if is_added else theirs.discard)(number * stride)
    more = Numbers(stride=stride)
    for is_added, number in others:
        if is_added:
            more.add(number * stride)
            theirs.add(number * stride)
    ours.update(more)
    assert len(ours) == len(theirs)
    ranges = list(ours.ranges())
    assert {n for first, last in ranges for n in range(first, last + 1, stride)} == theirs
    # Neighbours are one range.
    assert all(last + stride < first for (_, last), (first, _) in pairwise(ranges))
    assert ours.latest(5) == sorted(theirs, reverse=True)[:5]
    assert all((n in ours) == (n in theirs) for n in range(32 * stride))
    assert list(Numbers(ranges, stride=stride).ranges()) == ranges


def test_what_is_no_multiple_stays_outside() -> None:
    numbers = Numbers(stride=10)
    numbers.add(13)
    assert (len(numbers), 13 in numbers) == (0, False)
    numbers.discard(13)
