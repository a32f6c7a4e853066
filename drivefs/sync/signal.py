"""A flag that one task waits for and others raise: many raises before a look count as one.

Owns nothing but the flag.
"""

import trio


class Signal:
    """Raised by anyone, lowered by the one task that waits for it."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def raise_(self) -> None:
        """Wake the waiter, now or when it next waits."""
        self._event.set()

    async def wait(self, longest_seconds: float) -> None:
        """Return when the flag is up, and lower it, or after so long; cancellation leaves it as it is."""
        with trio.move_on_after(longest_seconds):
            await self._event.wait()
        if self._event.is_set():
            self._event = trio.Event()
