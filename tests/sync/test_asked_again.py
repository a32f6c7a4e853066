"""Commands whose answer is lost are sent again: what was done is done once, and nobody is told that it failed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from drivefs.protocol import links, routes, sharing
from tests.backend.api.served import PASSWORD, USER
from tests.sync.fleet import Fleet, sailing
from tests.sync.sharing_voyage import MEMBER, Device, Voyage


@asynccontextmanager
async def one_device(place: Path) -> AsyncIterator[tuple[Fleet, Device]]:
    async with sailing(place) as (sailed, _):
        device = await Voyage(sailed, 0).add(USER, "a1")
        await device.write("file", b"content")
        await device.sync()
        yield sailed, device


def lose(device: Device, *routes_lost: str) -> None:
    device.line.loses = {route.rpartition("}")[2] for route in routes_lost}


def test_snapshots_and_links_are_made_once_and_end_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with one_device(tmp_path) as (_, device):
            past = device.fs.history.past
            lose(device, routes.CREATE_SNAPSHOT, routes.DELETE_SNAPSHOT)
            made = await past.create_snapshot("before", 0)
            assert made == (await past.snapshots())[0]
            await past.delete_snapshot("before")
            assert device.line.loses == set()
            assert await past.snapshots() == []
            lose(device, routes.CREATE_LINK, routes.REVOKE_LINK)
            inode, op = (await device.known("file")).inode, device.ends.operation
            made = await device.remote.create_link(links.CreateLinkRequest(op=op(), inode=inode))
            assert (await device.remote.public_links()).links == [made.link]
            other = await device.remote.create_link(links.CreateLinkRequest(op=op(), inode=inode))
            assert other.token != made.token
            await device.remote.revoke_link(links.RevokeLinkRequest(op=op(), link=made.link.link))
            assert device.line.loses == set()
            assert (await device.remote.public_links()).links == [other.link]

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


def test_invitations_are_declined_and_members_leave_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with one_device(tmp_path) as (sailed, device):
            await sailed.served.services.accounts.add_user(MEMBER, PASSWORD)
            member = await Voyage(sailed, 0).add(MEMBER, "b1")
            inode = (await device.known("file")).inode
            invite = sharing.ShareRequest(inode=inode, user=MEMBER, role="editor")
            share = (await device.remote.share(invite)).share
            lose(member, routes.ANSWER)
            await member.remote.answer(sharing.AnswerRequest(op=member.ends.operation(), share=share))
            assert member.line.loses == set()
            assert (await member.remote.invitations()).invitations == []
            await device.remote.share(invite)
            lose(device, routes.UNSHARE)
            await device.remote.unshare(sharing.UnshareRequest(op=device.ends.operation(), share=share, user=MEMBER))
            assert device.line.loses == set()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
