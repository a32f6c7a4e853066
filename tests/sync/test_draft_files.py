"""Which bytes of a copied file are not here: ranges behave as the set of bytes that they name."""

from hypothesis import given
from hypothesis import strategies as st

from drivefs.sync.draft_files import Missing


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "cut"]), st.integers(0, 40), st.integers(0, 40))))
def test_missing_ranges_are_those_of_a_set_of_bytes(steps: list[tuple[str, int, int]]) -> None:
    missing, model = Missing(), set[int]()
    for what, one, two in steps:
        start, end = min(one, two), max(one, two)
        if what == "cut":
            missing.cut(start)
            model = {each for each in model if each < start}
        elif start < end:
            (missing.add if what == "add" else missing.remove)(start, end)
            model = model | set(range(start, end)) if what == "add" else model - set(range(start, end))
    assert {each for start, end in missing.ranges for each in range(start, end)} == model
    assert missing.ranges == sorted(missing.ranges)
