"""The feed: what pages hold, where they end, and which cursors it can go on from."""

from dataclasses import replace

import msgspec
import pytest
from sqlalchemy import delete, insert, update

from backend.metadata import schema
from backend.service import pruning, sight
from backend.service.ground import Limits
from backend.service.pruning import Pruning
from drivefs.protocol import messages
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import CommitId, Incarnation, InodeId, OpNumber, Seq
from drivefs.protocol.messages import CommitRequest, Cursor, FeedPage, FeedStatus
from tests.backend.service.drive import DIRECTORY, FILE, Device, Drive

pytestmark = pytest.mark.anyio


async def cursor_of(device: Device) -> Cursor:
    """The cursor at the head."""
    reply = await device.begin()
    return reply.workspaces[0].head


async def read(device: Device, cursor: Cursor, limit: int = 5000, *, seen: Cursor | None = None) -> FeedPage | None:
    followed = messages.WorkspaceCursor(workspace=device.drive.workspace, cursor=cursor, seen=seen)
    request = messages.ChangesRequest(cursors=[followed], limit=limit)
    pages = (await device.drive.changes.read(device.caller, request)).pages
    assert len(pages) <= 1
    return pages[0] if pages else None


async def known(device: Device, cursor: Cursor, limit: int = 5000, *, seen: Cursor | None = None) -> FeedPage:
    page = await read(device, cursor, limit, seen=seen)
    assert page is not None
    return page


def dentries(page: FeedPage) -> dict[tuple[InodeId, bytes], InodeId]:
    return {(each.parent, each.name): each.inode for each in page.dentries}


async def test_nothing_new_gives_no_page(drive: Drive, laptop: Device) -> None:
    await laptop.make(b"a")
    assert await read(laptop, await cursor_of(laptop)) is None


async def test_a_workspace_is_asked_for_once(drive: Drive, laptop: Device) -> None:
    """A request of a thousand cursors is short; a thousand pages of one drive would not be."""
    followed = messages.WorkspaceCursor(workspace=drive.workspace, cursor=await cursor_of(laptop))
    with pytest.raises(ProtocolError, match="twice"):
        await drive.changes.read(laptop.caller, messages.ChangesRequest(cursors=[followed, followed]))


async def test_a_page_holds_all_that_changed_as_it_is_at_its_end(drive: Drive, laptop: Device) -> None:
    start = await cursor_of(laptop)
    directory = await laptop.make(b"d", kind=DIRECTORY)
    file = await laptop.save(b"a", b"one")
    assert await laptop.say(laptop.rename(file, b"a", b"b", new_parent=directory)) == "ok"
    assert await laptop.say(laptop.set_xattr(file, b"user.x", b"1")) == "ok"
    gone = await laptop.make(b"gone")
    assert await laptop.say(laptop.unlink(gone, b"gone")) == "ok"
    page = await known(laptop, start)
    assert (page.status, page.more, page.cursor) == (FeedStatus.CHANGES, False, await cursor_of(laptop))
    root = drive.root
    assert dentries(page) == {
        (root, b"d"): directory,
        (root, b"a"): 0,
        (directory, b"b"): file,
        (root, b"gone"): 0,
    }
    states = {state.inode: state for state in page.inodes}
    assert states.keys() == {root, directory, file, gone}
    assert states[gone].nlink == 0
    assert states[file] == await laptop.known(file)
    assert states[file].xattrs == {b"user.x": b"1"}
    assert await read(laptop, page.cursor) is None


async def test_pages_end_between_commits_and_show_the_state_of_their_end(drive: Drive, laptop: Device) -> None:
    start = await cursor_of(laptop)
    first, second = laptop.create(b"a"), laptop.create(b"b")
    await laptop.send(first, second)
    middle = await cursor_of(laptop)
    await laptop.send(laptop.rename(first.inode, b"a", b"c"), laptop.set_attributes(second.inode, mode=0))
    for limit in (1, 2, 3):
        page = await known(laptop, start, limit)
        assert (page.cursor, page.more) == (middle, True)
        assert dentries(page) == {(drive.root, b"a"): first.inode, (drive.root, b"b"): second.inode}
        assert {state.mode for state in page.inodes if state.inode == second.inode} == {0o644}
    rest = await known(laptop, middle, 1)
    assert dentries(rest) == {(drive.root, b"a"): 0, (drive.root, b"c"): first.inode}
    assert not rest.more
    assert not (await known(laptop, start, 4)).more


