"""SIEVE, as a decision: what goes, what is spared, what is never touched."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from cache.eviction import Candidate, Decision, choose


def rounds(units: list[Candidate], hand: int) -> Iterator[Candidate]:
    """As the index gives them: from behind the hand, three times round."""
    behind = [unit for unit in units if unit.unit > hand]
    yield from behind
    for _ in range(2):
        yield from units


def fresh(number: int) -> Candidate:
    return Candidate(number, 10, False, False)


def visited(number: int) -> Candidate:
    return Candidate(number, 10, True, False)


def decide(units: list[Candidate], wanted_bytes: int, hand: int = 0) -> Decision:
    return choose(rounds(units, hand), wanted_bytes, hand)


def test_the_oldest_that_was_not_visited_goes_first() -> None:
    decision = decide([visited(1), fresh(2), fresh(3)], 10)
    assert (decision.victims, decision.spared, decision.hand) == ([2], [1], 2)


def test_the_hand_goes_on_where_it_stopped() -> None:
    assert decide([fresh(1), fresh(3), fresh(4)], 10, hand=2).victims == [3]


def test_when_all_were_visited_the_first_one_met_goes() -> None:
    decision = decide([visited(1), visited(2), visited(3)], 10, hand=1)
    assert (decision.victims, decision.spared) == ([2], [1, 3])


def test_a_pinned_unit_stays_whatever_is_wanted() -> None:
    decision = decide([fresh(1), Candidate(2, 10, False, True), Candidate(3, 10, True, True)], 1000)
    assert (decision.victims, decision.spared, decision.freed_bytes) == ([1], [], 10)


def test_nothing_wanted_is_nothing_done() -> None:
    assert decide([fresh(1), visited(2)], 0, hand=7) == Decision(hand=7)


units_of_any_kind = st.lists(
    st.builds(lambda size, seen, held: (size, seen, held), st.integers(1, 50), st.booleans(), st.booleans()),
    max_size=30,
)


@given(units_of_any_kind, st.integers(0, 500), st.integers(0, 30))
def test_enough_goes_if_there_is_enough_and_no_more_than_needed(
    shapes: list[tuple[int, bool, bool]], wanted_bytes: int, hand: int
) -> None:
    units = [Candidate(number, *shape) for number, shape in enumerate(shapes, start=1)]
    decision = decide(units, wanted_bytes, hand)
    by_number = {unit.unit: unit for unit in units}
    victims = [by_number[number] for number in decision.victims]
    assert len(set(decision.victims)) == len(victims)
    assert not any(unit.is_pinned for unit in victims)
    assert decision.freed_bytes == sum(unit.size_bytes for unit in victims)
    evictable = sum(unit.size_bytes for unit in units if not unit.is_pinned)
    assert decision.freed_bytes >= min(wanted_bytes, evictable)
    if victims:
        assert decision.freed_bytes - victims[-1].size_bytes < wanted_bytes
    assert all(by_number[number].is_visited for number in decision.spared)
    assert not set(decision.spared) & set(decision.victims)
