"""What is let go with age: the rules for every history that there can be."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend.service.retention import DAY, HOUR, NS_PER_SECOND, WEEK, Rules, Standing, let_go

NOW = 1_800_000_000 * NS_PER_SECOND
RULES = Rules()


@st.composite
def histories(draw: st.DrawFn) -> list[Standing]:
    """Saves in bursts and far apart, some of them held, some with the very same time."""
    gaps = st.one_of(st.integers(0, 5), st.integers(0, HOUR), st.integers(0, 3 * DAY), st.integers(0, 60 * DAY))
    found: list[Standing] = []
    time = NOW - draw(st.integers(0, DAY)) * NS_PER_SECOND
    for gap, is_held in draw(st.lists(st.tuples(gaps, st.sampled_from([False] * 9 + [True])), max_size=60)):
        found.append(Standing(0, time, is_held))
        time -= gap * NS_PER_SECOND
    return [each._replace(number=2 * n) for n, each in enumerate(reversed(found), 1)]


def left(history: list[Standing], rules: Rules = RULES, now_ns: int = NOW) -> list[Standing]:
    gone = let_go(history, [], now_ns, rules)
    return [each for each in history if each.number not in gone]


@given(histories(), st.lists(st.integers(0, 400 * DAY), max_size=3), st.integers(1, 20))
@settings(max_examples=150)
def test_what_must_stay_stays(history: list[Standing], ages: list[int], most: int) -> None:
    moments = [NOW - age * NS_PER_SECOND for age in ages]
    gone = let_go(history, moments, NOW, Rules(most=most))
    assert gone <= {each.number for each in history}
    must = {each.number for each in history if each.is_held} | {each.number for each in history[-1:]}
    for moment in moments:
        must |= {each.number for each in [each for each in history if each.time_ns <= moment][-1:]}
    assert not gone & must
    assert len(history) - len(gone) <= max(most, len(must)) + 5, "but one for each of the five ages"


@given(histories())
@settings(max_examples=150)
def test_what_goes_has_a_newer_one_close_by(history: list[Standing]) -> None:
    kept = left(history)
    for each in history:
        age = (NOW - each.time_ns) // NS_PER_SECOND
        if age <= HOUR:
            assert each in kept
        if each in kept or age > RULES.weekly_seconds:
            continue
        reach = RULES.burst_seconds if age <= DAY else HOUR if age <= 7 * DAY else DAY if age <= 30 * DAY else WEEK
        newer = [other for other in kept if other.number > each.number]
        assert newer
        assert newer[0].time_ns - each.time_ns < reach * NS_PER_SECOND


@given(histories(), st.integers(0, 400 * DAY))
@settings(max_examples=100)
def test_deciding_again_changes_nothing_and_later_only_takes_more(history: list[Standing], later: int) -> None:
    kept = left(history)
    assert left(kept) == kept
    after = left(kept, now_ns=NOW + later * NS_PER_SECOND)
    assert set(after) <= set(kept)
    assert after[-1:] == history[-1:]


@example(most=3)
@given(st.integers(1, 50))
@settings(max_examples=10)
def test_where_there_are_too_many_the_old_ones_are_not_the_first_to_go(most: int) -> None:
    """A file that is saved all the time goes on with something of last year."""
    old = [Standing(n, NOW - (300 - 30 * n) * DAY * NS_PER_SECOND) for n in range(3)]
    busy = [Standing(10 + n, NOW - (HOUR - n) * NS_PER_SECOND) for n in range(HOUR)]
    kept = left(old + busy, Rules(most=most))
    assert len(kept) <= most + 5
    assert any(each in kept for each in old) or most < 5


def test_a_year_of_saves() -> None:
    """What the words mean: all of the last hour, and of a day but bursts; then hours, days and weeks."""
    minutes = [Standing(n, NOW - n * 30 * NS_PER_SECOND) for n in range(2 * 60 * 48, 0, -1)]
    minutes = [Standing(n, NOW - n * 600 * NS_PER_SECOND) for n in range(6 * 24 * 400, 6 * 48, -1)] + minutes
    history = [each._replace(number=n) for n, each in enumerate(minutes, 1)]
    kept = [(NOW - each.time_ns) // NS_PER_SECOND for each in left(history, Rules(most=10**6))]
    spans = [(0, HOUR), (HOUR, DAY), (DAY, WEEK), (WEEK, 30 * DAY), (30 * DAY, 365 * DAY), (365 * DAY, 10**9)]
    counts = [sum(start < age <= end for age in kept) for start, end in spans]
    assert counts[0] == 120
    assert abs(counts[1] - 23 * 60) <= 1
    assert abs(counts[2] - 6 * 24) <= 1
    assert abs(counts[3] - 23) <= 1
    assert abs(counts[4] - 48) <= 1
    assert counts[5] == 0
