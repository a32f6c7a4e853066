"""Revisions as they are listed, found and kept: the history follows the name, and belongs to its workspace."""

import pytest
from sqlalchemy import insert, select, text, update

from backend.metadata import schema
from backend.metadata.schema import Role
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.history import KeepRequest, MomentRequest, RevisionInfo, RevisionsRequest
from drivefs.protocol.ids import InodeId, RevisionNumber
from tests.backend.service.drive import SECOND, Device, Drive

pytestmark = pytest.mark.anyio


async def listed(device: Device, inode: InodeId, limit: int = 1000) -> list[RevisionInfo]:
    """All revisions of a file, page by page."""
    found: list[RevisionInfo] = []
    while True:
        after = found[-1].number if found else RevisionNumber(0)
        request = RevisionsRequest(inode=inode, after=after, limit=limit)
        reply = await device.drive.revisions.list(device.caller, device.drive.workspace, request)
        found += reply.revisions
        if not reply.more:
            return found


async def keep(device: Device, inode: InodeId, number: int, *, is_kept: bool = True) -> None:
    request = KeepRequest(inode=inode, revision=RevisionNumber(number), is_kept=is_kept)
    await device.drive.revisions.keep(device.caller, device.drive.workspace, request)


async def test_each_content_is_a_revision_with_its_device_user_and_time(
    drive: Drive, laptop: Device, phone: Device
) -> None:
    file = await laptop.save(b"doc", b"one")
    drive.clock.ns += 60 * SECOND
    await phone.write(file, b"longer", base=1)
    first, second = await listed(phone, file)
    assert (first.number, first.size, first.device, first.user) == (1, 3, "device 1", "someone")
    assert (second.number, second.size, second.device) == (2, 6, "device 2")
    assert second.time_ns - first.time_ns > 59 * SECOND
    assert second.time_ns == drive.clock.ns
    assert second.mtime_ns == phone.time_ns


async def test_the_list_comes_in_pages(drive: Drive, laptop: Device) -> None:
    file = await laptop.save(b"doc", b"0")
    for number in range(1, 7):
        await laptop.write(file, b"%d" % number, base=number)
    for limit in (1, 2, 7, 8):
        assert [each.number for each in await listed(laptop, file, limit)] == [1, 2, 3, 4, 5, 6, 7]


async def test_a_save_by_rename_goes_on_with_the_list_and_is_dated_by_the_rename(
    drive: Drive, laptop: Device, phone: Device
) -> None:
    old = await laptop.save(b"doc", b"one")
    new = await laptop.save(b"tmp", b"three")
    drive.clock.ns += 3600 * SECOND
    assert await phone.say(phone.rename(new, b"tmp", b"doc", replaced=old, base=1)) == "ok"
    for inode in (new, old):
        found = await listed(laptop, inode)
        assert [(each.number, each.size, each.device) for each in found] == [(1, 3, "device 1"), (2, 5, "device 2")]
        assert found[1].time_ns - found[0].time_ns > 3599 * SECOND


async def test_a_fork_has_the_history_up_to_where_it_forked(drive: Drive, laptop: Device) -> None:
    old = await laptop.save(b"doc", b"1")
    await laptop.write(old, b"22", base=1)
    assert await laptop.say(laptop.link(old, b"other")) == "ok"
    new = await laptop.save(b"tmp", b"333")
    assert await laptop.say(laptop.rename(new, b"tmp", b"doc", replaced=old)) == "ok"
    await laptop.write(old, b"4444", base=2)
    assert [each.size for each in await listed(laptop, new)] == [1, 2, 3]
    assert [each.size for each in await listed(laptop, old, limit=1)] == [1, 2, 4]
    assert [each.number for each in await listed(laptop, old)] == [1, 2, 3]
    for number, size in ((1, 1), (2, 2), (3, 4)):
        assert (await laptop.content(old, number, history=True)).size == size


