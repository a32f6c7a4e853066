"""The `.drivefs` directory at the root: files that say something about the drive; not listed, read-only.

Owns its names and numbers, which lie outside the range of inode ids. The text of a file is made when it is opened and
stays the same for that descriptor.
"""

import json
from collections.abc import Callable, Mapping

from drivefs.fs import errors
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState

NAME = b".drivefs"
FIRST = 2**63
"""Inode numbers from here on are virtual: ids are below."""
DIRECTORY = InodeId(FIRST)

Provider = Callable[[], Mapping[str, object]]


class Virtual:
    """The virtual files, by name; each is one JSON object that its provider gives."""

    def __init__(self, providers: Mapping[bytes, Provider], now_ns: int) -> None:
        self._names = {name: InodeId(FIRST + index) for index, name in enumerate(providers, start=1)}
        self._providers = {self._names[name]: provider for name, provider in providers.items()}
        self._made_ns = now_ns

    def lookup(self, name: bytes) -> InodeState | None:
        """What a name in `.drivefs` leads to, or None."""
        inode = self._names.get(name)
        return None if inode is None else self.inode(inode)

    def inode(self, inode: InodeId) -> InodeState:
        """The state of a virtual inode.

        Raises:
            NotFound: there is none.
        """
        if inode == DIRECTORY:
            state = InodeState(inode=inode, kind=InodeKind.DIRECTORY, mode=0o555, nlink=2)
        elif inode in self._providers:
            state = InodeState(inode=inode, kind=InodeKind.FILE, mode=0o444)
        else:
            raise errors.NotFound
        state.atime_ns = state.mtime_ns = state.ctime_ns = self._made_ns
        return state

    def text(self, inode: InodeId) -> bytes:
        """The present text of a virtual file.

        Raises:
            IsDirectory, NotFound: there is none.
        """
        if inode == DIRECTORY:
            raise errors.IsDirectory
        if inode not in self._providers:
            raise errors.NotFound
        return json.dumps(self._providers[inode](), indent=2).encode() + b"\n"

    def children(self) -> list[tuple[bytes, InodeId]]:
        """The names in `.drivefs`."""
        return list(self._names.items())
