"""What `sync` has the engine do, and what is left of it when it has answered."""

from types import SimpleNamespace
from typing import Any

import trio
import trio.testing

from drivefs.control.handlers import Drive, Handlers
from drivefs.protocol.ids import InodeId

STATUS = SimpleNamespace(
    pending_mutations=1, pending_bytes=7, online=False, reason="away", is_revoked=False, ignored_files=0
)
UNUSED: Any = None


class Away:
    """An engine whose server is away."""

    refused_count = 0

    def __init__(self) -> None:
        self.sent: list[list[InodeId]] = []

    def send_now(self, inodes: list[InodeId]) -> None:
        self.sent.append(inodes)

    async def settle(self, inodes: list[InodeId]) -> None:
        self.send_now(inodes)
        await trio.sleep_forever()


def drive(engine: Any) -> Drive:
    drafts = SimpleNamespace(draft_inodes=lambda: iter([InodeId(5)]))
    return Drive(
        identity={},
        local=SimpleNamespace(journal=SimpleNamespace(drafts=drafts)),  # type: ignore[arg-type]
        engine=engine,
        reporter=SimpleNamespace(status=lambda: STATUS),  # type: ignore[arg-type]
        is_on_its_way=UNUSED,
        presence=UNUSED,
        root=InodeId(1),
        guard=SimpleNamespace(question=None),  # type: ignore[arg-type]
        conflict_count=UNUSED,
        notices=UNUSED,
    )


def test_what_is_not_waited_for_leaves_nothing_behind_that_waits() -> None:
    """A timer may call it again and again while the server is away."""
    engine = Away()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                answer = await Handlers(drive(engine), nursery).sync({"wait": False}, UNUSED)
                assert (answer["mutations"], answer["online"]) == (1, False)
                await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 0
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert engine.sent == [[InodeId(5)]] * 3


def test_who_waits_and_goes_away_leaves_nothing_behind_either() -> None:
    engine = Away()

    async def gone(progress: Any, seconds: float = 0.0, /) -> None:
        raise trio.BrokenResourceError

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            try:
                await Handlers(drive(engine), nursery).sync({"wait": True}, gone)
            except trio.BrokenResourceError:
                await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 0
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert engine.sent == [[InodeId(5)]]