async def test_exchange_and_replacement_tell_of_both_sides(drive: Drive, laptop: Device) -> None:
    a, b, c = await laptop.make(b"a"), await laptop.make(b"b"), await laptop.make(b"c")
    start = await cursor_of(laptop)
    assert await laptop.say(laptop.exchange(a, b"a", b, b"b")) == "ok"
    assert await laptop.say(laptop.rename(c, b"c", b"a", replaced=b)) == "ok"
    page = await known(laptop, start)
    assert dentries(page) == {(drive.root, b"a"): c, (drive.root, b"b"): a, (drive.root, b"c"): 0}
    assert {state.inode: state.nlink for state in page.inodes} == {a: 1, b: 0, c: 1, drive.root: 2}


async def test_the_feed_begins_with_the_birth_of_the_drive(drive: Drive, laptop: Device) -> None:
    head = await cursor_of(laptop)
    page = await known(laptop, Cursor(incarnation=head.incarnation, seq=Seq(0)))
    assert [state.inode for state in page.inodes] == [drive.root]
    assert (page.dentries, page.cursor) == ([], head)


@pytest.mark.fault(40)
async def test_a_cursor_of_another_history_has_diverged(drive: Drive, laptop: Device) -> None:
    await laptop.make(b"a")
    head = await cursor_of(laptop)
    others = [
        Cursor(incarnation=Incarnation(head.incarnation + 1), seq=head.seq, commit=head.commit),
        Cursor(incarnation=head.incarnation, seq=Seq(head.seq + 1), commit=head.commit),
        Cursor(incarnation=head.incarnation, seq=head.seq, commit=CommitId(b"x" * 16)),
        Cursor(incarnation=head.incarnation, seq=Seq(head.seq - 1), commit=head.commit),
        Cursor(incarnation=head.incarnation, seq=head.seq),
    ]
    for cursor in others:
        page = await known(laptop, cursor)
        assert (page.status, page.cursor, page.inodes) == (FeedStatus.DIVERGED, head, [])


@pytest.mark.fault(40)
async def test_a_commit_that_a_device_has_seen_beyond_its_cursor_is_judged_too(drive: Drive, laptop: Device) -> None:
    old = await cursor_of(laptop)
    await laptop.make(b"a")
    head = await cursor_of(laptop)
    assert (await known(laptop, old, seen=head)).status is FeedStatus.CHANGES
    lost = Cursor(incarnation=head.incarnation, seq=head.seq, commit=CommitId(b"x" * 16))
    page = await known(laptop, old, seen=lost)
    assert (page.status, page.shared, page.cursor, page.inodes) == (FeedStatus.DIVERGED, old.seq, head, [])


@pytest.mark.fault(40)
async def test_a_history_goes_on_through_restores_up_to_what_is_common(drive: Drive, laptop: Device) -> None:
    cursors = []
    for name in (b"a", b"b", b"c"):
        await laptop.make(name)
        cursors.append(await cursor_of(laptop))
    first, second, third = cursors
    other = Incarnation(third.incarnation + 1)
    here = {"account": drive.home.account, "workspace": drive.workspace}
    await drive.execute(insert(schema.restores).values(**here, number=1, ended=other, head_seq=second.seq))
    await drive.execute(insert(schema.restores).values(**here, number=2, ended=third.incarnation + 2, head_seq=9))

    async def judged(cursor: Cursor) -> FeedPage:
        return await known(laptop, msgspec.structs.replace(cursor, incarnation=other))

    page = await judged(first)
    assert (page.status, page.cursor) == (FeedStatus.CHANGES, third)
    page = await judged(third)
    assert (page.status, page.shared) == (FeedStatus.DIVERGED, second.seq)
    at_head = msgspec.structs.replace(third, incarnation=Incarnation(third.incarnation + 2))
    page = await known(laptop, at_head)
    assert (page.status, page.cursor, page.inodes) == (FeedStatus.CHANGES, third, [])


@pytest.mark.fault(40)
async def test_nothing_is_committed_to_a_history_that_lacks_what_the_device_has_seen(
    drive: Drive, laptop: Device
) -> None:
    await laptop.make(b"a")
    head = await cursor_of(laptop)
    lost = Cursor(incarnation=head.incarnation, seq=head.seq, commit=CommitId(b"x" * 16))
    mutation = laptop.create(b"b", FILE)
    for seen, is_taken in ((lost, False), (head, True)):
        request = CommitRequest(epoch=laptop.epoch, watermark=OpNumber(1), mutations=[mutation], seen=seen)
        if is_taken:
            await drive.commits.commit(laptop.caller, drive.workspace, request)
            continue
        with pytest.raises(ProtocolError) as caught:
            await drive.commits.commit(laptop.caller, drive.workspace, request)
        assert caught.value.code is Code.DIVERGED
        assert await cursor_of(laptop) == head


@pytest.mark.fault(43)
async def test_a_cursor_older_than_the_feed_has_expired(drive: Drive, laptop: Device) -> None:
    old = await cursor_of(laptop)
    await laptop.make(b"a")
    kept = await cursor_of(laptop)
    await laptop.make(b"b")
    await drive.execute(update(schema.workspaces).values(feed_floor=kept.seq))
    page = await known(laptop, old)
    assert (page.status, page.cursor) == (FeedStatus.EXPIRED, await cursor_of(laptop))
    assert (await known(laptop, kept)).status is FeedStatus.CHANGES


