"""What users are told of: in order, once, merged where much happens, and also who was away."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import update

from backend.metadata import schema
from backend.service.activity import Activity
from backend.service.notifications import KEPT, Change, Notifications, add, bursts
from backend.service.pruning import Pruning
from drivefs.protocol.conflicts import CONFLICT_XATTR
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind
from drivefs.protocol.notifications import ActivityRequest, Kind, MuteRequest, NotificationInfo, NotificationsRequest
from drivefs.protocol.sharing import AnswerRequest
from tests.backend.service.drive import SECOND, Device, Drive
from tests.backend.service.sharing import neighbours

pytestmark = pytest.mark.anyio


@pytest.fixture
async def phone(drive: Drive) -> Device:
    return await drive.device()


async def told(device: Device, since: int = 0, *, own: bool = False) -> list[NotificationInfo]:
    service = Notifications(device.drive.ground)
    return (await service.list(device.caller, NotificationsRequest(since=since, own=own))).notifications


def brief(found: list[NotificationInfo]) -> list[tuple[str, bytes, int]]:
    return [(each.kind, each.path, each.count) for each in found]


async def pause(device: Device) -> None:
    """Long enough for what comes to be told of by itself."""
    device.drive.clock.ns += 120 * SECOND


async def test_others_are_told_what_a_device_did_and_it_is_not(laptop: Device, phone: Device) -> None:
    doc = await laptop.save(b"doc", b"one")
    await pause(laptop)
    await laptop.write(doc, b"two", base=1)
    await pause(laptop)
    await laptop.send(laptop.rename(doc, b"doc", b"letter"))
    await pause(laptop)
    await laptop.send(laptop.unlink(doc, b"letter", base=2))
    found = await told(phone)
    # The drive is as it is now, so what was renamed is told of by the names that it had then or has now.
    assert [each.kind for each in found] == ["added", "moved", "deleted"]
    assert [each.path for each in found] == [b"doc", b"letter", b"letter"]
    assert (found[0].device, found[0].inode) == ("device 1", doc)
    assert await told(laptop) == []
    assert len(await told(laptop, own=True)) == 3


async def test_each_is_told_of_once_and_in_order(laptop: Device, phone: Device) -> None:
    doc = await laptop.save(b"doc", b"one")
    first = await told(phone)
    assert brief(first) == [("added", b"doc", 1)]
    await pause(laptop)
    await laptop.write(doc, b"two", base=1)
    await pause(laptop)
    folder = await laptop.make(b"folder", kind=InodeKind.DIRECTORY)
    second = await told(phone, first[-1].number)
    assert brief(second) == [("edited", b"doc", 1), ("added", b"folder", 1)]
    assert await told(phone, second[-1].number) == []
    assert brief(await told(phone)) == [*brief(first), *brief(second)]
    assert [each.inode for each in second] == [doc, folder]


async def test_save_by_rename_is_one_edit(laptop: Device, phone: Device) -> None:
    old = await laptop.save(b"doc", b"one")
    since = (await told(phone))[-1].number
    await pause(laptop)
    new = await laptop.save(b"doc.tmp", b"two")
    await laptop.send(laptop.rename(new, b"doc.tmp", b"doc", replaced=old, base=1))
    assert brief(await told(phone, since)) == [("edited", b"doc", 1)]


async def test_thousand_changes_in_one_folder_are_one_notification(laptop: Device, phone: Device) -> None:
    folder = await laptop.make(b"photos", kind=InodeKind.DIRECTORY)
    await told(phone)
    for _ in range(10):
        await laptop.send(*[laptop.create(b"p%d" % laptop.n, folder) for _ in range(100)])
        await told(phone)
    found = await told(phone)
    assert brief(found) == [("added", b"photos", 1), ("added", b"photos", 1000)]
    assert found[-1].number > len(found), "numbers are never used twice"


async def test_what_happens_in_many_folders_is_told_of_where_they_all_are(laptop: Device, phone: Device) -> None:
    top = await laptop.make(b"tree", kind=InodeKind.DIRECTORY)
    since = (await told(phone))[-1].number
    for number in range(8):
        folder = await laptop.make(b"f%d" % number, top, InodeKind.DIRECTORY)
        await laptop.send(*[laptop.create(b"%d" % each, folder) for each in range(3)])
    assert brief(await told(phone, since)) == [("added", b"tree", 32)]


async def test_conflict_copies_are_told_of_as_such(laptop: Device, phone: Device) -> None:
    copy = laptop.create(b"doc (conflicted copy)")
    await laptop.send(copy, laptop.set_xattr(copy.inode, CONFLICT_XATTR, b"mark"))
    assert brief(await told(phone)) == [("conflict", b"doc (conflicted copy)", 1)]


async def test_muted_folders_are_told_of_no_more_until_they_are_again(laptop: Device, phone: Device) -> None:
    service = Notifications(phone.drive.ground)
    noisy = await laptop.make(b"noisy", kind=InodeKind.DIRECTORY)
    deep = await laptop.make(b"deep", noisy, InodeKind.DIRECTORY)
    since = (await told(phone))[-1].number
    await service.mute(phone.caller, MuteRequest(inode=noisy, is_muted=True))
    assert (await service.muted(laptop.caller)).paths == [b"noisy"]
    await laptop.save(b"a", b"one", parent=deep)
    assert await told(phone, since) == []
    await service.mute(phone.caller, MuteRequest(inode=noisy, is_muted=False))
    await laptop.save(b"b", b"two", parent=deep)
    assert brief(await told(phone, since)) == [("added", b"noisy/deep/b", 1)]


async def test_who_was_away_is_told_of_what_the_feed_has_forgotten(laptop: Device, phone: Device) -> None:
    await laptop.save(b"doc", b"one")
    ground = laptop.drive.ground
    await Notifications(ground).derive_all()
    laptop.drive.clock.ns += (ground.limits.feed_seconds + 10) * SECOND
    assert await Pruning(ground).prune()
    assert brief(await told(phone)) == [("added", b"doc", 1)]


async def test_members_of_a_share_are_told_what_becomes_of_it_and_who_leaves_it_is_not(tmp_path: Path) -> None:
    both = await neighbours(tmp_path)
    folder, _ = await both.tree()
    share = await both.share(folder)
    await both.share(folder)
    await both.share(folder, "viewer")
    await both.end(share)
    found = [(each.kind, each.text, each.user) for each in await told(both.bert)]
    assert found[1:] == [("role", "folder: viewer now", "someone"), ("unshared", "folder", "someone")]
    await both.share(folder)
    await both.shares.answer(both.bert.caller, AnswerRequest(share=share, accept=False))
    kinds = [each.kind for each in await told(both.bert, own=True)]
    assert kinds.count("unshared") == 1


async def test_members_of_a_share_are_told_of_what_others_do_in_it(tmp_path: Path) -> None:
    both = await neighbours(tmp_path)
    folder, file = await both.tree()
    await both.share(folder)
    found = await told(both.bert)
    assert [(each.kind, each.text, each.user) for each in found] == [("shared", "folder", "someone")]
    assert await both.write_in_share(both.anna, file, b"more", 1) == "ok"
    assert brief(await told(both.bert, found[-1].number)) == [("edited", b"folder/file", 1)]
    since = max(each.number for each in await told(both.anna, own=True))
    assert await both.write_in_share(both.bert, file, b"and more", 2) == "ok"
    (edited,) = await told(both.anna, since)
    assert (edited.kind, edited.path, edited.user) == ("edited", b"folder/file", "bert")
    both.anna.drive.database.close()


async def test_what_others_are_told_of_and_have_muted_is_theirs(tmp_path: Path) -> None:
    both = await neighbours(tmp_path)
    folder, _ = await both.tree()
    private = await both.anna.make(b"private", kind=InodeKind.DIRECTORY)
    await both.share(folder)
    service = Notifications(both.anna.drive.ground)
    assert b"private" in [each.path for each in await told(both.anna, own=True)]
    assert [each.kind for each in await told(both.bert)] == ["shared"]
    await service.mute(both.anna.caller, MuteRequest(inode=folder, is_muted=True))
    assert (await service.muted(both.bert.caller)).paths == []
    with pytest.raises(ProtocolError) as refused:
        await service.mute(both.bert.caller, MuteRequest(inode=private, is_muted=True))
    assert refused.value.code == Code.NOT_FOUND
    both.anna.drive.database.close()


async def test_what_a_busy_share_brings_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All others wait for each part, and one row of the drive may stand for a thousand changes."""
    pair = await neighbours(tmp_path)
    folder = await pair.anna.make(b"folder", kind=InodeKind.DIRECTORY)
    await pair.share(folder)
    await told(pair.bert)
    for number in range(5):
        await pair.anna.send(*(pair.anna.create(b"%d-%d" % (number, each), folder) for each in range(4)))
    parts, activity_parts = list[int](), list[int]()
    monkeypatch.setattr("backend.service.notifications.PART_CHANGES", 6)
    for where, noted in (("notifications", parts), ("activity", activity_parts)):
        monkeypatch.setattr(f"backend.service.{where}.bursts", counting(noted))
    assert brief(await told(pair.bert))[-1] == ("added", b"folder", 20)
    assert parts == [10, 10, 5]
    count, before = 0, 0
    while not activity_parts or before:
        reply = await Activity(pair.bert.drive.ground).read(
            pair.bert.caller, ActivityRequest(inode=folder, before=before)
        )
        count, before = count + sum(each.count for each in reply.entries), reply.before
    assert count == 20
    assert max(activity_parts) == 10


