"""Bringing back what was removed, between devices and the real server: path, content, attributes and history."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drivefs.fs.attributes import Wanted
from drivefs.fs.ignore_rules import NAME
from drivefs.protocol.history import TrashEntry
from drivefs.protocol.ids import NO_INODE, InodeId
from tests.sync.fleet import Device, Fleet, sailing

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with sailing(tmp_path, "first", "second") as (fleet, _):
        yield fleet


async def removed(device: Device, parent: InodeId = NO_INODE) -> dict[bytes, TrashEntry]:
    return {e.place.name: e async for page in device.fs.history.past.removed(parent) for e in page}


async def bring_back(device: Device, entry: TrashEntry) -> int:
    async def progress(count: int) -> None:
        pass

    undeleting = device.fs.undeleting
    await device.fs.lookup(entry.place.parent, entry.place.name)
    place = undeleting.free_name((entry.place.parent, entry.place.name))
    return await undeleting.bring_back(entry, place, progress)


async def test_a_file_comes_back_with_path_attributes_and_history(fleet: Fleet) -> None:
    first, second = fleet.devices
    await first.mkdir("papers")
    for content in (b"1", b"22"):
        await first.write("papers/doc", content)
        await first.sync()
    state = await first.known("papers/doc")
    first.fs.set_attributes(state.inode, Wanted(mode=0o600))
    await fleet.settle()
    await second.unlink("papers/doc")
    assert await fleet.settle() == {"papers": None}
    assert await bring_back(first, (await removed(first))[b"doc"]) == 1
    assert await first.read("papers/doc") == b"22"
    assert await fleet.settle() == {"papers": None, "papers/doc": b"22"}
    back = await second.known("papers/doc")
    assert (back.inode, back.mode, back.nlink) == (state.inode, 0o600, 1)
    assert [each.size for each in await second.fs.history.of(back.inode)] == [1, 2]
    assert await removed(second) == {}


async def test_a_whole_tree_comes_back_in_one_step(fleet: Fleet) -> None:
    first, second = fleet.devices
    for path in ("top", "top/inner", "top/inner/deep", "top/empty"):
        await first.mkdir(path)
    for number in range(12):
        await first.write(f"top/inner/{number}", b"%d" % number)
    await first.write("top/inner/deep/doc", b"deep")
    await first.symlink(b"inner/1", "top/link")
    before = await fleet.settle()
    await second.remove_tree("top")
    assert await fleet.settle() == {}
    assert list(await removed(first)) == [b"top"]
    assert await bring_back(first, (await removed(first))[b"top"]) == 14
    assert await first.tree() == before
    assert (await first.known("top")).nlink == 4
    assert await fleet.settle() == before
    assert (await second.known("top")).nlink == 4
    assert await removed(first) == {}


async def test_what_has_the_name_by_now_stays(fleet: Fleet) -> None:
    first, second = fleet.devices
    for content in (b"old", b"older"):
        await first.write("doc.txt", content)
        await fleet.settle()
        await first.unlink("doc.txt")
        await fleet.settle()
    await second.mkdir("doc.txt")
    await fleet.settle()
    async for page in first.fs.history.past.removed(NO_INODE):
        for entry in page:
            await bring_back(first, entry)
    tree = await fleet.settle()
    assert tree["doc.txt"] is None
    assert {tree["doc (restored).txt"], tree["doc (restored 2).txt"]} == {b"old", b"older"}


async def test_rules_hold_for_a_directory_where_it_is_now(fleet: Fleet) -> None:
    first, second = fleet.devices
    await first.mkdir("d")
    await first.write(NAME.decode(), b"/d/x\n")
    await fleet.settle()
    await first.fs.reconsidering.read_rules()
    await first.write("d/x", b"stays here")
    await first.remove_tree("d")
    await fleet.settle()
    await first.mkdir("d")
    await fleet.settle()
    await bring_back(first, (await removed(first))[b"d"])
    await first.write("d (restored)/x", b"for all")
    await first.write("d/x", b"stays here")
    await first.sync()
    await second.sync()
    tree = await second.tree()
    assert tree["d (restored)/x"] == b"for all"
    assert "d/x" not in tree


async def test_what_was_brought_back_alone_keeps_its_one_name_when_its_directory_comes_back(fleet: Fleet) -> None:
    first, _ = fleet.devices
    await first.mkdir("papers")
    for name in ("doc", "other"):
        await first.write(f"papers/{name}", name.encode())
    await fleet.settle()
    await first.remove_tree("papers")
    await fleet.settle()
    papers = (await removed(first))[b"papers"]
    alone = (await removed(first, papers.inode.inode))[b"doc"]
    first.fs.undeleting.bring_back_alone(alone.inode, (papers.place.parent, b"doc"))
    await bring_back(first, papers)
    expected = {"doc": b"doc", "papers": None, "papers/other": b"other"}
    assert await first.tree() == expected
    assert (await first.known("doc")).nlink == 1
    assert await fleet.settle() == expected


async def test_what_was_removed_long_before_its_directory_stays_in_the_trash(fleet: Fleet) -> None:
    first, _ = fleet.devices
    await first.mkdir("papers")
    for name in ("early", "late"):
        await first.write(f"papers/{name}", name.encode())
    await fleet.settle()
    await first.unlink("papers/early")
    await first.sync()
    now_ns = fleet.served.ground.now_ns()
    later = lambda: now_ns + 3600 * 10**9  # noqa: E731
    object.__setattr__(fleet.served.ground, "now_ns", later)
    await first.remove_tree("papers")
    await fleet.settle()
    await bring_back(first, (await removed(first))[b"papers"])
    assert await fleet.settle() == {"papers": None, "papers/late": b"late"}
    assert list(await removed(first)) == [b"early"]


@pytest.mark.parametrize("keeps_cache", [True, False])
async def test_it_survives_the_death_of_the_process(fleet: Fleet, keeps_cache: bool) -> None:
    first, _ = fleet.devices
    await first.mkdir("papers")
    await first.write("papers/doc", b"content")
    before = await fleet.settle()
    await first.remove_tree("papers")
    await fleet.settle()
    await bring_back(first, (await removed(first))[b"papers"])
    await first.restart(keeps_cache=keeps_cache)
    assert await first.tree() == before
    assert await fleet.settle() == before


async def test_two_devices_that_bring_back_the_same_make_it_once(fleet: Fleet) -> None:
    first, second = fleet.devices
    await first.mkdir("papers")
    await first.write("papers/doc", b"content")
    before = await fleet.settle()
    await first.remove_tree("papers")
    await fleet.settle()
    for device in (first, second):
        await bring_back(device, (await removed(device))[b"papers"])
    assert await fleet.settle() == before


@pytest.mark.parametrize("is_open", [False, True])
async def test_what_was_written_to_it_since_is_whole_or_not_there(fleet: Fleet, *, is_open: bool) -> None:
    first, _ = fleet.devices
    first.fs.contents.await_forgetting()
    await first.write("doc", b"short")
    await first.sync()
    number = await first.open_file("doc", os.O_RDWR)
    first.fs.write(number, 0, b"much longer")
    if not is_open:
        first.fs.release(number)
    await first.unlink("doc")
    await first.push()
    await first.pull()
    await bring_back(first, (await removed(first))[b"doc"])
    assert await first.read("doc") == (b"much longer" if is_open else b"short")
    if is_open:
        first.fs.release(number)
    assert await fleet.settle() == {"doc": b"much longer" if is_open else b"short"}
