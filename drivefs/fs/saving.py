"""Saves of a file that is shared by itself: they change its content, and leave it the file that it is.

Owns the cases in which a call on names is none. A rename onto such a file makes the new one its content. One that a
program moved aside under the name of a backup is back under its own as soon as that is wanted for a new file, as if it
had been copied aside: what is aside is a file of its own then, with the content that was there. Under any other name it
is back with the removal of what is aside. Each of these is one journal transaction. Everything else is the namespace's.
To programs the file under a name is the one that they put there, and what they have open is what they opened.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from cache.errors import CacheError
from drivefs.fs import errors
from drivefs.fs.contents import Contents
from drivefs.fs.files import Files
from drivefs.fs.namespace import Namespace, NewInode
from drivefs.fs.ownership import Caller
from drivefs.fs.view import Name, View
from drivefs.protocol.ground import NowNs
from drivefs.protocol.ids import NO_INODE, InodeId
from drivefs.protocol.model import InodeKind, InodeState

MOST_BYTES = 256 * 2**20
"""Larger files are not saved so: all of it is in memory for a moment."""
PART_BYTES = 2**20
ASIDE_NS = 60 * 10**9
"""What was moved aside longer ago was moved, and what has its name since is another file."""
BACKUP = re.compile(rb"~|\.(~?\d+~?|bak|old|orig|backup|save?)~?", re.IGNORECASE)
"""What programs and people put behind the name of a file for what it was before: anything else is another name."""


@dataclass(frozen=True, slots=True)
class _Nobody:
    """The file system itself, as whoever opens a file."""

    uid: int = 0
    gid: int = 0
    pid: int = 0


class _Move(NamedTuple):
    """A shared file that was moved: from where, to where, and when."""

    source: Name
    target: Name
    at_ns: int

    @property
    def is_backup(self) -> bool:
        """Whether it looks like a program that is about to write the file anew."""
        (parent, name), (new_parent, new_name) = self.source, self.target
        return parent == new_parent and new_name.startswith(name) and bool(BACKUP.fullmatch(new_name, len(name)))


class Saving:
    """Files that get a name, and lose one, where shared ones are concerned."""

    def __init__(self, view: View, names: Namespace, files: Files, contents: Contents, now_ns: NowNs) -> None:
        self._view = view
        self._names = names
        self._files = files
        self._contents = contents
        self._now_ns = now_ns
        self._moves: dict[InodeId, _Move] = {}
        """The last one of each shared file, the latest at the end."""

    async def create_file(self, new: NewInode, flags: int, caller: Caller) -> tuple[InodeState, int]:
        """Make a file and open it, or the shared one that is back under that name, emptied.

        Raises:
            AccessDenied: that may only be read.
            and what `Namespace.create` and `Files.open` raise.
        """
        try:
            back = await self._take_back((new.parent, new.name)) if self._moves else None
            state = back or await self._names.create(new, caller)
        except errors.Exists:
            existing = await self._names.lookup(new.parent, new.name)
            if flags & os.O_EXCL or existing is None:
                raise
            number = self._files.open(existing.inode, flags, caller)
            return self._view.inode(existing.inode), number
        if back is None:
            return state, self._files.open(state.inode, flags & ~os.O_TRUNC, caller, is_new=True)
        number = self._files.open(state.inode, flags | os.O_TRUNC, caller)
        return self._view.inode(state.inode), number

    async def rename(self, source: Name, target: Name, *, replace: bool) -> None:
        """Move a name, or save the file that has it as the shared one at the target.

        Raises:
            CrossDevice: the file is too large to be saved so, or is still being written: it can be copied.
            AccessDenied: the shared one may only be read.
            and what `Namespace.rename` raises.
        """
        if self._names.borders.has_shares:
            await self._names.know(source, target)
            moved, replaced = self._known(source), self._known(target)
            if self._moves and moved is not None and replaced is None and self._can_save(moved):
                back = await self._take_back(target)
                replaced, replace = back, replace or back is not None
            if moved is not None and replaced is not None and replace and self._is_save(moved, replaced):
                if not await self._save(source, target, moved, replaced):
                    await self.rename(source, target, replace=replace)
                return
        await self._names.rename(source, target, replace=replace)
        moved = self._known(target) if self._names.borders.has_shares else None
        if moved is not None and self._names.borders.has_file_at(moved):
            self._moves.pop(moved.inode, None)
            self._moves[moved.inode] = _Move(source, target, self._now_ns())

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
            if aside is not None and (move := self._last_move(aside.inode)) is not None:
                moved = self._known(move.source)
                if moved is not None and self._is_save(moved, aside):
                    await self._save_back(move.source, target, moved, aside)
                    return
        await self._names.unlink(parent, name)

    async def _save_back(self, source: Name, target: Name, moved: InodeState, aside: InodeState) -> None:
        try:
            if not await self._save(source, target, moved, aside, is_back=True):
                await self.unlink(*target)
        except errors.CrossDevice as error:
            raise errors.Busy from error

    def _last_move(self, inode: InodeId) -> _Move | None:
        """How a shared file came to the name that it has, if that was a moment ago."""
        move = self._moves.get(inode)
        is_recent = move is not None and self._now_ns() - move.at_ns <= ASIDE_NS
        return move if move is not None and is_recent and self._view.named(*move.target) == inode else None

    def _is_save(self, moved: InodeState, replaced: InodeState) -> bool:
        return self._is_own(moved) and self._names.borders.has_file_at(replaced)

    def _is_own(self, state: InodeState) -> bool:
        """Whether it is a file, and not one that is shared by itself."""
        return state.kind is InodeKind.FILE and not self._names.borders.has_file_at(state)

    def _can_save(self, moved: InodeState) -> bool:
        """Whether a file may become the content of a shared one now."""
        return self._is_own(moved) and moved.size <= MOST_BYTES and not self._contents.is_written(moved.inode)

    def _known(self, name: Name) -> InodeState | None:
        inode = self._view.named(*name)
        return self._view.inode(inode) if inode else None

    # -- under the name of a backup ----------------------------------------------------------------------------------

    def _moved_aside(self, name: Name) -> InodeState | None:
        """The shared file that had a free name a moment ago, and has that of a backup now."""
        if self._view.named(*name) != NO_INODE:
            return None
        for inode, move in reversed(self._moves.items()):
            if move.source == name and move.is_backup and self._last_move(inode) is not None:
                state = self._view.inode(inode)
                return state if self._names.borders.has_file_at(state) else None
        return None

    async def _take_back(self, name: Name) -> InodeState | None:
        """Give a free name back to the shared file that was moved aside from it, and leave a copy; gives its state.

        None: there is no such file, or no copy of it can be made. Then it stays where it is, and who saves does so.

        Raises:
            AccessDenied: it may only be read.
        """
        while (shared := self._moved_aside(name)) is not None:
            self._names.borders.check_writable(shared.inode)
            if shared.size > MOST_BYTES:
                return None
            content = self._contents.load(shared.inode)
            record = content.last_record
            try:
                parts = await self._parts(shared.inode)
                if self._moved_aside(name) == shared and content.last_record == record:
                    self._leave_copy(name, shared, parts)
                    return self._view.inode(shared.inode)
            except (errors.Unavailable, errors.OverQuota, errors.TooLarge, CacheError):
                return None
        return None

    def _leave_copy(self, name: Name, shared: InodeState, parts: Sequence[bytes]) -> None:
        """Move a shared file back, and make what it is a file under the name that it had; who has it open has that."""
        aside = self._moves[shared.inode].target
        with self._whole(set(), [name, aside]):
            self._names.move(aside, name, shared)
            copy = self._names.make_like(shared, *aside)
            number = self._files.open(copy.inode, os.O_WRONLY, _Nobody())
            try:
                self._files.copy(number, parts, shared)
            finally:
                self._files.release(number)
        del self._moves[shared.inode]
        self._files.move(shared.inode, copy.inode)
        self._contents.followed(shared.inode, copy.inode)

    # -- in the place of another file --------------------------------------------------------------------------------

    async def _save(
        self, source: Name, target: Name, moved: InodeState, replaced: InodeState, *, is_back: bool = False
    ) -> bool:
        """Make a file the content of the shared one, which takes its name too if it `is_back`; False: not any more."""
        self._names.borders.check_writable(replaced.inode)
        if not self._can_save(moved):
            raise errors.CrossDevice
        parts = await self._parts(moved.inode)
        if self._known(source) != moved or self._known(target) != replaced:
            return False  # another call was in between
        # Open before that is remembered: of what is not open, nothing is put back.
        number = self._files.open(replaced.inode, os.O_WRONLY, _Nobody())
        try:
            with self._whole({moved.inode, replaced.inode}, [source, target]):
                self._files.replace(number, parts)
                self._names.remove(*source)
                if is_back:
                    self._names.move(target, source, self._view.inode(replaced.inode))
        finally:
            self._files.release(number)
        self._contents.followed(moved.inode, replaced.inode)
        return True

    async def _parts(self, inode: InodeId) -> list[bytes]:
        """What a file has.

        Raises:
            Unavailable: some of it is not here and cannot be had.
        """
        number = self._files.open(inode, os.O_RDONLY, _Nobody())
        try:
            size = self._view.inode(inode).size
            return [bytes(await self._files.read(number, at, PART_BYTES)) for at in range(0, size, PART_BYTES)]
        finally:
            self._files.release(number)

    @contextmanager
    def _whole(self, inodes: set[InodeId], names: list[Name]) -> Iterator[None]:
        """One transaction, in which contents of these are replaced; if it fails, all in memory is as it was, too."""
        put_back = self._contents.remember(inodes)
        try:
            with self._view.change():
                yield
            self._view.journal.content_goes()
        except BaseException:
            put_back()
            self._view.forget({*inodes, *(parent for parent, _ in names)}, names)
            raise
