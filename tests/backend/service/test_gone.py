"""Refusals for lack of an inode say where it last was, up to a directory that is still there."""

import pytest
from sqlalchemy import update

from backend.metadata import schema
from drivefs.protocol.model import DentryState
from tests.backend.service.drive import DIRECTORY, Device, Drive

pytestmark = pytest.mark.anyio


def places(told: list[DentryState]) -> list[tuple[int, bytes, int]]:
    return [(each.parent, each.name, each.inode) for each in told]


async def test_whole_way_to_a_removed_directory_is_told_once(drive: Drive, laptop: Device, phone: Device) -> None:
    outer = await laptop.make(b"outer", kind=DIRECTORY)
    inner = await laptop.make(b"inner", outer, DIRECTORY)
    await laptop.send(laptop.unlink(inner, b"inner", outer), laptop.unlink(outer, b"outer"))
    first, second, fine = await phone.send(
        phone.create(b"a", inner), phone.create(b"b", inner), phone.create(b"c", drive.root)
    )
    assert (first.reason, second.reason, fine.status) == ("no_parent", "no_parent", "ok")
    assert places(first.gone) == [(outer, b"inner", inner), (drive.root, b"outer", outer)]
    assert second.gone == fine.gone == []


async def test_last_name_counts_and_not_an_earlier_one(drive: Drive, laptop: Device, phone: Device) -> None:
    file = await laptop.save(b"a", b"1")
    await laptop.send(laptop.rename(file, b"a", b"b"))
    await laptop.send(laptop.unlink(file, b"b", base=1))
    (result,) = await phone.send(phone.store(file, await drive.upload(phone, b"2"), 1))
    assert (result.reason, places(result.gone)) == ("absent", [(drive.root, b"b", file)])


async def test_place_of_a_replaced_file_is_that_of_its_heir(drive: Drive, laptop: Device, phone: Device) -> None:
    old = await laptop.save(b"doc", b"1")
    new = await laptop.save(b"new", b"2")
    await laptop.send(laptop.rename(new, b"new", b"doc", old, base=1))
    await laptop.send(laptop.rename(new, b"doc", b"moved since"))
    (result,) = await phone.send(phone.store(old, await drive.upload(phone, b"3"), 1))
    assert result.reason == "absent"
    assert places(result.gone) == [(drive.root, b"moved since", old)]


async def test_nothing_is_told_of_what_never_was_or_is_there(drive: Drive, laptop: Device, phone: Device) -> None:
    file = await laptop.save(b"a", b"1")
    await laptop.send(laptop.rename(file, b"a", b"b"))
    moved, unknown = await phone.send(phone.rename(file, b"a", b"c"), phone.create(b"x", phone.new_inode()))
    assert (moved.reason, moved.gone) == ("absent", [])
    assert (unknown.reason, unknown.gone) == ("no_parent", [])


async def test_nothing_is_told_of_what_is_in_another_workspace(drive: Drive, laptop: Device, phone: Device) -> None:
    directory = await laptop.make(b"d", kind=DIRECTORY)
    await laptop.send(laptop.unlink(directory, b"d"))
    one, inodes = (schema.inodes.c.inode == directory), update(schema.inodes)
    await drive.execute(inodes.where(one).values(workspace=drive.workspace + 1))
    (result,) = await phone.send(phone.create(b"a", directory))
    assert (result.reason, result.gone) == ("no_parent", [])
    await drive.execute(inodes.where(one).values(workspace=drive.workspace))


async def test_each_change_of_a_file_that_is_gone_is_told_since_when_it_had_its_content(
    drive: Drive, laptop: Device, phone: Device
) -> None:
    file = await laptop.save(b"a", b"1")
    await laptop.send(laptop.store(file, await drive.upload(laptop, b"2"), 1))
    await laptop.send(laptop.unlink(file, b"a", base=2))
    first, second = await phone.send(
        phone.set_attributes(file, mode=0o600), phone.store(file, await drive.upload(phone, b"3"), 1)
    )
    assert [(each.reason, each.content_since, each.revision) for each in (first, second)] == [("absent", 2, 0)] * 2
