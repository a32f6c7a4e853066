"""States of inodes as the kernel wants them.

Owns the translation, a bounded cache of it, and the numbers: the root of the workspace is the kernel's inode 1, every
other inode has its own id, unless its descriptors followed a content to another one, or it was found to be another one
that the kernel had not heard of: then the two have swapped their numbers until the end of the
mount. Invariant: what is cached for an inode was made of the state that is cached with it.

Owns too that a directory which the kernel has removed, and which is back, is another one to it: it lets nobody into
what it has by that number for as long as somebody is in there, and knows by the generation that it has to begin anew.

And it owns what makes the kernel drop the pages of a content that is another one now. It drops them by itself when an
answer shows another size or mtime than it has; but that may be the same again by the time it asks, and it throws an
answer away that was on its way when something else about the inode changed. So who opens the file next is answered
that the pages are not to be kept, which is certain: once the kernel knows that the size is to be asked for too, since
before that it would show new bytes up to the old size. Who has it open sees another mtime in a few answers, if nothing
else shows the change.
"""

import stat
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

import pyfuse3

from drivefs.fs import virtual
from drivefs.fs.ownership import Owner
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState

CACHED_SECONDS = 86_400.0
"""How long the kernel may keep names and attributes: whoever changes them tells it."""

BLOCK_BYTES = 4096
SECTOR_BYTES = 512
MAX_CACHED = 8192
MAX_CHANGED = 16_384
MAX_REMOVED = 16_384
ODD_ANSWERS = 3
"""Who asks alone has one answer on its way at most when something changes."""
SET_ID = stat.S_ISUID | stat.S_ISGID
WRITE_BITS = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


class _Change(NamedTuple):
    """A change of content: which one, or 0 once the kernel is told; and the size and mtime that it was told before."""

    number: int
    before: tuple[int, int] | None


