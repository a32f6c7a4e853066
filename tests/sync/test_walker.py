"""The background walk on a real replica: it lists everything, nearest first, goes on where it was, and gives way."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from cache.check import check
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import CommitId, Incarnation, InodeId, Seq
from drivefs.protocol.messages import Cursor, Entry, ListManyReply, ListManyRequest, ListReply, ListRequest
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.remote.errors import Offline, Refused, RemoteError
from drivefs.sync import lister, walker
from drivefs.sync.connection import Untracked
from drivefs.sync.ends import Ends
from drivefs.sync.quiet import QUIET_SECONDS, Quiet
from tests.fs.bench import ROOT, WORKSPACE, FsBench
from tests.sync.test_follower import page_of

NOW = Cursor(incarnation=Incarnation(1), seq=Seq(5), commit=CommitId(bytes(16)))


class Tree:
    """The backend: a tree of directories by number, and what was asked of it."""

    def __init__(self, children: dict[int, list[int]]) -> None:
        self.children = children
        self.asked: list[list[int]] = []
        self.listed_alone: list[int] = []
        self.is_online = True
        self.room = 100
        self.during: Callable[[], None] = lambda: None
        self.on_its_way: Callable[[], None] = lambda: None
        """Called when an answer is made, and not there yet."""

    def listing(self, inode: int, count: int | None = None, after: bytes = b"") -> ListReply:
        names = sorted(self.children[inode])
        entries = [Entry(name=b"%08d" % child, inode=self.state(child)) for child in names]
        entries = [entry for entry in entries if entry.name > after]
        return ListReply(
            directory=self.state(inode),
            entries=entries[:count],
            seq=NOW.seq,
            more=count is not None and count < len(entries),
        )

    def state(self, inode: int) -> InodeState:
        kind = InodeKind.DIRECTORY if inode in self.children else InodeKind.FILE
        return InodeState(InodeId(inode), kind, 0o755, nlink=2, seq=Seq(1))

    async def list_many(self, workspace: int, request: ListManyRequest) -> ListManyReply:
        self.asked.append(list(request.directories))
        await trio.lowlevel.checkpoint()
        if not self.is_online:
            raise Offline("the server is away")
        self.during()
        known = [each for each in request.directories if each in self.children]
        answered = [self.listing(each, self.room) for each in known[: self.room]]
        self.on_its_way()
        return ListManyReply(listings=answered, unanswered=known[self.room :])

    async def list_directory(self, workspace: int, request: ListRequest) -> ListReply:
        await trio.lowlevel.checkpoint()
        self.during()
        self.listed_alone.append(request.directory)
        if request.directory not in self.children:
            raise Refused(ProtocolError(Code.NOT_FOUND, "there is no such directory"))
        answer = self.listing(request.directory, self.room, request.after)
        self.on_its_way()
        return answer


class Reach(Untracked):
    """Remembers when the backend was found gone."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []

    def lost(self, error: RemoteError) -> None:
        self.failures.append(error)


