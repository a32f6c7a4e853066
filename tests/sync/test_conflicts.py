"""Each pair of the conflict table, in both orders, between two devices and the real server: both contents survive, and
all devices show one tree.

`first` is the device whose change is committed first. Both make theirs without hearing of the other.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.sync.fleet import Device, Fleet, sailing

pytestmark = pytest.mark.anyio

COPY = " (conflicted copy, second, 2026-11-22)"
Change = Callable[[Device], Awaitable[object]]


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@asynccontextmanager
async def meeting(place: Path, before: Change, first: Change, second: Change) -> AsyncIterator["Meeting"]:
    """Two devices know what `before` made; each makes its change, the first's is committed first, and they meet."""
    async with sailing(place, "first", "second") as (fleet, devices):
        await before(devices[0])
        await fleet.settle()
        await first(devices[0])
        await second(devices[1])
        await devices[0].sync()
        tree = await fleet.settle()
        yield Meeting(fleet, devices[0], devices[1], tree)


class Meeting:
    """What came of it."""

    def __init__(self, fleet: Fleet, first: Device, second: Device, tree: dict[str, object]) -> None:
        self.fleet, self.first, self.second, self.tree = fleet, first, second, tree


async def nothing(device: Device) -> None:
    pass


def write(path: str, content: bytes) -> Change:
    return lambda device: device.write(path, content)


def edit(path: str, content: bytes) -> Change:
    return lambda device: device.edit(path, content)


def save(path: str, content: bytes) -> Change:
    return lambda device: device.save(path, content)


def save_by_exchange(path: str, content: bytes) -> Change:
    async def make(device: Device) -> None:
        await device.write("new", content)
        await device.exchange("new", path)
        await device.unlink("new")

    return make


def save_aside(path: str, content: bytes) -> Change:
    async def make(device: Device) -> None:
        await device.rename(path, f"{path}~")
        await device.write(path, content)
        await device.unlink(f"{path}~")

    return make


def exchange(one: str, other: str) -> Change:
    return lambda device: device.exchange(one, other)


def unlink(path: str) -> Change:
    return lambda device: device.unlink(path)


def rename(old: str, new: str) -> Change:
    return lambda device: device.rename(old, new)


def mkdir(path: str) -> Change:
    return lambda device: device.mkdir(path)


def remove_tree(path: str) -> Change:
    return lambda device: device.remove_tree(path)


def all_of(*changes: Change) -> Change:
    async def make(device: Device) -> None:
        for change in changes:
            await change(device)

    return make


@pytest.mark.fault(58)
@pytest.mark.parametrize("first", [edit, save])
@pytest.mark.parametrize("second", [save, write])
async def test_edit_against_edit_keeps_the_first_under_the_name_and_the_later_beside_it(
    tmp_path: Path, first: Callable[[str, bytes], Change], second: Callable[[str, bytes], Change]
) -> None:
    before = write("a.txt", b"old")
    async with meeting(tmp_path, before, first("a.txt", b"one"), second("a.txt", b"two")) as met:
        assert met.tree == {"a.txt": b"one", f"a{COPY}.txt": b"two"}
        mark = await met.first.mark(f"a{COPY}.txt")
        assert mark is not None
        assert (mark.of, mark.name, mark.device) == ((await met.first.known("a.txt")).inode, b"a.txt", "second")
        assert mark.base_revision > 0
        assert await met.first.mark("a.txt") is None


@pytest.mark.parametrize("one", [edit, save])
@pytest.mark.parametrize("other", [save_by_exchange, save_aside])
@pytest.mark.parametrize("is_swapped", [False, True])
async def test_save_in_several_steps_against_an_edit_is_a_conflict_by_the_name(
    tmp_path: Path,
    one: Callable[[str, bytes], Change],
    other: Callable[[str, bytes], Change],
    is_swapped: bool,
) -> None:
    first, second = (other, one) if is_swapped else (one, other)
    before = write("a.txt", b"old")
    async with meeting(tmp_path, before, first("a.txt", b"one"), second("a.txt", b"two")) as met:
        assert met.tree == {"a.txt": b"one", f"a{COPY}.txt": b"two"}
        mark = await met.first.mark(f"a{COPY}.txt")
        assert mark is not None
        assert mark.name == b"a.txt"


@pytest.mark.parametrize("way", [save_by_exchange, save_aside])
async def test_saves_in_several_steps_leave_one_file_with_its_history(
    tmp_path: Path, way: Callable[[str, bytes], Change]
) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("a", b"old")
        await first.mkdir("d")
        await fleet.settle()
        lineage = (await second.known("a")).lineage
        for content in (b"one", b"two", b"three"):
            await way("a", content)(first)
        assert await first.tree() == {"a": b"three", "d": None}
        await first.restart(keeps_cache=True)
        assert await first.tree() == {"a": b"three", "d": None}
        assert await fleet.settle() == {"a": b"three", "d": None}
        assert (await second.known("a")).lineage == lineage


