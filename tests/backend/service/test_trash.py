"""What lies in the trash, as it is listed: by whom, where it was, and nothing of what is still there."""

from collections.abc import Sequence

import pytest
from sqlalchemy import select, update

from backend.metadata import schema
from backend.service.thinning import Thinning
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.history import (
    EmptyTrashRequest,
    KeepRequest,
    RevisionInfo,
    RevisionsRequest,
    TrashEntry,
    TrashRequest,
)
from drivefs.protocol.ids import NO_INODE, InodeId, RevisionNumber, Seq
from drivefs.protocol.model import InodeKind
from tests.backend.service.drive import SECOND, Device, Drive, refs

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


async def empty(device: Device, until: int = 2**62) -> int:
    total = 0
    while True:
        request = EmptyTrashRequest(until=Seq(until))
        reply = await device.drive.trash.empty(device.caller, device.drive.workspace, request)
        total += reply.count
        if not reply.more:
            return total


async def test_emptying_gives_room_and_leaves_all_that_somebody_can_come_back_to(drive: Drive, laptop: Device) -> None:
    gone = await laptop.save(b"gone", b"only here", b"shared")
    await laptop.write(gone, b"before", base=1)
    stays = await laptop.save(b"stays", b"shared")
    await laptop.write(stays, b"stays too", base=1)
    await laptop.send(laptop.unlink(gone, b"gone", base=2))
    late = await laptop.save(b"late", b"later")
    until = await laptop.head()
    await laptop.send(laptop.unlink(late, b"late", base=1))
    full = (await drive.account()).stored_bytes
    assert await empty(laptop, until) == 1
    account = await drive.account()
    assert full - account.stored_bytes == len(b"only here" + b"before")
    assert names(await listed(laptop)) == [b"late"]
    assert [each.size for each in await revisions(laptop, stays)] == [6, 9]
    assert (await laptop.content(late, 1)).size == 5
    with pytest.raises(ProtocolError) as refused:
        await laptop.content(gone, 1)
    assert refused.value.code is Code.NOT_FOUND
    assert await empty(laptop) == 1
    assert await empty(laptop) == 0


async def test_emptying_gives_room_though_the_device_that_sent_it_pins_it(drive: Drive, laptop: Device) -> None:
    file = await laptop.save(b"large", b"much of it", b"shared")
    await laptop.save(b"stays", b"shared")
    waiting = await drive.upload(laptop, b"on its way")
    await laptop.send(laptop.unlink(file, b"large", base=1))
    await empty(laptop)
    account = await drive.account()
    assert (account.stored_bytes, account.pinned_bytes) == (len(b"shared"), len(b"on its way"))
    again = await laptop.make(b"again")
    content = [*waiting, *refs([b"much of it", b"shared"])]
    (told,) = await laptop.send(laptop.store(again, content, 0))
    assert (told.status, told.blocks) == ("needs_blocks", [refs([b"much of it"])[0].block])
    await drive.upload(laptop, b"much of it")
    assert await laptop.say(laptop.store(again, content, 0)) == "ok"


async def test_blocks_that_are_let_go_wait_from_then_on(drive: Drive, laptop: Device) -> None:
    file = await laptop.save(b"doc", b"content")
    await laptop.send(laptop.unlink(file, b"doc", base=1))
    began_ns = drive.clock.ns = drive.clock.ns + 20 * DAY
    await empty(laptop)
    b = schema.blocks.c
    ((count, since_ns),) = await drive.fetch(select(b.refs, b.unreferenced_ns))
    assert count == 0
    assert since_ns >= began_ns


async def revisions(device: Device, inode: InodeId) -> list[RevisionInfo]:
    request = RevisionsRequest(inode=inode)
    return (await device.drive.revisions.list(device.caller, device.drive.workspace, request)).revisions


async def test_a_history_of_saves_by_rename_goes_as_a_whole(drive: Drive, laptop: Device) -> None:
    inode = await laptop.save(b"doc", b"first")
    for number in range(1, 4):
        other = await laptop.save(b"tmp", b"content %d" % number)
        await laptop.send(laptop.rename(other, b"tmp", b"doc", replaced=inode, base=number))
        inode = other
    await laptop.send(laptop.unlink(inode, b"doc", base=4))
    await empty(laptop)
    assert await drive.fetch(select(schema.revisions.c.number)) == []
    assert (await drive.account()).stored_bytes == 0


async def test_what_a_living_file_forked_from_stays(drive: Drive, laptop: Device) -> None:
    old = await laptop.save(b"doc", b"one")
    await laptop.write(old, b"two!", base=1)
    await laptop.send(laptop.link(old, b"other"))
    new = await laptop.save(b"tmp", b"three")
    await laptop.send(laptop.rename(new, b"tmp", b"doc", replaced=old))
    await laptop.send(laptop.unlink(new, b"doc", base=3))
    await empty(laptop)
    assert [each.size for each in await revisions(laptop, old)] == [3, 4]
    assert (await laptop.content(old, 1, history=True)).size == 3
    assert (await drive.account()).stored_bytes == 7


