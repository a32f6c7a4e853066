"""When the backend is asked anew what the account may store: where somebody is refused, and not otherwise."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import trio
import trio.testing

from cache.workspace import LocalState
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.messages import Limits, Usage, UsageReply
from drivefs.remote.errors import Offline, Refused
from drivefs.sync.allowance import LEAST_SECONDS, LOOK_SECONDS, OLD_SECONDS, Allowance
from tests.sync.fleet import at_once


class Remote:
    """Counts questions; `reply` None: there is no answer."""

    def __init__(self) -> None:
        self.asked = 0
        self.reply: UsageReply | None = None

    async def usage(self) -> UsageReply:
        self.asked += 1
        if self.reply is None:
            raise Offline("no answer")
        return self.reply


def running(place: Path, work: Callable[[Allowance, Remote], Awaitable[None]]) -> None:
    """Do something while an allowance runs, in virtual time."""

    async def main() -> None:
        with LocalState(place / "state", place / "cache", offload=at_once, cache_limit_bytes=2**20) as local:
            remote = Remote()
            made = Allowance(local, cast(Any, remote))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(made.run)
                await work(made, remote)
                nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_who_is_refused_asks_once_in_a_while(tmp_path: Path) -> None:
    async def work(made: Allowance, remote: Remote) -> None:
        heard: list[tuple[int, int]] = []
        made.hear.append(lambda limits, usage, rooms: heard.append((limits.quota_bytes, usage.stored_bytes)))
        await trio.sleep(5 * LOOK_SECONDS)
        assert remote.asked == 0
        remote.reply = UsageReply(usage=Usage(stored_bytes=5), limits=Limits(file_bytes=1, quota_bytes=7))
        for _ in range(9):
            made.refused()
            await trio.sleep(LEAST_SECONDS / 10)
        assert (remote.asked, heard) == (1, [(7, 5)])
        await trio.sleep(10 * LOOK_SECONDS)
        assert remote.asked == 2

    running(tmp_path, work)


def test_an_upload_that_is_refused_counts_and_other_refusals_do_not(tmp_path: Path) -> None:
    async def work(made: Allowance, remote: Remote) -> None:
        made.refused_by(Refused(ProtocolError(Code.CONFLICT, "no")))
        await trio.sleep(2 * LOOK_SECONDS)
        assert remote.asked == 0
        made.refused_by(Refused(ProtocolError(Code.OVER_QUOTA, "full")))
        await trio.sleep(1)
        assert remote.asked == 1

    running(tmp_path, work)


def test_who_looks_at_old_figures_has_them_asked_for_once_a_minute(tmp_path: Path) -> None:
    async def work(made: Allowance, remote: Remote) -> None:
        made.used(Usage())
        for _ in range(5):
            await trio.sleep(OLD_SECONDS / 6)
            made.looked_at()
        assert remote.asked == 0
        await trio.sleep(OLD_SECONDS / 6)
        for _ in range(6):
            made.looked_at()
            await trio.sleep(OLD_SECONDS / 6 - 1)
        assert remote.asked == 1, "there was no answer, and it waits all the same"
        remote.reply = UsageReply(usage=Usage(stored_bytes=5), limits=Limits(file_bytes=1, quota_bytes=7))
        await trio.sleep(OLD_SECONDS)
        made.looked_at()
        await trio.sleep(1)
        assert (remote.asked, made.usage.stored_bytes) == (2, 5)

    running(tmp_path, work)


def test_what_others_changed_makes_the_figures_old_at_once(tmp_path: Path) -> None:
    async def work(made: Allowance, remote: Remote) -> None:
        remote.reply = UsageReply(usage=Usage(stored_bytes=5), limits=Limits(file_bytes=1, quota_bytes=7))
        made.used(Usage())
        made.moved()
        made.looked_at()
        await trio.sleep(LEAST_SECONDS)
        assert remote.asked == 0, "that was this device"
        made.moved()
        await trio.sleep(LOOK_SECONDS)
        assert remote.asked == 0, "nobody looked"
        made.looked_at()
        await trio.sleep(1)
        made.looked_at()
        assert (remote.asked, made.usage.stored_bytes) == (1, 5)

    running(tmp_path, work)


def test_while_content_waits_for_room_it_is_asked_again_and_again(tmp_path: Path) -> None:
    async def work(made: Allowance, remote: Remote) -> None:
        made.waits = lambda: True
        await trio.sleep(5 * (LOOK_SECONDS + LEAST_SECONDS) + 1)
        assert remote.asked == 5

    running(tmp_path, work)
