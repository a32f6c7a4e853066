"""The ground that every part stands on and that tests replace: threads, time and randomness.

Owns type aliases only. Composition roots pass the real ones in; a simulation passes its own.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Offload(Protocol):
    """Runs blocking work away from the event loop."""

    def __call__(self, work: Callable[..., T], /, *args: Any) -> Awaitable[T]:
        """Run `work(*args)` in a thread and give its result; cancellation waits for the thread to end."""
        ...


NowNs = Callable[[], int]
"""Wall-clock time in nanoseconds since 1970: for labels and file times, never for order or deadlines."""

RandomBytes = Callable[[int], bytes]
"""So many unpredictable bytes."""