@pytest.mark.parametrize("backup_first", [True, False])
async def test_what_forked_does_not_keep_a_history_once_it_is_gone_as_well(
    drive: Drive, laptop: Device, backup_first: bool
) -> None:
    """An editor that keeps the last state under another name leaves a fork of each file that it has saved."""
    old = await laptop.save(b"doc", b"one")
    new = laptop.create(b"doc")
    await laptop.send(laptop.rename(old, b"doc", b"doc~"), new)
    assert await laptop.write(new.inode, b"two!") == 2
    removals = [laptop.unlink(old, b"doc~", base=1), laptop.unlink(new.inode, b"doc", base=2)]
    for removal in removals if backup_first else removals[::-1]:
        assert await laptop.say(removal) == "ok"
        await empty(laptop)
    await Thinning(drive.ground).thin()
    assert await drive.fetch(select(schema.revisions.c.number)) == []
    assert (await drive.account()).stored_bytes == 0


@pytest.mark.parametrize("has_content", [True, False])
async def test_what_is_in_the_trash_stays_though_what_took_its_place_left_within_the_same_commit(
    drive: Drive, laptop: Device, has_content: bool
) -> None:
    """Saved by renaming once more and then removed, without a network: what the drive had is in the trash."""
    first = await laptop.save(b"doc", b"one")
    last = await laptop.save(b"tmp", b"two!")
    await laptop.send(laptop.rename(last, b"tmp", b"doc", replaced=first, base=1))
    new, blocks = laptop.create(b"tmp"), await drive.upload(laptop, b"three")
    batch = [
        new,
        *([laptop.store(new.inode, blocks)] if has_content else []),
        laptop.rename(new.inode, b"tmp", b"doc", replaced=last, base=2),
        laptop.unlink(new.inode, b"doc", base=3 if has_content else 0),
    ]
    assert {each.status for each in await laptop.send(*batch)} == {"ok"}
    await Thinning(drive.ground).thin()
    assert [each.inode.inode for each in await listed(laptop)] == [last]
    assert await laptop.say(laptop.restore(last, b"doc", expects_content=True)) == "ok"
    assert [each.size for each in await revisions(laptop, last)] == [3, 4]


async def test_what_is_kept_or_goes_on_under_another_inode_stays(drive: Drive, laptop: Device) -> None:
    kept = await laptop.save(b"kept", b"1")
    await laptop.write(kept, b"22", base=1)
    mark = KeepRequest(inode=kept, revision=RevisionNumber(1))
    await drive.revisions.keep(laptop.caller, drive.workspace, mark)
    again = await laptop.save(b"again", b"333")
    await laptop.send(laptop.unlink(kept, b"kept", base=2), laptop.unlink(again, b"again", base=1))
    heir = await laptop.save(b"again", b"4444")
    await empty(laptop)
    assert [each.size for each in await revisions(laptop, kept)] == [1]
    assert [each.size for each in await revisions(laptop, heir)] == [3, 4]


async def test_an_edit_of_what_went_for_good_is_not_lost_and_not_refused_with_an_error(
    drive: Drive, laptop: Device, phone: Device
) -> None:
    file = await laptop.save(b"doc", b"one")
    await laptop.send(laptop.unlink(file, b"doc", base=1))
    await empty(laptop)
    blocks = await drive.upload(phone, b"edited offline")
    assert await phone.say(phone.store(file, blocks, 1)) == "conflict absent"
    assert await phone.say(phone.restore(file, b"doc")) == "ok"
    assert await phone.say(phone.store(file, blocks, 1)) == "conflict changed"
    assert await phone.say(phone.store(file, blocks, 0)) == "ok"


async def test_what_went_for_good_does_not_come_back_empty(drive: Drive, laptop: Device, phone: Device) -> None:
    file, empty_file = await laptop.save(b"doc", b"one"), await laptop.make(b"empty")
    await laptop.send(laptop.unlink(file, b"doc", base=1), laptop.unlink(empty_file, b"empty"))
    await empty(laptop)
    # A file that never had content, under a name that had a history.
    heir = await laptop.make(b"doc")
    await laptop.send(laptop.unlink(heir, b"doc"))
    told = await phone.send(*(phone.set_attributes(each, mode=0o600) for each in (file, heir, empty_file)))
    assert [(each.reason, each.is_emptied) for each in told] == [("absent", each) for each in (True, False, False)]
    assert await phone.say(phone.restore(file, b"doc", expects_content=True)) == "conflict gone"
    assert await phone.say(phone.restore(heir, b"doc", expects_content=True)) == "ok"
    assert await phone.say(phone.restore(empty_file, b"empty", expects_content=True)) == "ok"
    assert await phone.say(phone.restore(file, b"again")) == "ok"
    blocks = await drive.upload(phone, b"edited offline")
    assert await phone.say(phone.store(file, blocks, 0)) == "ok"
    assert await phone.say(phone.unlink(file, b"again", base=2)) == "ok"
    assert await phone.say(phone.restore(file, b"again", expects_content=True)) == "ok"


async def test_what_expired_goes_by_itself(drive: Drive, laptop: Device) -> None:
    for name in (b"early", b"late"):
        file = await laptop.save(name, name)
        await laptop.send(laptop.unlink(file, name, base=1))
        drive.clock.ns += 20 * DAY
    assert (await drive.trash.expire()).count == 1
    assert names(await listed(laptop)) == [b"late"]
    assert (await drive.account()).stored_bytes == len(b"late")
