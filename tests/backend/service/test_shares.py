"""Shares: who sees what of them, in which order, and what becomes of changes of those who may not change anything."""

import pytest
from sqlalchemy import Connection, update

from backend.metadata import schema
from backend.service import batches, conversion, workspaces
from backend.service.ground import Ground
from backend.service.notifications import Notifications
from backend.service.shares import Shares
from drivefs.protocol import messages, sharing
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.history import RevisionsRequest
from drivefs.protocol.ids import BlockId, InodeId, OpNumber, WorkspaceId
from drivefs.protocol.model import InodeKind
from drivefs.protocol.notifications import Kind, NotificationsRequest
from tests.backend.service import invariants
from tests.backend.service.drive import refs
from tests.backend.service.sharing import BERT, Neighbours, content_of

pytestmark = pytest.mark.anyio


async def test_an_invitation_shows_nothing_until_it_is_accepted(pair: Neighbours) -> None:
    folder, file = await pair.tree()
    request = sharing.ShareRequest(inode=folder, user="bert", role="viewer")
    info = await pair.shares.share(pair.anna.caller, request)
    assert [(each.user, each.role, each.is_invited) for each in info.members] == [("bert", "viewer", True)]
    (invitation,) = (await pair.shares.invitations(pair.bert.caller)).invitations
    assert (invitation.name, invitation.owner, invitation.role) == (b"folder", "someone", "viewer")
    assert (await pair.shares.invitations(pair.anna.caller)).invitations == []
    assert await pair.bert.names() == {}
    assert await pair.bert.state(file) is None
    assert (await pair.shares.known(pair.bert.caller)).shares == []
    with pytest.raises(ProtocolError) as refused:
        await pair.anna.drive.listing.count(pair.bert.caller, info.share)
    assert refused.value.code is Code.NOT_FOUND
    await pair.shares.answer(pair.bert.caller, sharing.AnswerRequest(share=info.share, accept=True))
    assert await pair.bert.names() == {b"folder": folder}
    assert await pair.bert.names(folder) == {b"file": file}
    assert (await pair.shares.invitations(pair.bert.caller)).invitations == []


