"""The trash of shares: what was removed before a folder was shared is its owner's, what came after it is for all."""

import pytest

from drivefs.protocol import messages
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.history import EmptyTrashRequest, RevisionsRequest, TrashEntry, TrashRequest
from drivefs.protocol.ids import InodeId, RevisionNumber, Seq
from drivefs.protocol.model import InodeKind
from tests.backend.service.drive import Device, refs, say
from tests.backend.service.sharing import Neighbours, content_of

pytestmark = pytest.mark.anyio


async def trashed(device: Device, limit: int = 10) -> list[tuple[bytes, bytes | None, InodeId]]:
    """What lies in the trash, asked for in pages."""
    found: list[TrashEntry] = []
    request = TrashRequest(limit=limit)
    has_more = True
    while has_more:
        reply = await device.drive.trash.list(device.caller, device.drive.workspace, request)
        found, has_more = found + reply.entries, reply.more
        assert len(found) < 100, "it begins again and again"
        request.after = reply.entries[-1].place if reply.entries else None
    return [(each.place.name, each.path, each.inode.inode) for each in found]


async def test_the_trash_of_a_share_is_in_the_drives_of_all_and_the_owners_from_before_in_his(pair: Neighbours) -> None:
    anna, bert = pair.anna, pair.bert
    folder, file = await pair.tree()
    early = await anna.save(b"early", b"1", parent=folder)
    assert await anna.say(anna.unlink(early, b"early", folder, base=1)) == "ok"
    share = await pair.share(folder)
    own = await bert.save(b"own", b"2")
    assert await bert.say(bert.unlink(own, b"own", base=1)) == "ok"
    assert await bert.say(bert.unlink(file, b"file", folder, base=1)) == "ok"
    late = await anna.save(b"late", b"3", parent=folder)
    assert await anna.say(anna.unlink(late, b"late", folder, base=1)) == "ok"
    await pair.pages(bert)
    assert await bert.state(early) is None
    assert await bert.state(late) is not None
    assert await anna.state(early) is not None
    for limit in (1, 10):
        assert await trashed(bert, limit) == [
            (b"late", b"folder", late),
            (b"file", b"folder", file),
            (b"own", b"", own),
        ]
        assert [each for each, *_ in await trashed(anna, limit)] == [b"late", b"file", b"early"]
    assert await bert.say(bert.restore(file, b"back", folder)) == "ok"
    assert await anna.say(anna.restore(early, b"early", folder)) == "ok"
    assert set(await anna.names(folder)) == {b"back", b"early"}
    request = EmptyTrashRequest(until=Seq(await anna.head()))
    assert (await bert.drive.trash.empty(bert.caller, bert.drive.workspace, request)).count == 1
    assert [each for each, *_ in await trashed(bert)] == [b"late"]
    await pair.pages(anna)
    request = EmptyTrashRequest(until=Seq(10**6))
    assert (await anna.drive.trash.empty(anna.caller, anna.drive.workspace, request)).count == 1
    assert await trashed(bert) == []
    await pair.end(share)
    assert await trashed(bert) == []


async def test_emptying_the_trash_up_to_a_moment_leaves_what_was_removed_from_a_share_later(pair: Neighbours) -> None:
    """Drive and share count their commits each for itself."""
    anna = pair.anna
    folder, file = await pair.tree()
    await pair.share(folder)
    for name in (b"1", b"2", b"3"):
        await anna.make(name)
    own = await anna.save(b"own", b"2")
    assert await anna.say(anna.unlink(own, b"own", base=1)) == "ok"
    trash, workspace = anna.drive.trash, anna.drive.workspace
    (entry,) = (await trash.list(anna.caller, workspace, TrashRequest())).entries
    assert await anna.say(anna.unlink(file, b"file", folder, base=1)) == "ok"
    await trash.empty(anna.caller, workspace, EmptyTrashRequest(until=entry.place.seq))
    assert await trashed(anna) == [(b"file", b"folder", file)]


async def test_the_content_of_what_was_removed_before_sharing_is_the_owners_whoever_names_the_share(
    pair: Neighbours,
) -> None:
    """A member may ask for a share by its own id, too."""
    anna, bert = pair.anna, pair.bert
    folder, file = await pair.tree()
    early = await anna.save(b"early", b"1", parent=folder)
    assert await anna.say(anna.unlink(early, b"early", folder, base=1)) == "ok"
    share = await pair.share(folder)

    async def shown(device: Device, inode: InodeId) -> list[int]:
        listed = await device.drive.revisions.list(device.caller, share, RevisionsRequest(inode=inode))
        for each in listed.revisions:
            request = messages.ContentRequest(inode=inode, revision=each.number, history=True)
            assert (await device.drive.listing.content(device.caller, share, request)).blocks
        return [each.number for each in listed.revisions]

    assert await shown(bert, file) == await shown(anna, file) == await shown(anna, early) == [1]
    assert await shown(bert, early) == []
    for history in (False, True):
        request = messages.ContentRequest(inode=early, revision=RevisionNumber(1), history=history)
        with pytest.raises(ProtocolError):
            await bert.drive.listing.content(bert.caller, share, request)
    await pair.pages(anna)
    assert await anna.say(anna.restore(early, b"early", folder)) == "ok"
    assert await shown(bert, early) == [1]


async def test_what_was_removed_before_it_was_shared_is_for_its_owner_only_to_restore(pair: Neighbours) -> None:
    """And others are answered as of what never existed, however they ask."""
    anna, bert = pair.anna, pair.bert
    folder, _ = await pair.tree()
    early = await anna.save(b"early", b"1", parent=folder)
    directory = await anna.make(b"directory", folder, InodeKind.DIRECTORY)
    assert await anna.say(anna.unlink(early, b"early", folder, base=1)) == "ok"
    assert await anna.say(anna.unlink(directory, b"directory", folder)) == "ok"
    await pair.share(folder)
    never = InodeId(early + 10**6)
    answers: dict[InodeId, list[str]] = {}
    for inode in (never, early, directory):
        asked = (
            bert.restore(inode, b"back", folder),
            bert.restore(inode, b"back"),
            bert.link(inode, b"back", folder),
            bert.unlink(inode, b"nothing", folder, base=1),
            bert.rename(inode, b"nothing", b"back", parent=folder, new_parent=folder),
            bert.create(b"in it", inode),
            bert.set_attributes(inode, mode=0o777),
            bert.set_xattr(inode, b"user.x", b"y"),
            bert.store(inode, refs([b"1"]), base=1),
        )
        told = await bert.send(*asked)
        assert [(each.gone, each.content_since, each.is_emptied) for each in told] == [([], 0, False)] * len(told)
        answers[inode] = list(map(say, told))
        claimed = await bert.send(bert.create(b"mine", folder, inode=inode), bert.restore(inode, b"mine", folder))
        assert "ok" not in map(say, claimed)
    assert answers[early] == answers[directory] == answers[never]
    assert set(await anna.names(folder)) == {b"file"}
    assert await anna.say(anna.restore(early, b"early", folder)) == "ok"
    await pair.pages(bert)
    assert (await content_of(bert, early)) == (await content_of(anna, early))
    (late,) = await bert.send(bert.unlink(early, b"early", folder, base=1))
    assert say(late) == "ok"
    (told_again,) = await bert.send(bert.set_attributes(early, mode=0o777))
    assert [each.name for each in told_again.gone] == [b"early"], "now it was removed from the share"
    assert await bert.say(bert.restore(early, b"back", folder)) == "ok"
