"""What goes with being a member of a share, and ends with it."""

import pytest

from drivefs.protocol import sharing
from drivefs.protocol.errors import Code, ProtocolError
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
