"""What devices do apart from each other with many names at once, or with names that look alike, before they meet."""

from pathlib import Path

import pytest

from drivefs.protocol.changes import Rename
from drivefs.protocol.ids import InodeId
from drivefs.protocol.messages import FeedPage, FeedStatus
from drivefs.protocol.model import DentryState, InodeKind, InodeState
from tests.sync.fleet import Device, sailing

pytestmark = pytest.mark.anyio
CHILDREN = 100_000


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.mark.fault(61)
async def test_a_directory_of_100_000_files_is_renamed_by_one_change_while_one_of_them_is_written(
    tmp_path: Path,
) -> None:
    async with sailing(tmp_path, "one", "other") as (fleet, (one, other)):
        await one.mkdir("directory")
        await one.write("directory/file", b"first content")
        await fleet.settle()
        fill(one, (await one.known("directory")).inode)
        before = await one.known("directory/file")
        number = await one.open_file("directory/file", 2)
        one.fs.write(number, 0, b"SECOND")
        await one.rename("directory", "renamed")
        one.fs.write(number, 6, b" CONTENT")
        one.fs.release(number)
        assert [type(row.mutation) for row in one.local.journal.unsettled(10)] == [Rename]
        assert (await one.known("renamed/child 099999")).nlink == 1
        assert (await one.known("renamed/file")).inode == before.inode
        await one.publish()
        assert sorted(type(row.mutation).__name__ for row in one.local.journal.unsettled(10)) == ["Rename", "Store"]
        await one.sync()
        await other.sync()
        assert (await other.known("renamed/file")).inode == before.inode
        assert await other.read("renamed/file") == b"SECOND CONTENT"
        assert await other.find("directory") is None


def fill(device: Device, directory: InodeId) -> None:
    """Let a device know of so many files in a directory, as the feed brings them."""
    workspace = device.ends.workspace
    cursor = device.local.replica.cursor(workspace)
    assert cursor is not None
    numbers = [(b"child %06d" % number, InodeId(2**60 + number)) for number in range(CHILDREN)]
    page = FeedPage(
        workspace=workspace,
        status=FeedStatus.CHANGES,
        cursor=cursor,
        inodes=[InodeState(inode, InodeKind.FILE, 0o644, nlink=1, seq=cursor.seq) for _, inode in numbers],
        dentries=[DentryState(directory, name, inode, cursor.seq) for name, inode in numbers],
    )
    device.follower.apply(page)


@pytest.mark.fault(64)
async def test_names_that_look_alike_and_are_made_apart_are_both_kept(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    async with sailing(tmp_path, "one", "other") as (fleet, (one, other)):
        await one.write(composed, b"composed")
        await one.mkdir(f"directory {composed}")
        await other.write(decomposed, b"decomposed")
        await other.mkdir(f"directory {decomposed}")
        await other.write(f"directory {decomposed}/{composed}", b"below")
        tree = await fleet.settle()
    assert tree == {
        composed: b"composed",
        decomposed: b"decomposed",
        f"directory {composed}": None,
        f"directory {decomposed}": None,
        f"directory {decomposed}/{composed}": b"below",
    }


@pytest.mark.fault(65)
async def test_one_archive_unpacked_on_two_devices_apart_is_one_tree(tmp_path: Path) -> None:
    """With what each changed in its own copy before they met."""

    async def unpack(device: Device) -> None:
        for directory in range(4):
            await device.mkdir(f"directory{directory}")
            for number in range(40):
                await device.write(f"directory{directory}/file{number}", b"%d" % number * (1 + 700 * (number % 3)))

    async with sailing(tmp_path, "one", "other") as (fleet, (one, other)):
        await unpack(one)
        await one.write("directory0/file0", b"changed by one")
        await one.unlink("directory1/file1")
        await unpack(other)
        await other.write("directory0/file0", b"changed by the other")
        await other.rename("directory2/file2", "directory3/moved")
        tree = await fleet.settle()
    contents = list(tree.values())
    assert {b"changed by one", b"changed by the other"} <= set(contents)
    assert len([path for path in tree if "conflicted copy" in path]) == 1
    for directory in range(4):
        for number in range(2, 40):
            moved = (directory, number) == (2, 2)
            path = "directory3/moved" if moved else f"directory{directory}/file{number}"
            assert tree[path] == b"%d" % number * (1 + 700 * (number % 3)), path
