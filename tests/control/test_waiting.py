"""Commands that need what was changed before to be with the server: it may have been away until just now."""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from drivefs.control import waiting
from drivefs.control.errors import Refused
from drivefs.control.sharing import Sharing
from drivefs.fs.filesystem import FileSystem
from drivefs.protocol.ids import InodeId
from drivefs.remote import errors
from drivefs.sync.connection import Connection
from drivefs.sync.ends import Ends

AWAY_SECONDS = 120.0


class Backend:
    """A server that comes and goes, and the mount that sends everything to it while it is there."""

    def __init__(self) -> None:
        self.is_away = True
        self.asked: list[object] = []
        self.connection = Connection(self._open_session, lambda: 0, lambda: 0.5)
        self.journal = SimpleNamespace(drafts=SimpleNamespace(draft_inodes=lambda: iter(())))
        self.kept = SimpleNamespace(has=lambda inode: False)
        self.is_sent = False

    async def _open_session(self) -> None:
        await trio.sleep(0.01)
        if self.is_away:
            raise errors.Offline("it is away")

    async def settle(self, inodes: list[InodeId]) -> None:
        await self.connection.wait_online()
        await trio.sleep(1)
        self.is_sent = True

    async def share(self, request: object) -> Any:
        await trio.lowlevel.checkpoint()
        assert self.is_sent
        self.asked.append(request)
        return SimpleNamespace(share=1, members=[])

    root = InodeId(1)

    async def lookup(self, parent: InodeId, name: bytes) -> Any:
        await trio.lowlevel.checkpoint()
        return SimpleNamespace(inode=InodeId(7))


def run(scenario: Callable[[Any], Awaitable[None]]) -> None:
    """The server has been away for a while."""

    async def main() -> None:
        backend = Backend()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.connection.run)
            await trio.sleep(AWAY_SECONDS)
            await scenario(backend)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def sharing(backend: Any) -> Sharing:
    filesystem: FileSystem = backend
    return Sharing(filesystem, Ends(backend, backend, backend, bytes), backend)


ARGUMENTS = {"path": b"plans", "user": "bob", "role": "editor"}


def test_a_server_that_has_just_come_back_gets_what_was_changed_before() -> None:
    async def scenario(backend: Any) -> None:
        backend.is_away = False
        await sharing(backend).share(ARGUMENTS, backend)
        assert len(backend.asked) == 1

    run(scenario)


def test_a_server_that_is_away_is_not_waited_for_and_not_asked() -> None:
    async def scenario(backend: Any) -> None:
        began = trio.current_time()
        assert not await waiting.all_sent(backend, backend, 60)
        with pytest.raises(Refused, match="cannot be asked now: it is away"):
            await sharing(backend).share(ARGUMENTS, backend)
        assert trio.current_time() - began < 1
        assert backend.asked == []

    run(scenario)


@pytest.mark.parametrize("told_after", [0.0, 0.3, 1e9])
def test_what_a_command_did_is_there_for_who_looks_right_after_it(told_after: float) -> None:
    """The kernel was told before the answer, unless somebody keeps it from being told."""
    told: list[bool] = []

    async def wait_told() -> None:
        await trio.sleep(told_after)
        told.append(True)

    async def restore(arguments: dict[str, Any], _report: object) -> object:
        return arguments["path"]

    async def main() -> tuple[object, float]:
        handler = waiting.once_told({"restore": restore}, wait_told)["restore"]
        begin = trio.current_time()
        return await handler({"path": "a"}, None), trio.current_time() - begin  # type: ignore[arg-type]

    answer, waited = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert (answer, bool(told)) == ("a", told_after < waiting.TOLD_SECONDS)
    assert waited <= waiting.TOLD_SECONDS
