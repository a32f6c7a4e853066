"""Who goes ahead of a burst, and what that may not overtake."""

import tracemalloc

import pytest

from drivefs.protocol.ids import InodeId, OpNumber
from drivefs.sync import lanes
from drivefs.sync.lanes import (
    ALL_CHANGES,
    MOST_MUTATIONS,
    PAUSE_SECONDS,
    PROCESS_CHANGES,
    Chain,
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


def test_a_process_that_saves_a_file_by_rename_three_times_a_second_is_never_a_burst() -> None:
    lanes = Lanes()
    assert all(lanes.is_urgent(EDITOR, 0.3 * number + 0.001 * step) for number in range(500) for step in range(4))


def test_a_process_for_each_file_is_a_burst_too() -> None:
    lanes = Lanes()
    urgent = [lanes.is_urgent(100 + number, 0.0) for number in range(2 * ALL_CHANGES)]
    assert sum(urgent) == ALL_CHANGES


def ahead(order: Order, urgent: set[OpNumber], unsettled: set[OpNumber]) -> set[OpNumber]:
    """All that goes ahead."""
    return set().union(*(chain.ops for chain in order.chains(urgent, sorted(unsettled))))


def made(*by: int) -> Order:
    """Mutations 1, 2, … by these processes."""
    order = Order()
    for number, process in enumerate(by, start=1):
        order.made(OpNumber(number), process)
    return order


def test_it_overtakes_what_others_make() -> None:
    order = made(TAR, TAR, EDITOR, TAR)
    assert ahead(order, ops(3), ops(1, 2, 3, 4)) == ops(3)


def test_it_never_overtakes_what_its_own_process_did_before() -> None:
    order = made(EDITOR, TAR, EDITOR, TAR, EDITOR)
    assert ahead(order, ops(3), ops(1, 2, 3, 4, 5)) == ops(1, 3)


def test_it_never_overtakes_those_whose_files_it_has_opened_nor_what_those_had_opened() -> None:
    order = made(TAR, GIT, TAR, EDITOR, GIT, OTHER)
    order.written(InodeId(8), TAR)
    order.opened(InodeId(8), GIT)
    order.written(InodeId(9), GIT)
    order.stored(OpNumber(7), InodeId(9))
    assert ahead(order, ops(4), ops(1, 2, 3, 4, 5, 6, 7)) == ops(4)
    order.opened(InodeId(9), EDITOR)
    order.made(OpNumber(8), EDITOR)
    assert ahead(order, ops(8), ops(1, 2, 3, 4, 5, 6, 7, 8)) == ops(1, 2, 3, 4, 5, 7, 8)


def test_who_opens_what_it_wrote_itself_follows_nobody() -> None:
    order = made(TAR, EDITOR)
    order.written(InodeId(8), EDITOR)
    order.opened(InodeId(8), EDITOR)
    order.opened(InodeId(9), EDITOR)
    assert ahead(order, ops(2), ops(1, 2)) == ops(2)


def test_when_all_is_settled_nothing_is_remembered() -> None:
    order = made(TAR)
    order.written(InodeId(8), TAR)
    order.stored(OpNumber(2), InodeId(8))
    order.settled(ops(1, 2))
    order.opened(InodeId(8), EDITOR)
    order.made(OpNumber(3), TAR)
    order.made(OpNumber(4), EDITOR)
    assert ahead(order, ops(4), ops(3, 4)) == ops(4)


def test_it_never_overtakes_what_nobody_is_known_to_have_made() -> None:
    order = made(TAR, EDITOR, TAR)
    order.made(OpNumber(12), EDITOR)
    assert ahead(order, ops(12), ops(10, 12)) == ops(10, 12)


def test_content_is_of_the_process_that_wrote_it() -> None:
    order = made(TAR, EDITOR)
    order.written(InodeId(9), EDITOR)
    order.made(OpNumber(3), TAR)
    order.stored(OpNumber(4), InodeId(9))
    order.made(OpNumber(5), TAR)
    assert ahead(order, ops(4), ops(1, 2, 3, 4, 5)) == ops(2, 4)


def test_what_is_never_sent_takes_bounded_memory_and_is_not_overtaken() -> None:
    order = made(*[TAR] * (MOST_MUTATIONS + 1), EDITOR, TAR)
    edit = MOST_MUTATIONS + 2
    assert ahead(order, ops(edit), ops(1, 2, 3, 4, edit)) >= ops(1, edit)
    assert MOST_MUTATIONS not in ahead(order, ops(edit), ops(MOST_MUTATIONS, edit))
    assert ahead(order, ops(1), ops(1, edit)) == set()


def test_processes_that_have_nothing_to_do_with_each_other_are_chains_of_their_own() -> None:
    order = made(EDITOR, TAR, GIT, EDITOR, TAR)
    chains = order.chains(ops(3, 4), sorted(ops(1, 2, 3, 4, 5)))
    assert sorted(chains, key=lambda chain: min(chain.own)) == [Chain(ops(3), ops(3)), Chain(ops(4), ops(1, 4))]


def test_when_it_is_not_known_any_more_who_has_opened_what_nothing_goes_ahead_until_all_is_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "MOST_MAKERS", 2)
    order = made(TAR, EDITOR, TAR)
    order.written(InodeId(8), TAR)
    for reader in (EDITOR, GIT, OTHER):
        order.opened(InodeId(8), reader)
    order.stored(OpNumber(4), InodeId(8))
    assert order.chains(ops(2), sorted(ops(1, 2, 3, 4))) == []
    order.settled(ops(1, 2, 3, 4))
    order.made(OpNumber(5), EDITOR)
    assert ahead(order, ops(5), ops(5)) == ops(5)


def test_when_it_is_not_known_any_more_who_wrote_what_nothing_goes_ahead_until_all_is_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "MOST_MUTATIONS", 2)
    order = Order()
    for inode in (8, 9, 10):
        order.written(InodeId(inode), TAR)
    order.made(OpNumber(1), EDITOR)
    assert order.chains(ops(1), [OpNumber(1)]) == []
    for inode in (8, 9, 10):
        order.dropped(InodeId(inode))
    order.settled(ops(1))
    order.made(OpNumber(2), EDITOR)
    assert ahead(order, ops(2), ops(2)) == ops(2)


def test_what_was_taken_back_before_it_was_sent_does_not_keep_anything_from_being_forgotten() -> None:
    order = made(TAR, EDITOR)
    order.written(InodeId(8), TAR)
    order.stored(OpNumber(3), InodeId(8))
    order.opened(InodeId(8), EDITOR)
    order.unsettled(ops(2, 3))
    order.settled(ops(2, 3))
    order.made(OpNumber(4), TAR)
    order.made(OpNumber(5), EDITOR)
    assert ahead(order, ops(5), ops(4, 5)) == ops(5)


def test_what_is_settled_takes_no_room() -> None:
    order, count = Order(), 20_000
    tracemalloc.start()
    try:
        for n in range(count):
            order.made(OpNumber(n), TAR)
            order.written(InodeId(n), TAR)
            order.stored(OpNumber(count + n), InodeId(n))
        order.settled(map(OpNumber, range(2 * count)))
        kept_bytes, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < most_bytes / 100