@pytest.mark.fault(43)
async def test_changes_older_than_the_feed_is_long_are_forgotten(
    drive: Drive, laptop: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cursors that were at what is left go on; older ones expire, and there is no page of half of it."""
    monkeypatch.setattr(pruning, "BATCH_ROWS", 2)
    start, cursors = await cursor_of(laptop), []
    for name in (b"a", b"b", b"c", b"d"):
        await laptop.send(laptop.create(name), laptop.create(name + b"2"))
        cursors.append(await cursor_of(laptop))
        drive.clock.ns += 86400 * 10**9
    ground = replace(drive.ground, limits=Limits(feed_seconds=2 * 86400 + 1))
    assert await Pruning(ground).prune() == 5
    assert await Pruning(ground).prune() == 0
    assert [(await known(laptop, each)).status for each in (start, cursors[0])] == [FeedStatus.EXPIRED] * 2
    page = await known(laptop, cursors[1])
    assert (page.status, page.cursor) == (FeedStatus.CHANGES, cursors[3])
    assert {name for _, name in dentries(page)} == {b"c", b"c2", b"d", b"d2"}
    assert await laptop.make(b"e")


@pytest.mark.fault(42)
@pytest.mark.parametrize("lost", ["the first", "one between", "part of one", "the last", "all"])
async def test_a_feed_that_lacks_changes_is_not_given_as_if_it_were_whole(
    drive: Drive, laptop: Device, lost: str
) -> None:
    start = await cursor_of(laptop)
    for name in (b"a", b"b", b"c"):
        await laptop.make(name)
    await laptop.send(laptop.create(b"d"), laptop.create(b"e"))
    head = await cursor_of(laptop)
    assert (await known(laptop, start)).since == start.seq
    c = schema.changes.c
    which = {
        "the first": c.seq == start.seq + 1,
        "one between": c.seq == start.seq + 2,
        "part of one": (c.seq == head.seq) & (c.n == 0),
        "the last": c.seq == head.seq,
        "all": c.seq > start.seq,
    }[lost]
    rows = await drive.fetch(schema.changes.select().where(which))
    await drive.execute(delete(schema.changes).where(which))
    cursor, statuses = start, []
    while cursor != head and not statuses:
        page = await known(laptop, cursor, 1)
        assert page.since == cursor.seq or page.status is not FeedStatus.CHANGES
        statuses += [page.status] if page.status is not FeedStatus.CHANGES else []
        cursor = page.cursor
    assert (statuses, cursor) == ([FeedStatus.EXPIRED], head)
    assert await read(laptop, head) is None
    await drive.execute(insert(schema.changes).values([dict(row._mapping) for row in rows]))


async def test_a_workspace_that_one_is_no_member_of_is_gone(drive: Drive, laptop: Device) -> None:
    head = await cursor_of(laptop)
    stranger = await drive.stranger()
    assert (await known(stranger, head)).status is FeedStatus.GONE
    members = await drive.fetch(schema.members.select())
    await drive.execute(delete(schema.members))
    assert (await known(laptop, head)).status is FeedStatus.GONE
    await drive.execute(schema.members.insert().values(**members[0]._mapping))


async def test_a_page_names_the_directories_whose_names_it_brings_whole(laptop: Device) -> None:
    old = await laptop.make(b"old", kind=DIRECTORY)
    start = await cursor_of(laptop)
    new = await laptop.make(b"new", kind=DIRECTORY)
    await laptop.make(b"file", new)
    await laptop.make(b"file", old)
    gone = await laptop.make(b"gone", kind=DIRECTORY)
    assert await laptop.say(laptop.unlink(gone, b"gone")) == "ok"
    assert (await known(laptop, start)).made == [new]


async def test_a_page_has_no_more_attributes_than_a_device_takes(
    laptop: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But those of one commit, which is never split."""
    files = [await laptop.make(b"%d" % number) for number in range(8)]
    start = await cursor_of(laptop)
    for some in (files[:1], files[1:2], files[2:6], files[6:7], files[7:]):
        await laptop.send(*(laptop.set_xattr(file, b"user.x", b"v" * 100) for file in some))
    monkeypatch.setattr(sight, "PAGE_BYTES", 330)
    pages = [await known(laptop, start)]
    while pages[-1].more:
        pages.append(await known(laptop, pages[-1].cursor))
    assert [state.inode for page in pages for state in page.inodes if state.xattrs] == files
    assert all(len(page.inodes) <= 3 or page.cursor.seq == page.since + 1 for page in pages)
    assert max(len(page.inodes) for page in pages) == 4