async def test_files_made_on_both_sides_get_two_names(tmp_path: Path) -> None:
    async with meeting(tmp_path, nothing, write("a.txt", b"one"), write("a.txt", b"two")) as met:
        assert met.tree == {"a.txt": b"one", f"a{COPY}.txt": b"two"}
        mark = await met.second.mark(f"a{COPY}.txt")
        assert mark is not None
        assert (mark.base_revision, mark.their_revision) == (0, 1)


async def test_same_file_made_on_both_sides_is_one(tmp_path: Path) -> None:
    async with meeting(tmp_path, nothing, write("a.txt", b"same"), write("a.txt", b"same")) as met:
        assert met.tree == {"a.txt": b"same"}


async def test_who_waits_for_a_file_that_turns_out_to_be_there_waits_no_longer(tmp_path: Path) -> None:
    names = [f"both/{number}" for number in range(40)]
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        for device in (first, second):
            await device.mkdir("both")
            for name in names:
                await device.write(name, b"same")
        await first.sync()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(published_all_along, second)
            await second.sync()
            nursery.cancel_scope.cancel()
        # Which sees to it that nothing is on its way.
        assert (await fleet.settle()).keys() == {"both", *names}


async def published_all_along(device: Device) -> None:
    while True:
        await device.publish()
        await trio.lowlevel.checkpoint()


async def test_same_file_made_by_rename_on_both_sides_is_one(tmp_path: Path) -> None:
    async with meeting(tmp_path, nothing, save("a.txt", b"same"), save("a.txt", b"same")) as met:
        assert met.tree == {"a.txt": b"same"}


@pytest.mark.fault(59)
@pytest.mark.parametrize("change", [edit, write, save])
async def test_edit_survives_a_later_deletion(tmp_path: Path, change: Callable[[str, bytes], Change]) -> None:
    async with meeting(tmp_path, write("a", b"old"), change("a", b"new"), unlink("a")) as met:
        assert met.tree == {"a": b"new"}


@pytest.mark.fault(59)
@pytest.mark.parametrize("change", [edit, write, save])
async def test_edit_survives_an_earlier_deletion(tmp_path: Path, change: Callable[[str, bytes], Change]) -> None:
    async with meeting(tmp_path, write("a", b"old"), unlink("a"), change("a", b"new")) as met:
        assert met.tree == {"a": b"new"}


async def test_first_rename_wins(tmp_path: Path) -> None:
    async with meeting(tmp_path, write("a", b"x"), rename("a", "b"), rename("a", "c")) as met:
        assert met.tree == {"b": b"x"}
        assert any("moved elsewhere" in note for note in met.second.refusals.notes)


async def test_two_moves_to_one_name_get_two_names(tmp_path: Path) -> None:
    before = all_of(write("a", b"one"), write("b", b"two"))
    async with meeting(tmp_path, before, rename("a", "c"), rename("b", "c")) as met:
        assert met.tree == {"c": b"one", f"c{COPY}": b"two"}


async def test_same_content_moved_to_one_name_is_one_file(tmp_path: Path) -> None:
    before = all_of(write("a", b"same"), write("b", b"same"))
    async with meeting(tmp_path, before, rename("a", "c"), rename("b", "c")) as met:
        assert met.tree == {"c": b"same"}


async def test_two_directories_moved_to_one_name_merge(tmp_path: Path) -> None:
    before = all_of(
        mkdir("a"), mkdir("b"), mkdir("a/in"), mkdir("b/in"),
        write("a/1", b"1"), write("b/2", b"2"), write("a/same", b"s"), write("b/same", b"s"),
        write("a/in/x", b"ax"), write("b/in/x", b"bx"), write("b/in/y", b"by"),
    )  # fmt: skip
    async with meeting(tmp_path, before, rename("a", "c"), rename("b", "c")) as met:
        assert met.tree == {
            "c": None,
            "c/1": b"1",
            "c/2": b"2",
            "c/same": b"s",
            "c/in": None,
            "c/in/x": b"ax",
            f"c/in/x{COPY}": b"bx",
            "c/in/y": b"by",
        }


