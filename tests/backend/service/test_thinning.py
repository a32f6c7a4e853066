"""Letting revisions go with age: what is held stays, counts are right, and a dry run tells the same."""

import random
from pathlib import Path

import pytest
from sqlalchemy import select, update

from backend.metadata import schema
from backend.service.devices import Devices
from backend.service.retention import DAY, HOUR
from backend.service.thinning import Thinned, Thinning
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.history import CreateSnapshotRequest, DeleteSnapshotRequest, KeepRequest, RevisionsRequest
from drivefs.protocol.ids import InodeId, RevisionNumber
from drivefs.protocol.messages import Pending
from tests.backend.service import invariants
from tests.backend.service.drive import SECOND, Device, Drive

pytestmark = pytest.mark.anyio
YEAR = 365 * DAY


async def thin(drive: Drive) -> Thinned:
    """First for show: it tells what is then done."""
    before = await drive.fetch(select(schema.revisions))
    told = await Thinning(drive.ground).thin(is_dry_run=True)
    assert await drive.fetch(select(schema.revisions)) == before
    stored = (await drive.account()).stored_bytes
    done = await Thinning(drive.ground).thin()
    assert told == done
    assert stored - (await drive.account()).stored_bytes == done.freed.size_bytes
    await drive.database.read(invariants.check)
    assert (await Thinning(drive.ground).thin()).freed.revision_count == 0
    return done


def later(drive: Drive, seconds: int) -> None:
    drive.clock.ns += seconds * SECOND


async def saved(drive: Drive, device: Device, count: int, pause: int) -> InodeId:
    """A file with so many revisions, each of a content of its own."""
    file = await device.make(b"doc")
    for number in range(count):
        await device.write(file, b"content %d" % number, base=number)
        later(drive, pause)
    return file


async def numbers(device: Device, file: InodeId) -> list[int]:
    request = RevisionsRequest(inode=file)
    reply = await device.drive.revisions.list(device.caller, device.drive.workspace, request)
    return [each.number for each in reply.revisions]


async def test_old_revisions_go_and_the_newest_stays(drive: Drive, laptop: Device) -> None:
    file = await saved(drive, laptop, 10, 60 * 5)
    assert (await thin(drive)).freed.revision_count == 0
    later(drive, 2 * DAY)
    done = await thin(drive)
    assert done.freed.revision_count == 9 or done.freed.revision_count == 8  # the hour may end within them
    later(drive, 2 * YEAR)
    await thin(drive)
    assert await numbers(laptop, file) == [10]
    assert (await laptop.content(file, 10)).size == 9


async def test_what_a_new_file_was_before_it_took_a_name_in_the_same_commit_was_never_current(
    drive: Drive, laptop: Device
) -> None:
    old = await laptop.save(b"doc", b"one")
    for number in (2, 4):
        later(drive, 2 * DAY)
        new = laptop.create(b"tmp")
        store = laptop.store(new.inode, await drive.upload(laptop, b"by renaming %d" % number), after=[new])
        await laptop.send(new, store, laptop.rename(new.inode, b"tmp", b"doc", replaced=old, base=number - 1))
        later(drive, 2 * DAY)
        assert await laptop.write(new.inode, b"in place %d" % number, base=number) == number + 1
        old = new.inode
        later(drive, 5)
    later(drive, 4 * HOUR)
    done = await thin(drive)
    # Of its own history the new file had one content, each time, which is that of the name as well.
    assert await drive.fetch(select(schema.revisions.c.lineage).distinct()) == [((await laptop.known(old)).lineage,)]
    assert (done.file_count, done.freed.revision_count, done.freed.size_bytes) == (2, 2, 0)


async def test_what_is_held_stays(drive: Drive, laptop: Device, phone: Device) -> None:
    """Marks, snapshots, what a device that is away saw last, and what is in the trash."""
    file = await laptop.make(b"doc")
    for number in range(6):
        await laptop.write(file, b"content %d" % number, base=number)
        later(drive, DAY)
        if number == 1:
            request = CreateSnapshotRequest(name="named")
            await drive.snapshots.create(laptop.caller, drive.workspace, request)
        if number == 3:
            seen = update(schema.devices).where(schema.devices.c.device == phone.caller.device)
            await drive.execute(seen.values(last_seen_ns=drive.clock.ns - 3600 * SECOND))
    await drive.revisions.keep(laptop.caller, drive.workspace, KeepRequest(inode=file, revision=RevisionNumber(1)))
    removed = await laptop.save(b"removed", b"removed")
    await laptop.send(laptop.unlink(removed, b"removed", base=1))
    feed = drive.ground.limits.feed_seconds
    object.__setattr__(drive.ground.limits, "feed_seconds", 3 * YEAR)
    later(drive, 2 * YEAR)
    await thin(drive)
    assert await numbers(laptop, file) == [1, 2, 4, 6]
    assert (await laptop.content(removed, 1)).size == 7
    object.__setattr__(drive.ground.limits, "feed_seconds", feed)
    await drive.snapshots.delete(laptop.caller, drive.workspace, DeleteSnapshotRequest(name="named"))
    await thin(drive)
    assert await numbers(laptop, file) == [1, 6]


