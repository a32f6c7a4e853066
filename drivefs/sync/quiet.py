"""Whether programs leave the mount alone for a moment: what nobody waits for is done then.

Owns what it saw last. Each who waits has one of its own.
"""

from collections.abc import Callable

import trio

QUIET_SECONDS = 0.05
"""So long no call may have come."""


class Quiet:
    """Waits for a pause; `call_count` says how many system calls have come so far."""

    def __init__(self, call_count: Callable[[], int]) -> None:
        self._call_count = call_count
        self._seen_count = call_count()

    async def wait(self, longest_seconds: float) -> None:
        """Return when no call has come for a moment, or after so long; at once if none has come since the last time."""
        with trio.move_on_after(longest_seconds):
            while self._seen_count != (count := self._call_count()):
                self._seen_count = count
                await trio.sleep(QUIET_SECONDS)