async def test_two_directories_made_under_one_name_merge(tmp_path: Path) -> None:
    async def unpack(device: Device) -> None:
        await device.mkdir("src")
        await device.mkdir("src/lib")
        await device.write("src/lib/same.c", b"same")
        await device.write("src/Makefile", b"all:")
        await device.symlink(b"lib", "src/link")
        await device.write(f"src/of-{device.name}", device.name.encode())

    async with meeting(tmp_path, nothing, unpack, unpack) as met:
        assert met.tree == {
            "src": None,
            "src/lib": None,
            "src/lib/same.c": b"same",
            "src/Makefile": b"all:",
            "src/link": b"lib",
            "src/of-first": b"first",
            "src/of-second": b"second",
        }


async def test_file_moved_between_two_directories_that_turn_out_to_be_one_stays_where_it_is(tmp_path: Path) -> None:
    before = all_of(mkdir("z"), write("z/b", b"x"))
    second = all_of(mkdir("y"), rename("z/b", "y/b"))
    async with meeting(tmp_path, before, rename("z", "y"), second) as met:
        assert met.tree == {"y": None, "y/b": b"x"}
        assert not met.second.committer.given_up


@pytest.mark.parametrize("content", [b"x", b"y"])
async def test_files_exchanged_between_two_directories_that_turn_out_to_be_one_are_both_there(
    tmp_path: Path, content: bytes
) -> None:
    before = all_of(mkdir("z"), write("z/b", b"x"))
    second = all_of(mkdir("y"), write("y/b", content), exchange("z/b", "y/b"))
    async with meeting(tmp_path, before, rename("z", "y"), second) as met:
        other = {} if content == b"x" else {f"y/b{COPY}": b"y"}
        assert met.tree == {"y": None, "y/b": b"x"} | other
        assert not met.second.committer.given_up


async def test_what_is_exchanged_with_something_that_lost_its_name_follows_to_the_new_one(tmp_path: Path) -> None:
    before = all_of(write("a", b"a"), mkdir("x"), write("x/in", b"in"), write("c", b"c"))
    second = all_of(rename("a", "y"), exchange("y", "x"), exchange("c", "y"))
    async with meeting(tmp_path, before, write("y", b"first"), second) as met:
        assert met.tree == {"x": b"a", "c": None, "c/in": b"in", "y": b"first", f"y{COPY}": b"c"}
        assert not met.second.committer.given_up


async def test_directory_and_file_of_one_name_are_both_there(tmp_path: Path) -> None:
    second = all_of(mkdir("a"), write("a/in", b"in"))
    async with meeting(tmp_path, nothing, write("a", b"file"), second) as met:
        assert met.tree == {"a": b"file", f"a{COPY}": None, f"a{COPY}/in": b"in"}


async def test_file_made_where_a_directory_is(tmp_path: Path) -> None:
    first = all_of(mkdir("a"), write("a/in", b"in"))
    async with meeting(tmp_path, nothing, first, write("a", b"file")) as met:
        assert met.tree == {"a": None, "a/in": b"in", f"a{COPY}": b"file"}


@pytest.mark.fault(60)
async def test_moves_into_each_other_make_no_cycle(tmp_path: Path) -> None:
    before = all_of(mkdir("a"), mkdir("b"), write("a/1", b"1"), write("b/2", b"2"))
    async with meeting(tmp_path, before, rename("a", "b/a"), rename("b", "a/b")) as met:
        assert met.tree == {"b": None, "b/2": b"2", "b/a": None, "b/a/1": b"1"}
        assert met.second.refusals.notes


@pytest.mark.fault(62)
async def test_directory_removed_elsewhere_comes_back_with_the_child_made_in_it(tmp_path: Path) -> None:
    before = all_of(mkdir("d"), mkdir("d/e"), write("d/e/old", b"old"))
    async with meeting(tmp_path, before, remove_tree("d"), write("d/e/new", b"new")) as met:
        assert met.tree == {"d": None, "d/e": None, "d/e/new": b"new"}


@pytest.mark.fault(62)
async def test_directory_that_got_a_child_elsewhere_is_not_removed(tmp_path: Path) -> None:
    before = all_of(mkdir("d"), mkdir("d/e"), write("d/e/old", b"old"))
    async with meeting(tmp_path, before, write("d/e/new", b"new"), remove_tree("d")) as met:
        assert met.tree == {"d": None, "d/e": None, "d/e/new": b"new"}


async def test_edited_file_comes_back_with_the_directories_that_were_removed(tmp_path: Path) -> None:
    before = all_of(mkdir("d"), mkdir("d/e"), write("d/e/f", b"old"), write("d/g", b"g"))
    async with meeting(tmp_path, before, remove_tree("d"), edit("d/e/f", b"new")) as met:
        assert met.tree == {"d": None, "d/e": None, "d/e/f": b"new"}


