"""Descriptors of cached files, kept open for reading: a bounded number, the least recently used closed first.

Owns the descriptors. Invariant: one that a thread uses (between `take` and `give_back`) is not closed, so its number
cannot come to mean another file meanwhile.
"""

import os
from collections import OrderedDict
from dataclasses import dataclass

MOST_FILES = 256


@dataclass(slots=True)
class OpenFile:
    """One descriptor and how many use it now; `is_dropped`: to be closed after the last of them."""

    path: str
    fd: int
    user_count: int = 0
    is_dropped: bool = False


class OpenFiles:
    """The open files by path."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, OpenFile] = OrderedDict()

    def fd(self, path: str) -> int | None:
        """The descriptor of an open file, valid until anything is awaited."""
        file = self._files.get(path)
        if file is None:
            return None
        self._files.move_to_end(path)
        return file.fd

    def take(self, path: str) -> OpenFile | None:
        """Use an open file for longer; `give_back` follows."""
        file = self._files.get(path)
        if file is not None:
            file.user_count += 1
        return file

    def add(self, path: str, fd: int) -> OpenFile:
        """Own a descriptor from now on, and use it; if the file is open already, that one, and `fd` is closed."""
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = OpenFile(path, fd, user_count=1)
            self._shrink()
            return file
        os.close(fd)
        file.user_count += 1
        return file

    def give_back(self, file: OpenFile) -> None:
        """End a use."""
        file.user_count -= 1
        if file.is_dropped and not file.user_count:
            os.close(file.fd)

    def drop(self, path: str) -> int | None:
        """Forget a file; the caller closes the descriptor given, which may take the disk a while."""
        file = self._files.pop(path, None)
        if file is None:
            return None
        if not file.user_count:
            return file.fd
        file.is_dropped = True
        return None

    def _shrink(self) -> None:
        if len(self._files) <= MOST_FILES:
            return
        unused = [path for path, file in self._files.items() if not file.user_count]
        for path in unused[: len(self._files) - MOST_FILES]:
            fd = self.drop(path)
            if fd is not None:
                os.close(fd)

    def close(self) -> None:
        """Close all; those in use are closed by `give_back`."""
        for path in list(self._files):
            fd = self.drop(path)
            if fd is not None:
                os.close(fd)
