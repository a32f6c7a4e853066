"""What goes with being a member of a share, and ends with it."""

import pytest

from backend.service.links import Links
from backend.service.uploads import Uploads
from drivefs.protocol import links, messages, sharing
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import Incarnation, Seq
from drivefs.protocol.model import InodeKind
from tests.backend.service.drive import SECOND
from tests.backend.service.sharing import Neighbours

pytestmark = pytest.mark.anyio


async def test_who_is_no_member_any_more_is_not_told_how_much_room_the_owner_has(pair: Neighbours) -> None:
    folder, _ = await pair.tree()
    share = await pair.share(folder)
    sessions, bert = pair.bert.drive.sessions, pair.bert.caller
    assert len((await sessions.usage(bert)).rooms) == 1
    await pair.end(share)
    assert (await sessions.usage(bert)).rooms == []


async def test_a_drive_is_no_share_and_an_owner_neither_joins_nor_leaves(pair: Neighbours) -> None:
    folder, _ = await pair.tree()
    share, anna = await pair.share(folder), pair.anna.caller
    drive = pair.anna.drive.workspace
    with pytest.raises(ProtocolError) as error:
        await pair.shares.unshare(anna, sharing.UnshareRequest(share=drive))
    assert error.value.code is Code.NOT_FOUND
    for workspace, accept, code in [
        (drive, True, Code.NOT_FOUND),
        (share, True, Code.CONFLICT),
        (share, False, Code.CONFLICT),
    ]:
        with pytest.raises(ProtocolError) as error:
            await pair.shares.answer(anna, sharing.AnswerRequest(share=workspace, accept=accept))
        assert error.value.code is code
    assert await pair.anna.names() == await pair.bert.names() == {b"folder": folder}


async def test_what_its_owner_removed_elsewhere_is_nothing_to_the_members_of_a_share(pair: Neighbours) -> None:
    folder, file = await pair.tree()
    private = await pair.anna.save(b"private", b"1")
    await pair.share(folder)
    await pair.anna.send(pair.anna.unlink(private, b"private", base=1))
    bert = pair.bert
    told = await bert.send(
        bert.unlink(private, b"file", folder, base=1),
        bert.rename(private, b"file", b"x", parent=folder, new_parent=folder),
        bert.set_attributes(private, mode=0o600),
    )
    assert [(each.gone, each.content_since) for each in told] == [([], 0)] * 3
    assert await bert.names(folder) == {b"file": file}


async def test_who_was_never_a_member_is_told_of_nothing_there(pair: Neighbours) -> None:
    folder, file = await pair.tree()
    info = await pair.shares.share(pair.anna.caller, sharing.ShareRequest(inode=folder, user="bert", role="editor"))
    assert await pair.bert.say(pair.bert.unlink(file, b"file", folder)) == "conflict absent"
    await pair.shares.answer(pair.bert.caller, sharing.AnswerRequest(share=info.share))
    assert await pair.bert.say(pair.bert.unlink(file, b"file", folder)) == "conflict absent"


async def test_what_an_owner_sends_elsewhere_is_nothing_to_the_members_of_a_share(pair: Neighbours) -> None:
    folder, file = await pair.tree()
    share, anna = await pair.share(folder), pair.anna
    for workspace, name in ((anna.drive.workspace, b"private"), (share, b"shared")):
        sent = messages.Upload(inode=file, parent=folder, name=name, size_bytes=9, sent_bytes=1)
        request = messages.PresenceRequest(workspace=workspace, pending=messages.Pending(), uploads=[sent])
        await Uploads(anna.drive.ground).report(anna.caller, request)
        anna.drive.clock.ns += SECOND
    nothing = messages.Cursor(incarnation=Incarnation(0), seq=Seq(0))
    asked = messages.ChangesRequest(cursors=[messages.WorkspaceCursor(workspace=share, cursor=nothing)])
    told = (await pair.bert.drive.changes.read(pair.bert.caller, asked)).uploads
    assert [each.name for one in told for device in one.devices for each in device.uploads] == [b"shared"]


async def test_a_folder_in_which_a_share_of_others_hangs_is_not_shared(pair: Neighbours) -> None:
    folder, _ = await pair.tree()
    await pair.share(folder)
    bert = pair.bert
    box = await bert.make(b"box", kind=InodeKind.DIRECTORY)
    assert await bert.say(bert.rename(folder, b"folder", b"folder", new_parent=box)) == "ok"
    with pytest.raises(ProtocolError) as error:
        await pair.shares.share(bert.caller, sharing.ShareRequest(inode=box, user="someone", role="viewer"))
    assert error.value.code is Code.CONFLICT
    assert (await pair.shares.invitations(pair.anna.caller)).invitations == []


async def test_an_archive_does_not_end_as_if_it_were_whole_where_sharing_ends_in_the_middle_of_it(
    pair: Neighbours,
) -> None:
    folder, _ = await pair.tree()
    share = await pair.share(folder)
    public = Links(pair.bert.drive.ground)
    made = await public.create(pair.bert.caller, links.CreateLinkRequest(inode=folder))
    opened = await public.open(made.token, None, "192.0.2.7")
    assert [each.path async for each in public.walk(opened)] == [b"folder/file"]
    await pair.end(share)
    with pytest.raises(ProtocolError) as error:
        assert [each async for each in public.walk(opened)]
    assert error.value.code is Code.NOT_FOUND
