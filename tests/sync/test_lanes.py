"""Who goes ahead of a burst, and what that may not overtake."""

from drivefs.protocol.ids import InodeId, OpNumber
from drivefs.sync.lanes import (
    ALL_CHANGES,
    MOST_MUTATIONS,
    PAUSE_SECONDS,
    PROCESS_CHANGES,
    Lanes,
    Order,
)

TAR, EDITOR, GIT, OTHER = 1, 2, 3, 4


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


def test_it_overtakes_what_others_make() -> None:
    order = made(TAR, TAR, EDITOR, TAR)
    assert order.with_earlier(ops(3), ops(1, 2, 3, 4)) == ops(3)


def test_it_never_overtakes_what_its_own_process_did_before() -> None:
    order = made(EDITOR, TAR, EDITOR, TAR, EDITOR)
    assert order.with_earlier(ops(3), ops(1, 2, 3, 4, 5)) == ops(1, 3)


def test_it_never_overtakes_those_whose_files_it_has_opened_nor_what_those_had_opened() -> None:
    order = made(TAR, GIT, TAR, EDITOR, GIT, OTHER)
    order.written(InodeId(8), TAR)
    order.opened(InodeId(8), GIT)
    order.written(InodeId(9), GIT)
    order.stored(OpNumber(7), InodeId(9))
    assert order.with_earlier(ops(4), ops(1, 2, 3, 4, 5, 6, 7)) == ops(4)
    order.opened(InodeId(9), EDITOR)
    order.made(OpNumber(8), EDITOR)
    assert order.with_earlier(ops(8), ops(1, 2, 3, 4, 5, 6, 7, 8)) == ops(1, 2, 3, 4, 5, 7, 8)


def test_who_opens_what_it_wrote_itself_follows_nobody() -> None:
    order = made(TAR, EDITOR)
    order.written(InodeId(8), EDITOR)
    order.opened(InodeId(8), EDITOR)
    order.opened(InodeId(9), EDITOR)
    assert order.with_earlier(ops(2), ops(1, 2)) == ops(2)


def test_when_all_is_settled_nothing_is_remembered() -> None:
    order = made(TAR)
    order.written(InodeId(8), TAR)
    order.stored(OpNumber(2), InodeId(8))
    order.settled(ops(1, 2))
    order.opened(InodeId(8), EDITOR)
    order.made(OpNumber(3), TAR)
    order.made(OpNumber(4), EDITOR)
    assert order.with_earlier(ops(4), ops(3, 4)) == ops(4)


def test_it_never_overtakes_what_nobody_is_known_to_have_made() -> None:
    order = made(TAR, EDITOR, TAR)
    assert order.with_earlier(ops(12), ops(10, 12)) == ops(10, 12)


def test_content_is_of_the_process_that_wrote_it() -> None:
    order = made(TAR, EDITOR)
    order.written(InodeId(9), EDITOR)
    order.made(OpNumber(3), TAR)
    order.stored(OpNumber(4), InodeId(9))
    order.made(OpNumber(5), TAR)
    assert order.with_earlier(ops(4), ops(1, 2, 3, 4, 5)) == ops(2, 4)


def test_what_is_never_sent_takes_bounded_memory_and_is_not_overtaken() -> None:
    order = made(*[TAR] * (MOST_MUTATIONS + 1), EDITOR, TAR)
    edit = MOST_MUTATIONS + 2
    assert order.with_earlier(ops(edit), ops(1, 2, 3, 4, edit)) >= ops(1, edit)
    assert MOST_MUTATIONS not in order.with_earlier(ops(edit), ops(MOST_MUTATIONS, edit))
