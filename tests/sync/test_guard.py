"""When removals are kept back, and what lets them go: over a real file system and journal, without a loop."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from drivefs.protocol.changes import Create, Unlink
from drivefs.protocol.ids import InodeId, Seq
from drivefs.remote.errors import Offline
from drivefs.sync import guard as guarding
from drivefs.sync.guard import BURST_FILES, LEAST_FILES, QUIET_SECONDS, TEMPORARY_SECONDS, Guard, Question, is_mass
from tests.fs.bench import ROOT, FsBench
from tests.support.journals import mark_sent


class World:
    """A file system whose files the backend has, and a guard over it."""

    def __init__(self, place: Path) -> None:
        self.bench = FsBench(place)
        self.files_there = 0
        self.is_online = True
        self.asked: list[Question] = []
        self.guard = self.fresh()

    async def count_files(self) -> int:
        await trio.lowlevel.checkpoint()
        if not self.is_online:
            raise Offline("away")
        return self.files_there

    def fresh(self, share: float = 0.5) -> Guard:
        self.guard = Guard(self.bench.local.journal, self.count_files, share=share, asked=self.asked.append)
        self.bench.fs.guard_with(self.guard)
        return self.guard

    def furnish(self, count: int, parent: InodeId = ROOT) -> None:
        """Files that the backend has, for a while already: their mutations are out of the journal's way."""
        for number in range(count):
            self.bench.make(b"%d" % number, parent=parent)
        self.files_there += count
        self.send()
        Clock.now += TEMPORARY_SECONDS + 1

    def send(self) -> None:
        journal = self.bench.local.journal
        numbers = [row.n for row in self.guard.rows(100_000)]
        mark_sent(journal, numbers)
        for n in numbers:
            journal.settle(n, Seq(2))

    def remove(self, count: int, parent: InodeId = ROOT, start: int = 0) -> None:
        for number in range(start, start + count):
            self.bench.unlink(b"%d" % number, parent)

    def sendable(self, kind: type = Unlink) -> int:
        return sum(isinstance(row.mutation, kind) for row in self.guard.rows(100_000))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.bench.close()


class Clock:
    """The time that the guard sees."""

    now = 100.0