class World:
    """A device with an empty replica, and the walk over a tree."""

    def __init__(self, bench: FsBench, tree: Tree) -> None:
        self.bench, self.tree, self.calls = bench, tree, 0
        ends = Ends(bench.local, tree, WORKSPACE, bytes)  # type: ignore[arg-type]
        self.replica = bench.local.replica
        self.reach = Reach()
        self.lister = lister.Lister(ends, self.reach, changed=lambda inode: None)
        self.walker = walker.Walker(self.replica, self.lister, Quiet(lambda: self.calls))

    def begin(self) -> None:
        """The replica is empty, as when the cache was deleted."""
        for table in ("inodes", "dentries", "complete", "incomplete"):
            self.replica.database.execute_script(f"DELETE FROM {table}")
        self.replica.set_cursor(WORKSPACE, NOW)
        self.bench.fs.begin_again()

    def change(self, inode: InodeId, children: list[int] | None) -> None:
        """A directory of the root is with the backend, or not any more; the feed has told so."""
        name, state = b"%08d" % inode, InodeState(inode, InodeKind.DIRECTORY, 0o755, nlink=0 if children is None else 2)
        self.tree.children.pop(inode, None)
        if children is not None:
            self.tree.children[inode] = children
        self.replica.apply_page(page_of(NOW.seq + 1, [state], {name: inode if state.nlink else 0}))

    def run(self) -> None:
        trio.run(self.walker.walk, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[FsBench]:
    bench = FsBench(tmp_path)
    yield bench
    bench.close()
    assert check(tmp_path / "state", tmp_path / "cache") == []


def small_tree() -> Tree:
    return Tree({ROOT: [10, 11, 12], 10: [20, 21], 11: [], 20: [30], 21: [31], 30: [40]})


def test_everything_is_listed_nearest_to_the_root_first(bench: FsBench) -> None:
    world = World(bench, small_tree())
    world.begin()
    heard: list[tuple[int, bytes]] = []
    world.lister.listed.append(lambda directory, entries: heard.extend((directory, each.name) for each in entries))
    world.run()
    assert world.tree.asked == [[ROOT], [10, 11], [20, 21], [30]]
    assert heard[:4] == [(ROOT, b"00000010"), (ROOT, b"00000011"), (ROOT, b"00000012"), (10, b"00000020")]
    assert all(world.replica.is_complete(InodeId(each)) for each in world.tree.children)
    assert world.replica.incomplete_count() == 0
    assert world.replica.dentry(InodeId(30), b"00000040") == 40


def test_a_walk_goes_on_where_it_was(bench: FsBench) -> None:
    world = World(bench, small_tree())
    world.begin()

    def go_away() -> None:
        if len(world.tree.asked) == 2:
            world.tree.is_online = False

    world.tree.during = go_away
    with pytest.raises(Offline):
        world.run()
    assert world.reach.failures
    world.tree.is_online = True
    world.tree.asked.clear()
    again = World(bench, world.tree)
    again.run()
    assert again.tree.asked == [[20, 21], [30]]
    assert again.replica.incomplete_count() == 0


def test_only_a_batch_is_asked_for_and_what_had_no_room_is_asked_for_again(bench: FsBench) -> None:
    count = 2 * walker.BATCH_DIRECTORIES
    tree = Tree({ROOT: [*range(1000, 1000 + count)], **{inode: [] for inode in range(1000, 1000 + count)}})
    tree.room = count
    world = World(bench, tree)
    world.begin()
    world.run()
    assert [len(asked) for asked in tree.asked] == [1, walker.BATCH_DIRECTORIES, walker.BATCH_DIRECTORIES]
    tree.room = walker.BATCH_DIRECTORIES // 2
    for inode in range(1000, 1000 + count):
        tree.children[inode] = [inode + 5000]
        tree.children[inode + 5000] = []
    again = World(bench, tree)
    again.begin()
    again.run()
    assert all(again.replica.is_complete(InodeId(each)) for each in tree.children)


def test_a_long_directory_is_listed_page_by_page(bench: FsBench) -> None:
    tree = Tree({ROOT: [*range(2000, 2000 + 3 * lister.PART_ENTRIES + 7)]})
    tree.room = lister.PART_ENTRIES + 3
    world = World(bench, tree)
    world.begin()
    world.run()
    assert tree.listed_alone == [ROOT] * 3
    assert len(world.replica.names_after(ROOT, b"", 10_000)) == len(tree.children[ROOT])


def test_what_the_backend_does_not_have_is_not_asked_for_for_ever(bench: FsBench) -> None:
    world = World(bench, small_tree())
    world.begin()

    def remove() -> None:
        world.tree.children.pop(20, None)

    world.tree.during = remove
    world.tree.children[ROOT].append(13)
    world.tree.children[13] = []
    world.run()
    assert world.replica.incomplete_count() == 0
    assert not world.replica.is_complete(InodeId(20))


def test_a_long_directory_that_is_gone_keeps_no_other_from_being_listed(bench: FsBench) -> None:
    """The feed does not tell of it for a while: it would be the first of each batch until then."""
    tree = Tree({ROOT: [10, 11], 10: [*range(2000, 2050)], 11: [*range(3000, 3009)]})
    tree.room = 20
    world = World(bench, tree)
    world.begin()
    listing = tree.list_directory

    async def gone(workspace: int, request: ListRequest) -> ListReply:
        if request.directory == 10:
            raise Refused(ProtocolError(Code.NOT_FOUND, "there is no such directory"))
        return await listing(workspace, request)

    tree.list_directory = gone  # type: ignore[method-assign]
    world.run()
    assert world.replica.is_complete(InodeId(11))
    assert not world.replica.is_complete(InodeId(10))
    assert world.replica.incomplete_count() == 0
    assert tree.asked == [[ROOT], [10, 11]]


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_listing_of_a_history_that_was_set_aside_meanwhile_is_void(bench: FsBench, is_alone: bool) -> None:
    world = World(bench, small_tree())
    world.begin()

    def set_aside() -> None:
        world.tree.during = lambda: None
        world.replica.set_aside()

    world.tree.during = set_aside
    if is_alone:
        with pytest.raises(Offline):
            trio.run(world.lister.list_directory, ROOT)
    else:
        trio.run(world.lister.list_many, [ROOT])
    assert not world.replica.is_complete(ROOT)
    assert world.replica.names_after(ROOT, b"", 10) == []
    world.replica.drop_earlier()


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_listing_that_was_asked_for_in_an_earlier_time_in_a_share_is_void(bench: FsBench, is_alone: bool) -> None:
    world, directory = World(bench, small_tree()), InodeId(10)
    world.begin()
    trio.run(world.lister.list_directory, ROOT)

    def share_again() -> None:
        world.tree.during = lambda: None
        world.replica.forget_tree(directory, ROOT)
        world.replica.put_inodes([world.tree.state(directory)], NOW.seq)

    world.tree.during = share_again
    if is_alone:
        trio.run(world.lister.list_directory, directory)
        assert world.tree.listed_alone == [ROOT, directory, directory]
        assert world.replica.is_complete(directory)
    else:
        trio.run(world.lister.list_many, [directory])
        assert not world.replica.is_complete(directory)
        assert world.replica.incomplete(10) == [11, ROOT, directory]


@pytest.mark.parametrize("what", ["all", "the directory"])
def test_of_what_is_thrown_away_while_a_page_is_taken_over_no_more_comes(bench: FsBench, what: str) -> None:
    world = World(bench, Tree({ROOT: [10], 10: list(range(2000, 2500))}))
    world.begin()
    directory = InodeId(10)
    trio.run(world.lister.list_directory, ROOT)

    def throw_away(_directory: InodeId, _entries: object) -> None:
        world.lister.listed.clear()
        if what == "all":
            world.replica.set_aside()
        else:
            world.change(directory, None)

    world.tree.room = 1000
    world.lister.listed.append(throw_away)
    with pytest.raises(Offline if what == "all" else Refused):
        trio.run(world.lister.list_directory, directory)
    assert not world.replica.is_complete(directory)
    assert len(world.replica.names_after(directory, b"", 1000)) <= lister.PART_ENTRIES
    world.change(directory, [])
    world.replica.drop_earlier()


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_listing_of_a_directory_that_was_removed_meanwhile_is_void(bench: FsBench, is_alone: bool) -> None:
    """The device would know a directory for ever that nobody else does: what it made there came to nothing."""
    world, directory = World(bench, small_tree()), InodeId(11)
    world.begin()
    trio.run(world.lister.list_directory, ROOT)
    world.tree.on_its_way = lambda: world.change(directory, None)
    if is_alone:
        with pytest.raises(Refused):
            trio.run(world.lister.list_directory, directory)
    else:
        trio.run(world.lister.list_many, [directory])
    assert world.replica.inode(directory) is None
    assert not world.replica.is_complete(directory)


def test_a_directory_that_was_brought_back_while_it_was_not_found_is_listed_yet(bench: FsBench) -> None:
    world, directory = World(bench, small_tree()), InodeId(11)
    world.begin()
    trio.run(world.lister.list_directory, ROOT)
    del world.tree.children[directory]

    def bring_back() -> None:
        world.tree.on_its_way = lambda: None
        world.change(directory, [50])

    world.tree.on_its_way = bring_back
    world.run()
    assert world.replica.is_complete(directory)


def test_the_walk_waits_while_calls_come_in_but_not_for_ever(bench: FsBench) -> None:
    world = World(bench, small_tree())
    world.begin()
    moments: list[float] = []
    world.tree.during = lambda: moments.append(trio.current_time())

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            begin = trio.current_time()
            world.calls += 1
            await world.walker.walk()
            nursery.cancel_scope.cancel()
            moments.insert(0, begin)

    async def call() -> None:
        for _ in range(150):
            world.calls += 1
            await trio.sleep(0.01)

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))
    waited = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert waited[0] == pytest.approx(walker.LONGEST_WAIT_SECONDS)
    assert 0.5 < waited[1] < walker.LONGEST_WAIT_SECONDS
    assert waited[2:] == pytest.approx([0.0, 0.0], abs=QUIET_SECONDS)


def test_a_listing_goes_on_while_pages_of_the_feed_arrive(bench: FsBench) -> None:
    """A directory is listed as of one seq, however often the cursor moves meanwhile."""
    tree = Tree({ROOT: [*range(2000, 2100)]})
    tree.room = 10
    world = World(bench, tree)
    world.begin()

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.lister.list_directory, ROOT)
            for seq in range(6, 30):
                cursor = Cursor(incarnation=NOW.incarnation, seq=Seq(seq), commit=NOW.commit)
                world.replica.set_cursor(WORKSPACE, cursor)
                await trio.lowlevel.checkpoint()

    trio.run(scenario)
    assert len(tree.listed_alone) == 10
    assert len(world.replica.names_after(ROOT, b"", 10_000)) == 100
