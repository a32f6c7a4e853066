"""The rhythm of the background tasks: how the feed is asked for, and when the rest of the drive is listed."""

from errno import EMFILE
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from cache.errors import OutOfIds, Poisoned
from drivefs.protocol.changes import Base, OpResult, Status, Store
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import InodeId, OpNumber
from drivefs.protocol.messages import FeedStatus
from drivefs.remote.errors import BlockLost, Offline, Refused
from drivefs.sync.connection import Connection
from drivefs.sync.engine import POLL_PAUSE_SECONDS, Engine
from drivefs.sync.follower import POLL_SECONDS, Polled
from drivefs.sync.notices import Notices
from drivefs.sync.publications import Publications
from drivefs.sync.signal import Signal

JITTER = 0.25
NOTHING_NEW = Polled(has_moved=False, retry_seconds=0.0)


async def nothing() -> None:
    pass


async def nothing_for(_seconds: float) -> None:
    pass


async def never(*_arguments: object) -> None:
    await trio.sleep_forever()


class Followed:
    """A feed that gives these answers in turn and then nothing; keeps when it was asked, and how long it might wait."""

    def __init__(self, *answers: Polled) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[float, float]] = []
        self.anew_at: list[float] = []
        self.walked_at: list[float] = []

    async def poll(self, wait_seconds: float, *, is_anew: bool = False) -> Polled:
        if is_anew:
            self.anew_at.append(trio.current_time())
        self.asked.append((trio.current_time(), wait_seconds))
        if not self.answers:
            await trio.sleep(wait_seconds)
            return NOTHING_NEW
        return self.answers.pop(0)

    async def let_go(self) -> None:
        pass

    async def walk(self) -> None:
        self.walked_at.append(trio.current_time())

    def engine(self) -> Engine:
        """An engine that has nothing to do but to follow."""
        journal = SimpleNamespace(
            is_log_dirty=False, drafts=SimpleNamespace(draft_inodes=list), next_op=lambda: OpNumber(1)
        )
        local = SimpleNamespace(journal=journal, staging=SimpleNamespace(has_retired=False), checkpoint=nothing)
        signal = SimpleNamespace(wait=never, raise_=lambda: None)
        parts: Any = SimpleNamespace(
            local=local,
            connection=Connection(nothing, lambda: 0, lambda: JITTER),
            publications=SimpleNamespace(
                wait=never,
                wait_urgent=never,
                stored=lambda: None,
                journal_changed=signal,
                urgent_changed=signal,
            ),
            guard=SimpleNamespace(scan=nothing),
            committer=SimpleNamespace(has_deferred=lambda: False, offer_deferred=lambda: None),
            giving_up=SimpleNamespace(
                wait=never, look=lambda: None, renumber=lambda fresh: None, is_waiting=False, is_done=True
            ),
            follower=self,
            walker=self,
            prefetcher=SimpleNamespace(wait=never),
            healing=SimpleNamespace(heal=nothing),
            relisting=SimpleNamespace(is_needed=False),
        )
        return Engine(parts, lambda: JITTER)

    def run(self, seconds: float) -> Engine:
        """Let one run for so long."""
        engine = self.engine()

        async def main() -> None:
            with trio.move_on_after(seconds):
                await engine.run()

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        return engine


def test_a_mount_catches_up_without_waiting_and_then_waits() -> None:
    more = Polled(has_moved=True, retry_seconds=0.0, has_more=True)
    last = Polled(has_moved=True, retry_seconds=0.0)
    followed = Followed(more, more, last)
    followed.run(1.0)
    assert [wait for _, wait in followed.asked] == [0.0, 0.0, 0.0, POLL_SECONDS]
    assert followed.walked_at[0] >= followed.asked[2][0]


def test_what_never_stops_changing_does_not_keep_a_mount_from_having_caught_up() -> None:
    moved = Polled(has_moved=True, retry_seconds=0.0)
    followed = Followed(*[moved] * 1000)
    assert followed.run(1.0).caught_up.is_set()
    assert followed.asked[1][1] == POLL_SECONDS
    assert followed.walked_at


@pytest.mark.fault(35)
def test_the_server_says_when_to_come_back_and_devices_come_back_apart() -> None:
    followed = Followed(NOTHING_NEW, Polled(has_moved=False, retry_seconds=4.0))
    followed.run(20.0)
    (_, told, back) = [moment for moment, _ in followed.asked[:3]]
    assert back - told == pytest.approx(4.0 * (0.5 + JITTER) + POLL_PAUSE_SECONDS)


