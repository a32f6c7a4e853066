"""The `.drivefs` tree at the root: what can be known about the drive, as directories and files; not listed, read-only.

Owns the kinds of virtual items, their numbers, which lie outside the range of inode ids, and their open descriptors.
What a directory holds is its own affair: it may make its items as they are asked for. A generated text is made when it
is opened and stays the same for that descriptor.

Invariants: the same key has the same number for as long as it is used now and then; numbers are never used twice; a
directory outlives many more items than a file, since whoever walks through a large tree comes back to it. The kernel
keeps nothing of it (see `fuse.attributes`), so everything here may change at any time.
"""

import json
import os
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from drivefs.fs import errors
from drivefs.fs.handles import Handles
from drivefs.fs.ownership import Caller
from drivefs.fs.revisions import RevisionHandle, Revisions, Which
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState

NAME = b".drivefs"
FIRST = 2**63
"""Inode numbers and descriptors from here on are virtual: ids are below."""
DIRECTORY = InodeId(FIRST)
UNSIZED = FIRST + 2**62
"""Descriptors from here on are of texts, whose length is known only once they are open."""
MAX_ITEMS = 32_768
MAX_DIRECTORIES = 65_536
"""How many items of each kind have a number at a time; one that comes again later gets another."""
READ_ENTRIES = 128
"""So many entries of a directory are looked at for one reply: about as many as it takes."""
NO_NUMBER = InodeId(0)


class Item(Protocol):
    """Anything in the tree; items with equal keys are the same one."""

    @property
    def key(self) -> Hashable:
        """What it is called among all items."""
        ...

    def state(self) -> InodeState:
        """What it looks like, but for its number.

        Raises:
            NotFound: it has gone.
        """
        ...

    async def prepare(self) -> None:
        """Find out what `state` cannot say without waiting.

        Raises:
            Unavailable: it could not be found out within the deadline.
        """
        ...


Children = Sequence[tuple[bytes, Item]]


class Directory:
    """A directory; `lookup` gives one item by name or None, `names` all that it lists; it looks like `like`."""

    __slots__ = ("_like", "_mode", "key", "lookup", "names")

    def __init__(
        self,
        key: Hashable,
        lookup: Callable[[bytes], Awaitable[Item | None]],
        names: Callable[[], Awaitable[Children]],
        *,
        mode: int = 0o555,
        like: InodeState | None = None,
    ) -> None:
        self.key = key
        self.lookup = lookup
        self.names = names
        self._mode = mode
        self._like = like

    def state(self) -> InodeState:
        """A directory that nobody may write to."""
        if self._like is None:
            return InodeState(inode=NO_NUMBER, kind=InodeKind.DIRECTORY, mode=self._mode, nlink=2)
        return msgspec.structs.replace(self._like, mode=self._like.mode & 0o555)

    async def prepare(self) -> None:
        """There is nothing to find out."""


def fixed(key: Hashable, items: Mapping[bytes, Item], *, mode: int = 0o555) -> Directory:
    """A directory that always holds the same items."""

    async def lookup(name: bytes) -> Item | None:
        return items.get(name)

    async def names() -> Children:
        return list(items.items())

    return Directory(key, lookup, names, mode=mode)


class Text:
    """A file whose text is made when it is opened. It names files in any directory, so it is for the owner alone."""

    def __init__(self, key: Hashable, make: Callable[[], bytes]) -> None:
        self.key = key
        self.make = make

    def state(self) -> InodeState:
        """A file of no known size."""
        return InodeState(inode=NO_NUMBER, kind=InodeKind.FILE, mode=0o400)

    async def prepare(self) -> None:
        """There is nothing to find out."""


