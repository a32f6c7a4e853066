"""A share whose member comes and goes: nothing of an earlier time in it is shown, and its room is the owner's."""

import os
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from cache.errors import DiskFull
from cache.shares import SHARES
from drivefs.control import space
from drivefs.fs import errors
from drivefs.fs.saving import ASIDE_NS
from drivefs.protocol import messages, routes, wire
from drivefs.protocol.ids import InodeId
from drivefs.protocol.messages import Limits, Room, Usage
from drivefs.protocol.sharing import AnswerRequest, ShareInfo, ShareRequest, UnshareRequest
from drivefs.sync import follower
from tests.backend.api.served import PASSWORD, USER
from tests.sync.fleet import Device, Fleet, sailing

pytestmark = pytest.mark.anyio

MEMBER = "bert"


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


class Sharers:
    """The owner's device, and one of a member, who comes and goes."""

    def __init__(self, fleet: Fleet, owner: Device, member: Device, tokens: dict[str, str]) -> None:
        self.fleet, self.owner, self.member = fleet, owner, member
        self._tokens = tokens
        self._share = 0

    async def _post(self, who: str, route: str, request: Any) -> Any:
        reply = await self.fleet.served.post(route, request, token=self._tokens[who])
        assert reply.status == 200, reply.reply
        return reply.reply

    async def begin(self, root: InodeId) -> None:
        told = await self._post("owner", routes.SHARE, ShareRequest(inode=root, user=MEMBER, role="editor"))
        self._share = wire.decode(told, ShareInfo).share
        await self._post("member", routes.ANSWER, AnswerRequest(share=self._share, accept=True))

    async def end(self) -> None:
        await self._post("owner", routes.UNSHARE, UnshareRequest(share=self._share, user=MEMBER))


async def logged_in(fleet: Fleet, user: str, name: str) -> tuple[Device, str]:
    request = messages.LoginRequest(user=user, password=PASSWORD, device=name)
    token = wire.decode((await fleet.served.post(routes.LOGIN, request, token="")).reply, messages.LoginReply).token
    device = Device(name, fleet.place / name, token, fleet.served.asgi)
    device.place.mkdir()
    await device.open()
    await device.begin()
    fleet.devices.append(device)
    return device, token


@pytest.fixture
async def sharers(tmp_path: Path) -> AsyncIterator[Sharers]:
    async with sailing(tmp_path, "first") as (fleet, _):
        await fleet.served.services.accounts.add_user(MEMBER, PASSWORD)
        owner, owners = await logged_in(fleet, USER, "owner")
        member, members = await logged_in(fleet, MEMBER, "member")
        yield Sharers(fleet, owner, member, {"owner": owners, "member": members})


async def test_what_changed_while_a_member_was_out_is_shown_when_he_is_back(sharers: Sharers) -> None:
    owner, member = sharers.owner, sharers.member
    for path in ("s", "s/d", "s/empty"):
        await owner.mkdir(path)
    await owner.write("s/d/old", b"old")
    await owner.sync()
    await sharers.begin((await owner.known("s")).inode)
    for device in (owner, member):
        await device.sync()
    assert await member.tree() == await owner.tree()
    await sharers.end()
    await member.sync()
    assert await member.tree() == {}
    await owner.unlink("s/d/old")
    await owner.write("s/empty/new", b"new")
    await owner.rename("s/d", "s/e")
    await owner.mkdir("s/d")
    await owner.sync()
    await sharers.begin((await owner.known("s")).inode)
    for device in (owner, member):
        await device.sync()
    expected = {"s": None, "s/d": None, "s/e": None, "s/empty": None, "s/empty/new": b"new"}
    assert await owner.tree() == expected
    assert await member.tree() == expected


