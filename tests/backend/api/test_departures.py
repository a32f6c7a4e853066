"""Users who are removed: nobody meets them, they can be had back for a time, and after it nothing is left."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, func, select

from backend.metadata import schema
from backend.service import departures, garbage
from backend.service.ground import Limits
from backend.service.sealing import SMALL_PAYLOAD_BYTES
from drivefs.protocol import links, messages, notifications, routes, sharing
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import Epoch, InodeId
from tests.backend.api.served import PASSWORD, SESSION, Drive, Request, Served, serving
from tests.backend.service import invariants

pytestmark = pytest.mark.anyio
DAY = 86400
LARGE = random.Random(7).randbytes(2 * SMALL_PAYLOAD_BYTES)


class CutOffError(Exception):
    """The process ends after a transaction."""


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
async def ann(tmp_path: Path) -> AsyncIterator[Served]:
    """Whose server it is; bert is there too."""
    async with serving(tmp_path, Limits(trash_seconds=5 * DAY, pin_seconds=3600)) as served:
        await served.services.accounts.add_user("bert", PASSWORD)
        yield served
        await require_sound(served)
        await served.ground.database.read(invariants.check)


async def require_sound(served: Served) -> None:
    assert (await served.services.checks.check(_quiet)).is_sound


async def _quiet(_done: int, _total: int) -> None:
    pass


async def a_drive(served: Served) -> Drive:
    session = (await served.post(routes.SESSION, SESSION)).message(messages.SessionReply)
    ranges = await served.post(routes.ID_RANGES, messages.IdRangesRequest(epoch=Epoch(session.epoch)))
    return Drive(served, session, ranges.message(messages.IdRangesReply).starts[0])


async def shared(owner: Served, inode: int, other: Served, name: str) -> None:
    request = sharing.ShareRequest(inode=InodeId(inode), user=name, role="editor")
    info = (await owner.post(routes.SHARE, request)).message(sharing.ShareInfo)
    await other.post(routes.ANSWER, sharing.AnswerRequest(share=info.share, accept=True))


async def own_drive(served: Served) -> messages.WorkspaceInfo:
    session = (await served.post(routes.SESSION, SESSION)).message(messages.SessionReply)
    return next(each for each in session.workspaces if each.workspace == served.workspace)


async def names(served: Served, as_of: int = 0) -> set[bytes]:
    request = messages.ListRequest(directory=(await own_drive(served)).root, as_of=as_of, limit=100)
    return {each.name for each in (await served.post(routes.LIST, request)).message(messages.ListReply).entries}


async def downloaded(served: Served, token: str) -> int:
    return (await served.run(Request(links.ADDRESS.format(token=token), [], method="GET"))).status


async def later(served: Served, seconds: float) -> None:
    served.clock.ns += int(seconds * 10**9)
    await served.services.maintenance.run()


async def row_counts(served: Served) -> dict[str, int]:
    def count(connection: Connection) -> dict[str, int]:
        tables = [table for table in schema.metadata.sorted_tables if "account" in table.c]
        counted = {t.name: connection.execute(select(func.count()).select_from(t)).scalar_one() for t in tables}
        return {name: found for name, found in counted.items() if found}

    return await served.ground.database.read(count)


async def test_a_removed_user_is_nobody_and_is_back_with_all_that_was_there(ann: Served) -> None:
    bert = await ann.log_in_as("bert")
    drive = await a_drive(bert)
    await drive.store_file(10, b"file", LARGE)
    made = await bert.post(routes.CREATE_LINK, links.CreateLinkRequest(inode=InodeId(drive.start + 10)))
    link = made.message(links.LinkReply).token
    ended = await ann.log_in_as("bert")
    old = (await ended.post(routes.DEVICES)).message(messages.DevicesReply).devices[0].device
    await bert.post(routes.REVOKE, messages.RevokeRequest(device=old))
    ann.clock.ns += 10**9
    poll = (await a_drive(bert)).poll(50)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bert.run, poll)
        await anyio.wait_all_tasks_blocked()
        removed = await ann.services.departures.remove("bert")
    assert (removed.device_count, removed.until_ns) == (1, ann.clock.ns + 5 * DAY * 10**9)
    assert poll.problem() == Code.DEVICE_REVOKED
    assert b"bert was removed" in (await bert.post(routes.SESSION, SESSION)).reply
    assert await downloaded(ann, link) == 404
    assert (await bert.login("bert", "wrong")).problem() == Code.WRONG_PASSWORD
    assert b"was removed" in (await bert.login("bert")).reply
    with pytest.raises(ProtocolError, match="was removed"):
        await ann.services.accounts.add_user("bert", PASSWORD)
    with pytest.raises(ProtocolError, match="was removed"):
        await ann.services.departures.remove("bert")
    with pytest.raises(ProtocolError, match="was not removed"):
        await ann.services.departures.restore("ann")
    own = await a_drive(ann)
    await own.make_directory(20, b"plans")
    asked = sharing.ShareRequest(inode=InodeId(own.start + 20), user="bert", role="editor")
    assert (await ann.post(routes.SHARE, asked)).problem() == Code.NOT_FOUND
    await later(ann, 5 * DAY - 1)
    await ann.services.departures.restore("bert")
    assert await names(bert) == {b"file"}
    assert await downloaded(ann, link) == 200
    assert (await ended.post(routes.SESSION, SESSION)).problem() == Code.DEVICE_REVOKED


async def test_who_is_seen_by_others_is_removed_only_if_that_is_to_end(ann: Served) -> None:
    bert, drive = await ann.log_in_as("bert"), await a_drive(ann)
    of_bert = await a_drive(bert)
    await drive.make_directory(10, b"plans")
    await of_bert.make_directory(10, b"from bert")
    await shared(ann, drive.start + 10, bert, "bert")
    await shared(bert, of_bert.start + 10, ann, "ann")
    with pytest.raises(ProtocolError, match=r"'plans' with bert.*--end-shares"):
        await ann.services.departures.remove("ann")
    assert await names(ann) == {b"plans", b"from bert"}
    before = (await own_drive(bert)).head.seq
    removed = await ann.services.departures.remove("ann", ends_shares=True)
    assert (removed.shares, removed.left_count) == ([(b"plans", ["bert"])], 1)
    assert await names(bert) == {b"from bert"}
    told = await bert.post(routes.NOTIFICATIONS, notifications.NotificationsRequest())
    found = told.message(notifications.NotificationsReply).notifications
    assert [(each.text, each.user) for each in found if each.kind == "unshared"] == [("plans", "ann")]
    known = (await bert.post(routes.SHARES)).message(sharing.SharesReply).shares
    assert [each.members for each in known] == [()]
    await later(ann, 6 * DAY)
    assert await names(bert) == {b"from bert"}
    assert await names(bert, before) == {b"from bert"}


async def test_after_its_time_nothing_is_left_and_the_name_is_somebody_elses(ann: Served) -> None:
    bert, other = await ann.log_in_as("bert"), await a_drive(ann)
    await other.store_file(30, b"of ann", b"stays")
    await later(ann, 3601)
    before = await row_counts(ann)
    drive = await a_drive(bert)
    await drive.store_file(10, b"file", LARGE)
    await drive.write_anew(20, 10, b"newer", base=1)
    link = await bert.post(routes.CREATE_LINK, links.CreateLinkRequest(inode=InodeId(drive.start + 10)))
    await ann.services.departures.remove("bert")
    assert (await ann.services.maintenance.run(is_dry_run=True)).user_count == 0
    ann.clock.ns += 5 * DAY * 10**9
    assert (await ann.services.maintenance.run(is_dry_run=True)).user_count == 1
    assert (await ann.services.maintenance.run()).user_count == 1
    await require_sound(ann)
    with pytest.raises(ProtocolError, match="There is no user"):
        await ann.services.departures.restore("bert")
    await ann.services.accounts.add_user("bert", PASSWORD)
    assert (await bert.post(routes.SESSION, SESSION)).problem() == Code.UNAUTHENTICATED
    assert await downloaded(ann, link.message(links.LinkReply).token) == 404
    assert await names(await ann.log_in_as("bert")) == set()
    for seconds in (garbage.CONDEMN_SECONDS, garbage.DELETE_SECONDS, 0):
        await later(ann, seconds)
    assert len(ann.objects()) == 1, "that of ann"
    assert await row_counts(ann) == before, "the new user has what the old one had at first"


async def test_each_table_of_an_account_is_emptied(ann: Served) -> None:
    """The incarnations that restores ended must not be drawn again, whoever was there then."""
    named = {table.name for table in (*departures._AT_ONCE, *departures._OF_ACCOUNT)}
    others = {"blocks", "block_copies", "account_keys", "accounts", "restores"}
    assert named | others == {table.name for table in schema.metadata.sorted_tables if "account" in table.c}


async def test_emptying_an_account_goes_on_where_it_was_cut_off(ann: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = await a_drive(await ann.log_in_as("bert"))
    for n in (10, 20, 30):
        await drive.store_file(n, b"%d" % n, b"content %d" % n)
    await ann.services.departures.remove("bert")
    ann.clock.ns += 5 * DAY * 10**9
    monkeypatch.setattr(departures, "BATCH_ROWS", 1)
    write, cut_count = ann.ground.database.write, 0

    async def cut_off(*given: Any) -> Any:
        done = await write(*given)
        if done or given[0] is departures._forget_user:
            raise CutOffError
        return done

    while cut_count < 100:
        monkeypatch.setattr(ann.ground.database, "write", cut_off)
        try:
            await ann.services.departures.finish()
            break
        except CutOffError:
            cut_count += 1
        finally:
            monkeypatch.setattr(ann.ground.database, "write", write)
        await require_sound(ann)
    assert 20 < cut_count < 100
    left = await row_counts(ann)
    assert (left["accounts"], left["blocks"]) == (2, 3), "the blocks of bert wait for the collector"
