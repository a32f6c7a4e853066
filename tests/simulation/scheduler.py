"""Runs a program of trio in virtual time, in an order that follows from a seed, and says what the order was.

Owns the use of trio's private switch for deterministic scheduling (trio is pinned for it): tasks that can run at the
same time are run in an order drawn from the seed. The clock jumps as soon as all tasks wait. Two runs of one seed make
the same steps at the same times: `Trace` sums them up in one number, which is compared.

Invariant: no thread, no real clock and no collection of garbage (which would end generators at moments of its own)
takes part in a run.
"""

import gc
import math
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import trio
from trio._core import _run
from trio.abc import Instrument
from trio.testing import MockClock

R = TypeVar("R")

PINNED = "0.35.0"
"""The release whose scheduler this was written for."""


@dataclass(eq=False)
class Trace(Instrument):
    """What was done, in order, as a number: the names of all tasks that made a step, with what was noted between."""

    value: int = 0
    steps: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        self.value = zlib.crc32(task.name.encode(), self.value)

    def note(self, *what: Any) -> None:
        """Something that another run of this seed has to do too."""
        self.value = zlib.crc32(repr(what).encode(), self.value)


def _clock() -> MockClock:
    """Virtual time that stands still while anything can run, and then jumps to what is due next.

    trio's own asks the real clock each time, and after a jump goes once around its loop before anything runs; its
    class cannot be derived from.
    """
    clock: Any = MockClock(autojump_threshold=0)

    def jump() -> None:
        deadlines = _run.GLOBAL_RUN_CONTEXT.runner.deadlines
        seconds = deadlines.next_deadline() - clock._virtual_base
        if 0 < seconds < math.inf:
            clock._virtual_base += seconds
            deadlines.expire(clock._virtual_base)

    clock.current_time = lambda: clock._virtual_base
    clock._autojump = jump
    return clock  # type: ignore[no-any-return]


def run(seed: int, main: Callable[[Trace], Awaitable[R]]) -> R:
    """Run `main` to its end in virtual time."""
    assert trio.__version__ == PINNED, f"written for trio {PINNED}"
    trace = Trace()

    async def traced() -> R:
        return await main(trace)

    was_deterministic = _run._ALLOW_DETERMINISTIC_SCHEDULING
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = True
        _run._r.seed(seed)
        return trio.run(traced, clock=_clock(), instruments=[trace])
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = was_deterministic
        if was_collecting:
            gc.enable()
            gc.collect()
