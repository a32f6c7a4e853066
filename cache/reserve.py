"""Room on the local disk: what may still be accepted, and 64 MiB set aside for what must always finish.

Owns the preallocated file `reserve` in the state directory. Invariants: new content and new names are accepted only
while free space stays above a floor; when the disk gets so full that the journal itself could not grow, the reserve is
given back to it, so that deletes, renames and uploads go on; it is set aside again when there is room.
"""

import os
from pathlib import Path

from cache.database import create_private
from cache.errors import DiskFull

RESERVE_BYTES = 64 * 2**20
FLOOR_BYTES = 32 * 2**20
"""Free space under which nothing new is accepted."""

LOW_BYTES = 16 * 2**20
"""Free space under which the reserve is given back."""

CREDIT_BYTES = 4 * 2**20
LOOK_EVERY = 64


class Reserve:
    """Asks the file system now and then; in between, what was accepted is counted."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "reserve"
        self._directory = state_dir
        self._credit = 0
        self._until_look = LOOK_EVERY
        self._is_held = False
        create_private(self._path)
        self._take_back()
        self.look()

    def free_bytes(self) -> int:
        """What the file system would still let us write."""
        found = os.statvfs(self._directory)
        return found.f_bavail * found.f_frsize

    def is_full(self) -> bool:
        """Whether new content and new names are refused, or will be in a moment."""
        return self.look() < FLOOR_BYTES + CREDIT_BYTES or not self._is_held

    def admit(self, byte_count: int) -> None:
        """Accept so many new bytes.

        Raises:
            DiskFull: there is no room for them; nothing was changed.
        """
        if byte_count <= self._credit:
            self._credit -= byte_count
            return
        spare = self.look() - FLOOR_BYTES - byte_count
        if spare < 0 or not self._is_held:
            self._credit = 0
            raise DiskFull(
                f"The disk that holds {self._directory} is full: nothing new is accepted, what was accepted stays"
                " and goes on being uploaded. Free some space."
            )
        self._credit = min(spare, CREDIT_BYTES)

    def look_now_and_then(self) -> None:
        """Called for each transaction; every so often sees to it that the journal has room to grow."""
        self._until_look -= 1
        if self._until_look <= 0:
            self.look()

    def look(self) -> int:
        """How much is free, after giving the reserve back or taking it again."""
        self._until_look = LOOK_EVERY
        free = self.free_bytes()
        if self._is_held and free < LOW_BYTES:
            self.give_back()
            free = self.free_bytes()
        elif not self._is_held and free >= RESERVE_BYTES + FLOOR_BYTES:
            self._take_back()
            free = self.free_bytes()
        return free

    def give_back(self) -> None:
        """Free the reserve for the journal; nothing new is accepted until it can be taken again."""
        os.truncate(self._path, 0)
        self._is_held = False
        self._credit = 0

    def _take_back(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_blocks * 512 < RESERVE_BYTES:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            self._is_held = True
        except OSError:
            os.ftruncate(descriptor, 0)
            self._is_held = False
        finally:
            os.close(descriptor)
