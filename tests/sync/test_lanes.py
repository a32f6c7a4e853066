"""Who goes ahead of a burst, and what that may not overtake."""

from drivefs.protocol.ids import InodeId, OpNumber
from drivefs.sync.lanes import (
    ALL_CHANGES,
    MOST_MAKERS,
    MOST_MUTATIONS,
    PAUSE_SECONDS,
    PROCESS_CHANGES,
    Lanes,
    Order,
)

TAR, EDITOR, GIT = 1, 2, 3


def ops(*numbers: int) -> set[OpNumber]:
    return {OpNumber(n) for n in numbers}


def test_one_process_is_a_burst_after_many_changes_and_another_is_not() -> None:
    lanes = Lanes()
    assert [lanes.is_urgent(TAR, 0.0) for _ in range(PROCESS_CHANGES + 1)] == [True] * PROCESS_CHANGES + [False]
    assert lanes.is_urgent(EDITOR, 0.0)


def test_a_process_that_rests_is_no_burst_any_more() -> None:
    lanes = Lanes()
    for _ in range(PROCESS_CHANGES + 5):
        lanes.is_urgent(TAR, 0.0)
    assert not lanes.is_urgent(TAR, PAUSE_SECONDS / 2)
    assert lanes.is_urgent(TAR, PAUSE_SECONDS * 2)


def test_a_process_that_goes_on_without_a_pause_stays_a_burst() -> None:
    lanes = Lanes()
    urgent = [lanes.is_urgent(TAR, number * PAUSE_SECONDS / 2) for number in range(20 * PROCESS_CHANGES)]
    assert sum(urgent) == PROCESS_CHANGES


def test_a_process_for_each_file_is_a_burst_too() -> None:
    lanes = Lanes()
    urgent = [lanes.is_urgent(100 + number, 0.0) for number in range(2 * ALL_CHANGES)]
    assert sum(urgent) == ALL_CHANGES


def made(*by: int) -> Order:
    """Mutations 1, 2, … by these processes."""
    order = Order()
    for number, process in enumerate(by, start=1):
        order.made(OpNumber(number), process)
    return order


def test_it_overtakes_a_process_that_goes_on() -> None:
    order = made(TAR, TAR, EDITOR, TAR)
    assert order.with_earlier(ops(3), ops(1, 2, 3, 4)) == ops(3)


def test_it_never_overtakes_a_process_that_had_ended() -> None:
    order = made(GIT, TAR, GIT, EDITOR, TAR)
    assert order.with_earlier(ops(4), ops(1, 2, 3, 4, 5)) == ops(1, 3, 4)


def test_it_never_overtakes_what_its_own_process_did_before() -> None:
    order = made(EDITOR, TAR, EDITOR, TAR, EDITOR)
    assert order.with_earlier(ops(3), ops(1, 2, 3, 4, 5)) == ops(1, 3)


def test_it_never_overtakes_what_nobody_is_known_to_have_made() -> None:
    order = made(TAR, EDITOR, TAR)
    assert order.with_earlier(ops(12), ops(10, 12)) == ops(10, 12)


def test_content_is_of_the_process_that_wrote_it() -> None:
    order = made(TAR, EDITOR)
    order.written(InodeId(9), EDITOR, OpNumber(2))
    order.made(OpNumber(3), TAR)
    order.stored(OpNumber(4), InodeId(9))
    order.made(OpNumber(5), TAR)
    assert order.with_earlier(ops(4), ops(1, 2, 3, 4, 5)) == ops(2, 4)


def test_memory_is_bounded_and_the_forgotten_count_as_ended() -> None:
    order = made(TAR, *range(10, 10 + MOST_MAKERS), EDITOR)
    last = MOST_MAKERS + 2
    assert 1 in order.with_earlier(ops(last), {OpNumber(n) for n in range(1, last + 1)})


def test_what_is_never_sent_takes_bounded_memory_and_is_not_overtaken() -> None:
    order = made(*[TAR] * (MOST_MUTATIONS + 1), EDITOR, TAR)
    edit = MOST_MUTATIONS + 2
    assert order.with_earlier(ops(edit), ops(1, 2, 3, 4, edit)) >= ops(1, edit)
    assert MOST_MUTATIONS not in order.with_earlier(ops(edit), ops(MOST_MUTATIONS, edit))
