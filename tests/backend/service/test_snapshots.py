"""Snapshots: names of moments, who may make them, and what they keep when everything else is let go."""

from collections import Counter

import pytest
from sqlalchemy import select, update

from backend.metadata import schema
from backend.metadata.schema import Role
from backend.service import operations
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.history import (
    MAX_SNAPSHOTS,
    CreateSnapshotRequest,
    DeleteSnapshotRequest,
    EmptyTrashRequest,
    MomentRequest,
    SnapshotInfo,
)
from drivefs.protocol.ids import Seq
from drivefs.protocol.messages import OPERATION_BYTES
from tests.backend.service import invariants
from tests.backend.service.drive import SECOND, Device, Drive
from tests.backend.service.sharing import Neighbours

pytestmark = pytest.mark.anyio


async def create(device: Device, name: str, time_ns: int = 0) -> SnapshotInfo:
    request = CreateSnapshotRequest(name=name, time_ns=time_ns)
    return await device.drive.snapshots.create(device.caller, device.drive.workspace, request)


async def delete(device: Device, name: str) -> None:
    await device.drive.snapshots.delete(device.caller, device.drive.workspace, DeleteSnapshotRequest(name=name))


async def listed(device: Device) -> list[SnapshotInfo]:
    return (await device.drive.snapshots.list(device.caller, device.drive.workspace)).snapshots


async def empty_trash(device: Device) -> None:
    await device.drive.trash.empty(device.caller, device.drive.workspace, EmptyTrashRequest(until=Seq(2**62)))


async def refused(device: Device, name: str) -> Code:
    with pytest.raises(ProtocolError) as error:
        await create(device, name)
    return error.value.code


async def test_a_name_means_one_moment_until_it_is_deleted(drive: Drive, laptop: Device, phone: Device) -> None:
    await laptop.save(b"doc", b"one")
    made = await create(laptop, "first")
    drive.clock.ns += 60 * SECOND
    await laptop.save(b"other", b"two")
    earlier = await create(phone, "früher", made.time_ns + SECOND)
    later = await create(phone, "later")
    assert (made.seq, earlier.seq, later.seq) == (3, 3, 5)
    assert [(each.name, each.device, each.user) for each in await listed(laptop)] == [
        ("first", "device 1", "someone"),
        ("früher", "device 2", "someone"),
        ("later", "device 2", "someone"),
    ]
    found = await drive.listing.moment(laptop.caller, drive.workspace, MomentRequest(snapshot="first"))
    assert (found.seq, found.time_ns) == (made.seq, made.time_ns)
    assert await refused(phone, "first") is Code.CONFLICT
    await delete(phone, "first")
    assert [each.name for each in await listed(laptop)] == ["früher", "later"]
    with pytest.raises(ProtocolError):
        await drive.listing.moment(laptop.caller, drive.workspace, MomentRequest(snapshot="first"))
    with pytest.raises(ProtocolError):
        await delete(phone, "first")


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a\0b", "a\nb", "2026-03-01", "2026-03-01T09:00:00Z", "ü" * 128])
async def test_what_cannot_be_a_name_is_refused(laptop: Device, name: str) -> None:
    assert await refused(laptop, name) is Code.MALFORMED


async def test_strangers_and_viewers_make_and_delete_none(drive: Drive, laptop: Device, phone: Device) -> None:
    await create(laptop, "mine")
    stranger = await drive.stranger()
    assert await refused(stranger, "theirs") is Code.NOT_FOUND
    with pytest.raises(ProtocolError):
        await listed(stranger)
    await drive.execute(update(schema.members).values(role=Role.VIEWER))
    assert await refused(phone, "theirs") is Code.FORBIDDEN
    with pytest.raises(ProtocolError):
        await delete(phone, "mine")
    assert [each.name for each in await listed(phone)] == ["mine"]


async def test_there_are_not_more_than_so_many(drive: Drive, laptop: Device) -> None:
    made = await create(laptop, "0")
    row = {"account": drive.home.account, "workspace": drive.workspace, "seq": made.seq, "time_ns": 1, "user": 7}
    rows = [{**row, "device": 1, "created_ns": 1, "name": str(n)} for n in range(1, MAX_SNAPSHOTS)]
    await drive.execute(schema.snapshots.insert().values(rows))
    assert await refused(laptop, "more") is Code.TOO_LARGE