class Mirror:
    """A real file or symbolic link, as it is now, in another place and not to be written to."""

    def __init__(self, key: Hashable, inode: InodeId, look_up: Callable[[InodeId], InodeState]) -> None:
        self.key = key
        self.inode = inode
        self._look_up = look_up

    def state(self) -> InodeState:
        """The attributes of the real one, without leave to write."""
        return read_only(self._look_up(self.inode))

    async def prepare(self) -> None:
        """There is nothing to find out."""


class Known(NamedTuple):
    """What is known of a revision without asking: how long it is, and its packed block list if that is short."""

    size: int
    blocks: bytes | None = None


class Revision:
    """The content of one revision of a file; fetched as it is read. Its attributes are those of `like`.

    What is not `known` of it is found out when somebody looks.
    """

    __slots__ = ("_known", "_like", "_revisions", "key", "which")

    def __init__(
        self,
        key: Hashable,
        which: Which,
        like: Callable[[], InodeState],
        revisions: Revisions,
        known: Known | None = None,
    ) -> None:
        self.key = key
        self.which = which
        self._like = like
        self._revisions = revisions
        self._known = known

    def state(self) -> InodeState:
        """A file; its size is 0 until it is known here."""
        state = read_only(self._like())
        state.size = self._known.size if self._known is not None else self._revisions.size_here(self.which) or 0
        return state

    async def prepare(self) -> None:
        """Find out how long it is.

        Raises:
            Unavailable: the list of its blocks is not here and could not be fetched.
        """
        if self._known is None:
            await self._revisions.content(self.which)

    def open(self) -> RevisionHandle:
        """A descriptor of it."""
        if self._known is not None and self._known.blocks is not None:
            self._revisions.know(self.which, self._known.blocks)
        return RevisionHandle(self.which)


class Other:
    """A symbolic link or a special file, as it was; it cannot be opened by way of us."""

    __slots__ = ("_like", "key")

    def __init__(self, key: Hashable, like: InodeState) -> None:
        self.key = key
        self._like = like

    def state(self) -> InodeState:
        """What it was, without leave to write."""
        is_link = self._like.kind is InodeKind.SYMLINK
        return msgspec.structs.replace(self._like, nlink=1) if is_link else read_only(self._like)

    async def prepare(self) -> None:
        """There is nothing to find out."""


def read_only(state: InodeState) -> InodeState:
    """A copy of a state that has one name and lets nobody write."""
    return msgspec.structs.replace(state, mode=state.mode & 0o444, nlink=1)


class _Listing:
    """An open directory, by its number, and what it held when reading began at its start."""

    __slots__ = ("directory", "entries")

    def __init__(self, directory: InodeId) -> None:
        self.directory = directory
        self.entries: Children = ()


class Numbered:
    """Items with their numbers: those that are used now and then stay, up to bounds; `root` always does."""

    def __init__(self, root: Directory) -> None:
        self._root = root
        self._items: dict[InodeId, Item] = {DIRECTORY: root}
        self._files: dict[Hashable, InodeId] = {}
        self._directories: dict[Hashable, InodeId] = {}
        self._next = FIRST + 1

    def number(self, item: Item) -> InodeId:
        """The number of an item, which is used now."""
        if item is self._root:
            return DIRECTORY
        is_directory = isinstance(item, Directory)
        known, most = (self._directories, MAX_DIRECTORIES) if is_directory else (self._files, MAX_ITEMS)
        number = known.pop(item.key, None)
        if number is None:
            number = InodeId(self._next)
            self._next += 1
        known[item.key] = number
        self._items[number] = item
        if len(known) > most:
            del self._items[known.pop(next(iter(known)))]
        return number

    def item(self, number: InodeId) -> Item:
        """The item of a number, which is used now.

        Raises:
            NotFound: it has none any more, or never had.
        """
        item = self._items.get(number)
        if item is None:
            raise errors.NotFound
        if number != DIRECTORY:
            self.number(item)
        return item