def test_who_wants_to_be_told_more_does_not_wait_for_the_poll_under_way() -> None:
    followed = Followed(NOTHING_NEW)
    engine, notices = followed.engine(), Notices(None)  # type: ignore[arg-type]
    notices.begun = engine.poll_afresh

    async def main() -> None:
        with trio.move_on_after(30.0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.run)
                await trio.sleep(10.0)
                with notices.wanted(), notices.wanted():
                    await trio.sleep(10.0)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [moment >= 10.0 for moment, _ in followed.asked] == [False, False, True]


@pytest.mark.fault(21)
def test_after_a_standstill_the_feed_is_asked_at_once_over_a_new_connection() -> None:
    followed = Followed(NOTHING_NEW, Polled(has_moved=False, retry_seconds=0.0))
    engine = followed.engine()
    known_at: list[float] = []

    async def main() -> None:
        with trio.move_on_after(30.0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.run)
                await trio.sleep(10.0)
                followed.answers += [Polled(has_moved=True, retry_seconds=0.0, has_more=True), NOTHING_NEW]
                await engine.catch_up()
                known_at.append(trio.current_time())

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    at = followed.anew_at[0]
    assert len(followed.anew_at) == 1
    assert at == pytest.approx(10.0 + POLL_PAUSE_SECONDS)
    assert [wait for moment, wait in followed.asked if moment >= at] == [0.0, 0.0, POLL_SECONDS]
    assert known_at == [pytest.approx(at + POLL_PAUSE_SECONDS)]


@pytest.mark.fault(21)
def test_who_wants_to_be_told_more_right_after_a_standstill_is_told_over_a_new_connection_too() -> None:
    followed = Followed(NOTHING_NEW)
    engine, asked_anew = followed.engine(), list[bool]()

    async def silent(wait_seconds: float, *, is_anew: bool = False) -> Polled:
        asked_anew.append(is_anew)
        return await trio.sleep_forever()  # type: ignore[no-any-return]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            await trio.sleep(10.0)
            followed.poll = silent  # type: ignore[method-assign]
            nursery.start_soon(engine.catch_up)
            for _ in range(2):
                await trio.sleep(1.0)
                engine.poll_afresh()
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert asked_anew == [True, True]


@pytest.mark.fault(21)
def test_without_a_server_nobody_waits_for_what_happened_during_a_standstill() -> None:
    followed = Followed()
    engine = followed.engine()
    trio.run(engine.catch_up)
    assert not followed.asked


@pytest.mark.fault(12)
def test_a_disk_that_fails_ends_synchronising_and_not_the_mount() -> None:
    followed = Followed()
    engine, seen = followed.engine(), []

    async def log_barrier() -> None:
        raise Poisoned("check the disk")

    async def main() -> None:
        with trio.move_on_after(300.0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.run)
                await trio.sleep(10.0)
                assert engine.connection.reach.online
                engine._parts.local.journal.is_log_dirty = True
                engine._parts.local.journal.log_barrier = log_barrier
                await trio.sleep(10.0)
                seen.append((engine.connection.reach.online, engine.connection.reach.reason))
                # What can be had without the disk is tried.
                await engine.connection.reachable()
                followed.asked.clear()
        seen.append(followed.asked)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert seen == [(False, "check the disk"), []]


def test_ids_that_ran_out_are_asked_for_and_the_mount_goes_on() -> None:
    followed, happened = Followed(), []
    engine = followed.engine()

    async def commit_next(epoch: int, *, urgent: bool) -> None:
        assert engine._parts.session.undisturbed.locked()
        if "asked for" not in happened:
            raise OutOfIds
        happened.append("committed")

    async def refill_ids() -> None:
        happened.append("refused" if not happened else "asked for")
        if happened == ["refused"]:
            raise Offline("not yet")

    engine._parts.session = SimpleNamespace(undisturbed=trio.Lock(), epoch=1, refill_ids=refill_ids)
    engine._parts.publications.journal_changed = Signal()
    engine._parts.publications.lull, engine._parts.publications.give_way = nothing_for, nothing
    engine._parts.committer.commit_next = commit_next

    async def main() -> None:
        with trio.move_on_after(300.0):
            await engine.run()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert happened[:3] == ["refused", "asked for", "committed"]


