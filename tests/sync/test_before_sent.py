"""What a device shows while own changes wait, and what others may see of them: in the middle, not only in the end."""

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from drivefs.fs.attributes import Wanted
from drivefs.remote.errors import Offline
from tests.sync.fleet import Device, sailing
from tests.sync.line import IN_THE_BACKGROUND

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def send_what_is_due(device: Device) -> None:
    """As a mount does, which waits for files that are open."""
    await trio.sleep(0.1)
    async with trio.open_nursery() as nursery:
        await device.publisher.publish_due(nursery, lambda error: None)
    await device.committer.commit_next(device.session.epoch)


async def test_directory_made_here_shows_all_when_the_cache_was_deleted_while_changes_in_it_wait(
    tmp_path: Path,
) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.mkdir("d")
        await first.write("d/sent", b"sent")
        await first.sync()
        await first.write("d/waits", b"waits")
        await second.sync()
        await second.write("d/theirs", b"theirs")
        await second.sync()
        await first.restart(keeps_cache=False)
        expected = {"d": None, "d/sent": b"sent", "d/waits": b"waits", "d/theirs": b"theirs"}
        assert await first.tree() == expected
        assert await fleet.settle() == expected


async def test_file_with_an_own_name_and_one_from_elsewhere_loses_nothing_when_one_is_removed(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("a", b"old")
        await fleet.settle()
        await second.rename("a", "here")
        await first.rename("a", "there")
        await first.sync()
        await second.pull()
        assert await second.tree() == {"here": b"old", "there": b"old"}
        await second.unlink("there")
        await second.edit("here", b"new")
        assert await second.tree() == {"here": b"new"}
        assert set((await fleet.settle()).values()) == {b"new"}


@pytest.mark.parametrize("how", ["rename", "exchange"])
async def test_file_that_is_saved_again_before_it_was_sent_is_never_seen_empty(tmp_path: Path, how: str) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("f", b"0")
        await fleet.settle()
        for number in (b"1", b"2"):
            if how == "rename":
                await first.save("f", number)
            else:
                await first.write("f.tmp", number)
                await first.exchange("f.tmp", "f")
                await first.unlink("f.tmp")
        # The content of the last one is not stored yet, nothing else waits.
        await first.committer.commit_next(first.session.epoch)
        await second.pull()
        assert (await second.tree())["f"] == b"0"
        await send_what_is_due(first)
        await second.pull()
        assert await second.tree() == {"f": b"2"}
        assert await fleet.settle() == {"f": b"2"}


async def test_directory_removed_elsewhere_shows_what_was_put_into_it_here(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.mkdir("d")
        await fleet.settle()
        await first.rmdir("d")
        await first.sync()
        await second.rename("d", "e")
        await second.write("e/new", b"new")
        await second.pull()
        assert await second.tree() == {"e": None, "e/new": b"new"}
        await second.restart(keeps_cache=True)
        assert await second.tree() == {"e": None, "e/new": b"new"}
        tree = await fleet.settle()
        assert sorted(content for content in tree.values() if content) == [b"new"]


async def test_time_that_is_set_while_the_content_is_on_its_way_is_what_all_show(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("a", b"old")
        await fleet.settle()
        await first.write("a", b"new")
        first.line.has_gates = True

        async def publish() -> None:
            IN_THE_BACKGROUND.set(True)
            await first.publish()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            await wait_all_tasks_blocked()
            first.fs.set_attributes((await first.known("a")).inode, Wanted(mtime_ns=7))
            first.line.has_gates = False
            first.line.let_pass(0)
        await fleet.settle()
        assert [(await device.known("a")).mtime_ns for device in (first, second)] == [7, 7]


async def test_time_that_was_set_before_a_new_file_was_written_stays_in_the_past(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("a", b"one")
        first.fs.set_attributes((await first.known("a")).inode, Wanted(mtime_ns=7))
        await first.edit("a", b"two")
        written_ns = (await first.known("a")).mtime_ns
        await fleet.settle()
        assert [(await device.known("a")).mtime_ns for device in (first, second)] == [written_ns] * 2


@pytest.mark.parametrize("is_open", [False, True])
async def test_what_was_replaced_here_and_came_back_from_elsewhere_has_the_content_that_it_has_there(
    tmp_path: Path, *, is_open: bool
) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        first.fs.contents.await_forgetting()
        await first.write("a", b"old")
        await fleet.settle()
        number = await first.open_file("a", os.O_RDONLY)
        assert await first.fs.read(number, 0, 9) == b"old"
        if not is_open:
            first.fs.release(number)
        await second.write("a", b"two")
        await first.save("a", b"one")
        await first.push()
        await second.sync()
        # The replica has it, and the overlay has not let go of what replaced it yet.
        await first.follower.poll(0.0)
        expected = {"a": b"one", "a (conflicted copy, second, 2026-11-22)": b"two"}
        assert await first.tree() == expected
        if is_open:
            assert await first.fs.read(number, 0, 9) == b"two"
            first.fs.release(number)
        assert await fleet.settle() == expected


async def nothing_sent(device: Device) -> None:
    pass


async def sent_without_an_answer(device: Device) -> None:
    device.line.drops_replies = 1
    with suppress(Offline):
        await device.push()


@pytest.mark.parametrize("send", [nothing_sent, sent_without_an_answer])
@pytest.mark.parametrize("steps", [("d e", "e g"), ("d e",)])
async def test_directory_that_another_device_moved_first_is_under_one_name_only(
    tmp_path: Path, send: Callable[[Device], Awaitable[None]], steps: tuple[str, ...]
) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.mkdir("d")
        await first.write("d/in", b"in")
        await fleet.settle()
        await first.rename("d", "f")
        await first.sync()
        for step in steps:
            await second.rename(*step.split())
        await send(second)
        await second.pull()
        expected = {"f": None, "f/in": b"in"}
        assert await second.tree() == expected
        await second.restart(keeps_cache=True)
        assert await second.tree() == expected
        assert await fleet.settle() == expected
        assert any("moved elsewhere first" in note for note in second.committer.given_up)


async def test_directory_that_another_device_moves_on_is_under_one_name_only(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.mkdir("d")
        await fleet.settle()
        await second.rename("d", "e")
        await second.push()
        await first.pull()
        await first.rename("e", "f")
        await first.sync()
        # The overlay has not let go of the name that was committed in between.
        await second.follower.poll(0.0)
        assert await second.tree() == {"f": None}
        assert await fleet.settle() == {"f": None}
        assert not second.committer.given_up


@pytest.mark.parametrize("send", [nothing_sent, sent_without_an_answer])
async def test_directories_that_were_moved_into_each_other_stay_in_reach(
    tmp_path: Path, send: Callable[[Device], Awaitable[None]]
) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        for name in ("a", "b"):
            await first.mkdir(name)
            await first.write(f"{name}/in", b"in")
        await fleet.settle()
        await first.rename("a", "b/a")
        await first.sync()
        await second.mkdir("a/c")
        await second.rename("b", "a/c/b")
        await send(second)
        await second.pull()
        expected = {"b": None, "b/in": b"in", "b/a": None, "b/a/in": b"in", "b/a/c": None}
        assert await second.tree() == expected
        assert await fleet.settle() == expected
        assert len(second.committer.given_up) == 1


async def test_exchange_of_a_directory_that_another_device_moved_first_is_not_shown(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        for name in ("a", "b"):
            await first.mkdir(name)
            await first.write(f"{name}/{name}", b"in")
        await fleet.settle()
        await first.rename("a", "c")
        await first.sync()
        await second.exchange("a", "b")
        await second.pull()
        expected = {"b": None, "b/b": b"in", "c": None, "c/a": b"in"}
        assert await second.tree() == expected
        assert await fleet.settle() == expected


async def test_directory_stays_however_many_directories_of_others_are_removed_from_it_here(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await second.write("own", b"own")
        for name in "ab":
            await first.mkdir(name)
        await first.sync()
        await second.pull()
        for name in "ab":
            await second.rmdir(name)
        assert await second.tree() == {"own": b"own"}
        assert await fleet.settle() == {"own": b"own"}
