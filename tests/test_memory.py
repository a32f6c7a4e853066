"""What is free in the process goes back to the system after the process has grown."""

import os
from collections.abc import Callable
from typing import Any

import trio
import trio.testing

from drivefs import memory
from drivefs.memory import GROWTH_BYTES, LOOK_SECONDS, Memory


async def at_once(work: Callable[..., Any], /, *args: Any) -> Any:
    return work(*args)


def test_memory_is_given_back_after_each_growth_and_not_otherwise() -> None:
    sizes, trims = [GROWTH_BYTES * 2], list[int]()

    def trim() -> None:
        trims.append(sizes[0])
        sizes[0] = GROWTH_BYTES

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Memory(at_once, lambda: sizes[0], trim).run)
            await trio.sleep(LOOK_SECONDS / 2)
            for size in (GROWTH_BYTES, GROWTH_BYTES * 2, GROWTH_BYTES * 2 + 1):
                sizes[0] = size
                await trio.sleep(LOOK_SECONDS)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert trims == [GROWTH_BYTES * 2, GROWTH_BYTES * 2 + 1]


def test_the_size_is_that_of_this_process_and_giving_back_can_be_asked_for() -> None:
    memory.give_back()
    assert os.sysconf("SC_PAGE_SIZE") <= memory.resident() < 2**40
