"""When a file is due for publication, on a clock that the test owns."""

import tracemalloc
from collections.abc import Iterable, Set

import pytest
import trio
import trio.testing

from drivefs.protocol.ids import InodeId, OpNumber
from drivefs.sync.lanes import PROCESS_CHANGES
from drivefs.sync.publications import (
    BURST_LULL_SECONDS,
    COMPANY_SECONDS,
    FIRST_LULL_SECONDS,
    LONGEST_LULL_SECONDS,
    LONGEST_WAY_SECONDS,
    LOOK_SECONDS,
    LULL_SECONDS,
    MOST_TAKEN_ALONG,
    QUIET_SECONDS,
    REPUBLISH_SECONDS,
    URGENT_QUIET_SECONDS,
    Publications,
)

ONE, TWO = InodeId(1), InodeId(2)


def ahead(waiting: Publications, unsettled: Iterable[int], kept: Set[OpNumber] = frozenset()) -> set[int]:
    """All that goes ahead."""
    chains = waiting.ahead([OpNumber(n) for n in unsettled], kept=kept)
    return set().union(*(chain.ops for chain in chains))


def run(main) -> None:  # type: ignore[no-untyped-def]
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_closed_file_is_due_after_a_quiet_time_and_a_new_close_starts_it_again() -> None:
    async def main() -> None:
        waiting = Publications()
        waiting.closed(ONE)
        await trio.sleep(URGENT_QUIET_SECONDS / 2)
        waiting.closed(ONE)
        await trio.sleep(URGENT_QUIET_SECONDS * 0.75)
        assert waiting.take_due(10) == []
        await trio.sleep(URGENT_QUIET_SECONDS / 2)
        assert waiting.take_due(10) == [ONE]

    run(main)


def test_one_publication_of_a_file_at_a_time() -> None:
    async def main() -> None:
        waiting = Publications()
        waiting.forced([ONE])
        assert waiting.take_due(10) == [ONE]
        waiting.forced([ONE])
        assert waiting.take_due(10) == []
        assert waiting.is_on_its_way(ONE)
        waiting.arrived(ONE)
        assert waiting.take_due(10) == [ONE]

    run(main)


def test_what_is_behind_a_store_of_an_earlier_mount_is_due_when_that_has_arrived() -> None:
    async def main() -> None:
        waiting = Publications()
        waiting.forced([ONE])
        assert waiting.take_due(10) == [ONE]
        waiting.behind(ONE)
        assert waiting.is_on_its_way(ONE)
        assert waiting.take_due(10) == []
        waiting.arrived(ONE)
        assert waiting.is_on_its_way(ONE)
        assert waiting.take_due(10) == [ONE]
        waiting.arrived(ONE)
        assert not waiting.is_on_its_way(ONE)

    run(main)


def test_what_is_on_its_way_when_its_id_changes_is_due_under_the_new_one_and_awaited_under_no_other() -> None:
    async def main() -> None:
        waiting = Publications()
        waiting.forced([ONE])
        assert waiting.take_due(10) == [ONE]
        waiting.renumber({ONE: TWO})
        assert not waiting.is_on_its_way(ONE)
        assert waiting.is_on_its_way(TWO)
        assert waiting.take_due(10) == [TWO]

    run(main)


def test_what_is_set_aside_is_tried_again_and_is_not_on_its_way() -> None:
    async def main() -> None:
        waiting = Publications()
        waiting.forced([ONE])
        assert waiting.take_due(10) == [ONE]
        waiting.set_aside(ONE, 5)
        assert not waiting.is_on_its_way(ONE)
        await trio.sleep(6)
        assert waiting.take_due(10) == [ONE]
        assert not waiting.is_on_its_way(ONE)
        waiting.arrived(ONE)
        waiting.forced([ONE])
        assert waiting.is_on_its_way(ONE)

    run(main)


def test_what_is_written_anew_since_it_was_set_aside_is_on_its_way() -> None:
    async def main() -> None:
        waiting = Publications()
        waiting.forced([ONE])
        assert waiting.take_due(10) == [ONE]
        waiting.set_aside(ONE, 5)
        waiting.closed(ONE)
        assert waiting.is_on_its_way(ONE)

    run(main)


