"""The directory `.drivefs/trash`: what was removed and can be brought back, read-only, the latest under its own name.

Owns the names there: of several things with one name all but the latest have the time of their removal added. What lies
in the trash is asked when somebody looks.
"""

from contextlib import aclosing
from functools import partial

import msgspec

from drivefs.fs import virtual
from drivefs.fs.past import Past
from drivefs.fs.past_tree import content_of
from drivefs.fs.revisions import Revisions
from drivefs.fs.undeleting import together
from drivefs.protocol.ground import NowNs
from drivefs.protocol.history import TrashEntry
from drivefs.protocol.ids import NO_INODE
from drivefs.protocol.model import InodeKind
from drivefs.protocol.names import with_mark
from drivefs.protocol.times import iso_seconds

NAME = b"trash"
MAX_LISTED = 10_000
"""So many of the things that were removed last are listed; `drivefs trash list` knows all."""
FRESH_NS = 10**9
"""A listing that is so young is not asked for again: whoever lists a directory looks at each entry next."""


class TrashTree:
    """The directory, as an item of the virtual tree."""

    def __init__(self, past: Past, revisions: Revisions, now_ns: NowNs) -> None:
        self._past = past
        self._revisions = revisions
        self._now_ns = now_ns
        self._listed: dict[bytes, virtual.Item] = {}
        self._listed_ns = 0
        # Names of files in directories that others may not look into would show here: it is for the owner alone.
        self.directory = virtual.Directory(NAME, self._find, self._names, mode=0o500)

    async def _names(self) -> virtual.Children:
        found: dict[bytes, virtual.Item] = {}
        async with aclosing(self._past.removed(NO_INODE)) as pages:
            async for page in pages:
                for entry in page:
                    found[_free_name(entry, found)] = self._item(entry)
                if len(found) >= MAX_LISTED:
                    break
        self._listed, self._listed_ns = found, self._now_ns()
        return list(found.items())

    async def _find(self, name: bytes) -> virtual.Item | None:
        if self._now_ns() - self._listed_ns > FRESH_NS:
            await self._names()
        return self._listed.get(name)

    def _item(self, entry: TrashEntry) -> virtual.Item:
        state, key = entry.inode, (NAME, entry.inode.inode)
        if state.kind is not InodeKind.DIRECTORY:
            return content_of(key, state, self._revisions)
        like = msgspec.structs.replace(state, nlink=2)
        return virtual.Directory(key, partial(self._find_in, entry), partial(self._names_in, entry), like=like)

    async def _names_in(self, directory: TrashEntry) -> virtual.Children:
        found: dict[bytes, virtual.Item] = {}
        until, is_last = directory.time_ns, False
        async with aclosing(self._past.removed(directory.inode.inode)) as pages:
            async for page in pages:
                entries, until, is_last = together(page, until, found.keys())
                found.update((entry.place.name, self._item(entry)) for entry in entries)
                if is_last:
                    break
        return list(found.items())

    async def _find_in(self, directory: TrashEntry, name: bytes) -> virtual.Item | None:
        async with aclosing(self._past.removed(directory.inode.inode, name)) as pages:
            async for page in pages:
                return self._item(page[0]) if page else None
        return None


def _free_name(entry: TrashEntry, taken: dict[bytes, virtual.Item]) -> bytes:
    name = entry.place.name
    marks = [b"", b" (removed %s)" % iso_seconds(entry.time_ns).encode(), b" (%d)" % entry.inode.inode]
    for mark in marks:
        marked = with_mark(name, mark) if mark else name
        if marked not in taken:
            break
    return marked