async def test_a_folder_whose_name_is_no_text_is_shared_as_any_other(pair: Neighbours) -> None:
    folder = await pair.anna.make(b"caf\xe9", kind=InodeKind.DIRECTORY)
    await pair.share(folder)
    assert await pair.bert.names() == {b"caf\xe9": folder}
    told = await Notifications(pair.anna.drive.ground).list(pair.bert.caller, NotificationsRequest())
    assert [each.text for each in told.notifications if each.kind == Kind.SHARED] == ["caf\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize("kind", [InodeKind.DIRECTORY, InodeKind.FILE])
async def test_no_share_comes_under_a_name_that_means_something_at_the_top_of_a_drive(
    pair: Neighbours, kind: InodeKind
) -> None:
    """Nobody could reach it there, or its owner would say what else of that drive is sent."""
    folder = await pair.anna.make(b"folder", kind=InodeKind.DIRECTORY)
    for name in (b".drivefs", b".drivefsignore"):
        await pair.share(await pair.anna.make(name, folder, kind))
    assert sorted(await pair.bert.names()) == [b"drivefs", b"drivefsignore"]


def test_ids_without_a_gap_are_moved_together_and_no_others() -> None:
    inodes = [InodeId(number) for number in (9, 1, 2, 3, 7, 5, 10)]
    assert conversion.stretches(inodes) == [(1, 3), (5, 5), (7, 7), (9, 10)]
    assert conversion.stretches([]) == []


async def test_inodes_names_and_the_past_stay_for_the_owner(pair: Neighbours) -> None:
    folder, file = await pair.tree()
    await pair.anna.write(file, b"second", base=1)
    before = await pair.anna.head()
    await pair.share(folder)
    assert await pair.anna.names() == {b"folder": folder}
    assert await pair.anna.names(folder) == {b"file": file}
    assert await pair.anna.names(folder, as_of=before) == {b"file": file}
    assert (await pair.anna.content(file, 1, history=True)).size == len(b"content")
    assert await pair.anna.names(folder, as_of=3) == {b"file": file}
    with pytest.raises(ProtocolError):
        await pair.bert.content(file, 1, history=True)
    assert (await pair.bert.content(file, 2, history=True)).size == len(b"second")


@pytest.mark.parametrize("is_moved", [False, True])
async def test_what_went_into_a_share_takes_its_history_along(pair: Neighbours, is_moved: bool) -> None:
    old = await pair.anna.save(b"doc", b"first")
    assert await pair.anna.say(pair.anna.rename(old, b"doc", b"doc~")) == "ok"
    await pair.share(old)
    new = await pair.anna.save(b"new" if is_moved else b"doc", b"second")
    if is_moved:
        assert await pair.anna.say(pair.anna.rename(new, b"new", b"doc")) == "ok"
    assert (await pair.anna.known(new)).lineage == new
    assert (await pair.anna.known(old)).lineage == old


async def test_what_is_saved_where_a_file_was_that_is_shared_since_is_new_though_the_share_moves_then(
    pair: Neighbours,
) -> None:
    old = await pair.anna.save(b"doc", b"first")
    assert await pair.anna.say(pair.anna.rename(old, b"doc", b"doc~")) == "ok"
    await pair.share(old)
    new = pair.anna.create(b"doc")
    results = await pair.anna.send(new, pair.anna.rename(old, b"doc~", b"doc.bak"))
    assert [each.status for each in results] == ["ok", "ok"]
    assert [(await pair.anna.known(each)).lineage for each in (old, new.inode)] == [old, new.inode]


async def test_both_sides_hear_of_each_others_changes_in_the_order_of_their_own_drive(pair: Neighbours) -> None:
    folder, file = await pair.tree()
    await pair.share(folder)
    mine = await pair.bert.make(b"of my own")
    assert await pair.write_in_share(pair.bert, file, b"bert's", base=1) == "ok"
    theirs = await pair.anna.save(b"anna's", b"new", parent=folder)
    pages = await pair.pages(pair.bert)
    assert [page.since for page in pages] == [1, *(page.cursor.seq for page in pages[:-1])]
    named = {each.name: each.inode for page in pages for each in page.dentries}
    assert named == {b"folder": folder, b"of my own": mine, b"anna's": theirs}
    shown = {state.inode: state for page in pages for state in page.inodes}
    assert shown[file].revision == 2
    assert shown[theirs].size == 3
    assert await content_of(pair.anna, file) == await content_of(pair.bert, file)
    revisions = {state.inode: state.revision for page in await pair.pages(pair.anna) for state in page.inodes}
    assert revisions[file] == 2


async def test_a_page_tells_which_shares_hang_in_the_drive(pair: Neighbours) -> None:
    folder, _ = await pair.tree()
    share = await pair.share(folder, "viewer")
    (told,) = (await pair.pages(pair.bert))[-1].shares or []
    assert (told.workspace, told.root, told.role) == (share, folder, "viewer")
    head = (await pair.pages(pair.bert))[-1].cursor.seq
    request = sharing.ShareRequest(inode=folder, user="bert", role="editor")
    await pair.shares.share(pair.anna.caller, request)
    (page,) = await pair.pages(pair.bert, head)
    assert [each.role for each in page.shares or []] == ["editor"]
    await pair.end(share)
    (page,) = await pair.pages(pair.bert, page.cursor.seq)
    assert page.shares == []
    assert [(each.name, each.inode) for each in page.dentries] == [(b"folder", 0)]


async def test_a_share_that_ended_and_came_back_while_a_device_was_away_is_told_as_both(pair: Neighbours) -> None:
    """[57] What happened in it between the two is told to nobody, so the device has to look at it anew."""
    folder, _ = await pair.tree()
    share = await pair.share(folder)
    (first,) = await pair.pages(pair.bert)
    await pair.end(share)
    await pair.anna.make(b"meanwhile", folder)
    await pair.share(folder)
    ended, back = await pair.pages(pair.bert, first.cursor.seq)
    assert (ended.shares, ended.more) == ([], True)
    assert [each.root for each in back.shares or []] == [folder]


async def test_a_viewer_changes_nothing_and_is_told_why(pair: Neighbours) -> None:
    folder, file = await pair.tree()
    await pair.share(folder, "viewer")
    assert await pair.write_in_share(pair.bert, file, b"bert's", base=1) == "rejected role"
    assert await pair.bert.say(pair.bert.create(b"new", folder)) == "rejected role"
    assert await pair.bert.say(pair.bert.unlink(file, b"file", folder, base=1)) == "rejected role"
    assert await pair.bert.say(pair.bert.rename(folder, b"folder", b"mine")) == "ok"
    assert await pair.bert.names() == {b"mine": folder}
    assert await pair.anna.names() == {b"folder": folder}


async def test_nothing_is_committed_past_the_drive_that_a_share_hangs_in(pair: Neighbours) -> None:
    folder, _ = await pair.tree()
    share = await pair.share(folder)
    bert = pair.bert
    request = messages.CommitRequest(epoch=bert.epoch, watermark=OpNumber(1), mutations=[bert.create(b"new", folder)])
    with pytest.raises(ProtocolError) as refused:
        await bert.drive.commits.commit(bert.caller, share, request)
    assert refused.value.code is Code.FORBIDDEN


async def test_an_id_that_is_taken_in_a_share_is_taken_in_the_drive_too(pair: Neighbours) -> None:
    folder, _ = await pair.tree()
    await pair.share(folder)
    inside = await pair.anna.make(b"inside", folder)
    assert await pair.anna.say(pair.anna.create(b"outside", inode=inside)) == "id_taken inode"


async def test_what_comes_after_a_revocation_is_refused_by_role_and_nothing_is_seen(pair: Neighbours) -> None:
    folder, file = await pair.tree()
    share = await pair.share(folder)
    late = pair.bert.create(b"late", folder)
    before = (await pair.pages(pair.bert))[-1].cursor.seq
    await pair.end(share)
    assert await pair.bert.say(late) == "rejected role"
    new = pair.bert.create(b"new", folder)
    unsent = pair.bert.store(new.inode, refs([b"never sent"]), after=[new])
    assert [each.reason for each in await pair.bert.send(new, unsent)] == ["role", "role"]
    assert await pair.bert.names() == {}
    assert await pair.bert.state(file) is None
    assert await pair.bert.state(file, as_of=before) is None
    assert await pair.bert.names(as_of=before) == {}
    head = (await pair.pages(pair.bert))[-1].cursor.seq
    later = await pair.anna.make(b"later", folder)
    told = await pair.pages(pair.bert)
    assert {file, later}.isdisjoint(state.inode for page in told for state in page.inodes)
    assert told[-1].cursor.seq == head, "nor how much is done there"
    with pytest.raises(ProtocolError):
        await pair.bert.content(file, 1)


@pytest.mark.parametrize("then", ["is pending", "declined", "taken back", "accepted"])
async def test_what_comes_late_is_refused_by_role_whatever_became_of_a_later_invitation(
    pair: Neighbours, then: str
) -> None:
    folder, file = await pair.tree()
    share = await pair.share(folder)
    late = pair.bert.create(b"late", folder)
    await pair.end(share)
    again = sharing.ShareRequest(inode=folder, user="bert", role="editor")
    info = await pair.shares.share(pair.anna.caller, again)
    assert [(each.user, each.is_invited) for each in info.members] == [("bert", True)]
    assert [each.share for each in (await pair.shares.invitations(pair.bert.caller)).invitations] == [share]
    if then == "taken back":
        await pair.end(share)
    elif then != "is pending":
        answer = sharing.AnswerRequest(share=share, accept=then == "accepted")
        await pair.shares.answer(pair.bert.caller, answer)
    is_back = then == "accepted"
    assert await pair.bert.say(late) == ("ok" if is_back else "rejected role")
    assert await pair.write_in_share(pair.bert, file, b"late", base=1) == ("ok" if is_back else "rejected role")
    assert (await pair.bert.state(file) is not None) is is_back
    left = (await pair.shares.invitations(pair.bert.caller)).invitations
    assert [each.share for each in left] == ([share] if then == "is pending" else [])


async def test_who_is_no_member_any_more_is_not_told_again_where_something_was(pair: Neighbours) -> None:
    folder, file = await pair.tree()
    share = await pair.share(folder)
    anna, late = pair.anna, pair.bert.set_attributes(file, mode=0o600)
    await anna.send(anna.unlink(file, b"file", folder, base=1))
    (told,) = await pair.bert.send(late)
    assert (told.reason, [each.name for each in told.gone], told.content_since) == ("absent", [b"file"], 1)
    await pair.end(share)
    await anna.send(anna.restore(file, b"secret", folder), anna.unlink(file, b"secret", folder, base=1))
    (again,) = await pair.bert.send(late)
    assert (again.reason, again.gone, again.content_since) == ("absent", [], 0)


async def test_an_answer_that_was_lost_is_given_again_whatever_was_shared_since(pair: Neighbours) -> None:
    folder, _ = await pair.tree()
    before, after = pair.anna.create(b"before", folder), pair.anna.create(b"after", folder)
    (first,) = await pair.anna.send(before)
    share = await pair.share(folder)
    assert await pair.anna.send(before) == [first]
    (second,) = await pair.anna.send(after)
    assert await pair.anna.send(before, after) == [first, second]
    own = pair.bert.create(b"bert's", folder)
    (third,) = await pair.bert.send(own)
    await pair.end(share)
    assert await pair.bert.send(own) == [third]


async def test_a_batch_may_change_the_drive_and_the_share(pair: Neighbours) -> None:
    folder, file = await pair.tree()
    await pair.share(folder)
    anna = pair.anna
    directory = anna.directory(b"in share", folder)
    here = anna.create(b"here")
    inside = anna.create(b"inside", directory.inode, after=[directory, here])
    across = anna.rename(file, b"file", b"out", parent=folder)
    results = await anna.send(directory, here, inside, across, anna.link(file, b"linked"))
    assert [(each.status.value, each.reason) for each in results] == [
        ("ok", ""), ("ok", ""), ("ok", ""), ("rejected", "workspace"), ("rejected", "workspace"),
    ]  # fmt: skip
    await pair.pages(pair.bert)
    assert await pair.bert.names(directory.inode) == {b"inside": inside.inode}
    assert set(await anna.names()) == {b"folder", b"here"}


async def test_the_name_of_a_share_cannot_be_removed_as_a_directory_is(pair: Neighbours) -> None:
    folder = await pair.anna.make(b"empty", kind=InodeKind.DIRECTORY)
    await pair.share(folder)
    for device in (pair.anna, pair.bert):
        assert await device.say(device.unlink(folder, b"empty")) == "rejected share"
    other = await pair.bert.make(b"other", kind=InodeKind.DIRECTORY)
    assert await pair.bert.say(pair.bert.rename(other, b"other", b"empty", folder)) == "rejected share"
    inner = await pair.bert.make(b"inner", kind=InodeKind.DIRECTORY)
    assert await pair.bert.say(pair.bert.rename(folder, b"empty", b"moved", new_parent=inner)) == "ok"
    assert await pair.bert.names(inner) == {b"moved": folder}


async def test_leaving_takes_the_share_out_of_one_drive_only(pair: Neighbours) -> None:
    folder, _ = await pair.tree()
    share = await pair.share(folder)
    leave = sharing.AnswerRequest(share=share)
    await pair.shares.answer(pair.bert.caller, leave)
    assert await pair.bert.names() == {}
    assert await pair.anna.names() == {b"folder": folder}
    assert (await pair.shares.known(pair.bert.caller)).shares == []
    (info,) = (await pair.shares.known(pair.anna.caller)).shares
    assert (info.path, info.members) == (b"folder", ())
    await pair.anna.make(b"meanwhile", folder)
    assert await pair.share(folder) == share
    assert set(await pair.bert.names(folder)) == {b"file", b"meanwhile"}


async def refused(shares: Shares, pair: Neighbours, inode: InodeId, user: str = "bert") -> Code:
    with pytest.raises(ProtocolError) as error:
        await shares.share(pair.anna.caller, sharing.ShareRequest(inode=inode, user=user, role="viewer"))
    return error.value.code


async def test_what_cannot_be_shared_is_refused_and_changes_nothing(pair: Neighbours) -> None:
    folder, file = await pair.tree()
    inner = await pair.anna.make(b"inner", folder, InodeKind.DIRECTORY)
    assert await refused(pair.shares, pair, pair.anna.drive.root) is Code.CONFLICT
    assert await refused(pair.shares, pair, InodeId(12345)) is Code.NOT_FOUND
    assert await refused(pair.shares, pair, folder, "someone") is Code.CONFLICT
    assert await refused(pair.shares, pair, folder, "nobody") is Code.NOT_FOUND
    assert await pair.anna.say(pair.anna.link(file, b"outside")) == "ok"
    assert await refused(pair.shares, pair, file) is Code.CONFLICT
    await pair.share(inner)
    assert await refused(pair.shares, pair, folder) is Code.CONFLICT
    assert await pair.bert.names() == {b"inner": inner}


async def test_names_outside_of_a_shared_folder_become_a_file_of_their_own(pair: Neighbours) -> None:
    anna, bert = pair.anna, pair.bert
    folder, file = await pair.tree()
    await anna.write(file, b"second", base=1)
    assert await anna.say(anna.set_xattr(file, b"user.x", b"y")) == "ok"
    pipe = await anna.make(b"pipe", folder, InodeKind.FIFO)
    for linked in (anna.link(file, b"inside", folder), anna.link(file, b"one"), anna.link(pipe, b"pipe")):
        assert await anna.say(linked) == "ok"
    other = await anna.make(b"other", kind=InodeKind.DIRECTORY)
    assert await anna.say(anna.link(file, b"two", other)) == "ok"
    before = await anna.head()
    await pair.share(folder)
    await anna.drive.database.read(invariants.check)
    own = (await anna.names())[b"one"]
    assert own == (await anna.names(other))[b"two"] != file
    assert (await anna.names())[b"pipe"] not in (pipe, own)
    assert await bert.names(folder) == {b"file": file, b"inside": file, b"pipe": pipe}
    first, second = await anna.known(file), await anna.known(own)
    assert (first.nlink, second.nlink) == (2, 2)
    assert (first.blocks, first.mode, first.mtime_ns) == (second.blocks, second.mode, second.mtime_ns)
    assert second.xattrs == {b"user.x": b"y"}
    (page,) = await pair.pages(anna, before)
    assert {(each.name, each.inode) for each in page.dentries} >= {(b"one", own), (b"two", own)}
    assert {each.inode: each.nlink for each in page.inodes}[file] == 2
    assert await anna.names(as_of=before) == {**await anna.names(), b"one": file, b"pipe": pipe}
    assert (await anna.known(file, as_of=before)).nlink == 4
    assert await anna.write(own, b"third", base=2) == 3
    assert await pair.write_in_share(bert, file, b"bert's", base=2) == "ok"
    assert (await anna.content(own, 1, history=True)).size == len(b"content")
    assert await anna.say(anna.unlink(own, b"one")) == "ok"
    await anna.drive.database.read(invariants.check)


async def test_a_file_with_several_names_is_shared_under_the_one_that_is_named(pair: Neighbours) -> None:
    file = await pair.anna.save(b"file", b"content")
    assert await pair.anna.say(pair.anna.link(file, b"other")) == "ok"
    request = sharing.ShareRequest(inode=file, parent=pair.anna.drive.root, name=b"other", user="bert", role="editor")
    info = await pair.shares.share(pair.anna.caller, request)
    assert info.path == b"other"
    assert (await pair.anna.names())[b"other"] == file != (await pair.anna.names())[b"file"]
    assert (await pair.anna.known(file)).nlink == (await pair.anna.known((await pair.anna.names())[b"file"])).nlink == 1
    await pair.anna.drive.database.read(invariants.check)


async def test_no_id_of_a_share_is_good_for_a_stranger(pair: Neighbours) -> None:
    folder, file = await pair.tree()
    request = sharing.ShareRequest(inode=folder, user="bert", role="editor")
    share = (await pair.shares.share(pair.anna.caller, request)).share
    for wanted in (share, pair.anna.drive.workspace, WorkspaceId(5)):
        with pytest.raises(ProtocolError) as error:
            await pair.anna.drive.listing.count(pair.bert.caller, wanted)
        assert error.value.code is Code.NOT_FOUND
    assert await pair.bert.say(pair.bert.create(b"x", folder)) == "conflict no_parent"
    assert await pair.bert.say(pair.bert.set_attributes(file, mode=0)) == "conflict absent"
    await pair.shares.answer(pair.bert.caller, sharing.AnswerRequest(share=share))
    with pytest.raises(ProtocolError):
        await pair.shares.answer(pair.bert.caller, sharing.AnswerRequest(share=share, accept=True))


async def test_a_folder_that_changes_while_it_is_looked_at_is_looked_at_again(pair: Neighbours) -> None:
    folder, file = await pair.tree()
    database, share = pair.anna.drive.database, WorkspaceId(99)
    planned = await database.read(conversion.plan, pair.anna.caller, folder)
    assert planned is not None
    assert planned.inodes == {folder, file}

    def convert(connection: Connection) -> bool:
        home = workspaces.own_drive(connection, pair.anna.caller.user, lock=True)
        assert planned is not None
        return conversion.convert(connection, pair.anna.drive.ground, home, planned, share)

    inner = await pair.anna.make(b"inner", folder, InodeKind.DIRECTORY)
    assert not await database.write(convert)
    planned = await database.read(conversion.plan, pair.anna.caller, folder)
    await pair.anna.make(b"beside")
    assert await database.write(convert)
    await pair.share(folder)
    assert await pair.bert.names(folder) == {b"file": file, b"inner": inner}
    assert await pair.bert.names(inner) == {}


async def test_what_left_a_folder_while_it_was_looked_at_is_not_its_members_to_fetch(
    pair: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at again then, and what was noted the first time is for the members of no share."""
    anna = pair.anna
    folder, file = await pair.tree()
    stays = await anna.save(b"stays", b"2", parent=folder)
    admit, moved = conversion.admit, list[str]()

    async def admit_and_move(ground: Ground, share: WorkspaceId, planned: conversion.Plan) -> None:
        await admit(ground, share, planned)
        if not moved:
            moved.append(await anna.say(anna.rename(file, b"file", b"mine", parent=folder)))

    monkeypatch.setattr(conversion, "admit", admit_and_move)
    share = await pair.share(folder)
    assert moved == ["ok"]
    assert await pair.bert.names(folder) == {b"stays": stays}
    ids = [ref.block for ref in refs([b"2", b"content"])]

    def admitted(connection: Connection) -> set[BlockId]:
        return batches.admitted(connection, workspaces.require(connection, BERT, share), set(ids))

    assert await anna.drive.database.read(admitted) == {ids[0]}


async def test_a_file_from_before_sharing_that_replaces_another_one_is_read_by_all(pair: Neighbours) -> None:
    """Save by rename: its content is a new revision of the share, in the history of the file that it replaces."""
    anna, bert = pair.anna, pair.bert
    folder, file = await pair.tree()
    heir = await anna.save(b"heir", b"other", parent=folder)
    share = await pair.share(folder)
    await pair.pages(anna)
    saved = anna.rename(heir, b"heir", b"file", file, base=1, parent=folder, new_parent=folder)
    assert await anna.say(saved) == "ok"
    await pair.pages(bert)
    for device in (anna, bert):
        assert await content_of(device, heir) == (await device.known(heir)).blocks
        listed = await device.drive.revisions.list(device.caller, share, RevisionsRequest(inode=heir))
        assert [each.number for each in listed.revisions if each.user == "someone"][-1] == 2


async def test_a_single_file_is_shared_and_its_history_stays_its_own(pair: Neighbours) -> None:
    anna, bert = pair.anna, pair.bert
    file = await anna.save(b"file", b"content")
    share = await pair.share(file)
    assert await bert.names() == {b"file": file}
    assert await pair.write_in_share(bert, file, b"bert's", base=1) == "ok"
    await pair.pages(anna)
    assert (await anna.known(file)).revision == 2
    assert await bert.say(bert.rename(file, b"file", b"called otherwise")) == "ok"
    new = await bert.save(b"file", b"own")
    assert (await bert.known(new)).revision == 1, "what comes to the freed name has a history of its own"
    assert await bert.say(bert.rename(file, b"called otherwise", b"file", new, base=1)) == "ok"
    assert (await bert.known(file)).revision == 2
    assert await bert.say(bert.unlink(file, b"file", base=2)) == "rejected share"
    other = await bert.save(b"other", b"own")
    assert await bert.say(bert.rename(other, b"other", b"file", file, base=2)) == "rejected share"
    assert await bert.say(bert.link(file, b"linked")) == "rejected workspace"
    await pair.end(share)
    assert await bert.names() == {b"other": other}
    assert await anna.names() == {b"file": file}


async def test_a_page_holds_no_more_of_a_share_than_was_asked_for(pair: Neighbours) -> None:
    folder, _ = await pair.tree()
    await pair.share(folder)
    (start,) = await pair.pages(pair.bert)
    for number in range(5):
        await pair.anna.send(*(pair.anna.create(b"%d %d" % (number, each), folder) for each in range(10)))
    pages = await pair.pages(pair.bert, start.cursor.seq, limit=15)
    assert [len(page.dentries) for page in pages] == [20, 20, 10]
    assert [page.more for page in pages] == [True, True, False]


async def test_who_writes_is_told_whose_room_it_takes_and_how_much_there_is(pair: Neighbours) -> None:
    folder, file = await pair.tree()
    sessions = pair.bert.drive.sessions
    assert (await sessions.usage(pair.bert.caller)).rooms == []
    await pair.share(folder)
    await pair.anna.drive.execute(
        update(schema.accounts).where(schema.accounts.c.account == pair.anna.caller.account).values(quota_bytes=20)
    )
    told = await pair.bert.begin()
    assert [(each.root, each.owner) for each in told.shares] == [(folder, "someone")]
    assert told.rooms == [messages.Room(owner="someone", room_bytes=20 - len(b"content"))]
    assert (await pair.anna.begin()).rooms == []
    assert await pair.write_in_share(pair.bert, file, b"more", base=1) == "ok"
    reply = await pair.bert.commit(pair.bert.create(b"new", folder))
    assert [each.room_bytes for each in reply.rooms] == [20 - len(b"contentmore")]
    assert (await pair.bert.commit(pair.bert.create(b"own"))).rooms == []
    await pair.share(folder, "viewer")
    assert (await sessions.usage(pair.bert.caller)).rooms == []
