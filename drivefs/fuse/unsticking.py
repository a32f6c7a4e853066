"""Frees the event loop from a read of the FUSE device that has nothing to read any more.

The device is read blocking: a request that its caller gave up between the poll and the read leaves the loop waiting
for the next request, which may never come. A signal once a second interrupts such a read; pyfuse3 then polls again.
Python repeats all other system calls that it interrupts. Owns SIGALRM and the real-time timer of the process, on its
main thread.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERVAL_SECONDS = 1.0


@contextmanager
def unsticking(interval_seconds: float = INTERVAL_SECONDS) -> Iterator[None]:
    """Interrupt blocking reads every so often; what stood before is put back."""
    before = signal.signal(signal.SIGALRM, _nothing)
    signal.setitimer(signal.ITIMER_REAL, interval_seconds, interval_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _nothing(number: int, frame: FrameType | None) -> None:
    """That the signal came is all."""
