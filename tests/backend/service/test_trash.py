"""What lies in the trash, as it is listed: by whom, where it was, and nothing of what is still there."""

from collections.abc import Sequence

import pytest
from sqlalchemy import update

from backend.metadata import schema
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.history import TrashEntry, TrashRequest
from drivefs.protocol.ids import NO_INODE, InodeId
from drivefs.protocol.model import InodeKind
from tests.backend.service.drive import SECOND, Device, Drive

pytestmark = pytest.mark.anyio
DAY = 24 * 3600 * SECOND


async def listed(device: Device, parent: InodeId = NO_INODE, name: bytes = b"", limit: int = 1000) -> list[TrashEntry]:
    found: list[TrashEntry] = []
    while True:
        after = found[-1].place if found else None
        request = TrashRequest(parent=parent, name=name, after=after, limit=limit)
        reply = await device.drive.trash.list(device.caller, device.drive.workspace, request)
        found += reply.entries
        if not reply.more:
            return found


def names(entries: Sequence[TrashEntry]) -> list[bytes]:
    return [entry.place.name for entry in entries]


async def test_what_was_removed_says_where_it_was_and_who_removed_it(
    drive: Drive, laptop: Device, phone: Device
) -> None:
    papers = await laptop.make(b"papers", kind=InodeKind.DIRECTORY)
    file = await laptop.save(b"doc", b"one", parent=papers)
    drive.clock.ns += 60 * SECOND
    assert await phone.say(phone.unlink(file, b"doc", papers, base=1)) == "ok"
    (entry,) = await listed(laptop)
    assert (entry.inode.inode, entry.inode.nlink, entry.inode.size) == (file, 0, 3)
    assert (entry.path, entry.place.name, entry.place.parent) == (b"papers", b"doc", papers)
    assert (entry.device, entry.user, entry.time_ns) == ("device 2", "someone", drive.clock.ns)


async def test_of_a_removed_tree_only_its_top_is_listed_and_the_rest_by_directory(drive: Drive, laptop: Device) -> None:
    top = await laptop.make(b"top", kind=InodeKind.DIRECTORY)
    inner = await laptop.make(b"inner", top, InodeKind.DIRECTORY)
    files = [await laptop.save(b"%d" % number, b"x", parent=inner) for number in range(5)]
    for number, file in enumerate(files):
        await laptop.send(laptop.unlink(file, b"%d" % number, inner, base=1))
    await laptop.send(laptop.unlink(inner, b"inner", top), laptop.unlink(top, b"top"))
    assert names(await listed(laptop)) == [b"top"]
    assert names(await listed(laptop, top)) == [b"inner"]
    for limit in (1, 2, 5):
        assert names(await listed(laptop, inner, limit=limit)) == [b"4", b"3", b"2", b"1", b"0"]
    assert names(await listed(laptop, inner, b"3")) == [b"3"]
    (entry,) = await listed(laptop, inner, b"3")
    assert entry.path is None


async def test_pages_go_on_within_one_commit(drive: Drive, laptop: Device) -> None:
    files = {b"%d" % number: await laptop.save(b"%d" % number, b"x") for number in range(7)}
    await laptop.send(*(laptop.unlink(file, name, base=1) for name, file in files.items()))
    for limit in (1, 3, 7):
        assert names(await listed(laptop, limit=limit)) == sorted(files, reverse=True)


async def test_what_was_brought_back_replaced_or_moved_is_not_in_it(drive: Drive, laptop: Device) -> None:
    file, other = await laptop.save(b"doc", b"one"), await laptop.save(b"tmp", b"two")
    await laptop.send(laptop.rename(other, b"tmp", b"doc", replaced=file, base=1))
    await laptop.send(laptop.rename(other, b"doc", b"moved"))
    assert await listed(laptop) == []
    await laptop.send(laptop.unlink(other, b"moved", base=2))
    assert names(await listed(laptop)) == [b"moved"]
    assert await laptop.say(laptop.restore(other, b"again")) == "ok"
    assert await listed(laptop) == []


async def test_after_thirty_days_it_is_gone(drive: Drive, laptop: Device) -> None:
    file = await laptop.save(b"doc", b"one")
    await laptop.send(laptop.unlink(file, b"doc", base=1))
    drive.clock.ns += 30 * DAY - SECOND
    assert names(await listed(laptop)) == [b"doc"]
    drive.clock.ns += 2 * SECOND
    assert await listed(laptop) == []


async def test_strangers_and_other_workspaces_have_a_trash_of_their_own(drive: Drive, laptop: Device) -> None:
    file = await laptop.save(b"doc", b"one")
    await laptop.send(laptop.unlink(file, b"doc", base=1))
    stranger = await drive.stranger()
    with pytest.raises(ProtocolError) as refused:
        await listed(stranger)
    assert refused.value.code is Code.NOT_FOUND
    apart = update(schema.inodes).where(schema.inodes.c.inode == drive.root)
    await drive.execute(apart.values(workspace=drive.workspace + 1))
    assert await listed(laptop) == []
    await drive.execute(apart.values(workspace=drive.workspace))
