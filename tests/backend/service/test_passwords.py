"""Passwords are hashed a few at a time: each takes memory that many who knock at once must not take together."""

from typing import Any

import anyio
import pytest

from backend.service.passwords import MAX_AT_ONCE, Passwords

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("known_hash", ["a user's", None])
async def test_no_more_are_hashed_at_once_than_there_is_memory_for(known_hash: str | None) -> None:
    running, most = 0, 0

    async def offload(*_: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.wait_all_tasks_blocked()
        running -= 1

    passwords = Passwords(offload, bytes)
    async with anyio.create_task_group() as tasks:
        for _ in range(MAX_AT_ONCE + 3):
            tasks.start_soon(passwords.matches, "guess", known_hash)
    assert most == MAX_AT_ONCE
