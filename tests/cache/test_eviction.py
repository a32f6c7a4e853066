"""S3-FIFO, as a decision: what goes, what moves up, what is never touched."""

from hypothesis import given
from hypothesis import strategies as st

from cache.eviction import MOST_VISITS, Candidate, Decision, choose

EXCESS, NO_EXCESS = 10**6, -(10**6)


def unit(number: int, visits: int = 0, *, is_pinned: bool = False, size_bytes: int = 10) -> Candidate:
    return Candidate(number, size_bytes, visits, is_pinned)


def test_what_is_new_and_was_not_used_again_goes_first_while_probation_is_too_large() -> None:
    decision = choose([unit(1), unit(2)], [unit(3)], wanted_bytes=10, probation_excess_bytes=EXCESS)
    assert decision == Decision([1], {}, 10)


def test_what_was_used_again_on_probation_moves_up() -> None:
    decision = choose([unit(1, 2), unit(2)], [unit(3)], wanted_bytes=10, probation_excess_bytes=EXCESS)
    assert decision == Decision([2], {1: 0}, 10)


def test_a_small_probation_is_left_alone() -> None:
    decision = choose([unit(1)], [unit(2), unit(3)], wanted_bytes=10, probation_excess_bytes=0)
    assert decision.victims == [2]


def test_probation_goes_only_as_far_as_its_excess() -> None:
    decision = choose([unit(1), unit(2)], [unit(3)], wanted_bytes=20, probation_excess_bytes=5)
    assert decision.victims == [1, 3]


def test_a_unit_of_the_main_queue_goes_round_once_for_each_visit() -> None:
    decision = choose([], [unit(1, 3), unit(2)], wanted_bytes=20, probation_excess_bytes=NO_EXCESS)
    assert decision == Decision([2, 1], {}, 20)
    decision = choose([], [unit(1, 3), unit(2, 1), unit(3)], wanted_bytes=10, probation_excess_bytes=NO_EXCESS)
    assert decision == Decision([3], {1: 2, 2: 0}, 10)


def test_when_one_queue_is_used_up_the_other_one_serves() -> None:
    assert choose([], [unit(1)], wanted_bytes=10, probation_excess_bytes=EXCESS).victims == [1]
    assert choose([unit(1)], [], wanted_bytes=10, probation_excess_bytes=NO_EXCESS).victims == [1]
    assert choose([], [], wanted_bytes=10, probation_excess_bytes=EXCESS) == Decision()


def test_a_pinned_unit_stays_where_it_is() -> None:
    pinned = [unit(1, 2, is_pinned=True), unit(2, is_pinned=True)]
    assert choose(pinned, pinned, wanted_bytes=100, probation_excess_bytes=EXCESS) == Decision()


def test_nothing_wanted_is_nothing_done() -> None:
    assert choose([unit(1)], [unit(2)], wanted_bytes=0, probation_excess_bytes=EXCESS) == Decision()


def test_the_queues_are_read_no_further_than_needed() -> None:
    def endless(first: int) -> object:
        number = first
        while True:
            yield unit(number)
            number += 1

    assert choose(endless(1), endless(10), wanted_bytes=30, probation_excess_bytes=15).victims == [1, 2, 10]


shapes = st.lists(st.tuples(st.integers(1, 50), st.integers(0, MOST_VISITS), st.booleans()), max_size=30)


@given(shapes, shapes, st.integers(0, 1000), st.integers(-500, 500))
def test_enough_goes_if_there_is_enough_and_no_more_than_needed(
    probation: list[tuple[int, int, bool]], main: list[tuple[int, int, bool]], wanted_bytes: int, excess: int
) -> None:
    first = [Candidate(number, *shape) for number, shape in enumerate(probation)]
    second = [Candidate(number, *shape) for number, shape in enumerate(main, start=100)]
    decision = choose(first, second, wanted_bytes=wanted_bytes, probation_excess_bytes=excess)
    by_number = {each.unit: each for each in (*first, *second)}
    victims = [by_number[number] for number in decision.victims]
    assert len(set(decision.victims)) == len(victims)
    assert not any(each.is_pinned for each in (*victims, *(by_number[number] for number in decision.moved)))
    assert decision.freed_bytes == sum(each.size_bytes for each in victims)
    evictable = sum(each.size_bytes for each in by_number.values() if not each.is_pinned)
    assert decision.freed_bytes >= min(wanted_bytes, evictable)
    if victims:
        assert decision.freed_bytes - victims[-1].size_bytes < wanted_bytes
    assert all(left < by_number[number].visits for number, left in decision.moved.items())
    assert not set(decision.moved) & set(decision.victims)
