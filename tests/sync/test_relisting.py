"""A replica that begins again in the middle of a mount: what programs know is compared, and nothing else is listed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from cache.check import check
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import CommitId, Incarnation, InodeId, RevisionNumber, Seq
from drivefs.protocol.messages import Cursor, Entry, FeedPage, FeedStatus, InodesReply, InodesRequest
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.remote import errors
from drivefs.sync.contents import Shown
from drivefs.sync.ends import Ends
from drivefs.sync.relisting import Relisting
from tests.fs.bench import ROOT, WORKSPACE, FsBench
from tests.sync.test_follower import World as Following

KNOWN, UNKNOWN, GONE = InodeId(9000), InodeId(9001), InodeId(9002)


def directory(inode: InodeId) -> InodeState:
    return InodeState(inode=inode, kind=InodeKind.DIRECTORY, mode=0o755, nlink=2, seq=Seq(5))


def file(inode: int, revision: int = 1) -> InodeState:
    revision = RevisionNumber(revision)
    return InodeState(inode=InodeId(inode), kind=InodeKind.FILE, mode=0o644, mtime_ns=revision, revision=revision)


class Server:
    """What a directory holds; hears what is asked for."""

    def __init__(self, bench: FsBench) -> None:
        self.replica = bench.local.replica
        self.tree: dict[InodeId, dict[bytes, InodeState]] = {}
        self.asked: list[InodeId] = []
        self.open_elsewhere: dict[InodeId, InodeState] = {}
        self.during = lambda: None

    async def list_many(self, directories: Sequence[InodeId]) -> None:
        self.during()
        for each in directories:
            if each in self.tree:
                await self.list_directory(each)

    async def list_directory(self, inode: InodeId) -> None:
        self.asked.append(inode)
        if inode not in self.tree:
            raise errors.Refused(ProtocolError(Code.NOT_FOUND, "there is no such directory"))
        entries = [Entry(name=name, inode=state) for name, state in sorted(self.tree[inode].items())]
        self.replica.apply_listing(directory(inode), entries, Seq(6), complete=True)

    async def inodes(self, workspace: int, request: InodesRequest) -> InodesReply:
        return InodesReply(inodes=[self.open_elsewhere[each] for each in request.inodes if each in self.open_elsewhere])


class World:
    """A device that knows a tree, and has looked at a part of it."""

    def __init__(self, bench: FsBench) -> None:
        following = Following(bench)
        self.bench, self.kernel, self.server = bench, following.kernel, Server(bench)
        ends = Ends(bench.local, cast(Any, self.server), WORKSPACE, bytes)
        shown = Shown(bench.fs, self.kernel)
        lister = cast(Any, self.server)
        self.relisting = Relisting(ends, shown, bench.fs, lister=lister, follower=following.follower)
        following.apply(
            5,
            [directory(KNOWN), directory(UNKNOWN), directory(GONE), file(10), file(11)],
            {b"known": KNOWN, b"unknown": UNKNOWN, b"gone": GONE, b"same": 10, b"changed": 11},
        )
        for inode in (KNOWN, UNKNOWN, GONE):
            names = {b"below": file(inode + 100)}
            entries = [Entry(name=name, inode=state) for name, state in names.items()]
            bench.local.replica.apply_listing(directory(inode), entries, Seq(5), complete=True)
        for inode in (KNOWN, GONE):
            assert bench.names(inode) == {b"below"}
        self.server.tree = {
            ROOT: {
                b"known": directory(KNOWN),
                b"unknown": directory(UNKNOWN),
                b"same": file(10),
                b"changed": file(11, 2),
            },
            KNOWN: {b"below": file(KNOWN + 100), b"new": file(50)},
            UNKNOWN: {},
        }

    def begin(self) -> None:
        """The feed has expired; the next session has given a cursor."""
        self.kernel.forgotten.clear()
        cursor = Cursor(incarnation=Incarnation(1), seq=Seq(6), commit=CommitId(b"c"))
        page = FeedPage(workspace=WORKSPACE, status=FeedStatus.EXPIRED, cursor=cursor)
        trio.run(self.relisting.begin, page)
        self.bench.local.replica.set_cursor(WORKSPACE, cursor)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    bench = FsBench(tmp_path)
    yield World(bench)
    bench.close()
    assert check(tmp_path / "state", tmp_path / "cache") == []


def test_the_kernel_hears_of_differences_and_only_known_directories_are_listed(world: World) -> None:
    world.begin()
    assert world.relisting.is_needed
    trio.run(world.relisting.run)
    assert set(world.server.asked) == {ROOT, KNOWN, GONE}
    assert not world.relisting.is_needed
    told = set(world.kernel.forgotten)
    assert {(ROOT, b"gone"), (KNOWN, b"new"), (GONE, b"below"), (InodeId(11), True)} <= told
    assert told.isdisjoint({(ROOT, b"known"), (ROOT, b"same"), (KNOWN, b"below"), (ROOT, b"unknown")})
    assert world.bench.lookup(b"gone") is None
    assert world.bench.lookup(b"new", KNOWN) is not None


def test_of_more_directories_than_are_remembered_all_that_were_known_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drivefs.fs.told.MOST", 2)
    bench = FsBench(tmp_path)
    world = World(bench)
    for _ in range(5):
        bench.lookup(b"below", UNKNOWN)
    assert len(list(bench.fs.told)) <= 3
    world.begin()
    trio.run(world.relisting.run)
    assert set(world.server.asked) == {ROOT, KNOWN, GONE, UNKNOWN}
    assert {(ROOT, b"gone"), (KNOWN, b"new"), (UNKNOWN, b"below")} <= set(world.kernel.forgotten)
    bench.close()


def test_what_was_known_answers_until_it_was_listed_again(world: World) -> None:
    number = world.bench.open_file(InodeId(GONE + 100))
    world.begin()
    assert world.bench.fs.inode(KNOWN).kind is InodeKind.DIRECTORY
    assert world.bench.fs.inode(InodeId(GONE + 100)).nlink == 1
    trio.run(world.relisting.run)
    assert world.bench.fs.inode(InodeId(GONE + 100)).nlink == 0
    world.bench.fs.release(number)


def test_what_was_looked_at_before_is_not_remembered(world: World) -> None:
    """Of directories that are listed much later nobody tells what is different."""
    inode = InodeId(UNKNOWN + 100)
    assert world.bench.fs.inode(inode).revision == 1
    world.server.tree[UNKNOWN] = {b"below": file(inode, 4)}
    world.begin()
    trio.run(world.relisting.run)
    trio.run(world.server.list_directory, UNKNOWN)
    assert world.bench.fs.inode(inode).revision == 4


def test_an_open_file_that_moved_to_an_unknown_place_is_found(world: World) -> None:
    moved = InodeId(GONE + 100)
    number = world.bench.open_file(moved)
    world.server.open_elsewhere[moved] = file(moved, 3)
    world.begin()
    trio.run(world.relisting.run)
    found = world.bench.fs.inode(moved)
    assert (found.nlink, found.revision) == (1, 3)
    world.bench.fs.release(number)


def test_a_history_that_changes_again_meanwhile_is_looked_at_again(world: World) -> None:
    def again() -> None:
        world.server.during = lambda: None
        world.bench.local.replica.set_aside()
        world.bench.fs.begin_again()
        cursor = Cursor(incarnation=Incarnation(1), seq=Seq(6), commit=CommitId(b"d"))
        world.bench.local.replica.set_cursor(WORKSPACE, cursor)

    world.begin()
    world.server.during = again
    trio.run(world.relisting.run)
    assert world.relisting.is_needed
    trio.run(world.relisting.run)
    assert not world.relisting.is_needed
    assert {(ROOT, b"gone"), (KNOWN, b"new"), (InodeId(11), True)} <= set(world.kernel.forgotten)