async def test_what_a_snapshot_shows_outlives_the_trash_and_nothing_else_does(drive: Drive, laptop: Device) -> None:
    file = await laptop.save(b"doc", b"one")
    await laptop.write(file, b"two!", base=1)
    made = await create(laptop, "kept")
    await laptop.write(file, b"three", base=2)
    await laptop.send(laptop.unlink(file, b"doc", base=3))
    young = await laptop.save(b"young", b"later")
    await laptop.send(laptop.unlink(young, b"young", base=1))
    await empty_trash(laptop)
    assert [row.number for row in await drive.fetch(select(schema.revisions))] == [2]
    assert await laptop.names(as_of=made.seq) == {b"doc": file}
    assert (await laptop.content(file, 2)).size == 4
    await drive.database.read(invariants.check)


async def test_a_content_is_kept_under_the_number_that_the_past_shows(drive: Drive, laptop: Device) -> None:
    """What was saved by rename has a number in each history, and the past names the one it had then."""
    file = await laptop.save(b"doc", b"one")
    other = await laptop.save(b"tmp", b"two")
    before = await create(laptop, "before")
    await laptop.send(laptop.rename(other, b"tmp", b"doc", replaced=file, base=1))
    after = await create(laptop, "after")
    await laptop.send(laptop.unlink(other, b"doc", base=2))
    await empty_trash(laptop)
    for seq, name, inode in ((before.seq, b"doc", file), (before.seq, b"tmp", other), (after.seq, b"doc", other)):
        assert (await laptop.names(as_of=seq))[name] == inode
        state = await laptop.known(inode, as_of=seq)
        assert (await laptop.content(inode, state.revision)).size == 3
    await drive.database.read(invariants.check)


async def test_what_is_asked_again_is_answered_as_before_for_a_day(drive: Drive, laptop: Device, phone: Device) -> None:
    request = CreateSnapshotRequest(op=b"o" * OPERATION_BYTES, name="first")

    async def ask(device: Device) -> SnapshotInfo:
        return await drive.snapshots.create(device.caller, drive.workspace, request)

    made = await ask(laptop)
    drive.clock.ns += operations.KEPT_SECONDS * SECOND
    assert await ask(laptop) == made
    with pytest.raises(ProtocolError) as refused:
        await ask(phone)
    assert refused.value.code is Code.CONFLICT
    drive.clock.ns += SECOND
    other = DeleteSnapshotRequest(op=b"o" * OPERATION_BYTES, name="first")
    await drive.snapshots.delete(laptop.caller, drive.workspace, other)
    assert await listed(laptop) == []
    assert (await ask(laptop)).created_ns > made.created_ns


async def test_of_very_many_answers_the_last_are_kept(
    drive: Drive, laptop: Device, phone: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However fast a device asks."""
    monkeypatch.setattr(operations, "MOST_KEPT", 3)

    async def ask(device: Device, number: int) -> None:
        drive.clock.ns += SECOND
        request = CreateSnapshotRequest(op=b"%0*d" % (OPERATION_BYTES, number), name=f"snapshot {number}")
        await drive.snapshots.create(device.caller, drive.workspace, request)

    await ask(phone, 0)
    for number in range(1, 9):
        await ask(laptop, number)
    for number in (0, 6, 7, 8):
        await ask(phone if number == 0 else laptop, number)
    with pytest.raises(ProtocolError):
        await ask(laptop, 1)
    rows = await drive.fetch(select(schema.operations.c.device))
    assert Counter(row.device for row in rows) == {phone.caller.device: 1, laptop.caller.device: 4}


async def test_the_names_of_an_owners_moments_are_nothing_to_members_of_a_share(pair: Neighbours) -> None:
    folder, _ = await pair.tree()
    share = await pair.share(folder)
    await pair.anna.save(b"doc", b"private")
    await create(pair.anna, "before the divorce")
    assert (await pair.bert.drive.snapshots.list(pair.bert.caller, share)).snapshots == []
