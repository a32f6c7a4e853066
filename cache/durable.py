"""Makes names and bytes survive a power cut: the only two ways that the local state does.

Owns no file. A file's bytes are durable when the file was synced, its name when the directory that holds it was.
"""

import os
import stat
from pathlib import Path


def make_directory(directory: Path) -> None:
    """Make a directory for its owner only, and those above it that are lacking; their names survive a power cut."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for lacking in reversed(missing):
        lacking.mkdir(mode=0o700, exist_ok=True)
        sync_path(lacking.parent)


def sync_path(path: Path) -> None:
    """Make a file's bytes, or a directory's names, survive a power cut; a file that is gone needs none.

    Of a file's own facts only the size has to: a log that is written in place, as SQLite's is once it has grown, then
    costs no commit of the file system's journal.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.fsync(descriptor)
        else:
            os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
