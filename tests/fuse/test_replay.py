"""The process that replays for watchers: there while it is needed; when it cannot be had, that is said once."""

import logging
from typing import Any, NoReturn

import pytest
import trio
import trio.testing

from drivefs.fuse.replay import IDLE_SECONDS, LOST_SECONDS, PROBE, Mounted, Replay
from drivefs.fuse.replay_process import Lost
from drivefs.fuse.replay_stage import Stage
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.sync.announcer import Told
from drivefs.sync.events import Kind
from drivefs.sync.happenings import Happening

UNUSED: Any = None
TOLD = Told(
    Happening(kind=Kind.CREATED, inode=InodeId(2), name=(InodeId(1), b"name")),
    (),
    None,
    InodeState(inode=InodeId(2), kind=InodeKind.FILE, mode=0o644),
    None,
)


class FakePlayer:
    """Says that nobody watches anything."""

    def __init__(self) -> None:
        self.is_there = True

    async def ask(self, call: str, *_arguments: object) -> Any:
        return PROBE if call == "find" else []

    async def end(self) -> None:
        self.is_there = False


async def nothing() -> None:
    pass


def mounted(start: Any) -> Mounted:
    return Mounted(root=InodeId(1), start=start, present=UNUSED, way_to=UNUSED, forget=UNUSED, forgotten=nothing)


def test_a_player_is_there_while_something_comes_from_elsewhere() -> None:
    players: list[FakePlayer] = []

    async def start() -> FakePlayer:
        players.append(FakePlayer())
        return players[-1]

    replay = Replay(mounted(start), Stage(UNUSED, UNUSED), probe=b"probe")
    there = []

    async def look(seconds: float) -> None:
        await trio.sleep(seconds)
        there.append([player.is_there for player in players])

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replay.run)
            replay.replay([])
            await look(IDLE_SECONDS)
            for _ in range(2):
                replay.replay([TOLD])
                await look(IDLE_SECONDS / 2)
            await look(IDLE_SECONDS)
            replay.replay([TOLD])
            await look(IDLE_SECONDS / 2)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert there == [[], [True], [True], [False], [False, True]]
    assert not any(player.is_there for player in players)


def test_a_player_that_can_never_be_started_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    tries = 0

    async def start() -> NoReturn:
        nonlocal tries
        tries += 1
        raise Lost("it cannot be started: Permission denied" if tries < 10 else "it has ended")

    replay = Replay(mounted(start), UNUSED, probe=b"probe")

    async def main() -> None:
        replay.replay([TOLD])
        with trio.move_on_after(10.5 * LOST_SECONDS):
            await replay.run()

    with caplog.at_level(logging.WARNING):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert tries > 10
    assert ["Permission denied" in each.message for each in caplog.records] == [True, False]
