"""What is free in the process goes back to the system after the process has grown."""

import errno
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


def test_a_size_that_cannot_be_had_ends_nothing() -> None:
    """A process that has all the files open that it may cannot look; nobody's drive goes for that."""
    trims = list[int]()

    def resident() -> int:
        if trio.current_time() < began + LOOK_SECONDS:
            raise OSError(errno.EMFILE, "Too many open files")
        return GROWTH_BYTES * 2

    async def main() -> None:
        nonlocal began
        began = trio.current_time()
        with trio.move_on_after(LOOK_SECONDS * 2):
            await Memory(at_once, resident, lambda: trims.append(1)).run()

    began = 0.0
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert trims == [1]


def test_the_size_is_that_of_this_process_and_giving_back_can_be_asked_for() -> None:
    memory.give_back()
    assert os.sysconf("SC_PAGE_SIZE") <= memory.resident() < 2**40
