"""Unpublished content whose store is not in the journal any more: it goes on its way again, with what came after it."""

import os
from pathlib import Path

import pytest

from drivefs.protocol.changes import OpResult, Status, Store
from drivefs.protocol.ids import NO_INODE, BlockId
from drivefs.protocol.model import unpack_blocks
from tests.sync.fleet import Device, sailing

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def bring_back(device: Device, name: bytes) -> None:
    entries = [entry async for page in device.fs.history.past.removed(NO_INODE) for entry in page]
    device.fs.undeleting.bring_back_alone(entries[0].inode, (device.root, name))


@pytest.mark.parametrize("is_here", [False, True])
@pytest.mark.parametrize("later", [b"", b"MINE"])
async def test_removed_on_both_sides_and_brought_back_while_it_is_open(
    tmp_path: Path, *, is_here: bool, later: bytes
) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("f", b"old")
        await fleet.settle()
        number = await second.open_file("f", os.O_WRONLY)
        second.fs.write(number, 0, b"mine and more")
        await second.publish()
        await second.unlink("f")
        await first.unlink("f")
        await first.sync()
        # Its store is refused, and given up with the name.
        await second.push()
        await second.pull()
        await second.push()
        brings = second if is_here else first
        await bring_back(brings, b"f")
        await brings.push()
        await second.pull()
        if later:
            second.fs.write(number, 0, later)
        second.fs.release(number)
        assert await fleet.settle() == {"f": later + b"mine and more"[len(later) :]}


@pytest.mark.parametrize("is_saved_over", [False, True])
async def test_removing_what_came_back_removes_nothing_that_was_not_seen(
    tmp_path: Path, *, is_saved_over: bool
) -> None:
    """It is open here with changes of its own, and came back with those of another device, which nobody here read."""
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("f", b"old")
        await fleet.settle()
        number = await second.open_file("f", os.O_WRONLY)
        second.fs.write(number, 0, b"second's")
        await second.unlink("f")
        await second.push()
        await first.edit("f", b"first's, unseen")
        await first.sync()
        await second.pull()
        (name,) = {path for path, content in (await second.tree()).items() if content == b"second's"}
        await second.write("new", b"new")
        if is_saved_over:
            await second.rename("new", name)
        else:
            await second.unlink(name)
        second.fs.release(number)
        assert b"first's, unseen" in (await fleet.settle()).values()


async def test_store_that_has_rotted_in_the_journal(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("f", b"old")
        await fleet.settle()
        await second.edit("f", b"new")
        await second.publish()
        (row,) = second.local.journal.unsettled(9)
        assert isinstance(row.mutation, Store)
        second.local._database.write("UPDATE mutations SET digest = 0 WHERE n = ?", (row.n,))
        await second.restart(keeps_cache=True)
        assert await second.tree() == {"f": b"new"}
        assert await fleet.settle() == {"f": b"new"}


async def test_store_whose_blocks_are_asked_for_when_a_later_one_has_taken_its_place(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first") as (_, (device,)):
        await device.write("f", b"content")
        await device.publish()
        (store,) = (row.mutation for row in device.local.journal.unsettled(9) if isinstance(row.mutation, Store))
        own = [ref.block for run in store.new_runs for ref in unpack_blocks(run)]
        for blocks, is_here in ((own, True), ([BlockId(bytes(32))], False), ([*own, BlockId(bytes(32))], False)):
            result = OpResult(n=store.n, status=Status.NEEDS_BLOCKS, blocks=blocks)
            assert await device.publisher.resend(store, result) is is_here
