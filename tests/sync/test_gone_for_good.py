"""Changes to a file that another device has removed, and whose content has gone from the trash for good."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drivefs.fs.attributes import Wanted
from drivefs.protocol.ids import NO_INODE, Seq
from tests.sync.fleet import Device, Fleet, sailing

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """The second device knows of no removal yet."""
    async with sailing(tmp_path, "first", "second") as (fleet, (first, _)):
        await first.write("doc", b"content")
        await fleet.settle()
        await first.unlink("doc")
        await first.sync()
        await empty_trash(first)
        yield fleet


async def empty_trash(device: Device) -> None:
    async for _ in device.fs.history.past.empty_trash(Seq(2**62)):
        pass


async def touch_all(device: Device) -> None:
    state = await device.known("doc")
    device.fs.set_attributes(state.inode, Wanted(mode=0o600))
    await device.rename("doc", "moved")
    await device.rename("moved", "moved again")


async def test_a_rename_does_not_bring_it_back_empty(fleet: Fleet) -> None:
    _, second = fleet.devices
    await touch_all(second)
    assert await fleet.settle() == {}
    assert any("gone from the trash for good" in note for note in second.refusals.notes), second.refusals.notes


async def test_a_link_does_not_either(fleet: Fleet) -> None:
    _, second = fleet.devices
    await second.link("doc", "other")
    await second.unlink("doc")
    assert await fleet.settle() == {}


@pytest.mark.parametrize("is_last", [False, True])
async def test_an_edit_brings_it_back_with_what_was_written(fleet: Fleet, is_last: bool) -> None:
    _, second = fleet.devices
    if is_last:
        await touch_all(second)
        await second.write("moved again", b"edited")
    else:
        await second.write("doc", b"edited")
        await touch_all(second)
    assert await fleet.settle() == {"moved again": b"edited"}


async def test_nor_does_bringing_back_from_a_trash_that_is_emptied_meanwhile(fleet: Fleet) -> None:
    first, second = fleet.devices
    await second.write("late", b"late")
    await fleet.settle()
    await second.unlink("late")
    await fleet.settle()
    entries = [entry async for page in second.fs.history.past.removed(NO_INODE) for entry in page]
    await empty_trash(first)
    second.fs.undeleting.bring_back_alone(entries[0].inode, (second.root, b"late"))
    assert await second.known("late")
    assert await fleet.settle() == {}


async def test_a_part_that_was_changed_comes_back_with_the_rest(fleet: Fleet) -> None:
    _, second = fleet.devices
    assert await second.read("doc") == b"content"
    await second.edit("doc", b"CON")
    assert await fleet.settle() == {"doc": b"CONtent"}


async def test_what_it_was_to_replace_stays(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("new", b"new")
        await first.write("doc", b"old")
        await fleet.settle()
        await first.unlink("new")
        await first.sync()
        await empty_trash(first)
        await second.rename("new", "doc")
        assert await fleet.settle() == {"doc": b"old"}


@pytest.mark.parametrize("is_touched", [False, True])
async def test_nobody_sees_it_empty_before_what_was_edited_is_there(fleet: Fleet, *, is_touched: bool) -> None:
    first, second = fleet.devices
    await second.write("doc", b"edited")
    if is_touched:
        await touch_all(second)
    seen: list[dict[str, object]] = []
    for _ in range(6):
        await second.publish()
        await second.committer.commit_next(second.session.epoch)
        await second.pull()
        await first.pull()
        seen.append(await first.tree())
    names = ("doc", "moved", "moved again") if is_touched else ("doc",)
    assert all(tree in [{}, *({name: b"edited"} for name in names)] for tree in seen), seen
    assert seen[-1] == {names[-1]: b"edited"}
    assert await fleet.settle() == seen[-1]