def settle(world: World, *, quiet: bool = True) -> None:
    """What is to be decided is decided, after a quiet time or at once."""

    async def main() -> None:
        if not world.guard._scanned.is_set():
            await world.guard.scan()
        await world.guard.ready()

    Clock.now += QUIET_SECONDS if quiet else 0.0
    trio.run(main)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least mass deletion is small, so that tests are short."""
    monkeypatch.setattr(guarding, "LEAST_FILES", 60)
    monkeypatch.setattr(guarding, "BURST_FILES", 20)
    monkeypatch.setattr(trio, "current_time", lambda: Clock.now)


@pytest.mark.parametrize(
    ("removed", "before", "expected"),
    [(59, 60, False), (60, 119, True), (60, 120, False), (5000, 6000, True), (5000, 10_000, False)],
)
def test_a_mass_deletion_is_many_files_and_a_large_share(removed: int, before: int, expected: bool) -> None:
    assert is_mass(removed, before, 0.5) is expected


def test_the_real_bounds_are_the_documented_ones() -> None:
    assert (LEAST_FILES, BURST_FILES) == (1000, 100)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_removal_whose_name_was_taken_again_goes_with_what_took_it(world: World, is_restarted: bool) -> None:
    settle(world)
    directory = world.bench.mkdir(b"d")
    world.furnish(1, directory)
    world.furnish(40)
    world.remove(1)
    world.bench.make(b"0")
    world.remove(1, directory)
    world.bench.run(world.bench.fs.rmdir, ROOT, b"d")
    world.bench.mkdir(b"d")
    assert world.sendable() == 3
    world.remove(30, start=1)
    if is_restarted:
        trio.run(world.fresh().scan)
    else:
        settle(world, quiet=False)
    assert world.guard.is_waiting
    # What was removed in the directory follows with the next look at what may be sent.
    assert world.sendable() == (2 if is_restarted else 3)


def test_a_few_removals_travel_at_once(world: World) -> None:
    settle(world)
    world.furnish(30)
    world.remove(15)
    assert not world.guard.is_waiting
    assert world.sendable() == 15


def test_a_burst_waits_from_its_first_removal_and_is_let_go_when_it_is_over(world: World) -> None:
    settle(world)
    world.furnish(100)
    world.files_there = 10_000
    world.remove(70)
    assert world.sendable() == 0
    world.bench.make(b"new")
    assert world.sendable(Create) == 1
    settle(world, quiet=False)
    assert world.sendable() == 0
    settle(world)
    assert world.sendable() == 70
    assert (world.guard.is_waiting, world.guard.question, world.asked) == (False, None, [])


def test_a_large_share_is_held_and_asked_about(world: World) -> None:
    settle(world)
    world.furnish(100)
    world.remove(70)
    settle(world)
    assert world.sendable() == 0
    assert [each.files for each in world.asked] == [70]
    assert world.guard.question is not None
    assert world.guard.question.drive_files == 100
    assert world.guard.is_settled_below(world.bench.local.journal.next_op())
    # A few more are no burst.
    world.remove(5, start=70)
    assert world.sendable() == 5
    assert world.guard.release() == 70
    assert world.sendable() == 75
    assert world.guard.question is None


def test_what_was_sent_within_the_window_counts(world: World) -> None:
    settle(world)
    world.furnish(200)
    world.remove(65)
    settle(world)
    assert world.sendable() == 65
    world.send()
    world.files_there = 135
    world.remove(65, start=65)
    settle(world)
    assert world.sendable() == 0
    assert [each.drive_files for each in world.asked] == [200]


def test_it_stays_held_over_a_restart(world: World) -> None:
    settle(world)
    world.furnish(100)
    world.remove(70)
    settle(world)
    world.fresh()
    assert world.guard.question is not None
    world.files_there = 10_000
    settle(world)
    assert world.sendable() == 0
    assert world.guard.question.files == 70


def test_a_burst_that_was_not_decided_is_decided_after_a_restart(world: World) -> None:
    settle(world)
    world.furnish(100)
    world.remove(70)
    world.fresh()
    assert world.guard.is_waiting
    settle(world)
    assert world.sendable() == 0
    assert [each.files for each in world.asked] == [70]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_what_was_sent_is_not_kept_back_any_more(world: World, is_restarted: bool) -> None:
    """Its answer is asked for again, however many are removed beside it."""
    settle(world)
    world.furnish(100)
    world.remove(15)
    sent = [row.n for row in world.guard.rows(1000)]
    mark_sent(world.bench.local.journal, sent)
    world.remove(30, start=15)
    if is_restarted:
        trio.run(world.fresh().scan)
    assert world.guard.is_waiting
    assert [row.n for row in world.guard.rows(1000)] == sent


def test_without_the_backend_nothing_is_decided(world: World) -> None:
    settle(world)
    world.furnish(100)
    world.remove(70)
    world.is_online = False
    with pytest.raises(Offline):
        settle(world)
    assert (world.sendable(), world.guard.is_waiting) == (0, True)


def test_a_name_that_is_made_again_lets_its_removal_go(world: World) -> None:
    settle(world)
    world.furnish(100)
    world.remove(70)
    settle(world)
    world.bench.make(b"7")
    rows = [row.mutation for row in world.guard.rows(1000)]
    assert [type(each) for each in rows] == [Unlink, Create]
    assert world.guard.question is not None
    assert world.guard.question.files == 69


def test_a_directory_that_is_made_again_lets_all_below_it_go(world: World) -> None:
    settle(world)
    outer = world.bench.mkdir(b"outer")
    inner = world.bench.mkdir(b"inner", outer)
    for directory in (outer, inner):
        world.furnish(40, directory)
    for directory in (inner, outer):
        world.remove(40, directory)
        if directory == inner:
            world.bench.run(world.bench.fs.rmdir, outer, b"inner")
    world.bench.run(world.bench.fs.rmdir, ROOT, b"outer")
    settle(world)
    assert world.sendable() == 0
    world.bench.mkdir(b"outer")
    assert world.guard.is_waiting
    settle(world)
    assert world.sendable() == 82
    assert world.guard.question is None


def test_a_directory_waits_with_what_is_held_in_it(world: World) -> None:
    settle(world)
    directory = world.bench.mkdir(b"directory")
    world.furnish(100, directory)
    world.remove(100, directory)
    settle(world)
    world.bench.run(world.bench.fs.rmdir, ROOT, b"directory")
    assert world.sendable() == 0
    assert world.guard.question is not None
    assert world.guard.question.files == 100


def test_turned_off_it_lets_everything_go(world: World) -> None:
    settle(world)
    world.furnish(100)
    world.remove(70)
    settle(world)
    assert world.sendable() == 0
    world.fresh(share=0.0)
    assert (world.sendable(), world.guard.question, world.guard.is_waiting) == (70, None, False)


def test_what_the_backend_never_had_is_no_deletion(world: World) -> None:
    settle(world)
    world.furnish(10)
    directory = world.bench.mkdir(b"tmp")
    for number in range(100):
        world.bench.make(b"%d" % number, parent=directory)
    unsent = world.guard.rows(100_000)
    mark_sent(world.bench.local.journal, [row.n for row in unsent])
    world.remove(100, directory)
    world.bench.run(world.bench.fs.rmdir, ROOT, b"tmp")
    assert not world.guard.is_waiting
    settle(world)
    assert world.guard.question is None
    assert world.sendable() == 101
    world.fresh()
    settle(world)
    assert world.guard.question is None, "after a restart too"


def test_what_was_made_here_a_moment_ago_is_no_deletion(world: World) -> None:
    settle(world)
    world.furnish(10)
    directory = world.bench.mkdir(b"tmp")
    for number in range(100):
        world.bench.make(b"%d" % number, parent=directory)
    world.files_there += 100
    world.send()
    Clock.now += TEMPORARY_SECONDS - 1
    world.remove(40, directory)
    assert world.sendable() == 40
    Clock.now += 2
    world.files_there -= 40
    world.remove(60, directory, start=40)
    settle(world)
    question = world.guard.question
    assert question is not None
    assert (question.files, question.drive_files) == (60, 70)


def test_such_files_do_not_count_beside_others(world: World) -> None:
    settle(world)
    world.furnish(70)
    directory = world.bench.mkdir(b"tmp")
    for number in range(100):
        world.bench.make(b"%d" % number, parent=directory)
    mark_sent(world.bench.local.journal, [row.n for row in world.guard.rows(100_000)])
    world.remove(100, directory)
    world.remove(65)
    settle(world)
    assert world.guard.question == Question(files=65, drive_files=70, since_ns=world.asked[0].since_ns)


def test_more_that_is_held_later_is_of_the_drive_as_it_is_then(world: World) -> None:
    settle(world)
    world.furnish(100)
    world.remove(65)
    settle(world)
    directory = world.bench.mkdir(b"d")
    world.furnish(200, directory)
    world.remove(200, directory)
    settle(world)
    question = world.guard.question
    assert question is not None
    assert (question.files, question.drive_files) == (265, 300)


def test_names_of_files_that_have_others_do_not_count(world: World) -> None:
    settle(world)
    world.furnish(70)
    directory = world.bench.mkdir(b"d")
    for number in range(70):
        known = world.bench.lookup(b"%d" % number)
        assert known is not None
        world.bench.run(world.bench.fs.link, known.inode, directory, b"%d" % number)
    world.send()
    world.remove(70, directory)
    settle(world)
    assert (world.guard.question, world.sendable()) == (None, 70)
