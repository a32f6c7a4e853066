"""Notices that this process stood still (it was stopped, or the machine slept), and has what happened meanwhile told.

Owns the moment at which it ran last, by two clocks that are passed in, in seconds: one alone may have stood still with
the machine. Knows neither the feed nor the kernel; `catch_up` does what is to be done. Invariant: whoever
asks after a standstill waits until others' changes are here, or `PATIENCE_SECONDS`, and after that nobody waits again.
"""

from collections.abc import Awaitable, Callable

import trio

BEAT_SECONDS = 1.0
STILL_SECONDS = 2.5
"""Without a beat for so long, the process stood still. A busy machine may look the same, which costs one question."""
PATIENCE_SECONDS = 1.0

Clocks = Callable[[], tuple[float, float]]


class Standstill:
    """Whether what is known here may be older than this process believes."""

    def __init__(self, clocks: Clocks, catch_up: Callable[[], Awaitable[None]]) -> None:
        self._clocks = clocks
        self._catch_up = catch_up
        self._last = clocks()
        self._over: trio.Event | None = None
        self.count = 0
        """How often that has happened."""

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await trio.sleep(BEAT_SECONDS)
            if self.is_suspected():
                await self.end()
            self._last = self._clocks()

    def is_suspected(self) -> bool:
        """Whether it is not yet known what happened while this process stood still."""
        if self._over is not None:
            return True
        (one, other), (last_one, last_other) = self._clocks(), self._last
        return one - last_one > STILL_SECONDS or other - last_other > STILL_SECONDS

    async def end(self) -> None:
        """Return when it is known, or was waited for long enough; cancellation leaves it to others to find out."""
        if self._over is not None:
            await self._over.wait()
            return
        self.count += 1
        self._over = over = trio.Event()
        try:
            with trio.move_on_after(PATIENCE_SECONDS):
                await self._catch_up()
            self._last = self._clocks()
        finally:
            self._over = None
            over.set()
