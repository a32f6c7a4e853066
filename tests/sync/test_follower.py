"""Pages of the feed on a real local state: the kernel hears of what looks different, and of nothing else."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from cache.check import check
from cache.journal import Forgotten
from cache.overlay import MISSING
from drivefs.protocol.changes import Create
from drivefs.protocol.ids import Incarnation, InodeId, RevisionNumber, Seq
from drivefs.protocol.messages import Cursor, FeedPage, FeedStatus
from drivefs.protocol.model import DentryState, InodeKind, InodeState
from drivefs.sync.announcer import Announcer
from drivefs.sync.contents import Shown
from drivefs.sync.ends import Ends
from drivefs.sync.events import Events
from drivefs.sync.follower import LET_GO_PATIENCE_SECONDS, LET_GO_WAIT_SECONDS, Follower
from drivefs.sync.places import Places
from drivefs.sync.quiet import Quiet
from tests.fs.bench import ROOT, WORKSPACE, FsBench


class Kernel:
    """Hears what it has to forget."""

    def __init__(self) -> None:
        self.forgotten: list[object] = []

    def inode(self, inode: InodeId, *, content: bool) -> None:
        self.forgotten.append((inode, content))

    def entry(self, parent: InodeId, name: bytes) -> None:
        self.forgotten.append((parent, name))


def page_of(seq: int, inodes: list[InodeState], dentries: dict[bytes, int]) -> FeedPage:
    return FeedPage(
        workspace=WORKSPACE,
        status=FeedStatus.CHANGES,
        cursor=Cursor(incarnation=Incarnation(1), seq=Seq(seq)),
        inodes=inodes,
        dentries=[DentryState(ROOT, name, InodeId(inode)) for name, inode in dentries.items()],
    )


class World:
    """A device and its follower."""

    def __init__(self, bench: FsBench) -> None:
        self.bench, self.kernel, self.diverged = bench, Kernel(), 0
        ends = Ends(bench.local, None, WORKSPACE, bytes)  # type: ignore[arg-type]
        self.events = Events()
        announcer = Announcer(self.events, Places(bench.local, ROOT))
        self.follower = Follower(ends, Shown(bench.fs, self.kernel), announcer)

    def apply(self, seq: int, inodes: list[InodeState], dentries: dict[bytes, int]) -> list[object]:
        """A page arrives; gives what the kernel has to forget."""
        self.kernel.forgotten.clear()
        self.follower.apply(page_of(seq, inodes, dentries))
        trio.run(self.follower.let_go)
        return list(self.kernel.forgotten)

    def committed(self, name: bytes, content: bytes) -> InodeState:
        """A file of this device that the backend has, and the feed has not brought yet."""
        inode = self.bench.file(name, content)
        self.bench.publish(inode)
        journal = self.bench.local.journal
        with journal.transaction():
            for row in journal.touching(inode):
                if isinstance(row.mutation, Create):
                    journal.settle(row.n, Seq(2))
        return self.bench.fs.inode(inode)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    bench = FsBench(tmp_path)
    yield World(bench)
    bench.close()
    assert check(tmp_path / "state", tmp_path / "cache") == []


def test_own_changes_come_back_without_a_word_to_the_kernel(world: World) -> None:
    state = world.committed(b"a", b"mine")
    root = world.bench.fs.inode(ROOT)
    told = world.apply(9, [msgspec.structs.replace(state, seq=Seq(9)), root], {b"a": state.inode})
    assert told == []
    assert world.bench.local.journal.overlay.inode(state.inode) is None
    shown = world.bench.lookup(b"a")
    assert shown is not None
    assert shown.seq == 9
    assert world.bench.read(state.inode) == b"mine"


def test_what_came_while_the_replica_was_synced_is_let_go_after_the_next_sync(world: World) -> None:
    """Its page may be gone after a cut, and what the journal knows of it would be all that there is."""
    state = world.committed(b"a", b"mine")
    replica, root = world.bench.local.replica, world.bench.fs.inode(ROOT)
    page = page_of(9, [msgspec.structs.replace(state, seq=Seq(9)), root], {b"a": state.inode})
    sync = replica.sync

    async def overtaken() -> None:
        await sync()
        world.follower.apply(page)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica, "sync", overtaken)
        trio.run(world.follower.let_go)
    assert world.bench.local.journal.overlay.inode(state.inode) is not None
    trio.run(world.follower.let_go)
    assert world.bench.local.journal.overlay.inode(state.inode) is None


def test_change_of_another_device_that_comes_with_an_own_one_is_told(world: World) -> None:
    state = world.committed(b"a", b"mine")
    assert world.bench.lookup(b"a") is not None
    changed = msgspec.structs.replace(state, mode=0o600, seq=Seq(9))
    told = world.apply(9, [changed], {b"a": state.inode})
    assert (state.inode, False) in told
    assert world.bench.fs.inode(state.inode).mode == 0o600


def busy_until_let_go(world: World, page: Callable[[], object]) -> float:
    """How long it takes until what a page brings shows while programs keep calling."""
    calls = 0

    async def call() -> None:
        nonlocal calls
        while True:
            calls += 1
            await trio.sleep(0.001)

    async def scenario() -> float:
        world.follower.quiet = Quiet(lambda: calls)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.sleep(1)
            page()
            begin = trio.current_time()
            await world.follower.let_go()
            nursery.cancel_scope.cancel()
            return trio.current_time() - begin

    return trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))


def test_own_changes_that_came_back_are_let_go_in_a_pause_of_the_programs(world: World) -> None:
    state = world.committed(b"a", b"mine")
    page = page_of(9, [msgspec.structs.replace(state, seq=Seq(9))], {b"a": state.inode})
    assert busy_until_let_go(world, lambda: world.follower.apply(page)) == pytest.approx(LET_GO_WAIT_SECONDS)
    assert world.bench.local.journal.overlay.inode(state.inode) is None


def test_own_removals_that_came_back_are_let_go_in_a_pause_too(world: World) -> None:
    state = world.committed(b"a", b"mine")
    world.apply(1000, [msgspec.structs.replace(state, seq=Seq(1000))], {b"a": state.inode})
    world.bench.unlink(b"a")
    journal = world.bench.local.journal
    [row] = journal.unsettled(10)
    with journal.transaction():
        journal.settle(row.n, Seq(1001))
    gone = world.bench.local.journal.overlay.inode(state.inode)
    assert gone is not None
    page = page_of(1001, [gone], {b"a": 0})
    assert busy_until_let_go(world, lambda: world.follower.apply(page)) == pytest.approx(LET_GO_WAIT_SECONDS)
    assert journal.overlay.dentry(ROOT, b"a") is MISSING


def test_much_is_let_go_in_the_end_however_busy_the_programs_are(world: World) -> None:
    states = [world.committed(b"%03d" % number, b"mine") for number in range(120)]
    page = page_of(
        1000,
        [msgspec.structs.replace(state, seq=Seq(1000)) for state in states],
        {b"%03d" % number: state.inode for number, state in enumerate(states)},
    )
    took = busy_until_let_go(world, lambda: world.follower.apply(page))
    assert 2 * LET_GO_WAIT_SECONDS < took < LET_GO_PATIENCE_SECONDS + 1
    assert not [state for state in states if world.bench.local.journal.overlay.inode(state.inode) is not None]


def test_what_another_device_changed_behind_an_own_change_shows_at_once(world: World) -> None:
    state = world.committed(b"a", b"mine")
    page = page_of(9, [msgspec.structs.replace(state, mode=0o600, seq=Seq(9))], {b"a": state.inode})
    assert busy_until_let_go(world, lambda: world.follower.apply(page)) < LET_GO_WAIT_SECONDS / 10
    assert world.bench.fs.inode(state.inode).mode == 0o600


def test_what_came_as_the_overlay_had_just_let_go_shows_at_once_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = world.committed(b"a", b"mine")
    page = page_of(9, [msgspec.structs.replace(state, mode=0o600, seq=Seq(9))], {b"a": state.inode})
    forget = world.bench.local.journal.forget

    def overtaken(*args: Any) -> Forgotten:
        done = forget(*args)
        world.follower.apply(page)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(world.bench.local.journal, "forget", overtaken)
        trio.run(world.follower.let_go)
    assert world.bench.fs.inode(state.inode).mode != 0o600
    assert busy_until_let_go(world, lambda: None) < LET_GO_WAIT_SECONDS / 10
    assert world.bench.fs.inode(state.inode).mode == 0o600


def test_name_that_another_device_took_behind_an_own_change_shows_at_once(world: World) -> None:
    world.committed(b"a", b"mine")
    other = InodeState(inode=InodeId(9000), kind=InodeKind.FILE, mode=0o644)
    page = page_of(9, [other], {b"a": 9000})
    assert busy_until_let_go(world, lambda: world.follower.apply(page)) < LET_GO_WAIT_SECONDS / 10
    shown = world.bench.lookup(b"a")
    assert shown is not None
    assert shown.inode == 9000


def test_content_that_changed_behind_the_same_size_and_time_is_told(world: World) -> None:
    state = world.committed(b"a", b"mine")
    world.apply(9, [msgspec.structs.replace(state, seq=Seq(9))], {b"a": state.inode})
    later = RevisionNumber(state.revision + 1)
    changed = msgspec.structs.replace(state, revision=later, ctime_ns=state.ctime_ns + 1, seq=Seq(10))
    assert world.apply(10, [changed], {}) == [(state.inode, True)]


def test_name_that_another_device_took_right_after_is_told(world: World) -> None:
    state = world.committed(b"a", b"mine")
    other = InodeState(inode=InodeId(9000), kind=InodeKind.FILE, mode=0o644)
    gone = msgspec.structs.replace(state, nlink=0)
    told = world.apply(9, [gone, other], {b"a": 9000})
    assert (ROOT, b"a") in told
    shown = world.bench.lookup(b"a")
    assert shown is not None
    assert shown.inode == 9000


def test_remote_change_is_told_as_what_it_is(world: World) -> None:
    state = InodeState(inode=InodeId(9001), kind=InodeKind.FILE, mode=0o644, revision=RevisionNumber(1))
    assert world.apply(3, [state], {b"b": 9001}) == [(ROOT, b"b")]
    attributes = msgspec.structs.replace(state, mode=0o600)
    assert world.apply(4, [attributes], {}) == [(9001, False)]
    content = msgspec.structs.replace(attributes, revision=RevisionNumber(2), mtime_ns=7)
    assert world.apply(5, [content], {}) == [(9001, True)]
    assert world.apply(5, [content], {b"b": 9001}) == []
    assert world.apply(6, [msgspec.structs.replace(content, nlink=0)], {b"b": 0}) == [(9001, False), (ROOT, b"b")]


def test_own_unsent_change_goes_on_showing_over_a_remote_one(world: World) -> None:
    state = InodeState(inode=InodeId(9001), kind=InodeKind.FILE, mode=0o644)
    world.apply(3, [state], {b"b": 9001})
    world.bench.unlink(b"b")
    assert world.apply(4, [msgspec.structs.replace(state, mode=0o600)], {b"b": 9001}) == []
    assert world.bench.lookup(b"b") is None


def test_file_that_another_device_removed_stays_whole_for_those_who_have_it_open(world: World) -> None:
    state = world.committed(b"a", b"mine")
    world.apply(3, [state], {b"a": state.inode})
    reader = world.bench.open_file(state.inode, os.O_RDONLY)
    told = world.apply(4, [msgspec.structs.replace(state, nlink=0)], {b"a": 0})
    assert (ROOT, b"a") in told
    assert world.bench.lookup(b"a") is None
    assert bytes(world.bench.run(world.bench.fs.read, reader, 0, 100)) == b"mine"
    assert world.bench.fs.inode(state.inode).nlink == 0
    world.bench.fs.release(reader)


def test_open_file_that_was_removed_elsewhere_and_came_back_shows_what_it_came_back_with(world: World) -> None:
    before = world.committed(b"a.txt", b"first")
    world.apply(3, [msgspec.structs.replace(before, seq=Seq(3))], {b"a.txt": before.inode})
    handle = world.bench.open_file(before.inode)
    gone = msgspec.structs.replace(before, nlink=0, seq=Seq(4))
    world.apply(4, [gone], {b"a.txt": 0})
    assert world.bench.read(before.inode) == b"first"
    back = msgspec.structs.replace(before, seq=Seq(5), revision=RevisionNumber(7), size=0, blocks=b"", mtime_ns=77)
    forgotten = world.apply(5, [back], {b"b.txt": before.inode})
    assert (before.inode, True) in forgotten
    assert world.bench.read(before.inode) == b""
    world.bench.fs.release(handle)
    assert world.bench.read(before.inode) == b""


def test_change_that_came_while_a_directory_had_own_changes_shows_when_those_are_taken_back(world: World) -> None:
    bench = world.bench
    directory = InodeState(inode=InodeId(9001), kind=InodeKind.DIRECTORY, mode=0o755, nlink=2, mtime_ns=1)
    world.apply(3, [directory], {b"d": 9001})
    bench.local.replica.apply_listing(directory, [], Seq(3), complete=True)
    bench.file(b"passing", parent=directory.inode)
    changed = msgspec.structs.replace(directory, mode=0o700, xattrs={b"user.note": b"n"}, seq=Seq(4))
    assert world.apply(4, [changed], {}) == [], "the overlay has its own"
    bench.unlink(b"passing", directory.inode)
    assert bench.local.journal.overlay.inode(directory.inode) is None
    assert world.kernel.forgotten == [(directory.inode, False)]
    shown = bench.fs.inode(directory.inode)
    assert (shown.mode, shown.xattrs) == (0o700, {b"user.note": b"n"})


def test_times_of_a_directory_stay_when_what_was_made_in_it_is_taken_back(world: World) -> None:
    bench = world.bench
    directory = InodeState(inode=InodeId(9001), kind=InodeKind.DIRECTORY, mode=0o755, nlink=2, mtime_ns=1)
    world.apply(3, [directory], {b"d": 9001})
    bench.local.replica.apply_listing(directory, [], Seq(3), complete=True)
    world.kernel.forgotten.clear()
    bench.make(b"passing", InodeKind.DIRECTORY, directory.inode)
    bench.run(bench.fs.rmdir, directory.inode, b"passing")
    assert world.kernel.forgotten == []
    assert bench.fs.inode(directory.inode).mtime_ns > 1


def test_name_that_another_device_took_meanwhile_shows_when_an_own_one_is_taken_back(world: World) -> None:
    bench = world.bench
    bench.file(b"a")
    other = InodeState(inode=InodeId(9000), kind=InodeKind.FILE, mode=0o644)
    assert world.apply(3, [other], {b"a": 9000}) == []
    (create,) = bench.mutations()
    bench.local.journal.remove(create.n)
    assert (ROOT, b"a") in world.kernel.forgotten
    shown = bench.lookup(b"a")
    assert shown is not None
    assert shown.inode == 9000
