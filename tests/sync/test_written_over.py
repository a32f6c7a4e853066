"""A file that was changed here, and written over and then replaced or removed elsewhere: that content stays gone."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from drivefs.fs.attributes import Wanted
from tests.sync.fleet import Device, sailing
from tests.sync.test_conflicts import COPY, Change, save, unlink

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def set_all(device: Device) -> None:
    inode = (await device.known("f")).inode
    device.fs.set_attributes(inode, Wanted(mode=0o600))
    device.fs.set_xattr(inode, b"user.one", b"1")


@pytest.mark.parametrize(
    ("last", "left"), [(save("f", b"last"), {"f": b"last", f"f{COPY}": b"minere"}), (unlink("f"), {"f": b"minere"})]
)
@pytest.mark.parametrize("attributes", ["none", "before", "behind", "behind the store"])
async def test_what_was_written_over_before_it_went_is_nobodys_copy(
    tmp_path: Path, last: Change, left: dict[str, bytes], attributes: str
) -> None:
    async def change_attributes(device: Device, when: str) -> None:
        if attributes == when:
            await set_all(device)

    async with sailing(tmp_path, "first", "second") as (fleet, devices):
        await devices[0].write("f", b"before")
        await fleet.settle()
        await change_attributes(devices[1], "before")
        await devices[1].edit("f", b"mine")
        await change_attributes(devices[1], "behind")
        await devices[1].publish()
        await change_attributes(devices[1], "behind the store")
        await devices[0].edit("f", b"between")
        await devices[0].sync()
        await last(devices[0])
        await devices[0].sync()
        assert await fleet.settle() == left
        if attributes != "none":
            copy = await devices[0].known(next(name for name, content in left.items() if content == b"minere"))
            assert (copy.mode & 0o777, copy.xattrs.get(b"user.one")) == (0o600, b"1")


@pytest.mark.parametrize("is_rewritten", [False, True])
@pytest.mark.parametrize("is_before", [False, True])
async def test_what_was_set_of_a_file_stays_where_the_same_content_was_made_anew_elsewhere(
    tmp_path: Path, *, is_rewritten: bool, is_before: bool
) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("f", b"before")
        await fleet.settle()
        if is_before:
            await set_all(second)
        await second.edit("f", b"mine")
        await second.publish()
        if not is_before:
            await set_all(second)
        if is_rewritten:
            await first.edit("f", b"between")
            await first.sync()
        await first.unlink("f")
        await first.write("f", b"minere")
        await first.sync()
        assert await fleet.settle() == {"f": b"minere"}
        for device in fleet.devices:
            state = await device.known("f")
            assert (state.mode & 0o777, state.xattrs.get(b"user.one")) == (0o600, b"1")


def renamed_before(device: Device) -> list[Awaitable[None]]:
    return [device.rename("f", "g"), device.edit("g", b"mine")]


def renamed_behind(device: Device) -> list[Awaitable[None]]:
    return [device.edit("f", b"mine"), device.rename("f", "g")]


def renamed_behind_the_store(device: Device) -> list[Awaitable[None]]:
    return [device.edit("f", b"mine"), device.publish(), device.rename("f", "g")]


def renamed_twice(device: Device) -> list[Awaitable[None]]:
    return [device.rename("f", "h"), device.edit("h", b"mine"), device.publish(), device.rename("h", "g")]


def linked_before(device: Device) -> list[Awaitable[None]]:
    return [device.link("f", "g"), device.edit("g", b"mine"), device.unlink("f")]


@pytest.mark.parametrize(
    "steps", [renamed_before, renamed_behind, renamed_behind_the_store, renamed_twice, linked_before]
)
async def test_what_was_edited_has_the_name_that_it_got_here_and_is_one_file(
    tmp_path: Path, steps: Callable[[Device], list[Awaitable[None]]]
) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("f", b"before")
        await fleet.settle()
        for step in steps(second):
            await step
        await first.edit("f", b"between")
        await first.sync()
        await first.unlink("f")
        await first.sync()
        assert await fleet.settle() == {"g": b"minere"}


async def test_what_was_edited_and_linked_has_both_names(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("f", b"before")
        await fleet.settle()
        await second.edit("f", b"mine")
        await second.publish()
        await second.link("f", "g")
        await first.edit("f", b"between")
        await first.sync()
        await first.unlink("f")
        await first.sync()
        assert await fleet.settle() == {"f": b"minere", "g": b"minere"}
        assert (await first.known("f")).inode == (await first.known("g")).inode


async def test_what_is_still_written_and_was_renamed_goes_on_under_its_name(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("f", b"before")
        await fleet.settle()
        number = await second.open_file("f", os.O_WRONLY)
        second.fs.write(number, 0, b"mine")
        await second.rename("f", "g")
        await first.edit("f", b"between")
        await first.sync()
        await first.unlink("f")
        await first.sync()
        await second.committer.commit_next(second.session.epoch)
        await second.pull()
        await second.committer.commit_next(second.session.epoch)
        second.fs.write(number, 4, b"!")
        second.fs.release(number)
        assert await fleet.settle() == {"g": b"mine!e"}
