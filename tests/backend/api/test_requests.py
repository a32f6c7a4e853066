"""What a request carries, as it is read: within bounds of time, too."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from backend.api import requests
from backend.service.intake import Disconnected


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
