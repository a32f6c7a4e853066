"""What is let go with age: the rules for every history that there can be."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend.service.retention import DAY, HOUR, NS_PER_SECOND, WEEK, Rules, Span, Standing, let_go
from tests.support.examples import examples

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


@given(histories(), st.lists(st.tuples(st.integers(0, 400 * DAY), st.integers(0, DAY)), max_size=3), st.integers(1, 20))
@settings(max_examples=examples(150))
def test_what_must_stay_stays(history: list[Standing], ages: list[tuple[int, int]], most: int) -> None:
    spans = [Span(NOW - (age + lag) * NS_PER_SECOND, NOW - age * NS_PER_SECOND) for age, lag in ages]
    gone = let_go(history, spans, NOW, Rules(most=most))
    assert gone <= {each.number for each in history}
    must = {each.number for each in history if each.is_held} | {each.number for each in history[-1:]}
    for span in spans:
        first = at(history, span.since_ns)
        must |= {each.number for each in history if each == first or span.since_ns < each.time_ns <= span.until_ns}
    assert not gone & must
    assert len(history) - len(gone) <= max(most, len(must)) + 5


def at(history: list[Standing], moment: int) -> Standing | None:
    """What the file was at a moment."""
    return next((each for each in reversed(history) if each.time_ns <= moment), None)


@given(histories())
@settings(max_examples=examples(150))
def test_what_the_file_was_at_each_moment_of_the_rules_stays(history: list[Standing]) -> None:
    kept = left(history)
    for age, distance in RULES.tiers():
        ns = distance * NS_PER_SECOND
        for moment in range(NOW // ns * ns, NOW - age * NS_PER_SECOND, -ns):
            then = at(history, moment)
            assert then is None or then in kept
    for each, following in zip(history, [*history[1:], None], strict=False):
        if following is None or following.time_ns >= NOW - HOUR * NS_PER_SECOND:
            assert each in kept


def test_what_stood_for_years_outlives_a_day_of_changes() -> None:
    """It is let go when it was long ago that it was the content, not when it is long ago that it was written."""
    old = Standing(1, NOW - 5 * 365 * DAY * NS_PER_SECOND)
    today = [Standing(2 + n, NOW - (7200 - n) * NS_PER_SECOND) for n in range(100)]
    assert old in left([old, *today])
    later = NOW + 300 * DAY * NS_PER_SECOND
    assert left([old, *today], now_ns=later) == [old, today[-1]]
    assert left([old, *today], now_ns=NOW + 400 * DAY * NS_PER_SECOND) == [today[-1]]


@given(histories(), st.integers(0, 400 * DAY))
@settings(max_examples=examples(100))
def test_a_history_that_was_left_goes_as_if_something_had_taken_its_place(history: list[Standing], age: int) -> None:
    if not history:
        return
    ended = max(history[-1].time_ns, NOW - age * NS_PER_SECOND)
    followed = [*history, Standing(10**6, ended)]
    spans = [Span(ended, ended), Span(NOW, NOW)]
    gone = let_go(history, spans, NOW, RULES, ended_ns=ended)
    assert gone == let_go(followed, spans, NOW, RULES)


@given(histories(), st.integers(0, 400 * DAY))
@settings(max_examples=examples(100))
def test_deciding_again_changes_nothing_and_later_only_takes_more(history: list[Standing], later: int) -> None:
    kept = left(history)
    assert left(kept) == kept
    after = left(kept, now_ns=NOW + later * NS_PER_SECOND)
    assert set(after) <= set(kept)
    assert after[-1:] == history[-1:]


@example(most=3)
@given(st.integers(1, 50))
@settings(max_examples=examples(10))
def test_where_there_are_too_many_the_old_ones_are_not_the_first_to_go(most: int) -> None:
    """A file that is saved all the time goes on with something of last year."""
    old = [Standing(n, NOW - (300 - 30 * n) * DAY * NS_PER_SECOND) for n in range(3)]
    busy = [Standing(10 + n, NOW - (HOUR - n) * NS_PER_SECOND) for n in range(HOUR)]
    kept = left(old + busy, Rules(most=most))
    assert len(kept) <= most + 5
    assert any(each in kept for each in old) or most < 5


def test_a_year_of_saves() -> None:
    """What the words mean: all of the last hour, each minute of a day; then each hour, day and week."""
    ages = [*range(30 * 2 * 60 * 48, 0, -30)]
    ages = [*range(400 * DAY, 2 * DAY, -600), *ages[: -2 * 60], *range(3600, 0, -30)]
    history = [Standing(n, NOW - age * NS_PER_SECOND) for n, age in enumerate(ages, 1)]
    kept = [(NOW - each.time_ns) // NS_PER_SECOND for each in left(history, Rules(most=10**6))]
    spans = [(0, HOUR), (HOUR, DAY), (DAY, WEEK), (WEEK, 30 * DAY), (30 * DAY, 365 * DAY), (366 * DAY, 10**9)]
    counts = [sum(start < age <= end for age in kept) for start, end in spans]
    assert abs(counts[0] - 120) <= 1
    assert abs(counts[1] - 23 * 60) <= 1
    assert abs(counts[2] - 6 * 24) <= 1
    assert abs(counts[3] - 23) <= 1
    assert abs(counts[4] - 48) <= 1
    assert counts[5] == 0
