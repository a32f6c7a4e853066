"""Answers that are well-formed and cannot be true are not believed, whichever call they answer."""

from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from drivefs.protocol import history, messages, notifications
from drivefs.protocol.changes import OpResult, Status
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.history import TrashEntry, TrashPlace, TrashReply
from drivefs.protocol.ids import (
    MAX_ID,
    BlockId,
    DeviceId,
    Epoch,
    Incarnation,
    InodeId,
    OpNumber,
    RevisionNumber,
    Seq,
    UserId,
    WorkspaceId,
)
from drivefs.protocol.model import MAX_MODE, MAX_OWNER, MAX_TIME_NS, MIN_TIME_NS, DentryState, InodeKind, InodeState
from drivefs.remote import belief, errors
from tests.remote.server import World, message, run, says
from tests.remote.test_client import WORKSPACE

FILE = InodeState(inode=InodeId(5), kind=InodeKind.FILE, mode=0o644)
NAME = DentryState(InodeId(1), b"a", InodeId(5), Seq(1))
SHARE = messages.Share(workspace=WorkspaceId(1), root=InodeId(2), role="viewer")
EXTREMES = replace(
    FILE,
    inode=InodeId(MAX_ID),
    mode=MAX_MODE,
    uid=MAX_OWNER,
    gid=0,
    rdev=MAX_ID,
    atime_ns=MIN_TIME_NS,
    mtime_ns=MAX_TIME_NS,
    size=MAX_ID,
    revision=RevisionNumber(MAX_ID),
    target=b"x" * 4095,
    blocks=None,
)
BEYOND = InodeId(MAX_ID + 1)
SESSION = partial(
    messages.SessionReply,
    epoch=Epoch(1),
    incarnation=Incarnation(1),
    user=UserId(1),
    user_name="ann",
    device=DeviceId(1),
    device_name="laptop",
    workspaces=[],
    limits=messages.Limits(file_bytes=1, quota_bytes=1),
    usage=messages.Usage(),
)


def page(**more: Any) -> messages.ChangesReply:
    cursor = messages.Cursor(incarnation=Incarnation(1), seq=Seq(1))
    status = messages.FeedStatus.CHANGES
    return messages.ChangesReply(
        pages=[messages.FeedPage(workspace=WorkspaceId(1), status=status, cursor=cursor, **more)]
    )


def listing(name: bytes, inode: InodeState = FILE, seq: int = 1) -> messages.ListReply:
    return messages.ListReply(directory=FILE, entries=[messages.Entry(name=name, inode=inode)], seq=Seq(seq))


def trash(name: bytes) -> TrashReply:
    place = TrashPlace(seq=Seq(1), parent=InodeId(1), name=name)
    return TrashReply(entries=[TrashEntry(inode=FILE, place=place, time_ns=1)], keep_seconds=1)


def answer(**more: Any) -> messages.CommitReply:
    head = messages.Cursor(incarnation=Incarnation(1), seq=Seq(1))
    return messages.CommitReply(results=[OpResult(OpNumber(1), Status.OK, **more)], head=head, usage=messages.Usage())


@pytest.mark.parametrize(
    "message",
    [
        page(inodes=[FILE, EXTREMES], dentries=[NAME], made=[InodeId(5)], shares=[SHARE]),
        listing(b"x" * 255, EXTREMES),
        trash(b"..."),
        SESSION(shares=[SHARE]),
        answer(gone=[NAME], blocks=[BlockId(bytes(32))]),
    ],
)
def test_what_a_server_may_keep_is_believed(message: Any) -> None:
    belief.check(message)


ODD = {
    "inode": BEYOND,
    "mode": MAX_MODE + 1,
    "uid": MAX_OWNER + 1,
    "gid": -1,
    "rdev": BEYOND,
    "atime_ns": MIN_TIME_NS - 1,
    "mtime_ns": MAX_TIME_NS + 1,
    "ctime_ns": MAX_TIME_NS + 1,
    "nlink": -1,
    "size": -1,
    "revision": BEYOND,
    "lineage": BEYOND,
    "seq": BEYOND,
    "blocks": bytes(35),
    "target": b"a\0b",
}