class Virtual:
    """The tree below `root`, as the file system shows it; `open_real` opens a real file for reading."""

    def __init__(
        self, root: Directory, revisions: Revisions, open_real: Callable[[InodeId, int, Caller], int], now_ns: int
    ) -> None:
        self._revisions = revisions
        self._open_real = open_real
        self._made_ns = now_ns
        self._numbered = Numbered(root)
        self._texts: Handles[bytes] = Handles(first=UNSIZED)
        self._files: Handles[RevisionHandle] = Handles(first=FIRST)
        self._listings: Handles[_Listing] = Handles(first=FIRST)

    def _directory(self, number: InodeId) -> Directory:
        item = self._numbered.item(number)
        if not isinstance(item, Directory):
            raise errors.NotDirectory
        return item

    async def lookup(self, parent: InodeId, name: bytes) -> InodeState:
        """What a name leads to.

        Raises:
            NotFound, NotDirectory.
            Unavailable: it could not be found out within the deadline.
        """
        item = await self._directory(parent).lookup(name)
        if item is None:
            raise errors.NotFound
        await item.prepare()
        return self._shown(item)

    def _shown(self, item: Item) -> InodeState:
        state = item.state()
        state.inode = self._numbered.number(item)
        if not state.mtime_ns:
            state.atime_ns = state.mtime_ns = state.ctime_ns = self._made_ns
        return state

    def inode(self, number: InodeId) -> InodeState:
        """The state of a virtual inode.

        Raises:
            NotFound: there is none.
        """
        return self._shown(self._numbered.item(number))

    def open(self, number: InodeId, flags: int, caller: Caller) -> int:
        """Open a file; gives the descriptor's number, which is that of a real one if the file only mirrors it.

        Raises:
            NotPermitted: it is to be written to.
            IsDirectory, Invalid, NotFound.
        """
        item = self._numbered.item(number)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise errors.NotPermitted
        if isinstance(item, Mirror):
            return self._open_real(item.inode, os.O_RDONLY, caller)
        if isinstance(item, Revision):
            return self._files.add(item.open())
        if isinstance(item, Text):
            return self._texts.add(item.make())
        raise errors.IsDirectory if isinstance(item, Directory) else errors.Invalid

    async def read(self, number: int, offset: int, length: int) -> bytes | bytearray:
        """Up to `length` bytes from `offset` on.

        Raises:
            BadHandle, Unavailable.
        """
        if number >= UNSIZED:
            return self._texts.get(number)[offset : offset + length]
        return await self._revisions.read(self._files.get(number), offset, length)

    def release(self, number: int) -> None:
        """Close a descriptor.

        Raises:
            BadHandle.
        """
        (self._texts if number >= UNSIZED else self._files).remove(number)

    def open_directory(self, number: InodeId) -> int:
        """Open a directory; gives the descriptor's number.

        Raises:
            NotDirectory, NotFound.
        """
        self._directory(number)
        return self._listings.add(_Listing(number))

    async def read_directory(self, number: int, place: int) -> list[tuple[bytes, InodeState, int]]:
        """The next entries from a place on: name, state, and the place behind it; those that are gone are left out.

        Raises:
            BadHandle, NotFound, Unavailable.
        """
        listing = self._listings.get(number)
        directory = self._directory(listing.directory)
        if not place:
            listing.entries = await directory.names()
        found: list[tuple[bytes, InodeState, int]] = []
        for index in range(place, len(listing.entries)):
            name, item = listing.entries[index]
            try:
                found.append((name, self._shown(item), index + 1))
            except errors.NotFound:
                continue
            if len(found) == READ_ENTRIES:
                break
        return found

    def release_directory(self, number: int) -> None:
        """Close a descriptor of a directory.

        Raises:
            BadHandle.
        """
        self._listings.remove(number)


def json_text(name: bytes, provide: Callable[[], Mapping[str, object]]) -> Text:
    """A file that is one JSON object, made when it is read."""
    return Text(name, lambda: json.dumps(provide(), indent=2).encode() + b"\n")