def test_what_was_not_taken_here_may_have_more_when_it_arrives() -> None:
    async def main() -> None:
        waiting = Publications()
        waiting.arrived(ONE)
        assert waiting.take_due(10) == [ONE]
        waiting.arrived(ONE)
        assert not waiting.is_on_its_way(ONE)

    run(main)


def test_file_that_stays_open_is_published_at_most_once_in_a_while() -> None:
    async def main() -> None:
        waiting = Publications()
        waiting.synced(ONE)
        await trio.sleep(QUIET_SECONDS)
        assert waiting.take_due(10) == [ONE]
        waiting.arrived(ONE)
        published = trio.current_time()
        await trio.sleep(1)
        waiting.synced(ONE)
        while not waiting.take_due(10):
            await waiting.wait(60)
        assert REPUBLISH_SECONDS <= trio.current_time() - published <= REPUBLISH_SECONDS + QUIET_SECONDS

    run(main)


def test_failed_publication_is_offered_again_later() -> None:
    async def main() -> None:
        waiting = Publications()
        waiting.forced([ONE])
        waiting.take_due(10)
        waiting.returned(ONE, 2.0)
        assert waiting.take_due(10) == []
        await trio.sleep(2.5)
        assert waiting.take_due(10) == [ONE]

    run(main)


def test_waiting_ends_with_the_next_due_file_not_with_the_longest_wait() -> None:
    async def main() -> None:
        waiting = Publications()
        waiting.closed(ONE)
        waiting.closed(TWO)
        await waiting.wait(60)
        await waiting.wait(60)
        assert trio.current_time() < 1
        assert waiting.take_due(10) == [ONE, TWO]
        assert waiting.is_on_its_way(ONE)

    run(main)


def test_dropped_file_is_never_due() -> None:
    async def main() -> None:
        waiting = Publications()
        waiting.closed(ONE)
        waiting.dropped(ONE)
        await trio.sleep(1)
        assert waiting.take_due(10) == []
        assert not waiting.is_on_its_way(ONE)

    run(main)