def counting(noted: list[int]) -> Callable[[Sequence[Change]], Iterator[list[Change]]]:
    def counted(rows: Sequence[Change]) -> Iterator[list[Change]]:
        noted.append(len(rows))
        return bursts(rows)

    return counted


async def test_room_that_is_nearly_used_up_is_told_of_once_a_day(laptop: Device, phone: Device) -> None:
    accounts = schema.accounts
    await laptop.drive.execute(update(accounts).values(quota_bytes=1000, stored_bytes=950))
    await laptop.make(b"a")
    await told(phone)
    await laptop.make(b"b")
    found = await told(phone)
    await laptop.drive.execute(update(accounts).values(quota_bytes=None, stored_bytes=0))
    assert [each.text for each in found if each.kind == Kind.QUOTA] == ["95 % of the quota is used"]


async def test_only_the_newest_are_kept(laptop: Device, phone: Device) -> None:
    def many(connection: object) -> None:
        for number in range(KEPT + 50):
            add(connection, phone.caller.user, Kind.QUOTA, now_ns=number)  # type: ignore[arg-type]

    await phone.drive.database.write(many)
    await laptop.make(b"a")
    service = Notifications(phone.drive.ground)
    reply = await service.list(phone.caller, NotificationsRequest(since=0, limit=1000))
    assert reply.notifications[0].number == 52
    assert reply.newest == KEPT + 51