async def test_history_stays_with_what_was_moved_and_what_was_removed(drive: Drive, laptop: Device) -> None:
    file = await laptop.save(b"doc", b"one")
    assert await laptop.say(laptop.rename(file, b"doc", b"moved")) == "ok"
    await laptop.write(file, b"two!", base=1)
    assert await laptop.say(laptop.unlink(file, b"moved", base=2)) == "ok"
    assert [each.size for each in await listed(laptop, file)] == [3, 4]


async def test_a_stranger_and_a_viewer_change_nothing_and_see_what_is_theirs(drive: Drive, laptop: Device) -> None:
    file = await laptop.save(b"doc", b"one")
    stranger = await drive.stranger()
    for call in (listed(stranger, file), keep(stranger, file, 1)):
        with pytest.raises(ProtocolError) as refused:
            await call
        assert refused.value.code is Code.NOT_FOUND
    home = {"account": drive.home.account, "workspace": drive.workspace}
    await drive.execute(insert(schema.members).values(**home, user=8, role=Role.VIEWER, state="active"))
    await drive.execute(insert(schema.user_workspaces).values(**home, user=8))
    assert [each.number for each in await listed(stranger, file)] == [1]
    with pytest.raises(ProtocolError) as refused:
        await keep(stranger, file, 1)
    assert refused.value.code is Code.FORBIDDEN
    assert await drive.fetch(select(schema.kept)) == []


async def test_another_workspace_of_the_account_is_not_looked_into(drive: Drive, laptop: Device) -> None:
    file = await laptop.save(b"doc", b"one")
    kept_apart = update(schema.inodes).where(schema.inodes.c.inode == file)
    await drive.execute(kept_apart.values(workspace=drive.workspace + 1))
    with pytest.raises(ProtocolError) as refused:
        await listed(laptop, file)
    assert refused.value.code is Code.NOT_FOUND
    await drive.execute(kept_apart.values(workspace=drive.workspace))


async def test_a_revision_is_kept_until_the_mark_is_taken_away(drive: Drive, laptop: Device) -> None:
    file = await laptop.save(b"doc", b"one")
    await laptop.write(file, b"two", base=1)
    await keep(laptop, file, 1)
    await keep(laptop, file, 1)
    assert [each.is_kept for each in await listed(laptop, file)] == [True, False]
    await keep(laptop, file, 1, is_kept=False)
    assert [each.is_kept for each in await listed(laptop, file)] == [False, False]
    with pytest.raises(ProtocolError) as refused:
        await keep(laptop, file, 3)
    assert refused.value.code is Code.NOT_FOUND


async def test_the_list_is_read_by_its_key(drive: Drive, laptop: Device) -> None:
    """However many revisions others have, none but those of this history are looked at."""
    file = await laptop.save(b"doc", b"one")
    seen: list[str] = []

    def plan(connection: object) -> None:
        from backend.service import revisions

        statement = revisions._ROWS.where(schema.revisions.c.account == 1, schema.revisions.c.lineage == file)
        compiled = statement.where(schema.revisions.c.number > 0).compile(
            dialect=connection.dialect,  # type: ignore[attr-defined]
            compile_kwargs={"literal_binds": True},
        )
        seen.extend(
            row[3]
            for row in connection.execute(text(f"EXPLAIN QUERY PLAN {compiled}"))  # type: ignore[attr-defined]
        )

    await drive.database.read(plan)
    assert seen
    assert not [step for step in seen if step.startswith("SCAN")], seen


async def test_a_moment_is_the_newest_commit_at_or_before_it(drive: Drive, laptop: Device) -> None:
    before = drive.clock.ns
    drive.clock.ns += 100 * SECOND
    await laptop.make(b"a")
    made = drive.clock.ns
    drive.clock.ns += 100 * SECOND
    await laptop.make(b"b")

    async def seq_at(time_ns: int) -> int:
        request = MomentRequest(time_ns=time_ns)
        return (await drive.listing.moment(laptop.caller, drive.workspace, request)).seq

    assert [await seq_at(each) for each in (0, before, made - 1, made, made + 1, 2**62)] == [0, 1, 1, 2, 2, 3]
    assert set(await laptop.names(as_of=await seq_at(made))) == {b"a"}