async def test_a_device_that_came_back_has_its_bases_until_it_has_sent_everything(
    drive: Drive, laptop: Device, phone: Device
) -> None:
    file = await laptop.make(b"doc")
    await laptop.write(file, b"content 0", base=0)
    devices = Devices(drive.ground)
    devices.told(phone.caller, Pending(mutation_count=1, size_bytes=1))
    await devices.flush()
    for number in range(1, 4):
        later(drive, 20 * DAY)
        await laptop.write(file, b"content %d" % number, base=number)
    later(drive, 20 * DAY)
    await phone.begin()
    later(drive, 2 * DAY)
    await thin(drive)
    assert 1 in await numbers(laptop, file)
    devices.told(phone.caller, Pending(mutation_count=0, size_bytes=0))
    await devices.flush()
    later(drive, 370 * DAY)
    await thin(drive)
    assert await numbers(laptop, file) == [4]


async def test_a_device_that_is_here_and_cannot_send_has_its_bases_as_well(
    drive: Drive, laptop: Device, phone: Device
) -> None:
    """Its account is full, or somebody has to decide: it goes on being seen, which says nothing of what it has."""
    file = await laptop.make(b"doc")
    await laptop.write(file, b"content 0", base=0)
    later(drive, 5)
    devices = Devices(drive.ground)
    for waiting_count in range(20):
        devices.told(phone.caller, Pending(mutation_count=waiting_count))
        await devices.flush()
        if waiting_count == 1:
            await laptop.write(file, b"content 1", base=1)
        later(drive, DAY if waiting_count else 5)
    await thin(drive)
    assert await numbers(laptop, file) == [1, 2]


async def test_saving_by_rename_leaves_nothing_behind(drive: Drive, laptop: Device) -> None:
    file = await laptop.save(b"doc", b"content 0")
    for number in range(1, 6):
        new = await laptop.save(b"tmp", b"content %d" % number)
        await laptop.send(laptop.rename(new, b"tmp", b"doc", replaced=file, base=number))
        file = new
        later(drive, HOUR)
    later(drive, 2 * YEAR)
    await thin(drive)
    assert await numbers(laptop, file) == [6]
    assert (await laptop.content(file, 6)).size == 9
    assert (await drive.account()).stored_bytes == 9


async def test_what_only_a_deleted_snapshot_held_goes_though_the_file_is_gone(drive: Drive, laptop: Device) -> None:
    file = await laptop.save(b"doc", b"content")
    await drive.snapshots.create(laptop.caller, drive.workspace, CreateSnapshotRequest(name="named"))
    await laptop.send(laptop.unlink(file, b"doc", base=1))
    later(drive, 40 * DAY)
    await drive.trash.expire()
    await thin(drive)
    assert (await laptop.content(file, 1)).size == 7
    await drive.snapshots.delete(laptop.caller, drive.workspace, DeleteSnapshotRequest(name="named"))
    assert (await Thinning(drive.ground).thin()).freed.size_bytes == 7
    with pytest.raises(ProtocolError):
        await laptop.content(file, 1)
    assert (await drive.account()).stored_bytes == 0
    await drive.database.read(invariants.check)


async def test_what_a_snapshot_shows_stays_when_what_the_file_was_next_is_gone(drive: Drive, laptop: Device) -> None:
    """What it was next is in the history of the name that it took, and went with that."""
    file = await laptop.save(b"doc", b"one")
    other = await laptop.save(b"tmp", b"two!")
    later(drive, HOUR)
    made = await drive.snapshots.create(laptop.caller, drive.workspace, CreateSnapshotRequest(name="named"))
    later(drive, HOUR)
    await laptop.send(laptop.rename(other, b"tmp", b"doc", replaced=file, base=1))
    await laptop.send(laptop.unlink(other, b"doc", base=2))
    later(drive, 2 * YEAR)
    await drive.trash.expire()
    await thin(drive)
    for name, inode, size in ((b"doc", file, 3), (b"tmp", other, 4)):
        assert (await laptop.names(as_of=made.seq))[name] == inode
        assert (await laptop.content(inode, 1)).size == size


@pytest.mark.parametrize("seed", range(4))
async def test_of_any_history_what_the_rules_keep_can_be_had(
    drive: Drive, laptop: Device, tmp_path: Path, seed: int
) -> None:
    """Each content is known; whatever is listed after thinning can be read and is what it was."""
    draw, contents = random.Random(seed), dict[tuple[InodeId, int], bytes]()
    files: dict[bytes, InodeId] = {}
    for step in range(60):
        name, content = draw.choice([b"a", b"b", b"c"]), b"%d " % draw.randrange(20) * draw.randint(1, 9)
        if name not in files:
            files[name] = await laptop.save(name, content)
        elif draw.random() < 0.5:
            state = await laptop.known(files[name])
            await laptop.write(files[name], content, base=state.revision)
        elif draw.random() < 0.7:
            new = await laptop.save(b"tmp", content)
            base = (await laptop.known(files[name])).revision
            await laptop.send(laptop.rename(new, b"tmp", name, replaced=files[name], base=base))
            files[name] = new
        elif draw.random() < 0.5:
            await laptop.send(laptop.link(files[name], b"link %d" % step))
            continue
        else:
            state = await laptop.known(files[name])
            await laptop.send(laptop.unlink(files[name], name, base=state.revision))
            del files[name]
            later(drive, 120)
            continue
        state = await laptop.known(files[name])
        contents[state.lineage, state.revision] = content
        later(drive, draw.choice([1, 60, HOUR, DAY, 20 * DAY]))
        if step % 15 == 14:
            await thin(drive)
            await drive.trash.expire()
    await thin(drive)
    for file in files.values():
        state = await laptop.known(file)
        listed = await numbers(laptop, file)
        assert listed[-1] == state.revision
        for number in listed:
            reply = await laptop.content(file, number, history=True)
            known = contents.get((state.lineage, number))
            assert known is None or reply.size == len(known)