def test_a_history_that_is_another_one_waits_for_the_commit_under_way_and_makes_all_ids_void() -> None:
    page = SimpleNamespace(status=FeedStatus.DIVERGED)
    engine = Followed(NOTHING_NEW._replace(lost=page)).engine()  # type: ignore[arg-type]
    happened, lock = list[str](), trio.Lock()

    async def begin(_page: object) -> None:
        assert lock.locked()
        happened.append("set aside")

    engine._parts.session = SimpleNamespace(undisturbed=lock, has_void_ids=False)
    engine._parts.relisting = SimpleNamespace(begin=begin, is_needed=False)
    engine._parts.committer.begin_again = lambda: happened.append("begun again")
    engine.resend(store_of(1), OpResult(n=OpNumber(1), status=Status.NEEDS_BLOCKS))
    trio.run(engine._poll)
    assert happened == ["set aside", "begun again"]
    assert engine._parts.session.has_void_ids
    assert engine._resends == []


def test_sending_blocks_again_goes_on_where_all_that_was_asked_for_became_void_meanwhile() -> None:
    engine, resent, result = Followed().engine(), list[int](), OpResult(n=OpNumber(1), status=Status.NEEDS_BLOCKS)

    async def resend(store: Store, _result: object) -> bool:
        resent.append(store.n)
        if store.n == 1:
            engine.renumbered({})
            engine.resend(store_of(2), result)
        return True

    async def commit_next(epoch: int, *, urgent: bool) -> None:
        pass

    engine._parts.publisher = SimpleNamespace(resend=resend)
    engine._parts.session = SimpleNamespace(undisturbed=trio.Lock(), epoch=1)
    engine._parts.publications.renumber = lambda fresh: None
    engine._parts.publications.give_way = nothing
    engine._parts.committer = SimpleNamespace(
        resent=lambda n: None, offer_deferred=lambda: None, commit_next=commit_next
    )
    engine.resend(store_of(1), result)
    trio.run(engine._commit_all)
    assert resent == [1, 2]


FULL = Refused(ProtocolError(Code.OVER_QUOTA, "full"))


@pytest.mark.parametrize("error", [FULL, OSError(EMFILE, "no more files"), BlockLost("block 0 arrives damaged.")])
def test_a_store_whose_blocks_are_not_taken_keeps_nothing_else_waiting(error: Exception) -> None:
    """There is no room for them, say, and what is removed would make some; or they cannot be read here now."""
    engine, happened = Followed().engine(), list[str]()

    async def resend(_store: Store, _result: object) -> bool:
        raise error

    async def commit_next(epoch: int, *, urgent: bool) -> None:
        happened.append("committed what can go")

    engine._parts.publisher = SimpleNamespace(
        resend=resend, keep_unreadable=lambda inode, error: None, keep_lacking=lambda inode, error: None
    )
    engine._parts.session = SimpleNamespace(undisturbed=trio.Lock(), epoch=1)
    engine._parts.publications.give_way = nothing
    engine._parts.committer = SimpleNamespace(postpone=lambda n: happened.append("postponed"), commit_next=commit_next)
    engine.resend(store_of(1), OpResult(n=OpNumber(1), status=Status.NEEDS_BLOCKS))
    trio.run(engine._commit_all)
    assert happened == ["postponed", "committed what can go"]


def store_of(n: int) -> Store:
    return Store(n=OpNumber(n), time_ns=1, inode=InodeId(1), base=Base(), size=0, runs=[], mtime_ns=1)


def test_whoever_waits_has_what_had_to_wait_looked_at_again() -> None:
    followed, looks = Followed(), []
    engine = followed.engine()
    engine._parts.publications = Publications()
    engine._parts.guard.is_settled_below = lambda op: True
    engine._parts.giving_up.look = lambda: looks.append(trio.current_time())
    trio.run(engine.settle, [], clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(looks) == 1


def test_whoever_waits_for_a_content_waits_for_it_under_its_new_id() -> None:
    old, new = InodeId(1), InodeId(2)
    followed, publications, ends = Followed(), Publications(), []
    engine = followed.engine()
    engine._parts.publications = publications
    engine._parts.guard.is_settled_below = lambda op: True

    async def wait() -> None:
        await engine.settle([old])
        ends.append(trio.current_time())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(1)
            assert publications.take_due(1) == [old]
            engine.renumbered({old: new})
            await trio.sleep(5)
            assert publications.take_due(1) == [new]
            assert not ends
            publications.arrived(new)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(ends) == 1
