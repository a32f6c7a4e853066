"""The threads of a mount, in which blocking work runs away from the event loop.

Owns how work gets there and its result back, not what it is. Both classes are an `Offload`.
"""

import time
from collections.abc import Awaitable, Callable
from concurrent import futures
from typing import Any

import trio

from drivefs.protocol.ground import T

PATIENCE_SECONDS = 0.0006
"""More than a sync of the log takes on a quick disk (0.26 ms), and less than the loop's own longer steps."""


class Threads:
    """A bounded number of threads."""

    def __init__(self, count: int) -> None:
        self._limiter = trio.CapacityLimiter(count)

    def __call__(self, work: Callable[..., T], /, *args: Any) -> Awaitable[T]:
        return trio.to_thread.run_sync(work, *args, limiter=self._limiter)


class PromptThread:
    """A thread for work that is mostly over in no time, as a sync of the log is on a quick disk.

    The event loop stands still for it: to sleep and be woken by another thread would take as long again. It stands
    still for `PATIENCE_SECONDS` at most, and not at all if the last piece of work took longer.
    """

    def __init__(self, others: Threads) -> None:
        """`others` take what is not prompt."""
        self._others = others
        self._thread = futures.ThreadPoolExecutor(1, "prompt")
        self._is_prompt = True

    async def __call__(self, work: Callable[..., T], /, *args: Any) -> T:
        if not self._is_prompt:
            return await self._others(self._timed, work, *args)
        await trio.lowlevel.checkpoint_if_cancelled()
        future = self._thread.submit(self._timed, work, *args)
        futures.wait((future,), PATIENCE_SECONDS)
        if not future.done():
            self._is_prompt = False
            with trio.CancelScope(shield=True):
                await self._others(futures.wait, (future,))
        return future.result()

    def _timed(self, work: Callable[..., T], /, *args: Any) -> T:
        began = time.perf_counter()
        try:
            return work(*args)
        finally:
            self._is_prompt = time.perf_counter() - began < PATIENCE_SECONDS
