"""The process that replays for watchers: when it cannot be had, that is said once."""

import logging
from typing import Any, NoReturn

import pytest
import trio
import trio.testing

from drivefs.fuse.replay import LOST_SECONDS, Mounted, Replay
from drivefs.fuse.replay_process import Lost
from drivefs.protocol.ids import InodeId


async def nothing() -> None:
    pass


def test_a_player_that_can_never_be_started_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    tries = 0

    async def start() -> NoReturn:
        nonlocal tries
        tries += 1
        raise Lost("it cannot be started: Permission denied" if tries < 10 else "it has ended")

    unused: Any = None
    mounted = Mounted(root=InodeId(1), start=start, present=unused, way_to=unused, forget=unused, forgotten=nothing)
    replay = Replay(mounted, unused, probe=b"probe")

    async def main() -> None:
        replay.replay([])
        with trio.move_on_after(10.5 * LOST_SECONDS):
            await replay.run()

    with caplog.at_level(logging.WARNING):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert tries > 10
    assert ["Permission denied" in each.message for each in caplog.records] == [True, False]
