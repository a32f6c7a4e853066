"""Saves by rename onto a file that is shared by itself: they change its content, and leave it the file that it is.

Owns the one case in which a rename is none: the file that is moved becomes new content of the one that has the name, in
one journal transaction, and loses its own name. Everything else is the namespace's. To programs the file under the name
is the one that they moved there.
"""

import os
from dataclasses import dataclass

from drivefs.fs import errors
from drivefs.fs.contents import Contents
from drivefs.fs.files import Files
from drivefs.fs.namespace import Namespace
from drivefs.fs.view import Name, View
from drivefs.protocol.model import InodeKind, InodeState

MOST_BYTES = 256 * 2**20
"""Larger files are not saved so: all of it is in memory for a moment."""
PART_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class _Nobody:
    """The file system itself, as whoever opens a file."""

    uid: int = 0
    gid: int = 0
    pid: int = 0


class Saving:
    """Renames of one mount."""

    def __init__(self, view: View, names: Namespace, files: Files, contents: Contents) -> None:
        self._view = view
        self._names = names
        self._files = files
        self._contents = contents

    async def rename(self, source: Name, target: Name, *, replace: bool) -> None:
        """Move a name, or save the file that has it as the shared one at the target.

        Raises:
            CrossDevice: the file is too large to be saved so, or is still being written: it can be copied.
            and what `Namespace.rename` raises.
        """
        if replace and self._names.borders.has_shares:
            await self._names.know(source, target)
            moved, replaced = self._known(source), self._known(target)
            if moved is not None and replaced is not None and self._is_save(moved, replaced):
                await self._save(source, target, moved, replaced)
                return
        await self._names.rename(source, target, replace=replace)

    def _is_save(self, moved: InodeState, replaced: InodeState) -> bool:
        is_file = moved.kind is InodeKind.FILE and moved.inode != replaced.inode
        return is_file and self._names.borders.has_file_at(replaced)

    def _known(self, name: Name) -> InodeState | None:
        inode = self._view.named(*name)
        return self._view.inode(inode) if inode else None

    async def _save(self, source: Name, target: Name, moved: InodeState, replaced: InodeState) -> None:
        self._names.borders.check_writable(replaced.inode)
        if moved.size > MOST_BYTES or self._contents.is_written(moved.inode):
            raise errors.CrossDevice
        number = self._files.open(moved.inode, os.O_RDONLY, _Nobody())
        try:
            size = self._view.inode(moved.inode).size
            parts = [await self._files.read(number, at, PART_BYTES) for at in range(0, size, PART_BYTES)]
        finally:
            self._files.release(number)
        if self._known(source) != moved or self._known(target) != replaced:
            await self.rename(source, target, replace=True)  # another call was in between
            return
        put_back = self._contents.remember({moved.inode, replaced.inode})
        number = self._files.open(replaced.inode, os.O_WRONLY, _Nobody())
        try:
            with self._view.change():
                self._files.replace(number, [bytes(part) for part in parts])
                self._names.remove(*source)
        except BaseException:
            put_back()
            self._view.forget({moved.inode, replaced.inode, source[0]}, [source])
            raise
        finally:
            self._files.release(number)
        self._contents.followed(moved.inode, replaced.inode)
