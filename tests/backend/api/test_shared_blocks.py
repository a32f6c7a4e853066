"""Blocks of a share: members fetch and name what its contents have, and nothing else of its owner's account."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backend.service.ground import Limits
from drivefs.protocol import blocks as codec
from drivefs.protocol import changes, messages, routes, sharing, wire
from drivefs.protocol.ids import Epoch, InodeId, OpNumber, RevisionNumber, WorkspaceId
from tests.backend.api.served import SESSION, Drive, Request, Served, serving

pytestmark = pytest.mark.anyio
IN_SHARE, PRIVATE, LATER = b"what all may see" * 50, b"what nobody else may see" * 50, b"written by bert" * 50
EARLY = b"what was removed before" * 50


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def a_drive(served: Served) -> Drive:
    session = (await served.post(routes.SESSION, SESSION)).message(messages.SessionReply)
    ranges = await served.post(routes.ID_RANGES, messages.IdRangesRequest(epoch=Epoch(session.epoch)))
    return Drive(served, session, ranges.message(messages.IdRangesReply).starts[0])


async def payloads(asking: Served, *contents: bytes) -> list[bool]:
    frames = await asking.get(*map(codec.block_id, contents))
    return [frame.payload is not None for frame in frames]


async def test_a_member_gets_and_names_the_blocks_of_the_share_only(tmp_path: Path) -> None:
    """[57] By the drive's id, by the share's, by a store, and after it has ended."""
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as anna:
        await anna.services.accounts.add_user("bert", "correct horse")
        bert = await anna.log_in_as("bert")
        owner, member = await a_drive(anna), await a_drive(bert)
        await owner.make_directory(10, b"folder")
        folder, root = InodeId(owner.start + 10), owner.root
        await owner.store_file(20, b"private", PRIVATE)
        owner.root = folder
        await owner.store_file(30, b"shared", IN_SHARE)
        owner.root = root
        request = sharing.ShareRequest(inode=folder, user="bert", role="editor")
        info = (await anna.post(routes.SHARE, request)).message(sharing.ShareInfo)
        share = replace(bert, workspace=info.share)
        blocks = messages.BlocksRequest(blocks=[codec.block_id(IN_SHARE)])
        assert (await share.post(routes.GET_BLOCKS, blocks)).problem() == "not_found"
        assert await payloads(bert, IN_SHARE) == [False]
        await bert.post(routes.ANSWER, sharing.AnswerRequest(share=info.share, accept=True))
        for asking in (bert, share):
            assert await payloads(asking, IN_SHARE, PRIVATE) == [True, False]
        assert await share.missing(codec.block_id(IN_SHARE), codec.block_id(PRIVATE)) == [codec.block_id(PRIVATE)]
        stolen = member._store(40, InodeId(owner.start + 30), PRIVATE, base=1)
        (result,) = (await member._commit(40, [stolen])).results
        assert (result.status, result.workspace) == (changes.Status.NEEDS_BLOCKS, info.share)
        await share.put(LATER)
        (result,) = (await member._commit(41, [member._store(41, InodeId(owner.start + 30), LATER, base=1)])).results
        assert result.status is changes.Status.OK
        assert await payloads(anna, LATER) == await payloads(bert, LATER) == [True]
        assert (await bert.usage()).stored_bytes == 0
        assert (await anna.usage()).stored_bytes == len(IN_SHARE + PRIVATE + LATER)
        await share.put(PRIVATE)
        assert await share.missing(codec.block_id(PRIVATE)) == [], "who has sent it has it"
        assert await payloads(bert, PRIVATE) == [False]
        await anna.post(routes.UNSHARE, sharing.UnshareRequest(share=info.share))
        assert await payloads(bert, IN_SHARE, LATER) == [False, False]
        assert (await share.post(routes.GET_BLOCKS, blocks)).problem() == "not_found"


async def test_what_a_member_sent_in_vain_gives_the_owner_the_room_back(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as anna:
        await anna.services.accounts.add_user("bert", "correct horse")
        bert, owner = await anna.log_in_as("bert"), await a_drive(anna)
        await owner.make_directory(10, b"folder")
        request = sharing.ShareRequest(inode=InodeId(owner.start + 10), user="bert", role="editor")
        info = (await anna.post(routes.SHARE, request)).message(sharing.ShareInfo)
        await bert.post(routes.ANSWER, sharing.AnswerRequest(share=info.share, accept=True))
        await replace(bert, workspace=info.share).put(LATER)
        assert (await anna.usage()).pinned_bytes == len(LATER)
        idle = messages.PresenceRequest(workspace=bert.workspace, pending=messages.Pending(), uploads=[])
        await bert.post(routes.PRESENCE, idle)
        await anna.services.devices.flush()
        assert (await anna.usage()).pinned_bytes == 0


async def test_what_was_removed_before_it_was_shared_is_the_owners_until_he_restores_it(tmp_path: Path) -> None:
    """[57] Nor does it come with a store that says more than its content has."""
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as anna:
        await anna.services.accounts.add_user("bert", "correct horse")
        bert = await anna.log_in_as("bert")
        owner, member = await a_drive(anna), await a_drive(bert)
        await owner.make_directory(10, b"folder")
        await owner.store_file(20, b"private", PRIVATE)
        folder = owner.root = InodeId(owner.start + 10)
        await owner.store_file(30, b"shared", IN_SHARE)
        await owner.store_file(40, b"early", EARLY)
        early: dict[str, Any] = {"inode": InodeId(owner.start + 40), "parent": folder, "name": b"early", "time_ns": 1}
        gone = changes.Unlink(n=OpNumber(50), base=changes.Base(revision=RevisionNumber(1)), **early)
        await owner._commit(50, [gone])
        request = sharing.ShareRequest(inode=folder, user="bert", role="editor")
        info = (await anna.post(routes.SHARE, request)).message(sharing.ShareInfo)
        await bert.post(routes.ANSWER, sharing.AnswerRequest(share=info.share, accept=True))
        assert await payloads(bert, IN_SHARE, EARLY) == [True, False]
        share = replace(bert, workspace=info.share)
        await share.put(LATER)
        stored = member._store(40, InodeId(owner.start + 30), LATER, base=1)
        for content in (EARLY, PRIVATE):
            stored.new_runs += member._store(40, early["inode"], content, base=1).new_runs
        await member._commit(40, [stored])
        assert await payloads(bert, LATER, EARLY, PRIVATE) == [True, False, False]
        assert await share.missing(codec.block_id(EARLY)) == [codec.block_id(EARLY)]
        (restored,) = (await owner._commit(51, [changes.Restore(n=OpNumber(51), **early)])).results
        assert restored.status is changes.Status.OK
        assert await payloads(bert, EARLY, PRIVATE) == [True, False]


async def test_a_download_in_flight_ends_when_the_member_is_taken_out(tmp_path: Path) -> None:
    """And not when something else happens in the drive meanwhile."""
    contents = [random.Random(number).randbytes(3_000_000) for number in range(4)]
    async with serving(tmp_path, Limits(quota_bytes=2**26)) as anna:
        await anna.services.accounts.add_user("bert", "correct horse")
        bert = await anna.log_in_as("bert")
        owner, member = await a_drive(anna), await a_drive(bert)
        await owner.make_directory(10, b"folder")
        owner.root = InodeId(owner.start + 10)
        for number, content in enumerate(contents):
            await owner.store_file(20 + 2 * number, b"%d" % number, content)
        request = sharing.ShareRequest(inode=owner.root, user="bert", role="viewer")
        info = (await anna.post(routes.SHARE, request)).message(sharing.ShareInfo)
        await bert.post(routes.ANSWER, sharing.AnswerRequest(share=info.share, accept=True))

        async def received(workspace: WorkspaceId, meanwhile: Callable[[], Awaitable[Any]]) -> int:
            class Slow(Request):
                async def send(self, message: dict[str, object]) -> None:
                    await super().send(message)
                    if message["type"] == "http.response.start":
                        await meanwhile()

            asked = messages.BlocksRequest(blocks=[codec.block_id(each) for each in contents])
            path = routes.GET_BLOCKS.format(workspace=workspace)
            getting = await bert.run(Slow(path, [wire.encode(asked)], bert.token))
            assert getting.status == 200
            return len(getting.reply)

        size = sum(map(len, contents))
        assert await received(info.share, lambda: member.make_directory(5, b"mine")) > size
        unshare = sharing.UnshareRequest(share=info.share)
        assert await received(info.share, lambda: anna.post(routes.UNSHARE, unshare)) < size
        await anna.post(routes.SHARE, request)
        await bert.post(routes.ANSWER, sharing.AnswerRequest(share=info.share, accept=True))
        assert await received(bert.workspace, lambda: anna.post(routes.UNSHARE, unshare)) < size


@pytest.mark.parametrize(("role", "code"), [("", "not_found"), ("viewer", "forbidden")])
async def test_an_upload_in_flight_ends_when_the_member_may_not_write_any_more(
    tmp_path: Path, role: str, code: str
) -> None:
    async with serving(tmp_path, Limits(quota_bytes=2**26)) as anna:
        await anna.services.accounts.add_user("bert", "correct horse")
        bert = await anna.log_in_as("bert")
        owner = await a_drive(anna)
        await a_drive(bert)
        await owner.make_directory(10, b"folder")
        request = sharing.ShareRequest(inode=InodeId(owner.start + 10), user="bert", role="editor")
        info = (await anna.post(routes.SHARE, request)).message(sharing.ShareInfo)
        await bert.post(routes.ANSWER, sharing.AnswerRequest(share=info.share, accept=True))

        ended = sharing.UnshareRequest(share=info.share)

        class Slow(Request):
            async def receive(self) -> dict[str, object]:
                if self.taken_count == 1:
                    change = msgspec.structs.replace(request, role=role) if role else ended
                    await anna.post(routes.SHARE if role else routes.UNSHARE, change)
                return await super().receive()

        sending = Slow(routes.PUT_BLOCKS.format(workspace=info.share), [b"x", b"y", b"z"], bert.token)
        assert (await bert.run(sending)).problem() == code
        assert sending.taken_count == 2


async def test_every_id_of_a_share_is_unknown_to_others_and_its_viewer_writes_nothing(tmp_path: Path) -> None:
    """[57] All routes about a workspace, with the share's id and with the inodes in it."""
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as anna:
        await anna.services.accounts.add_user("bert", "correct horse")
        await anna.services.accounts.add_user("carl", "correct horse")
        bert, carl = await anna.log_in_as("bert"), await anna.log_in_as("carl")
        owner = await a_drive(anna)
        await a_drive(bert)
        carls = await a_drive(carl)
        await owner.make_directory(10, b"folder")
        folder = InodeId(owner.start + 10)
        request = sharing.ShareRequest(inode=folder, user="bert", role="viewer")
        info = (await anna.post(routes.SHARE, request)).message(sharing.ShareInfo)
        await bert.post(routes.ANSWER, sharing.AnswerRequest(share=info.share, accept=True))
        as_carl, as_bert = replace(carl, workspace=info.share), replace(bert, workspace=info.share)
        for route in (routes.COUNT, routes.SNAPSHOTS):
            assert (await as_carl.post(route)).problem() == "not_found"
        listing = messages.ListRequest(directory=folder)
        assert (await as_carl.post(routes.LIST, listing)).problem() == "not_found"
        assert (await carl.post(routes.LIST, listing)).problem() == "not_found"
        assert (await bert.post(routes.LIST, listing)).status == 200
        asked = messages.InodesRequest(inodes=[folder])
        assert (await carl.post(routes.INODES, asked)).message(messages.InodesReply).inodes == []
        answer = sharing.AnswerRequest(share=info.share, accept=True)
        assert (await carl.post(routes.ANSWER, answer)).problem() == "not_found"
        for other in (carl, bert):
            unshare = sharing.UnshareRequest(share=info.share, user="bert")
            assert (await other.post(routes.UNSHARE, unshare)).problem() == "not_found"
        invite = sharing.ShareRequest(inode=folder, user="carl", role="editor")
        assert (await bert.post(routes.SHARE, invite)).problem() == "conflict"
        assert (await carl.post(routes.SHARE, replace_user(invite, "bert"))).problem() == "not_found"
        assert (await as_bert.put(b"anything")).problem() == "forbidden"
        carls.root = folder
        (result,) = (await carls.make_directory(5, b"x")).results
        assert (result.status, result.reason) == (changes.Status.CONFLICT, "no_parent")


def replace_user(request: sharing.ShareRequest, user: str) -> sharing.ShareRequest:
    return sharing.ShareRequest(inode=request.inode, user=user, role=request.role)