class Translation:
    """Makes `EntryAttributes` of states."""

    def __init__(
        self,
        root: InodeId,
        owner: Owner,
        is_read_only: Callable[[InodeId], bool] = lambda inode: False,
        is_open: Callable[[InodeId], bool] = lambda inode: False,
    ) -> None:
        """`is_read_only` says of an inode that nobody here may change it, whatever its mode is elsewhere."""
        self._root = root
        self._owner = owner
        self._is_read_only = is_read_only
        self._is_open = is_open
        self._cached: dict[InodeId, tuple[InodeState, pyfuse3.EntryAttributes]] = {}
        self._numbers: dict[InodeId, int] = {}
        self._inodes: dict[int, InodeId] = {}
        """Numbers that are not the id of their inode, since the kernel knew another one by it."""
        self._others: dict[InodeId, list[int]] = {}
        """Further numbers of inodes that others were found to be."""
        self._lent: dict[InodeId, int] = {}
        """Which of these each of the others had."""
        self._removed: dict[int, None] = {}
        """Directories that the kernel removed and may still know, by number: what it forgets may be an older one."""
        self._generations: dict[int, int] = {}
        """How often those that are back were removed, if ever."""
        self._changed: dict[InodeId, _Change] = {}
        """Files whose content has changed, and that nobody has opened since the kernel was told."""
        self._change_count = 0
        self._odd: dict[InodeId, int] = {}
        """Of these, those that are open: how many answers have to show that it has."""
        self.absent = pyfuse3.EntryAttributes()
        """The answer to a lookup of a name that leads to nothing; the kernel keeps it too."""
        self.absent.st_ino = pyfuse3.InodeT(0)
        self.absent.entry_timeout = CACHED_SECONDS

    def inode(self, number: int) -> InodeId:
        """The inode that the kernel means."""
        if number == pyfuse3.ROOT_INODE:
            return self._root
        return self._inodes.get(number, InodeId(number)) if self._inodes else InodeId(number)

    def number(self, inode: InodeId) -> int:
        """The kernel's number for an inode."""
        return pyfuse3.ROOT_INODE if inode == self._root else self._numbers.get(inode, inode)

    def swap(self, inode: InodeId, other: InodeId) -> None:
        """What the kernel has open as one inode is the other from now on, and the other way round."""
        first, second = self._numbers.get(inode, inode), self._numbers.get(other, other)
        self._numbers[inode], self._numbers[other] = second, first
        self._inodes[second], self._inodes[first] = inode, other
        for each in (inode, other):
            self._cached.pop(each, None)

    def take_over(self, inode: InodeId, into: InodeId) -> None:
        """What the kernel knows as one inode is another one from now on, of which it has not heard."""
        if into in self._numbers:
            # Its descriptors have followed already, and so has the number.
            self.merge(inode, into)
            return
        self.swap(inode, into)
        if numbers := self._others.pop(inode, ()):
            self._others.setdefault(into, []).extend(numbers)
            self._inodes.update(dict.fromkeys(numbers, into))

    def merge(self, inode: InodeId, into: InodeId) -> None:
        """What the kernel knows as one inode is another one from now on, which keeps its own number too."""
        self._lent[inode] = own = self._numbers.pop(inode, inode)
        numbers = [own, *self._others.pop(inode, ())]
        for number in numbers:
            self._inodes[number] = into
        self._others.setdefault(into, []).extend(numbers)
        self._cached.pop(inode, None)

    def part(self, inode: InodeId) -> None:
        """An inode that was merged is itself again, by the number that it had."""
        number = self._lent.pop(inode, None)
        if number is None:
            return
        self._others[self._inodes.pop(number)].remove(number)
        self._cached.pop(inode, None)
        if number != inode:
            self._numbers[inode], self._inodes[number] = number, inode

    def removed(self, inode: InodeId) -> None:
        """The kernel is told that the directory which it wanted to remove, or to replace, is gone."""
        self._cached.pop(inode, None)
        self._removed[self.number(inode)] = None
        if len(self._removed) > MAX_REMOVED:
            del self._removed[next(iter(self._removed))]

    def numbers(self, inode: InodeId) -> list[int]:
        """All numbers by which the kernel may know an inode."""
        return [self.number(inode), *self._others.get(inode, ())] if self._others else [self.number(inode)]

    def attributes(self, state: InodeState) -> pyfuse3.EntryAttributes:
        """The attributes of an inode, shared with the cache: not to be changed."""
        cached = self._cached.get(state.inode)
        if cached is not None and cached[0] is state:
            return cached[1]
        made = self._made(state)
        if state.inode in self._odd and self._is_told_oddly(state, made):
            return made
        self._cached[state.inode] = (state, made)
        if len(self._cached) > MAX_CACHED:
            for inode in list(islice(self._cached, MAX_CACHED // 4)):
                del self._cached[inode]
        return made

    def changed(self, inode: InodeId) -> None:
        """The content of a file has changed: the kernel is to drop its pages.

        Of very many that nobody opens, those that changed first rely on their size and mtime.
        """
        self._change_count += 1
        told, earlier = self._cached.pop(inode, None), self._changed.pop(inode, None)
        before = (told[0].size, told[0].mtime_ns) if told else earlier.before if earlier else None
        self._changed[inode] = _Change(self._change_count, before)
        if len(self._changed) > MAX_CHANGED:
            first = next(iter(self._changed))
            del self._changed[first]
            self._odd.pop(first, None)
        if self._is_open(inode):
            self._odd[inode] = ODD_ANSWERS

    def change(self, number: int) -> int:
        """Which change the kernel is to be told of by a notification that is made from now on; 0: none."""
        change = self._changed.get(self.inode(number))
        return change.number if change else 0

    def told(self, number: int, change: int) -> None:
        """The kernel has been told of that change: what it knows of size and times holds no longer."""
        inode = self.inode(number)
        if change and self.change(number) == change:
            self._changed[inode] = self._changed[inode]._replace(number=0)

    def opened(self, inode: InodeId) -> bool:
        """A file is being opened; gives whether the kernel is to keep the pages that it has of it."""
        change = self._changed.get(inode)
        if change is None:
            return True
        if change.number:
            if change.before:
                self._odd[inode] = ODD_ANSWERS
            return True
        del self._changed[inode]
        self._odd.pop(inode, None)
        return False

    def _is_told_oddly(self, state: InodeState, made: pyfuse3.EntryAttributes) -> bool:
        """Give the answer another mtime if it would not show that the content has changed."""
        left, before = self._odd.pop(state.inode), self._changed[state.inode].before
        if before not in (None, (state.size, state.mtime_ns)):
            return False
        if left > 1:
            self._odd[state.inode] = left - 1
        made.st_mtime_ns += 1
        made.attr_timeout = 0.0
        return True

    def fleeting(self, state: InodeState) -> pyfuse3.EntryAttributes:
        """The attributes of an inode, for one answer only: the kernel may keep nothing of it."""
        made = self._made(state)
        made.entry_timeout = made.attr_timeout = 0.0
        return made

    def _made(self, state: InodeState) -> pyfuse3.EntryAttributes:
        made = pyfuse3.EntryAttributes()
        number = made.st_ino = self._numbers.get(state.inode, state.inode)
        if number in self._removed and state.nlink:
            del self._removed[number]
            self._generations[number] = self._generations.get(number, 0) + 1
        made.generation = self._generations.get(number, 0)
        # What is virtual changes without the kernel being told.
        made.entry_timeout = made.attr_timeout = CACHED_SECONDS if state.inode < virtual.FIRST else 0.0
        if state.mode & SET_ID and state.kind is InodeKind.FILE:
            # Writing clears these bits, and the kernel goes by the mode that it has: whoever executes the file as well.
            made.attr_timeout = 0.0
        hidden = WRITE_BITS if self._is_read_only(state.inode) else 0
        made.st_mode = state.kind | state.mode & ~hidden
        made.st_nlink = state.nlink
        made.st_uid = self._owner.shown_uid(state)
        made.st_gid = self._owner.shown_gid(state)
        made.st_rdev = state.rdev
        made.st_size = BLOCK_BYTES if state.kind is InodeKind.DIRECTORY else state.size
        made.st_blksize = BLOCK_BYTES
        made.st_blocks = -(-state.size // BLOCK_BYTES) * (BLOCK_BYTES // SECTOR_BYTES)
        made.st_atime_ns = state.atime_ns
        made.st_mtime_ns = state.mtime_ns
        made.st_ctime_ns = state.ctime_ns
        return made
