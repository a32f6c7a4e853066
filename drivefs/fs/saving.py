"""Saves by rename onto a file that is shared by itself: they change its content, and leave it the file that it is.

Owns the two cases in which a call on names is none: a rename onto such a file, and the removal of what a program moved
aside before it wrote a new file under the name. The new file becomes content of the shared one, in one journal
transaction, which has the name then, and loses its own. Everything else is the namespace's. To programs the file under
the name is the one that they put there.
"""

import os
from dataclasses import dataclass

from drivefs.fs import errors
from drivefs.fs.contents import Contents
from drivefs.fs.files import Files
from drivefs.fs.namespace import Namespace
from drivefs.fs.view import Name, View
from drivefs.protocol.ground import NowNs
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState

MOST_BYTES = 256 * 2**20
"""Larger files are not saved so: all of it is in memory for a moment."""
PART_BYTES = 2**20
ASIDE_NS = 60 * 10**9
"""What was moved aside longer ago was moved, and what has its name since is another file."""


@dataclass(frozen=True, slots=True)
class _Nobody:
    """The file system itself, as whoever opens a file."""

    uid: int = 0
    gid: int = 0
    pid: int = 0


class Saving:
    """Renames of one mount."""

    def __init__(self, view: View, names: Namespace, files: Files, contents: Contents, now_ns: NowNs) -> None:
        self._view = view
        self._names = names
        self._files = files
        self._contents = contents
        self._now_ns = now_ns
        self._aside: dict[InodeId, tuple[Name, int]] = {}
        """Where shared files were that were moved, and when that was."""

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
                if not await self._save(source, target, moved, replaced):
                    await self.rename(source, target, replace=replace)
                return
        await self._names.rename(source, target, replace=replace)
        moved = self._known(target) if self._names.borders.has_shares else None
        if moved is not None and self._names.borders.has_file_at(moved):
            self._aside[moved.inode] = (source, self._now_ns())

    async def unlink(self, parent: InodeId, name: bytes) -> None:
        """Remove a name; if it is a shared file's that was moved aside, save what has its place since.

        Raises:
            Busy: the new file is too large to be saved so, or is still being written.
            and what `Namespace.unlink` raises.
        """
        target = (parent, name)
        if self._names.borders.has_shares:
            await self._names.know(target)
            aside = self._known(target)
            if aside is not None and (source := self._left_by(aside)) is not None:
                moved = self._known(source)
                if moved is not None and self._is_save(moved, aside):
                    await self._save_back(source, target, moved, aside)
                    return
        await self._names.unlink(parent, name)

    def _left_by(self, aside: InodeState) -> Name | None:
        """The name that a shared file had a moment ago."""
        source, at_ns = self._aside.get(aside.inode, (None, 0))
        is_recent = self._now_ns() - at_ns <= ASIDE_NS
        return source if is_recent and self._names.borders.has_file_at(aside) else None

    async def _save_back(self, source: Name, target: Name, moved: InodeState, aside: InodeState) -> None:
        try:
            if not await self._save(source, target, moved, aside, is_back=True):
                await self.unlink(*target)
        except errors.CrossDevice as error:
            raise errors.Busy from error

    def _is_save(self, moved: InodeState, replaced: InodeState) -> bool:
        is_file = moved.kind is InodeKind.FILE and moved.inode != replaced.inode
        return is_file and self._names.borders.has_file_at(replaced)

    def _known(self, name: Name) -> InodeState | None:
        inode = self._view.named(*name)
        return self._view.inode(inode) if inode else None

    async def _save(
        self, source: Name, target: Name, moved: InodeState, replaced: InodeState, *, is_back: bool = False
    ) -> bool:
        """Make a file the content of the shared one, which takes its name too if it `is_back`; False: not any more."""
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
            return False  # another call was in between
        # Open before that is remembered: of what is not open, nothing is put back.
        number = self._files.open(replaced.inode, os.O_WRONLY, _Nobody())
        put_back = self._contents.remember({moved.inode, replaced.inode})
        try:
            with self._view.change():
                self._files.replace(number, [bytes(part) for part in parts])
                self._names.remove(*source)
                if is_back:
                    self._names.move(target, source, self._view.inode(replaced.inode))
            self._view.journal.content_goes()
        except BaseException:
            put_back()
            self._view.forget({moved.inode, replaced.inode, source[0], target[0]}, [source, target])
            raise
        finally:
            self._files.release(number)
        self._contents.followed(moved.inode, replaced.inode)
        return True
