"""Reading directories: a listing is taken when reading begins, and stays as it is until it begins again.

Owns open directories and the places in their listings. A place is a position in the listing that was taken, so that
entries which come or go while a directory is read move nothing; states are those of the moment in which an entry is
read. Each directory has `.` and `..`.
"""

from collections.abc import Iterator, Mapping

import trio

from drivefs.fs import errors
from drivefs.fs.handles import DirectoryHandle, Handles
from drivefs.fs.namespace import Namespace
from drivefs.fs.view import FIRST_ENTRIES, PART_NAMES, View
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState

ATTEMPTS = 4
"""So often a long listing is read before nobody else may change it meanwhile."""


class Directories:
    """The open directories of a mount."""

    def __init__(self, view: View, namespace: Namespace) -> None:
        self._view = view
        self._namespace = namespace
        self.handles: Handles[DirectoryHandle] = Handles()

    def open(self, inode: InodeId) -> int:
        """Open a directory; gives the descriptor's number.

        Raises:
            NotDirectory, NotFound.
        """
        self._view.directory(inode)
        return self.handles.add(DirectoryHandle(inode))

    async def read(self, number: int, place: int) -> Iterator[tuple[bytes, InodeState, int]]:
        """The entries from a place on: name, state, and the place behind it. A removed directory has none.

        Raises:
            BadHandle, Unavailable.
        """
        handle = self.handles.get(number)
        if not place:
            await self._take(handle)
        return self._entries(handle, place)

    async def _take(self, handle: DirectoryHandle) -> None:
        handle.names = ()
        handle.inode = self._view.journal.aliases.inode(handle.inode)
        if self._view.inode(handle.inode).nlink:
            await self._namespace.list(handle.inode)
            dots = [(b".", handle.inode), (b"..", self._view.parent_of(handle.inode))]
            handle.names = [*dots, *(await self._children(handle.inode)).items()]

    async def _children(self, directory: InodeId) -> dict[bytes, InodeId]:
        """All names of a directory as they are at one moment; a long listing is read in parts, with others between.

        If a name changes meanwhile it is read again, and the last time without letting anybody in between.
        """
        for attempt in range(ATTEMPTS):
            if (listing := self._view.listing(directory)) is not None:
                return listing
            found: dict[bytes, InodeId] = {}
            after, is_last = b"", False
            with self._view.watch_listing(directory) as watch:
                while not is_last and not watch.is_stale:
                    part = self._view.names_after(directory, after)
                    found.update(part)
                    is_last = len(part) < PART_NAMES
                    after = part[-1][0] if part else after
                    if not is_last and attempt < ATTEMPTS - 1:
                        await trio.lowlevel.checkpoint()
            if is_last and not watch.is_stale:
                break
        return self._view.keep_listing(directory, found)

    def _entries(self, handle: DirectoryHandle, place: int) -> Iterator[tuple[bytes, InodeState, int]]:
        cached = self._view.cached
        for index in range(place, len(handle.names)):
            name, inode = handle.names[index]
            state = cached(inode) or self._loaded(handle, index)
            if state is not None and not state.nlink and self._view.named(handle.inode, name) == inode:
                state = self._view.under_name(inode)
            if state is None or not state.nlink:
                continue
            if state.kind is InodeKind.DIRECTORY and index > 1:
                self._view.seen_in(handle.inode, state)
            yield name, state, index + 1

    def _loaded(self, handle: DirectoryHandle, index: int) -> InodeState | None:
        """The state of an entry that is not cached, with those of the entries behind it; None if there is none."""
        self._view.load(inode for _, inode in handle.names[index : index + FIRST_ENTRIES])
        try:
            return self._view.inode(handle.names[index][1])
        except errors.NotFound:
            return None

    def renumber(self, fresh: Mapping[InodeId, InodeId]) -> None:
        """Inodes have new ids, by the old ones."""
        for handle in self.handles:
            handle.inode = fresh.get(handle.inode, handle.inode)
            handle.names = [(name, fresh.get(inode, inode)) for name, inode in handle.names]

    def release(self, number: int) -> None:
        """Close a descriptor.

        Raises:
            BadHandle.
        """
        self.handles.remove(number)
