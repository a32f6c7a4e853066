"""How much room there is on a disk, as the file system says or as a test does.

Owns the question only; how much is left to others is the block cache's rule.
"""

import os
from pathlib import Path
from typing import Protocol


class FreeSpace(Protocol):
    """The disk on which the cache lies."""

    def __call__(self, directory: Path) -> tuple[int, int]:
        """The bytes that are free, and that there are in all."""
        ...


def free_space(directory: Path) -> tuple[int, int]:
    """What the file system says."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