@pytest.mark.fault(34)
@pytest.mark.parametrize("field", ODD)
def test_an_inode_that_fits_nowhere_is_not_believed(field: str) -> None:
    with pytest.raises(ProtocolError, match="cannot be"):
        belief.check(page(inodes=[replace(FILE, **{field: ODD[field]})]))


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"../a", b"a\0", b"x" * 256])
def test_a_name_that_no_directory_can_hold_is_not_believed(name: bytes) -> None:
    many = messages.ListManyReply(listings=[listing(name)])
    named = replace(NAME, name=name)
    for each in (page(dentries=[named]), listing(name), many, trash(name), answer(gone=[named])):
        with pytest.raises(ProtocolError, match="a name"):
            belief.check(each)


@pytest.mark.parametrize(
    "message",
    [
        page(since=BEYOND),
        page(made=[BEYOND]),
        page(shares=[replace(SHARE, root=BEYOND)]),
        page(dentries=[replace(NAME, inode=BEYOND)]),
        listing(b"a", seq=BEYOND),
        messages.ListManyReply(listings=[], unanswered=[BEYOND]),
        messages.InodesReply(inodes=[replace(FILE, size=BEYOND)]),
        messages.ContentReply(size=9, blocks=bytes(35)),
        SESSION(epoch=BEYOND),
        SESSION(shares=[replace(SHARE, workspace=BEYOND)]),
        messages.IdRangesReply(starts=[BEYOND]),
        messages.IdRangesReply(starts=[InodeId(MAX_ID - 5)]),
        page(since=2),
        page(since=1, more=True),
        messages.MissingReply(missing=[BlockId(b"")]),
        messages.LostReply(blocks=[BlockId(bytes(33))]),
        answer(seq=BEYOND),
        answer(blocks=[BlockId(b"x")]),
    ],
)
def test_no_other_answer_with_what_cannot_be_is_believed(message: Any) -> None:
    with pytest.raises(ProtocolError, match="cannot be"):
        belief.check(message)


FOLDER = InodeState(inode=InodeId(5), kind=InodeKind.DIRECTORY, mode=0o755)
REVISION = history.RevisionInfo(number=RevisionNumber(3), size=1, time_ns=1, mtime_ns=1)
PLACE = TrashPlace(seq=Seq(3), parent=InodeId(1), name=b"c")
REMOVED = TrashEntry(inode=FILE, place=PLACE, time_ns=1)
NOTIFICATION = notifications.NotificationInfo(number=3, time_ns=1, kind="new")


@pytest.mark.fault(34)
@pytest.mark.parametrize("is_empty", [True, False], ids=["nothing", "the same"])
def test_a_part_that_does_not_get_on_and_says_that_there_is_more_is_not_believed(is_empty: bool) -> None:
    """Whoever goes on asking would never end."""
    entries = [] if is_empty else [messages.Entry(name=b"c", inode=FOLDER)]
    listing = messages.ListReply(directory=FOLDER, entries=entries, seq=Seq(1), more=True)
    revisions = history.RevisionsReply(revisions=[] if is_empty else [REVISION], more=True)
    removed = TrashReply(entries=[] if is_empty else [REMOVED], keep_seconds=1, more=True)
    emptied = history.EmptyTrashReply(count=0, more=True)
    told = notifications.NotificationsReply(notifications=[] if is_empty else [NOTIFICATION], newest=9, more=True)

    async def scenario(world: World) -> None:
        with pytest.raises(errors.NotDrivefs, match="does not get on"):
            await world.remote.list_directory(WORKSPACE, messages.ListRequest(directory=InodeId(5), after=b"c"))
        request = history.RevisionsRequest(inode=InodeId(5), after=RevisionNumber(3))
        with pytest.raises(errors.NotDrivefs, match="does not get on"):
            await world.remote.revisions(WORKSPACE, request)
        with pytest.raises(errors.NotDrivefs, match="does not get on"):
            await world.remote.notified(notifications.NotificationsRequest(since=3))

        with pytest.raises(errors.NotDrivefs, match="does not get on"):
            await world.remote.trash(WORKSPACE, history.TrashRequest(after=PLACE))
        with pytest.raises(errors.NotDrivefs, match="does not get on"):
            await world.remote.empty_trash(WORKSPACE, history.EmptyTrashRequest(until=Seq(1)))

    run(says(message(listing), message(revisions), message(told), message(removed), message(emptied)), scenario)