def test_lull_waits_out_a_burst_but_not_for_ever() -> None:
    async def busy(waiting: Publications, seconds: float) -> None:
        end = trio.current_time() + seconds
        while trio.current_time() < end:
            waiting.changed()
            await trio.sleep(LULL_SECONDS / 5)

    async def main() -> None:
        waiting = Publications()
        for burst_seconds, longest in (
            (0.3, 0.3 + LULL_SECONDS + BURST_LULL_SECONDS),
            (60.0, FIRST_LULL_SECONDS + LULL_SECONDS),
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(busy, waiting, burst_seconds)
                await trio.testing.wait_all_tasks_blocked()
                before = trio.current_time()
                await waiting.lull()
                assert min(burst_seconds, FIRST_LULL_SECONDS) <= trio.current_time() - before <= longest
                nursery.cancel_scope.cancel()

    run(main)


def test_where_nothing_was_written_for_a_while_the_lull_is_now() -> None:
    async def main() -> None:
        waiting = Publications()
        waiting.closed(ONE)
        await trio.sleep(QUIET_SECONDS)
        before = trio.current_time()
        await waiting.lull()
        waiting.stored()
        await waiting.lull()
        assert trio.current_time() == before

    run(main)


def test_background_work_leaves_most_of_the_time_to_a_burst_that_does_not_end() -> None:
    async def main() -> None:
        waiting = Publications()

        async def busy() -> None:
            while True:
                waiting.changed()
                await trio.sleep(LULL_SECONDS / 5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(busy)
            await trio.testing.wait_all_tasks_blocked()
            before = trio.current_time()
            await waiting.lull(1.0)
            assert trio.current_time() - before >= 3.0
            before = trio.current_time()
            await waiting.lull(1000.0)
            assert trio.current_time() - before <= LONGEST_LULL_SECONDS + LULL_SECONDS
            nursery.cancel_scope.cancel()

    run(main)


def test_what_one_process_saves_goes_ahead_of_the_burst_of_another() -> None:
    async def main() -> None:
        last = 0

        def last_op() -> OpNumber:
            return OpNumber(last)

        waiting = Publications(last_op)
        waiting.acting(1)
        for last in range(1, 100):  # noqa: B007 (the numbers are given out meanwhile)
            waiting.changed()
        assert waiting.has_burst
        waiting.acting(2)
        waiting.closed(ONE)
        waiting.acting(1)
        waiting.closed(TWO)
        await trio.sleep(2 * QUIET_SECONDS)
        assert waiting.take_due(10, urgent=True) == [ONE]
        last = 100
        waiting.changed()
        waiting.stored({ONE: OpNumber(101)})
        assert ahead(waiting, range(1, 102)) >= {101}
        waiting.settled([OpNumber(n) for n in range(1, 102)])
        assert ahead(waiting, []) == set()
        assert waiting.take_due(10) == [TWO]
        await trio.sleep(60)
        assert not waiting.has_burst

    run(main)


def test_a_burst_that_pauses_for_a_moment_still_goes_on() -> None:
    async def main() -> None:
        waiting = Publications()
        for _ in range(2 * PROCESS_CHANGES):
            waiting.changed()
        await trio.sleep(2 * LULL_SECONDS)
        before = trio.current_time()
        await waiting.lull()
        assert trio.current_time() - before == pytest.approx(BURST_LULL_SECONDS - 2 * LULL_SECONDS)

    run(main)


def test_what_may_have_come_from_all_of_a_burst_goes_with_it() -> None:
    async def main() -> None:
        last = 0
        waiting = Publications(lambda: OpNumber(last))
        burst = range(1, MOST_TAKEN_ALONG + PROCESS_CHANGES + 2)
        waiting.acting(1)
        for last in burst:  # noqa: B007 (the numbers are given out meanwhile)
            waiting.changed()
        waiting.closed(ONE)
        waiting.urgent_ops.clear()
        last = burst[-1] + 1
        waiting.acting(2)
        waiting.opened(ONE)
        waiting.changed()
        assert waiting.urgent_ops == {OpNumber(last)}
        assert ahead(waiting, range(1, last + 1)) == set()
        assert waiting.urgent_ops == set()

    run(main)


def test_the_first_changes_of_a_process_are_no_burst() -> None:
    async def main() -> None:
        waiting = Publications()
        waiting.acting(1)
        for _ in range(PROCESS_CHANGES):
            waiting.changed()
        assert not waiting.has_burst

    run(main)


def test_what_goes_in_its_turn_after_all_still_goes_before_what_came_after_it() -> None:
    async def main() -> None:
        last = 0
        waiting = Publications(lambda: OpNumber(last))
        for process, last in ((1, 1), (1, 2), (2, 3)):  # noqa: B007 (the numbers are given out meanwhile)
            waiting.acting(process)
            waiting.changed()
        waiting.go_in_turn([OpNumber(1), OpNumber(3)])
        assert ahead(waiting, [1, 2, 3]) == {1, 2}
        waiting.go_in_turn([OpNumber(2)])
        assert ahead(waiting, [1, 2, 3]) == set()

    run(main)


def test_what_is_kept_back_neither_goes_ahead_nor_before_anything() -> None:
    async def main() -> None:
        last = 0
        waiting = Publications(lambda: OpNumber(last))
        for process, last in ((1, 1), (1, 2), (2, 3)):  # noqa: B007 (the numbers are given out meanwhile)
            waiting.acting(process)
            waiting.changed()
        assert ahead(waiting, [1, 2, 3], kept={OpNumber(1), OpNumber(3)}) == {2}

    run(main)


def test_everything_else_gives_way_while_something_urgent_is_on_its_way_but_has_half_of_the_time() -> None:
    async def main() -> None:
        waiting = Publications(lambda: OpNumber(1))
        before = trio.current_time()
        await waiting.give_way()
        assert trio.current_time() == before
        waiting.closed(ONE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting.give_way)
            await trio.sleep(0.1)
            assert waiting.take_due(10, urgent=True) == [ONE]
            await trio.sleep(0.1)
            assert nursery.child_tasks
            waiting.stored({ONE: OpNumber(1)})
            await trio.sleep(0.05)
            assert nursery.child_tasks
            waiting.settled([OpNumber(1)])
            await trio.sleep(2 * LOOK_SECONDS)
            assert not nursery.child_tasks
        gave_way = trio.current_time() - before
        waiting.closed(TWO)
        await waiting.give_way()
        assert trio.current_time() - before == gave_way
        await trio.sleep(gave_way)
        waiting.closed(TWO)
        before = trio.current_time()
        await waiting.give_way()
        assert trio.current_time() - before == pytest.approx(LONGEST_WAY_SECONDS, abs=2 * LOOK_SECONDS)

    run(main)


def test_nothing_gives_way_to_what_was_taken_with_all_the_rest() -> None:
    async def main() -> None:
        waiting = Publications(lambda: OpNumber(1))
        waiting.closed(ONE)
        await trio.sleep(QUIET_SECONDS)
        assert waiting.take_due(10) == [ONE]
        before = trio.current_time()
        await waiting.give_way()
        assert trio.current_time() == before

    run(main)


def test_what_is_urgent_is_due_sooner_and_committed_when_nothing_came_for_a_moment() -> None:
    async def main() -> None:
        waiting = Publications(lambda: OpNumber(1))
        before = trio.current_time()
        waiting.closed(ONE)
        await waiting.wait_urgent(60)
        await waiting.wait_urgent(60)
        assert waiting.take_due(10, urgent=True) == [ONE]
        assert trio.current_time() - before == pytest.approx(URGENT_QUIET_SECONDS)
        waiting.arrived(ONE)
        waiting.dropped(ONE)
        waiting.changed()
        changed_at = trio.current_time()
        await waiting.urgent_lull()
        assert trio.current_time() - changed_at == pytest.approx(LULL_SECONDS)

    run(main)


def test_what_is_made_waits_for_its_content_but_not_for_long() -> None:
    async def main() -> None:
        waiting = Publications(lambda: OpNumber(1))
        waiting.changed()
        waiting.closed(ONE)
        made_at = trio.current_time()
        await trio.sleep(URGENT_QUIET_SECONDS)
        assert waiting.take_due(10, urgent=True) == [ONE]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting.urgent_lull)
            await trio.sleep(0.1)
            assert nursery.child_tasks
            waiting.stored({ONE: OpNumber(2)})
        assert trio.current_time() - made_at < 0.2
        waiting.closed(ONE)
        made_at = trio.current_time()
        await waiting.urgent_lull()
        assert trio.current_time() - made_at == pytest.approx(LULL_SECONDS)
        waiting.closed(TWO)
        await trio.sleep(URGENT_QUIET_SECONDS)
        assert waiting.take_due(10, urgent=True) == [TWO]
        made_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting.urgent_lull)
            for _ in range(3):
                await trio.sleep(LONGEST_WAY_SECONDS * 0.45)
                assert bool(nursery.child_tasks) == (trio.current_time() < made_at + LONGEST_WAY_SECONDS)
                waiting.changed()

    run(main)


def test_who_saves_beside_a_burst_is_noticed_and_the_first_changes_of_a_burst_are_not() -> None:
    async def main() -> None:
        waiting = Publications()
        waiting.acting(1)
        for _ in range(2 * PROCESS_CHANGES):
            waiting.changed()
        assert waiting.has_burst
        assert not waiting.has_company
        waiting.acting(2)
        waiting.closed(ONE)
        assert waiting.has_company
        await trio.sleep(COMPANY_SECONDS)
        waiting.closed(ONE)
        assert not waiting.has_company

    run(main)


def test_what_was_published_takes_no_room() -> None:
    async def main() -> None:
        waiting, count = Publications(), 20_000
        tracemalloc.start()
        try:
            waiting.forced(map(InodeId, range(count)))
            for inode in waiting.take_due(count):
                waiting.arrived(inode)
            await trio.sleep(REPUBLISH_SECONDS * 2)
            for _ in range(2 * count):
                waiting.arrived(ONE)
            kept_bytes, most_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept_bytes < most_bytes / 10

    run(main)
