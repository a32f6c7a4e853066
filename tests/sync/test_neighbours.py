"""Small files that are fetched ahead: how often a program has to wait that reads one after the other, and what for."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from cache.replica import Replica
from drivefs.protocol.ids import BlockId, InodeId, Seq, WorkspaceId
from drivefs.protocol.messages import Entry
from drivefs.protocol.model import BlockRef, InodeKind, InodeState, pack_blocks
from drivefs.sync.neighbours import BYTES_EACH, FIRST_FILES, FORGET_SECONDS, SMALL_BYTES, Neighbours

WORKSPACE, ROOT = WorkspaceId(3), InodeId(1)


async def at_once(work: Any, *args: Any) -> Any:
    return work(*args)


class World:
    """A replica, a cache that is a set, and a fetcher whose blocks arrive when a program waits."""

    def __init__(self, path: Path) -> None:
        self.replica = Replica(path / "replica.db", at_once)
        self.here: set[BlockId] = set()
        self.coming: dict[BlockId, int] = {}
        self.is_online = True
        self._last = ROOT
        ends = SimpleNamespace(local=SimpleNamespace(replica=self.replica, blocks=self), workspace=WORKSPACE)
        self.neighbours = self.deciding(ends, 2**30)
        self.reluctant = self.deciding(ends, 0)

    def deciding(self, ends: Any, limit_bytes: int) -> Neighbours:
        return Neighbours(cast(Any, ends), self, limit_bytes=limit_bytes, is_online=lambda: self.is_online)

    def contains(self, block: BlockId) -> bool:
        return block in self.here

    def expect(self, workspace: WorkspaceId, refs: Sequence[BlockRef]) -> None:
        assert workspace == WORKSPACE
        self.coming.update(refs)

    def is_coming(self, workspace: WorkspaceId, block: BlockId) -> bool:
        return block in self.coming

    def directory(self, parent: InodeId, names: Sequence[bytes], size: int = 1000) -> dict[bytes, InodeId]:
        """List a directory: a name with a slash is that of a directory. Gives the inodes, numbered as the names are."""
        found: dict[bytes, InodeId] = {}
        entries: list[Entry] = []
        for name in names:
            self._last = inode = InodeId(self._last + 1)
            found[name] = inode
            kind = InodeKind.DIRECTORY if name.endswith(b"/") else InodeKind.FILE
            blocks = pack_blocks([BlockRef(block_of(inode), size)]) if kind is InodeKind.FILE else b""
            state = InodeState(inode, kind, 0o644, size=size if blocks else 0, blocks=blocks, nlink=2)
            entries.append(Entry(name=name.rstrip(b"/"), inode=state))
        entries.sort(key=lambda entry: entry.name)
        listed = InodeState(parent, InodeKind.DIRECTORY, 0o755, nlink=2)
        self.replica.apply_listing(listed, entries, Seq(1), complete=True)
        return found

    async def read(self, inodes: Sequence[InodeId], pause_seconds: float = 0.0) -> int:
        """Read files one after the other; how often there was something to wait for."""
        waits = 0
        for inode in inodes:
            await trio.sleep(pause_seconds)
            if (block := block_of(inode)) not in self.here:
                waits += 1
                self.neighbours.waiting(inode)
                self.here |= {block, *self.coming}
                self.coming.clear()
        return waits


def block_of(inode: InodeId) -> BlockId:
    return BlockId(inode.to_bytes(32, "big"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.replica.database.close()


def run(world: World, inodes: Sequence[InodeId], pause_seconds: float = 0.0) -> int:
    return trio.run(world.read, inodes, pause_seconds, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_directory_that_is_read_by_name_is_waited_for_a_few_times(world: World) -> None:
    found = world.directory(ROOT, [b"%d" % number for number in range(1000)])
    assert run(world, [found[name] for name in sorted(found)]) < 20


def test_a_directory_that_is_read_by_inode_number_is_waited_for_a_few_times(world: World) -> None:
    found = world.directory(ROOT, [b"%d" % number for number in range(1000)])
    assert run(world, sorted(found.values())) < 25


def test_a_tree_that_is_gone_through_is_waited_for_a_few_times(world: World) -> None:
    """One file in each directory: nothing but the tree says what comes next."""
    directories = world.directory(ROOT, [b"%03d/" % number for number in range(300)])
    assert run(world, [world.directory(inode, [b"only"])[b"only"] for inode in directories.values()]) < 20


def test_what_lies_deeper_or_higher_is_on_the_way(world: World) -> None:
    top = world.directory(ROOT, [b"a", b"b/", b"c"])
    below = world.directory(top[b"b/"], [b"d", b"e/", *(b"f%d" % number for number in range(10))])
    deep = world.directory(below[b"e/"], [b"g", b"h"])
    run(world, [top[b"a"], below[b"d"]])
    assert block_of(deep[b"g"]) in world.here
    assert block_of(top[b"c"]) not in world.here
    run(world, [below[b"f6"]])
    assert block_of(top[b"c"]) in world.here


def test_one_file_fetches_no_other(world: World) -> None:
    found = world.directory(ROOT, [b"%d" % number for number in range(100)])
    assert run(world, [found[b"5"]]) == 1
    assert len(world.here) == 1


def test_one_file_that_is_read_in_parts_fetches_no_other(world: World) -> None:
    """The kernel asks for several parts at once, and each waits."""
    found = world.directory(ROOT, [b"%d" % number for number in range(100)])

    async def waits() -> None:
        for _ in range(4):
            world.neighbours.waiting(found[b"5"])
        assert not world.coming

    trio.run(waits)


def test_files_that_are_looked_at_now_and_then_fetch_no_others(world: World) -> None:
    found = world.directory(ROOT, [b"%d" % number for number in range(100)])
    run(world, list(found.values())[:10], pause_seconds=FORGET_SECONDS + 1)
    assert len(world.here) == 10


def test_a_program_that_jumps_about_fetches_little(world: World) -> None:
    found = list(world.directory(ROOT, [b"%05d" % number for number in range(20_000)]).values())
    jumps = found[::-97]
    run(world, jumps)
    assert len(world.here) <= len(jumps) * (1 + FIRST_FILES)


@pytest.mark.parametrize(
    ("size", "count"),
    [(BYTES_EACH, FIRST_FILES), (2 * BYTES_EACH, FIRST_FILES // 2), (SMALL_BYTES, 1), (SMALL_BYTES + 1, 0)],
)
def test_the_larger_files_are_the_fewer_are_fetched(world: World, size: int, count: int) -> None:
    found = world.directory(ROOT, [b"%d" % number for number in range(100)], size)
    run(world, [found[name] for name in sorted(found)][:2])
    assert len(world.here) == 2 + count


def test_nothing_is_asked_for_while_most_of_it_is_still_to_come(world: World) -> None:
    found = list(world.directory(ROOT, [b"%05d" % number for number in range(1000)]).values())

    async def waits() -> None:
        for inode in found[:6]:
            world.neighbours.waiting(inode)
        assert len(world.coming) == FIRST_FILES

    trio.run(waits)


def test_what_was_forgotten_on_its_way_is_asked_for_again(world: World) -> None:
    found = list(world.directory(ROOT, [b"%05d" % number for number in range(1000)]).values())

    async def waits() -> None:
        for inode in found[:2]:
            world.neighbours.waiting(inode)
        world.coming.clear()
        world.neighbours.waiting(found[2])
        assert block_of(found[3]) in world.coming

    trio.run(waits)


def test_nothing_is_fetched_without_a_server_or_against_the_settings(world: World) -> None:
    found = list(world.directory(ROOT, [b"%05d" % number for number in range(100)]).values())

    async def waits() -> None:
        for inode in found[:10]:
            world.reluctant.waiting(inode)
        world.is_online = False
        for inode in found[:10]:
            world.neighbours.waiting(inode)
        assert not world.coming

    trio.run(waits)
