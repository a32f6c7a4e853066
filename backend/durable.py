"""Makes what was written durable. Owns no file: whoever writes one decides when."""

import os
from pathlib import Path


def make_directory(directory: Path) -> None:
    """Make a directory for its owner only, and those above it that are lacking; their names are durable on return."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for lacking in reversed(missing):
        lacking.mkdir(mode=0o700, exist_ok=True)
        sync_path(lacking.parent)


def sync_path(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk.

    Raises:
        OSError: the disk failed, or the path is not there.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