async def activity(device: Device, inode: InodeId) -> list[tuple[str, bytes, int, str]]:
    service, found, before = Activity(device.drive.ground), list[NotificationInfo](), 0
    while True:
        reply = await service.read(device.caller, ActivityRequest(inode=inode, before=before))
        found += reply.entries
        before = reply.before
        if not before:
            return [(each.kind, each.path, each.count, each.device) for each in found]


async def test_activity_of_a_file_says_who_did_what_whatever_it_was_saved_as(laptop: Device, phone: Device) -> None:
    old = await laptop.save(b"doc", b"one")
    await pause(laptop)
    await laptop.save(b"other", b"other")
    new = await phone.save(b"doc.tmp", b"two")
    await phone.send(phone.rename(new, b"doc.tmp", b"doc", replaced=old, base=1))
    assert await activity(laptop, new) == [("edited", b"doc", 1, "device 2"), ("added", b"doc", 1, "device 1")]


async def test_activity_of_a_folder_is_of_all_below_it_and_is_read_part_by_part(
    laptop: Device, phone: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.service.notifications.PART_CHANGES", 3)
    top = await laptop.make(b"top", kind=InodeKind.DIRECTORY)
    deep = await phone.make(b"deep", top, InodeKind.DIRECTORY)
    await pause(laptop)
    doc = await laptop.save(b"doc", b"one", parent=deep)
    await laptop.save(b"beside", b"two")
    await pause(laptop)
    await phone.send(phone.unlink(doc, b"doc", deep, base=1))
    expected = [
        ("deleted", b"top/deep/doc", 1, "device 2"),
        ("added", b"top/deep/doc", 1, "device 1"),
        ("added", b"top/deep", 1, "device 2"),
        ("added", b"top", 1, "device 1"),
    ]
    assert [each for each in await activity(laptop, top) if each[0] != "edited"] == expected


async def test_activity_of_what_is_not_seen_is_not_told(tmp_path: Path) -> None:
    both = await neighbours(tmp_path)
    folder, _ = await both.tree()
    own = await both.anna.save(b"own", b"secret")
    await both.share(folder)
    with pytest.raises(ProtocolError) as refused:
        await activity(both.bert, own)
    assert refused.value.code == Code.NOT_FOUND
    assert await activity(both.bert, folder) == []
    both.anna.drive.database.close()
