"""Whether the backend can be reached: who waits for it, how long, and who is told at once."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from cache.errors import DiskFull
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.remote import errors
from drivefs.sync import connection as connecting
from drivefs.sync.connection import Connection


class Backend:
    """Sessions take `seconds`, and fail with `error` while there is one."""

    def __init__(self) -> None:
        self.error: errors.RemoteError | DiskFull | None = None
        self.seconds = 0.01
        self.tries = 0

    async def open_session(self) -> None:
        self.tries += 1
        await trio.sleep(self.seconds)
        if self.error is not None:
            raise self.error


def run(scenario: Callable[[Connection, Backend], Awaitable[None]]) -> None:
    async def main() -> None:
        backend = Backend()
        connection = Connection(backend.open_session, lambda: 0, lambda: 0.5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            await scenario(connection, backend)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def seconds_until_told(connection: Connection, match: str = "gone") -> float:
    began = trio.current_time()
    with pytest.raises(errors.Offline, match=match):
        await connection.reachable()
    return trio.current_time() - began


def go(backend: Backend, connection: Connection, seconds: float = 0.01) -> None:
    backend.error, backend.seconds = errors.Offline("gone"), seconds
    connection.lost(errors.Offline("gone"))


def test_the_first_caller_of_a_mount_waits_for_the_first_attempt() -> None:
    async def scenario(connection: Connection, backend: Backend) -> None:
        backend.seconds = 5
        await connection.reachable()
        assert connection.reach.online
        assert trio.current_time() == 5

    run(scenario)


def test_a_server_that_is_started_again_soon_is_waited_for() -> None:
    async def scenario(connection: Connection, backend: Backend) -> None:
        await connection.reachable()
        go(backend, connection)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.reachable)
            await trio.sleep(connecting.GRACE_SECONDS / 2)
            backend.error = None
        assert connection.reach.online

    run(scenario)


def test_past_the_grace_callers_are_told_at_once() -> None:
    async def scenario(connection: Connection, backend: Backend) -> None:
        await connection.reachable()
        go(backend, connection)
        assert await seconds_until_told(connection) == pytest.approx(connecting.GRACE_SECONDS, abs=0.2)
        assert await seconds_until_told(connection) < 0.3
        before = backend.tries
        for _ in range(1000):
            assert await seconds_until_told(connection) == 0.0
        assert backend.tries == before

    run(scenario)


def test_a_frozen_server_costs_one_caller_a_moment_now_and_then() -> None:
    async def scenario(connection: Connection, backend: Backend) -> None:
        await connection.reachable()
        go(backend, connection, seconds=12)
        await seconds_until_told(connection)
        waits = [await seconds_until_told(connection) for _ in range(100)]
        assert waits[0] == pytest.approx(connecting.HOPE_SECONDS, abs=0.2)
        assert set(waits[1:]) == {0.0}

    run(scenario)


def test_whoever_asks_finds_a_server_that_is_back_at_once() -> None:
    async def scenario(connection: Connection, backend: Backend) -> None:
        await connection.reachable()
        go(backend, connection)
        await trio.sleep(600)
        backend.error = None
        began = trio.current_time()
        await connection.reachable()
        assert connection.reach.online
        assert trio.current_time() - began < connecting.HOPE_SECONDS

    run(scenario)


def test_a_full_disk_here_keeps_nobody_from_the_backend() -> None:
    async def scenario(connection: Connection, backend: Backend) -> None:
        backend.error = DiskFull("no room")
        await connection.reachable()
        assert not connection.reach.online
        assert connection.reach.reason == "no room"

    run(scenario)


def test_a_refusal_of_one_request_changes_nothing_and_one_of_the_device_does() -> None:
    async def scenario(connection: Connection, backend: Backend) -> None:
        await connection.reachable()
        connection.lost(errors.Refused(ProtocolError(Code.NOT_FOUND, "no such file")))
        assert connection.reach.online
        backend.error = errors.Refused(ProtocolError(Code.DEVICE_REVOKED, "this device was revoked"))
        connection.lost(backend.error)
        await seconds_until_told(connection, "revoked")

    run(scenario)


@pytest.mark.fault(35)
def test_devices_that_lost_the_server_together_come_back_one_by_one() -> None:
    moments: list[float] = []

    async def device(jitter: float) -> None:
        backend = Backend()
        connection = Connection(backend.open_session, lambda: 0, lambda: jitter)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            await connection.wait_online()
            connection.lost(errors.Offline("gone"))
            began = trio.current_time()
            await connection.wait_online()
            moments.append(trio.current_time() - began - backend.seconds)
            nursery.cancel_scope.cancel()

    async def all_devices() -> None:
        async with trio.open_nursery() as nursery:
            for jitter in (0.0, 0.5, 1.0):
                nursery.start_soon(device, jitter)

    trio.run(all_devices, clock=trio.testing.MockClock(autojump_threshold=0))
    longest = connecting.FIRST_DELAY_SECONDS
    assert sorted(moments) == pytest.approx([0, longest / 2, longest])


def test_who_says_that_a_block_is_gone_is_there() -> None:
    async def scenario(connection: Connection, backend: Backend) -> None:
        await connection.reachable()
        connection.lost(errors.BlockLost("the server does not have it any more"))
        assert connection.reach.online
        await trio.sleep(60)
        assert backend.tries == 1

    run(scenario)


def test_a_caller_need_not_wait_for_the_others() -> None:
    async def scenario(connection: Connection, backend: Backend) -> None:
        await connection.wait_online()
        connection.lost(errors.Offline("gone"))
        began = trio.current_time()
        await connection.reachable()
        assert trio.current_time() - began < connecting.FIRST_DELAY_SECONDS / 2

    run(scenario)
