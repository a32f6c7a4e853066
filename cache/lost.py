"""`lost+found`: where bytes go that have no place any more, so that a person can look at them.

Owns the names in it. Names are made from what the bytes were, not from when they were found: doing the same again after
a crash leaves one file, not two. Nothing here is ever removed by drivefs.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from cache.durable import make_directory, sync_path
from cache.staging import write_all

Piece = tuple[int, bytes]
"""Where in the file, and the bytes."""

PART = ".part"
"""The end of the name of a file that is not whole yet."""


class LostAndFound:
    """The directory; it is made when something is put into it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def keep_pieces(self, name: str, pieces: Iterable[Piece]) -> Path:
        """Write pieces of a file at their places, with holes between them; durable on return."""
        path = self._place(name)
        descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            for offset, data in pieces:
                write_all(descriptor, data, offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_path(self.directory)
        return path

    def begin_file(self, name: str) -> int:
        """A descriptor of a new file, which gets its name when it is whole (`complete_file`)."""
        return os.open(self._place(name + PART), os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)

    def complete_file(self, name: str) -> Path:
        """The file that was begun under this name, and synced, is whole; durable on return."""
        path = self._place(name)
        os.replace(self._place(name + PART), path)
        sync_path(self.directory)
        return path

    def keep_link(self, name: str, target: bytes) -> Path:
        """Make a symbolic link, unless it is there; durable on return."""
        part, path = self._place(name + PART), self._place(name)
        if not path.is_symlink() or os.readlink(os.fsencode(path)) != target:
            part.unlink(missing_ok=True)
            os.symlink(target, os.fsencode(part))
            os.replace(part, path)
        sync_path(self.directory)
        return path

    def take_file(self, name: str, source: Path) -> Path:
        """Move a file of the same disk here; durable on return."""
        path = self._place(name)
        sync_path(source)
        os.replace(source, path)
        sync_path(self.directory)
        sync_path(source.parent)
        return path

    def _place(self, name: str) -> Path:
        make_directory(self.directory)
        return self.directory / name
