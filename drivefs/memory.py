"""Gives memory back to the system that is free in the process.

Owns when that is done. The allocator keeps what a burst of changes has used and freed, between what is in use. What is
kept on purpose, in caches, is the decision of those who keep it. Invariant: a process that does not grow is left alone.
"""

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trio

from drivefs.protocol.ground import Offload

LOOK_SECONDS = 5.0
GROWTH_BYTES = 8 * 2**20
"""So much growth is worth a look at all that is free: a few milliseconds, in which others who want memory wait."""


def resident() -> int:
    """Bytes of this process that are in memory, as /proc/self/statm has them (proc(5)), in whole pages."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Let the allocator give back all whole pages that are free (malloc_trim(3)), where it is one that can."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


class Memory:
    """The memory of this process."""

    def __init__(
        self,
        offload: Offload,
        resident_bytes: Callable[[], int] = resident,
        trim: Callable[[], object] = give_back,
    ) -> None:
        self._offload = offload
        self._resident_bytes = resident_bytes
        self._trim = trim

    async def run(self) -> None:
        """Give back what is free after each growth, until cancelled."""
        left_bytes = 0
        while True:
            # It can wait where the process may open no more files.
            with suppress(OSError):
                if self._resident_bytes() > left_bytes + GROWTH_BYTES:
                    await self._offload(self._trim)
                    left_bytes = self._resident_bytes()
            await trio.sleep(LOOK_SECONDS)
