"""A feed with a gap: it is asked for once more, then all is looked at anew, and what waits here stays."""

from functools import partial
from pathlib import Path

import pytest
import trio
from sqlalchemy import Connection, delete

from backend.metadata import schema
from drivefs.protocol.ids import Seq
from drivefs.protocol.messages import ChangesReply, ChangesRequest, FeedPage, FeedStatus
from tests.sync.fleet import Device, sailing


def skip_in_answers(device: Device, answer_count: int) -> None:
    """Let the next pages leave out what comes first, as answers to another cursor would."""
    ask = device.remote.changes

    async def changes(request: ChangesRequest, *, is_anew: bool = False) -> ChangesReply:
        nonlocal answer_count
        if answer_count:
            answer_count -= 1
            ahead = request.cursors[0].cursor.seq + 2
            for page in (reply := await ask(request)).pages:
                page.since = Seq(ahead)
            return reply
        return await ask(request)

    device.remote.changes = changes  # type: ignore[method-assign]


@pytest.mark.fault(42)
@pytest.mark.parametrize("answer_count", [1, 2])
def test_a_page_that_does_not_fit_is_asked_for_again_once(tmp_path: Path, answer_count: int) -> None:
    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, bert)):
            await anna.write("shared", b"before")
            await fleet.settle()
            for number in range(3):
                await anna.write(f"file {number}", b"of anna")
                await anna.sync()
            await bert.write("shared", b"of bert, not sent")
            before = bert.local.replica.cursor(bert.ends.workspace)
            skip_in_answers(bert, answer_count)
            polled = await bert.follower.poll(0.0)
            assert polled.lost is None
            assert bert.local.replica.cursor(bert.ends.workspace) == before
            assert await bert.pull()
            assert [page.status for page in bert.begun_again] == [FeedStatus.EXPIRED] * (answer_count - 1)
            tree = await fleet.settle()
            assert tree == {"shared": b"of bert, not sent", **{f"file {n}": b"of anna" for n in range(3)}}

    trio.run(main)


def test_a_page_that_says_that_the_feed_cannot_go_on_is_no_gap(tmp_path: Path) -> None:
    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, bert)):
            await anna.write("shared", b"before")
            await fleet.settle()
            before = bert.local.replica.cursor(bert.ends.workspace)
            assert before is not None
            page = FeedPage(workspace=bert.ends.workspace, status=FeedStatus.DIVERGED, cursor=before)
            bert.remote.changes = partial(answer, ChangesReply(pages=[page]))  # type: ignore[method-assign]
            polled = await bert.follower.poll(0.0)
            assert polled.lost == page
            assert bert.local.replica.cursor(bert.ends.workspace) == before
            del bert.remote.changes  # type: ignore[attr-defined]

    async def answer(reply: ChangesReply, request: ChangesRequest, *, is_anew: bool = False) -> ChangesReply:
        return reply

    trio.run(main)


@pytest.mark.fault(42)
def test_what_the_server_lost_of_its_feed_leaves_nothing_stale(tmp_path: Path) -> None:
    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, bert)):
            await anna.mkdir("kept")
            await anna.write("kept/changed", b"before")
            await anna.write("kept/gone", b"before")
            await fleet.settle()
            await anna.write("kept/changed", b"after")
            await anna.sync()
            await anna.unlink("kept/gone")
            await anna.sync()
            await anna.write("kept/made", b"new")
            await anna.sync()
            await bert.write("kept/mine", b"of bert, not sent")
            await fleet.served.ground.database.write(forget_changes)
            expected = {"changed": b"after", "made": b"new", "mine": b"of bert, not sent"}
            assert await fleet.settle() == {"kept": None, **{f"kept/{name}": each for name, each in expected.items()}}
            assert bert.begun_again
            assert not anna.begun_again

    def forget_changes(connection: Connection) -> None:
        c = schema.changes.c
        last = max(row.seq for row in connection.execute(schema.changes.select()))
        connection.execute(delete(schema.changes).where(c.seq.between(last - 2, last - 1)))

    trio.run(main)
