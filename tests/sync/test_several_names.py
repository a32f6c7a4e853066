"""A file with several names on two devices that change them without hearing of each other: each name is for itself."""

import os
from pathlib import Path

import pytest

from tests.sync.fleet import sailing
from tests.sync.test_conflicts import COPY, Change, all_of, edit, meeting, nothing, save, write

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


def link(old: str, new: str) -> Change:
    return lambda device: device.link(old, new)


@pytest.mark.parametrize("is_new", [False, True])
async def test_save_over_one_of_two_names_is_no_conflict_where_the_other_one_was_replaced_first(
    tmp_path: Path, is_new: bool
) -> None:
    named, saved = link("a.txt", "b.txt"), save("b.txt", b"two")
    before = all_of(write("a.txt", b"old"), nothing if is_new else named)
    second = all_of(named, saved) if is_new else saved
    async with meeting(tmp_path, before, save("a.txt", b"one"), second) as met:
        assert met.tree == {"a.txt": b"one", "b.txt": b"two"}


async def test_save_over_one_of_two_names_never_replaces_what_was_written_under_the_other_one(tmp_path: Path) -> None:
    before = all_of(write("a.txt", b"old"), link("a.txt", "b.txt"))
    first = all_of(edit("a.txt", b"one"), save("a.txt", b"later"))
    async with meeting(tmp_path, before, first, save("b.txt", b"two")) as met:
        assert met.tree == {"a.txt": b"later", "b.txt": b"one", f"b{COPY}.txt": b"two"}


@pytest.mark.parametrize("is_told", [False, True])
async def test_what_is_written_to_an_open_file_is_kept_when_each_of_its_names_was_replaced_by_another_device(
    tmp_path: Path, is_told: bool
) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("a", b"old")
        await first.link("a", "b")
        await fleet.settle()
        number = await second.open_file("b", os.O_WRONLY)
        await first.save("b", b"one")
        await first.sync()
        await second.save("a", b"two")
        second.fs.write(number, 0, b"held")
        if is_told:
            await second.pull()
        await second.sync()
        assert await fleet.settle() == {"a": b"two", "b": b"one", f"a{COPY}": b"held"}
        second.fs.write(number, 4, b" on")
        second.fs.release(number)
        assert await fleet.settle() == {"a": b"two", "b": b"one", f"a{COPY}": b"held on"}


@pytest.mark.parametrize("is_last", [False, True])
async def test_what_is_written_over_under_the_last_name_of_a_file_is_not_brought_back(
    tmp_path: Path, is_last: bool
) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("a", b"old")
        await first.link("a", "b")
        await fleet.settle()
        number = await second.open_file("a", os.O_WRONLY)
        second.fs.write(number, 0, b"held")
        if is_last:
            await first.save("b", b"one")
            await first.sync()
        await second.pull()
        await second.save("a", b"two")
        second.fs.release(number)
        assert await fleet.settle() == {"a": b"two", "b": b"one" if is_last else b"held"}


@pytest.mark.parametrize("is_saved_over", [False, True])
async def test_what_goes_on_as_a_new_file_keeps_a_name_when_the_one_is_taken_away_under_which_it_is_made(
    tmp_path: Path, is_saved_over: bool
) -> None:
    """It had one more name here for a while; the one that it kept is not there any more elsewhere, nor is the file."""
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("a", b"old")
        await fleet.settle()
        await second.link("a", "b")
        if is_saved_over:
            await second.save("b", b"other")
            await second.exchange("a", "b")
        else:
            await second.unlink("b")
        await second.write("b" if is_saved_over else "a", b"mine")
        await first.edit("a", b"first's")
        await first.sync()
        await first.save("a", b"over it")
        await first.sync()
        assert b"mine" in (await fleet.settle()).values()
