"""Which connections the client goes on with, and which it gives up."""

from contextlib import suppress

import pytest
import trio

from drivefs.remote import errors, transport
from tests.remote.server import World, http, message, run
from tests.remote.test_transport import USAGE


def test_answers_that_are_not_read_keep_no_connection() -> None:
    """There are few of them."""
    page = http(b"<html>", status="503 Service Unavailable", kind="text/html", length=10**6)
    left = [page] * 2 * transport.MAX_CONNECTIONS

    async def answer(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
        await stream.send_all(left.pop() if left else message(USAGE))

    async def scenario(world: World) -> None:
        while left:
            with suppress(errors.Offline):
                await world.remote.usage()
        assert await world.remote.usage() == USAGE

    run(answer, scenario)


@pytest.mark.parametrize("nonsense", [http(b"rubbish"), http(b"<html>", kind="text/html")])
def test_whoever_talked_nonsense_is_not_asked_again(nonsense: bytes) -> None:
    async def answer(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
        is_portal = stream in portals or not portals
        if is_portal:
            portals.append(stream)
        await stream.send_all(nonsense if is_portal else message(USAGE))

    portals: list[trio.abc.Stream] = []

    async def scenario(world: World) -> None:
        with pytest.raises(errors.NotDrivefs):
            await world.remote.usage()
        assert await world.remote.usage() == USAGE
        assert world.server.connection_count == 2

    run(answer, scenario)
