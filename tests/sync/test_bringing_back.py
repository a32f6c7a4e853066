"""Bringing a revision back, between devices and the real server: it is a change like any other, and no byte travels."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from drivefs.fs import errors
from drivefs.protocol.ids import RevisionNumber
from drivefs.remote.errors import Refused
from drivefs.sync.connection import Untracked
from drivefs.sync.lister import Lister
from tests.sync.fleet import Device, Fleet, sailing

pytestmark = pytest.mark.anyio

LARGE = b"".join(number.to_bytes(4, "big") * 64 for number in range(4000))


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with sailing(tmp_path, "first", "second") as (fleet, _):
        yield fleet


async def bring_back(device: Device, path: str, number: int) -> None:
    inode = (await device.known(path)).inode
    device.fs.history.bring_back(inode, await device.fs.history.blocks(inode, RevisionNumber(number)))


async def sizes(device: Device, path: str) -> list[int]:
    return [each.size for each in await device.fs.history.of((await device.known(path)).inode)]


@pytest.mark.parametrize("before", [b"", b"short", LARGE])
async def test_a_revision_that_is_brought_back_is_the_newest_everywhere(fleet: Fleet, before: bytes) -> None:
    first, second = fleet.devices
    await first.write("doc", before or b"to be emptied")
    await first.sync()
    if not before:
        await first.write("doc", before)
        await first.sync()
    await first.write("doc", b"something else")
    await fleet.settle()
    number = len(await sizes(second, "doc")) - 1
    await bring_back(second, "doc", number)
    assert await second.read("doc") == before
    assert (await fleet.settle())["doc"] == before
    assert (await sizes(first, "doc"))[-2:] == [len(b"something else"), len(before)]
    await bring_back(first, "doc", number + 1)
    assert (await fleet.settle())["doc"] == b"something else"


async def test_no_byte_is_read_or_sent_for_it(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = fleet.devices
    for content in (LARGE, b"short", b"newest"):
        await first.write("doc", content)
        await first.sync()
    await second.pull()

    async def refuse(*args: object) -> None:
        raise AssertionError("bytes travel")

    monkeypatch.setattr(second.remote, "put_blocks", refuse)
    monkeypatch.setattr(second.remote, "get_blocks", refuse)
    for number in (1, 2):
        await bring_back(second, "doc", number)
        await second.sync()
    assert await sizes(first, "doc") == [len(LARGE), 5, 6, len(LARGE), 5]


async def test_what_is_written_over_it_lies_over_it(fleet: Fleet) -> None:
    first, _ = fleet.devices
    await first.write("doc", LARGE)
    await first.sync()
    await first.write("doc", b"x")
    await first.sync()
    await bring_back(first, "doc", 1)
    await first.edit("doc", b"HEAD")
    assert (await fleet.settle())["doc"] == b"HEAD" + LARGE[4:]
    await bring_back(first, "doc", 2)
    await first.publish()
    await first.edit("doc", b"y, written while it is on its way")
    assert (await fleet.settle())["doc"] == b"y, written while it is on its way"


@pytest.mark.parametrize("keeps_cache", [True, False])
async def test_it_survives_the_death_of_the_process(fleet: Fleet, keeps_cache: bool) -> None:
    first, _ = fleet.devices
    for content in (LARGE, b"newest"):
        await first.write("doc", content)
        await first.sync()
    await bring_back(first, "doc", 1)
    await first.restart(keeps_cache=keeps_cache)
    assert await first.read("doc") == LARGE
    await first.publish()
    await first.restart(keeps_cache=keeps_cache)
    assert (await fleet.settle())["doc"] == LARGE


async def test_an_edit_made_elsewhere_meanwhile_is_not_overwritten(fleet: Fleet) -> None:
    first, second = fleet.devices
    for content in (LARGE, b"newest"):
        await first.write("doc", content)
        await fleet.settle()
    await bring_back(second, "doc", 1)
    await first.write("doc", b"edited")
    await first.sync()
    tree = await fleet.settle()
    assert tree == {"doc": b"edited", "doc (conflicted copy, second, 2026-11-22)": LARGE}


async def test_history_follows_saves_by_rename_moves_and_other_devices(fleet: Fleet) -> None:
    first, second = fleet.devices
    await first.write("doc", b"1")
    await fleet.settle()
    await second.save("doc", b"22")
    await fleet.settle()
    await first.mkdir("papers")
    await first.rename("doc", "papers/moved")
    await first.save("papers/moved", b"333")
    await fleet.settle()
    assert await sizes(second, "papers/moved") == [1, 2, 3]
    await bring_back(second, "papers/moved", 1)
    assert (await fleet.settle())["papers/moved"] == b"1"


async def test_what_has_no_such_revision_or_no_content_is_refused(fleet: Fleet) -> None:
    first, _ = fleet.devices
    await first.write("doc", b"1")
    await first.mkdir("papers")
    await first.symlink(b"doc", "link")
    await first.sync()
    for path, kind in (("papers", errors.IsDirectory), ("link", errors.Invalid)):
        with pytest.raises(kind):
            await bring_back(first, path, 1)
    for number in (2, 2**62):
        with pytest.raises(errors.NotFound):
            await bring_back(first, "doc", number)
    await first.write("new", b"never sent")
    with pytest.raises(errors.NotFound):
        await bring_back(first, "new", 1)


async def test_a_directory_that_comes_back_while_it_is_asked_for_is_listed(fleet: Fleet) -> None:
    first, second = fleet.devices
    await first.mkdir("d")
    await fleet.settle()
    directory = (await first.known("d")).inode
    await second.write("d/new", b"new")
    await first.rmdir("d")
    await first.sync()
    lister, ask = Lister(first.ends, Untracked(), changed=lambda inode: None), first.remote.list_directory

    async def ask_while_it_comes_back(*words: Any) -> Any:
        try:
            return await ask(*words)
        except Refused:
            await second.sync()
            await first.pull()
            raise

    first.remote.list_directory = ask_while_it_comes_back  # type: ignore[method-assign]
    await lister.list_directory(directory)
    assert await first.tree() == {"d": None, "d/new": b"new"}