async def test_a_name_that_comes_without_its_state_does_not_show_what_was_known_in_an_earlier_time(
    sharers: Sharers, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, member = sharers.owner, sharers.member
    await owner.write("f", b"old")
    await owner.sync()
    inode = (await owner.known("f")).inode
    await sharers.begin(inode)
    await member.sync()
    assert await member.tree() == {"f": b"old"}
    await sharers.end()
    await owner.write("f", b"new, and longer")
    await owner.sync()
    await sharers.begin(inode)
    await sharers.end()
    # The member hears of these one after the other, and the share is over by then.
    monkeypatch.setattr(follower, "PAGE_CHANGES", 1)
    replica, shown = member.local.replica, 0
    while (await member.follower.poll(0.0)).has_moved:
        if replica.names_of(inode):
            shown += 1
            assert replica.inode(inode) is None
    assert shown == 1
    assert await member.tree() == {}


async def test_what_is_open_is_read_as_it_is_when_a_member_is_back_and_nothing_has_changed(sharers: Sharers) -> None:
    owner, member = sharers.owner, sharers.member
    await owner.write("f", b"old")
    await owner.sync()
    inode = (await owner.known("f")).inode
    await sharers.begin(inode)
    await member.sync()
    number = await member.open_file("f", os.O_RDONLY)
    await sharers.end()
    await member.sync()
    await owner.write("f", b"new, and longer")
    await owner.sync()
    await sharers.begin(inode)
    await member.sync()
    assert await member.read("f") == b"new, and longer"
    await sharers.end()
    await member.sync()
    member.fs._view._inodes.clear()  # as when many others have been looked at since
    await sharers.begin(inode)
    await member.sync()
    assert await member.fs.read(number, 0, 100) == await member.read("f") == b"new, and longer"
    member.fs.release(number)


async def begun(sharers: Sharers) -> None:
    """A folder of the owner's in both drives."""
    await sharers.owner.mkdir("s")
    await sharers.owner.sync()
    await sharers.begin((await sharers.owner.known("s")).inode)
    for device in (sharers.owner, sharers.member):
        await device.sync()


async def test_what_a_member_wrote_is_not_shown_once_it_was_changed_while_he_was_out(sharers: Sharers) -> None:
    owner, member = sharers.owner, sharers.member
    await begun(sharers)
    await member.write("s/f", b"old")
    for device in (member, owner):
        await device.sync()
    await sharers.end()
    await member.sync()
    await owner.write("s/f", b"new, and longer")
    await owner.sync()
    await sharers.begin((await owner.known("s")).inode)
    await member.sync()
    assert await member.read("s/f") == b"new, and longer"


async def test_a_member_who_is_full_writes_where_the_owner_has_room(sharers: Sharers) -> None:
    await begun(sharers)
    quota = sharers.member.fs.quota
    quota.told(Limits(file_bytes=2**30, quota_bytes=5_000), Usage(), [Room(owner=USER, room_bytes=20_000)])
    await sharers.member.write("s/theirs", b"x" * 9_000)
    await sharers.member.write("mine", b"x" * 3_000)
    assert quota.used_bytes == 3_000
    await sharers.member.write("s/more", b"x" * 9_000)
    for device in (sharers.member, sharers.owner):
        await device.sync()
    assert quota.used_bytes == 0
    assert (await sharers.owner.tree())["s/more"] == b"x" * 9_000
    with pytest.raises(errors.OverQuota):
        await sharers.member.write("more", b"x" * 9_000)
    assert quota.short == {""}
    await sharers.member.write("s/last", b"x" * 9_000)


async def test_a_write_where_the_owner_is_full_is_refused_and_says_whose_room_it_is(sharers: Sharers) -> None:
    await begun(sharers)
    quota = sharers.member.fs.quota
    quota.told(Limits(file_bytes=2**30, quota_bytes=2**30), Usage(), [Room(owner=USER, room_bytes=10_000)])
    await sharers.member.write("mine", b"x" * 20_000)
    await sharers.member.write("s/theirs", b"x" * 6_000)
    with pytest.raises(errors.OverQuota):
        await sharers.member.write("s/more", b"x" * 6_000)
    assert quota.short == {USER}
    (told,) = space.notices(quota.short)
    assert USER in told
    quota.told(quota.limits, Usage(), [Room(owner=USER, room_bytes=2**22)])
    assert quota.short == set()
    await sharers.member.write("s/more", b"x" * 6_000)


async def save_aside(device: Device, content: bytes, *, is_sent: bool = False) -> None:
    await device.rename("f", "before")
    if is_sent:
        await device.sync()
    await device.write("f", content)
    if is_sent:
        await device.sync()
    await device.unlink("before")
    assert await device.tree() == {"f": content}


async def sharing_one(sharers: Sharers) -> InodeId:
    """A file of the owner's, shared by itself, that the member knows."""
    await sharers.owner.write("f", b"first")
    await sharers.owner.sync()
    inode = (await sharers.owner.known("f")).inode
    await sharers.begin(inode)
    await sharers.member.sync()
    return inode


@pytest.mark.parametrize("is_sent", [False, True])
async def test_saving_a_shared_file_by_moving_it_aside_changes_it_for_all(sharers: Sharers, is_sent: bool) -> None:
    owner, member = sharers.owner, sharers.member
    inode = await sharing_one(sharers)
    for number, (device, other) in enumerate(((member, owner), (owner, member), (member, owner))):
        content = b"content %d" % number
        await save_aside(device, content, is_sent=is_sent)
        for each in (device, other):
            await each.sync()
        assert await other.tree() == {"f": content}
        assert (await device.known("f")).inode == (await other.known("f")).inode == inode


@pytest.mark.parametrize("is_sent", [False, True])
async def test_a_shared_file_that_is_saved_with_a_backup_is_seen_by_all(sharers: Sharers, is_sent: bool) -> None:
    owner, member = sharers.owner, sharers.member
    inode = await sharing_one(sharers)
    expected: dict[Device, dict[str, object]] = {owner: {"f": b"first"}, member: {"f": b"first"}}
    for number, (device, other) in enumerate(((member, owner), (owner, member), (member, owner))):
        expected[device]["f~"], content = await device.read("f"), b"content %d" % number
        await device.rename("f", "f~")
        if is_sent:
            await device.sync()
        await device.write("f", content)
        for each in (device, other, device):
            await each.sync()
        expected[owner]["f"] = expected[member]["f"] = content
        assert (await owner.tree(), await member.tree()) == (expected[owner], expected[member])
        assert (await owner.known("f")).inode == (await member.known("f")).inode == inode
        assert (await device.known("f~")).revision == 1
    for device in (owner, member):
        await device.restart(keeps_cache=False)
        assert await device.tree() == expected[device]


async def test_of_two_who_save_a_shared_file_with_backups_at_once_both_contents_survive(sharers: Sharers) -> None:
    owner, member = sharers.owner, sharers.member
    await owner.write("f", b"first")
    await owner.sync()
    await sharers.begin((await owner.known("f")).inode)
    for device in (owner, member):
        await device.sync()
        assert await device.tree() == {"f": b"first"}
        device.line.is_cut = True
        await device.rename("f", "f~")
        await device.write("f", b"by " + device.name.encode())
    for device in (owner, member):
        device.line.is_cut = False
    for device in (owner, member, owner, member):
        await device.sync()
    assert await owner.tree() == {"f": b"by owner", "f~": b"first"}
    theirs = await member.tree()
    assert (theirs.pop("f"), theirs.pop("f~"), list(theirs.values())) == (b"by owner", b"first", [b"by member"])


async def test_a_shared_file_that_could_not_be_saved_is_as_it_was(
    sharers: Sharers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody had it open before: what was written to it is kept nowhere."""
    owner, member = sharers.owner, sharers.member
    await owner.write("f", b"first")
    await owner.sync()
    await sharers.begin((await owner.known("f")).inode)
    await member.sync()
    await member.write("new", b"other")
    names = member.fs._saving._names
    with monkeypatch.context() as full:
        full.setattr(names, "remove", Mock(side_effect=DiskFull("no room")))
        with pytest.raises(DiskFull):
            await member.rename("new", "f")
    assert await member.tree() == {"f": b"first", "new": b"other"}
    await member.rename("new", "f")
    for device in (member, owner):
        await device.sync()
    assert await owner.tree() == await member.tree() == {"f": b"other"}


async def test_a_shared_file_that_could_not_be_saved_has_what_was_written_and_not_sent_yet(
    sharers: Sharers, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, member = sharers.owner, sharers.member
    await sharing_one(sharers)
    await member.write("f", b"not sent yet")
    await member.write("new", b"other")
    with monkeypatch.context() as full:
        full.setattr(member.fs._saving._names, "remove", Mock(side_effect=DiskFull("no room")))
        with pytest.raises(DiskFull):
            await member.rename("new", "f")
    assert await member.read("f") == b"not sent yet"
    for device in (member, owner):
        await device.sync()
    assert await owner.tree() == {"f": b"not sent yet"}


async def test_what_was_moved_long_ago_is_not_saved_over(sharers: Sharers) -> None:
    member = sharers.member
    await sharers.owner.write("f", b"first")
    await sharers.owner.sync()
    await sharers.begin((await sharers.owner.known("f")).inode)
    await member.sync()
    await member.rename("f", "f~")
    member.ticks = count(next(member.ticks) + ASIDE_NS)
    await member.write("f", b"mine")
    with pytest.raises(errors.Busy):
        await member.unlink("f~")
    assert await member.tree() == {"f~": b"first", "f": b"mine"}


async def test_other_names_of_what_is_shared_are_files_of_their_own(sharers: Sharers) -> None:
    owner, member = sharers.owner, sharers.member
    await owner.mkdir("s")
    await owner.write("s/f", b"first")
    await owner.link("s/f", "outside")
    await owner.sync()
    await sharers.begin((await owner.known("s")).inode)
    await owner.write("outside", b"of the share")
    for device in (owner, member, owner):
        await device.sync()
    assert (await owner.known("outside")).inode != (await owner.known("s/f")).inode
    await owner.write("outside", b"mine")
    await member.write("s/f", b"theirs")
    for device in (owner, member, owner):
        await device.sync()
    assert await owner.tree() == {"s": None, "s/f": b"theirs", "outside": b"mine"}
    assert await member.tree() == {"s": None, "s/f": b"theirs"}
    assert ((await owner.known("outside")).nlink, (await owner.known("s/f")).nlink) == (1, 1)


async def test_a_share_is_shown_though_a_power_cut_took_the_list_of_shares_and_left_what_was_heard(
    sharers: Sharers,
) -> None:
    owner, member = sharers.owner, sharers.member
    await owner.mkdir("s")
    await owner.write("s/f", b"content")
    await owner.sync()
    await sharers.begin((await owner.known("s")).inode)
    for device in (owner, member):
        await device.sync()
    assert await member.tree() == {"s": None, "s/f": b"content"}
    member.local.journal.set_meta(SHARES, wire.encode([]))
    await member.restart(keeps_cache=True)
    await member.begin()
    await member.sync()
    assert await member.tree() == {"s": None, "s/f": b"content"}


async def test_what_waits_in_a_directory_whose_way_up_is_not_known_any_more_is_sent_to_its_share(
    sharers: Sharers,
) -> None:
    owner, member = sharers.owner, sharers.member
    await owner.mkdir("s")
    await owner.mkdir("s/d")
    await owner.sync()
    root = (await owner.known("s")).inode
    await sharers.begin(root)
    await member.sync()
    await member.write("s/d/f", b"mine")
    await sharers.end()
    await member.pull()
    await sharers.begin(root)
    await member.pull()
    for device in (member, owner):
        await device.sync()
    assert await owner.tree() == await member.tree() == {"s": None, "s/d": None, "s/d/f": b"mine"}


async def test_a_shared_file_whose_name_is_taken_in_a_members_drive_is_no_conflict_of_all_members(
    sharers: Sharers,
) -> None:
    owner, member = sharers.owner, sharers.member
    other, _ = await logged_in(sharers.fleet, MEMBER, "other")
    inode = await sharing_one(sharers)
    await other.sync()
    await other.write("g", b"private")
    await member.rename("f", "g")
    for device in (other, member, owner):
        await device.sync()
    assert await member.tree() == {"g": b"private", "g (conflicted copy, member, 2026-11-22)": b"first"}
    assert (await owner.known("f")).inode == inode
    assert (await owner.known("f")).xattrs == {}
