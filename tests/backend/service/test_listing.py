"""Reading a tree, now and as it was: pages, inodes and block lists."""

import pytest
from sqlalchemy import update

from backend.metadata import schema
from backend.service import sight
from drivefs.protocol import messages
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import InodeId, Seq
from tests.backend.service.drive import DIRECTORY, Device, Drive

pytestmark = pytest.mark.anyio


async def page(device: Device, after: bytes, limit: int, as_of: int = 0) -> tuple[list[bytes], bool]:
    request = messages.ListRequest(directory=device.drive.root, after=after, limit=limit, as_of=Seq(as_of))
    reply = await device.drive.listing.list_directory(device.caller, device.drive.workspace, request)
    return [entry.name for entry in reply.entries], reply.more


async def test_pages_follow_the_order_of_bytes(laptop: Device) -> None:
    for name in (b"b", b"\xff", b"a", b"B", b"a\x01"):
        await laptop.make(name)
    assert await page(laptop, b"", 2) == ([b"B", b"a"], True)
    assert await page(laptop, b"a", 2) == ([b"a\x01", b"b"], True)
    assert await page(laptop, b"b", 2) == ([b"\xff"], False)
    assert await page(laptop, b"", 5) == ([b"B", b"a", b"a\x01", b"b", b"\xff"], False)
    assert await page(laptop, b"\xff", 5) == ([], False)


async def test_pages_of_the_past_mix_what_is_left_and_what_is_gone(laptop: Device) -> None:
    made = {name: await laptop.make(name) for name in (b"a", b"b", b"c", b"d", b"e")}
    then = await laptop.head()
    for name in (b"a", b"c", b"e"):
        assert await laptop.say(laptop.unlink(made[name], name)) == "ok"
    await laptop.make(b"aa")
    assert await page(laptop, b"", 3, then) == ([b"a", b"b", b"c"], True)
    assert await page(laptop, b"c", 3, then) == ([b"d", b"e"], False)
    assert await page(laptop, b"", 9) == ([b"aa", b"b", b"d"], False)
    assert await laptop.names(as_of=then) == made


async def test_a_listing_carries_the_states_of_its_time(drive: Drive, laptop: Device) -> None:
    file = await laptop.save(b"a", b"one")
    assert await laptop.say(laptop.set_xattr(file, b"user.x", b"1")) == "ok"
    then = await laptop.head()
    await laptop.write(file, b"second", base=1)
    assert await laptop.say(laptop.set_attributes(file, mode=0)) == "ok"
    request = messages.ListRequest(directory=drive.root, as_of=Seq(then))
    reply = await drive.listing.list_directory(laptop.caller, drive.workspace, request)
    (entry,) = reply.entries
    assert reply.seq == then
    assert reply.directory.seq <= then
    assert (entry.inode.size, entry.inode.revision, entry.inode.mode) == (3, 1, 0o644)
    assert (entry.inode.xattrs, entry.inode.seq) == ({b"user.x": b"1"}, then)
    assert entry.inode == await laptop.state(file, then)
    assert (await laptop.known(file)).size == 6


async def test_what_was_not_there_is_not_found(drive: Drive, laptop: Device) -> None:
    directory = await laptop.make(b"d", kind=DIRECTORY)
    made = await laptop.head()
    file = await laptop.make(b"f")
    assert await laptop.say(laptop.unlink(directory, b"d")) == "ok"
    for inode, as_of in ((directory, made - 1), (directory, 0), (file, 0), (InodeId(12345), 0)):
        await refused(Code.NOT_FOUND, laptop, inode, as_of)
    assert await laptop.names(directory, made) == {}
    assert await laptop.state(directory, made - 1) is None
    assert (await laptop.known(directory)).nlink == 0


