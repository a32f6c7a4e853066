"""Open descriptors: numbers for the kernel, and what each stands for.

Owns the tables only. A descriptor number is never used twice in the life of a mount.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from drivefs.fs import errors
from drivefs.fs.content import Basis, Content
from drivefs.fs.ownership import Caller
from drivefs.fs.readahead import ReadState
from drivefs.protocol.ids import InodeId

Kind = TypeVar("Kind")


class FileHandle:
    """One open file.

    `older` is the revision that whoever has it open has seen last, when the content shows a newer one by now; None: it
    is that which the content shows. `draft` is the number of the content's draft that it wrote to last; `process`
    opened it. With `is_unprivileged`, what is written through it clears set-user-ID.
    """

    __slots__ = ("ahead", "appends", "content", "draft", "is_unprivileged", "older", "process", "reads", "writes")

    def __init__(self, content: Content, flags: int, caller: Caller) -> None:
        access = flags & os.O_ACCMODE
        self.content = content
        self.process = caller.pid
        self.is_unprivileged = caller.uid != 0
        self.reads = access != os.O_WRONLY
        self.writes = access != os.O_RDONLY
        self.appends = bool(flags & os.O_APPEND)
        self.ahead = ReadState()
        self.older: Basis | None = None
        self.draft = 0

    @property
    def has_written(self) -> bool:
        """Whether something that it wrote is in the content's draft."""
        return bool(self.content.layers) and self.draft == self.content.draft_count


class DirectoryHandle:
    """One open directory; `names` is the listing being read, taken when reading begins at its start."""

    __slots__ = ("inode", "names")

    def __init__(self, inode: InodeId) -> None:
        self.inode = inode
        self.names: Sequence[tuple[bytes, InodeId]] = ()


class Handles(Generic[Kind]):
    """A table of descriptors."""

    def __init__(self, first: int = 1) -> None:
        self._open: dict[int, Kind] = {}
        self._next = first

    def add(self, handle: Kind) -> int:
        """Give a descriptor its number."""
        number = self._next
        self._next += 1
        self._open[number] = handle
        return number

    def get(self, number: int) -> Kind:
        """What a number stands for.

        Raises:
            BadHandle: nothing.
        """
        try:
            return self._open[number]
        except KeyError:
            raise errors.BadHandle from None

    def remove(self, number: int) -> Kind:
        """Take a number out of the table.

        Raises:
            BadHandle: it is not in it.
        """
        handle = self.get(number)
        del self._open[number]
        return handle

    def __iter__(self) -> Iterator[Kind]:
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)
