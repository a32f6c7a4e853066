"""What a request carries, as it is read: within bounds of time, too."""

from typing import Any

import anyio
import pytest
import trio
from trio.testing import MockClock

from backend.api import requests
from backend.service.intake import Disconnected
from drivefs.protocol import messages, routes, wire
from drivefs.protocol.errors import Code, ProtocolError


def test_a_body_that_goes_on_and_on_is_taken_to_have_broken_off() -> None:
    """Each piece comes in time. What it has brought is in the store, and nothing names that yet."""

    async def receive() -> dict[str, Any]:
        await trio.sleep(requests.BODY_IDLE_SECONDS * 0.9)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def read() -> float:
        begun = trio.current_time()
        with pytest.raises(Disconnected):
            async for _ in requests.body({"type": "http", "headers": []}, receive, 2**20):
                pass
        return trio.current_time() - begun

    assert trio.run(read, clock=MockClock(autojump_threshold=0)) == pytest.approx(requests.BODY_SECONDS)


@pytest.mark.fault(34)
def test_a_message_of_which_a_bit_was_changed_on_the_way_is_to_be_sent_again() -> None:
    asked = messages.ListRequest(directory=1, after=b"name", limit=6)
    body = wire.encode(asked)

    async def read(arriving: bytes) -> messages.ListRequest:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": arriving, "more_body": False}

        headers = [(routes.CHECKSUM.encode(), wire.checksum(body).encode())]
        return await requests.message({"type": "http", "headers": headers}, receive, messages.ListRequest)

    assert anyio.run(read, body) == asked
    with pytest.raises(ProtocolError, match="damaged") as refused:
        anyio.run(read, body[:-1] + bytes([body[-1] ^ 1]))
    assert refused.value.code is Code.UNAVAILABLE