@pytest.mark.parametrize("change", [edit, write], ids=["edited", "made"])
async def test_file_in_directories_that_were_removed_and_made_anew_goes_into_the_new_ones(
    tmp_path: Path, change: Callable[[str, bytes], Change]
) -> None:
    before = all_of(mkdir("d"), mkdir("d/e"), mkdir("d/e/i"), write("d/e/i/f", b"old"))
    name = "d/e/i/f" if change is edit else "d/e/i/new"
    anew = all_of(remove_tree("d"), mkdir("d"), mkdir("d/e"), write("d/e/g", b"g"))
    async with meeting(tmp_path, before, anew, change(name, b"new")) as met:
        assert met.tree == {"d": None, "d/e": None, "d/e/g": b"g", "d/e/i": None, name: b"new"}


async def test_edited_file_keeps_its_directories_from_a_later_removal(tmp_path: Path) -> None:
    before = all_of(mkdir("d"), mkdir("d/e"), write("d/e/f", b"old"), write("d/g", b"g"))
    async with meeting(tmp_path, before, edit("d/e/f", b"new"), remove_tree("d")) as met:
        assert met.tree == {"d": None, "d/e": None, "d/e/f": b"new"}


async def test_what_is_written_under_a_name_that_came_after_the_old_one_was_removed_here_is_kept(
    tmp_path: Path,
) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("a", b"old")
        await fleet.settle()
        await first.rename("a", "b")
        await first.sync()
        await second.unlink("a")
        await second.pull()
        assert await second.tree() == {"b": b"old"}
        await second.write("b", b"new")
        assert await fleet.settle() == {"b": b"new"}


async def test_directory_that_was_moved_elsewhere_is_whole_where_it_was_removed_meanwhile(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.mkdir("d")
        await fleet.settle()
        await first.rename("d", "e")
        await first.sync()
        await second.rmdir("d")
        await second.pull()
        await second.write("e/new", b"new")
        assert await fleet.settle() == {"e": None, "e/new": b"new"}


async def test_edit_stays_under_the_name_that_another_device_gave_before_the_old_one_was_removed(
    tmp_path: Path,
) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("a", b"old")
        await fleet.settle()
        await second.edit("a", b"new")
        await first.link("a", "b")
        await first.sync()
        await second.pull()
        await second.unlink("a")
        assert await second.tree() == {"b": b"new"}
        assert await fleet.settle() == {"b": b"new"}


async def test_what_is_removed_before_it_was_sent_stays_removed_where_another_device_had_the_name_first(
    tmp_path: Path,
) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await second.write("f", b"mine")
        await first.write("f", b"theirs")
        await first.sync()
        await second.pull()
        await second.unlink("f")
        second.fs._view.begin_again(second.root)
        assert await second.tree() == {}
        assert await fleet.settle() == {"f": b"theirs"}


async def test_directory_that_was_found_to_be_another_one_is_itself_again_when_it_is_brought_back(
    tmp_path: Path,
) -> None:
    async with sailing(tmp_path, "first", "second", "third") as (fleet, (first, second, third)):
        await first.mkdir("d")
        await fleet.settle()
        await first.rmdir("d")
        await first.mkdir("d")
        await first.write("d/new", b"new")
        await first.sync()
        await second.write("d/a", b"a")
        await second.sync()
        await second.write("d/later", b"later")
        await first.pull()
        await first.rename("d", "e")
        await first.sync()
        await third.write("d/b", b"b")
        await third.sync()
        expected = {"d": None, "d/b": b"b", "e": None, "e/new": b"new", "e/a": b"a", "e/later": b"later"}
        await second.pull()
        assert await second.tree() == expected
        assert await fleet.settle() == expected


@pytest.mark.parametrize("is_edited", [False, True])
async def test_save_whose_new_content_was_removed_on_its_way_takes_the_place_of_what_was_seen_there(
    tmp_path: Path, is_edited: bool
) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await second.write("a", b"old")
        await second.write("new", b"new")
        await fleet.settle()
        await first.unlink("new")
        if is_edited:
            await first.edit("a", b"one")
        await first.sync()
        await second.rename("new", "a")
        assert await fleet.settle() == ({"a": b"one", f"a{COPY}": b"new"} if is_edited else {"a": b"new"})


async def test_each_copy_of_one_day_has_a_name_of_its_own(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("a", b"old")
        await fleet.settle()
        for number in (1, 2):
            await first.edit("a", b"first %d" % number)
            await second.edit("a", b"second %d" % number)
            await first.sync()
            tree = await fleet.settle()
        assert tree == {"a": b"first 2", f"a{COPY}": b"second 1", f"a{COPY[:-1]} 2)": b"second 2"}