async def refused(code: Code, device: Device, directory: InodeId, as_of: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        await device.names(directory, as_of)
    assert caught.value.code is code


async def test_a_seq_that_was_never_or_is_not_kept_is_refused(drive: Drive, laptop: Device) -> None:
    await laptop.make(b"a")
    head = await laptop.head()
    await refused(Code.CONFLICT, laptop, drive.root, head + 1)
    await drive.execute(update(schema.workspaces).values(history_floor=head))
    await refused(Code.NOT_FOUND, laptop, drive.root, head - 1)
    assert list(await laptop.names(as_of=head)) == [b"a"]


async def test_strangers_see_nothing(drive: Drive, laptop: Device) -> None:
    file = await laptop.save(b"a", b"secret")
    stranger = await drive.stranger()
    await refused(Code.NOT_FOUND, stranger, drive.root, 0)
    with pytest.raises(ProtocolError):
        await stranger.state(file)
    with pytest.raises(ProtocolError):
        await stranger.content(file, 1)


async def test_contents_are_found_by_inode_and_number(laptop: Device) -> None:
    file, other = await laptop.save(b"a", b"one"), await laptop.save(b"b", b"other")
    await laptop.write(file, b"one", b"two", base=1)
    assert [(await laptop.content(file, number)).size for number in (1, 2)] == [3, 6]
    assert (await laptop.content(other, 1)).size == 5
    for inode, number in ((file, 3), (file, 0), (other, 2)):
        with pytest.raises(ProtocolError) as caught:
            await laptop.content(inode, number)
        assert caught.value.code is Code.NOT_FOUND


async def many(device: Device, directories: list[InodeId], limit: int, as_of: int = 0) -> messages.ListManyReply:
    request = messages.ListManyRequest(directories=directories, limit=limit, as_of=Seq(as_of))
    return await device.drive.listing.list_many(device.caller, device.drive.workspace, request)


def listed(reply: messages.ListManyReply) -> dict[InodeId, tuple[list[bytes], bool]]:
    return {each.directory.inode: ([entry.name for entry in each.entries], each.more) for each in reply.listings}


async def test_many_directories_are_answered_whole_as_far_as_the_limit_goes(laptop: Device) -> None:
    one, empty, three = [await laptop.make(name, kind=DIRECTORY) for name in (b"1", b"2", b"3")]
    await laptop.make(b"a", one)
    for name in (b"x", b"y", b"z"):
        await laptop.make(name, three)
    asked = [three, one, empty]
    whole = {one: ([b"a"], False), empty: ([], False)}
    assert listed(await many(laptop, asked, 4)) == {**whole, three: ([b"x", b"y", b"z"], False)}
    for limit in (1, 2, 3):
        reply = await many(laptop, asked, limit)
        assert (listed(reply), reply.unanswered) == (whole, [three])
    reply = await many(laptop, [three, empty], 2)
    assert (listed(reply), reply.unanswered) == ({empty: ([], False), three: ([b"x", b"y"], True)}, [])
    assert (await many(laptop, [three], 3)).listings == (await many(laptop, asked, 9)).listings[2:]


async def test_of_many_those_that_are_no_directories_are_left_out(laptop: Device) -> None:
    gone = await laptop.make(b"gone", kind=DIRECTORY)
    child = await laptop.make(b"child", gone)
    then = await laptop.head()
    assert await laptop.say(laptop.unlink(child, b"child", gone)) == "ok"
    assert await laptop.say(laptop.unlink(gone, b"gone")) == "ok"
    file = await laptop.make(b"file")
    reply = await many(laptop, [gone, file, InodeId(12345)], 9)
    assert (reply.listings, reply.unanswered) == ([], [])
    assert listed(await many(laptop, [gone, file], 9, then)) == {gone: ([b"child"], False)}
    with pytest.raises(ProtocolError):
        await many(await laptop.drive.stranger(), [file], 9)


@pytest.fixture
async def heavy(laptop: Device, monkeypatch: pytest.MonkeyPatch) -> list[InodeId]:
    """Three directories of four files each, with so many attributes that a page has room for those of three files."""
    monkeypatch.setattr(sight, "PAGE_BYTES", 330)
    monkeypatch.setattr(sight, "PORTION_INODES", 3)
    directories = [await laptop.make(name, kind=DIRECTORY) for name in (b"1", b"2", b"3")]
    for directory in directories:
        for name in (b"a", b"b", b"c", b"d"):
            file = await laptop.make(name, directory)
            await laptop.send(laptop.set_xattr(file, b"user.x", b"v" * 100))
    return directories


async def test_a_page_has_no_more_attributes_than_a_device_takes(laptop: Device, heavy: list[InodeId]) -> None:
    request = messages.ListRequest(directory=heavy[0])
    first = await laptop.drive.listing.list_directory(laptop.caller, laptop.drive.workspace, request)
    assert ([entry.name for entry in first.entries], first.more) == ([b"a", b"b", b"c"], True)
    request = messages.ListRequest(directory=heavy[0], after=b"c")
    rest = await laptop.drive.listing.list_directory(laptop.caller, laptop.drive.workspace, request)
    assert ([entry.name for entry in rest.entries], rest.more) == ([b"d"], False)


async def test_of_many_directories_too(laptop: Device, heavy: list[InodeId], monkeypatch: pytest.MonkeyPatch) -> None:
    cut = await many(laptop, heavy, 100)
    assert listed(cut) == {heavy[0]: ([b"a", b"b", b"c"], True)}
    assert cut.unanswered == heavy[1:]
    monkeypatch.setattr(sight, "PAGE_BYTES", 700)
    cut = await many(laptop, heavy, 100)
    assert listed(cut) == {heavy[0]: ([b"a", b"b", b"c", b"d"], False)}
    assert cut.unanswered == heavy[1:]
