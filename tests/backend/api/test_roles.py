"""What the members of a share may have done, by their role; who owns it alone decides of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from backend.service.ground import Limits
from drivefs.protocol import blocks as codec
from drivefs.protocol import history, links, messages, routes, sharing
from drivefs.protocol.ids import InodeId, RevisionNumber, Seq
from tests.backend.api.served import SESSION, USER, Drive, Served, framed, serving

pytestmark = pytest.mark.anyio
ROLES = ("viewer", "editor")


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def shared(anna: Served) -> tuple[InodeId, InodeId]:
    """A folder of Anna's and the file in it; and there are Bert and Carl."""
    for user in ("bert", "carl"):
        await anna.services.accounts.add_user(user, "correct horse")
    session = (await anna.post(routes.SESSION, SESSION)).message(messages.SessionReply)
    ranges = await anna.post(routes.ID_RANGES, messages.IdRangesRequest(epoch=session.epoch))
    owner = Drive(anna, session, ranges.message(messages.IdRangesReply).starts[0])
    await owner.make_directory(10, b"folder")
    owner.root = InodeId(owner.start + 10)
    await owner.store_file(20, b"file", b"content")
    return owner.root, InodeId(owner.start + 20)


async def test_each_role_has_done_what_is_its_own_and_no_more(tmp_path: Path) -> None:
    """[57] The first code is what a viewer gets, the second what an editor does; empty: it is done."""
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as anna:
        folder, file = await shared(anna)
        bert = await anna.log_in_as("bert")
        await anna.post(routes.SHARE, sharing.ShareRequest(inode=folder, user="carl", role="editor"))
        asked: dict[str, tuple[object, str, str]] = {
            routes.LOST: (messages.LostRequest(), "forbidden", "forbidden"),
            routes.EMPTY_TRASH: (history.EmptyTrashRequest(until=Seq(2**40)), "forbidden", "forbidden"),
            routes.CREATE_SNAPSHOT: (history.CreateSnapshotRequest(name="mine"), "forbidden", "forbidden"),
            routes.DELETE_SNAPSHOT: (history.DeleteSnapshotRequest(name="hers"), "forbidden", "forbidden"),
            routes.PUT_BLOCKS: (framed(b"more"), "forbidden", ""),
            routes.MISSING: (messages.MissingRequest(blocks=[codec.block_id(b"other")]), "forbidden", ""),
            routes.KEEP: (history.KeepRequest(inode=file, revision=RevisionNumber(1)), "forbidden", ""),
            routes.CREATE_LINK: (links.CreateLinkRequest(inode=file), "forbidden", ""),
        }
        for role in ROLES:
            invitation = sharing.ShareRequest(inode=folder, user="bert", role=role)
            share = (await anna.post(routes.SHARE, invitation)).message(sharing.ShareInfo).share
            await bert.post(routes.ANSWER, sharing.AnswerRequest(share=share, accept=True))
            upload = messages.Upload(inode=file, parent=folder, name=b"file", size_bytes=2, sent_bytes=1)
            sending = messages.PresenceRequest(workspace=share, pending=messages.Pending(), uploads=[upload])
            asked[routes.PRESENCE] = (sending, "forbidden", "")
            over_all = sharing.ShareRequest(inode=folder, user=USER, role="viewer")
            asked[routes.SHARE] = (over_all, "conflict", "conflict")
            asked[routes.UNSHARE] = (sharing.UnshareRequest(share=share), "not_found", "not_found")
            there = replace(bert, workspace=share)
            for route, (message, *codes) in asked.items():
                reply = await there.post(route, message)
                told = reply.problem() if reply.status >= 400 else ""
                assert told == codes[ROLES.index(role)], (role, route)
        for who, members in ((anna, ["bert", "carl"]), (bert, ["bert"])):
            (known,) = (await who.post(routes.SHARES)).message(sharing.SharesReply).shares
            assert (known.owner, [each.user for each in known.members]) == (USER, members)
