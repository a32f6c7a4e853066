"""The directory `.drivefs/revisions`: the tree as it is now, with a directory in the place of each file.

Owns the names of revisions there: number, time and device, and the file's own ending, so that they sort by number and
programs know what they are. The number alone leads to a revision too. Which there are is asked when somebody looks.
"""

import os
import re
from functools import partial

import msgspec
import trio

from drivefs.fs import errors, virtual
from drivefs.fs.directories import Directories
from drivefs.fs.namespace import Namespace
from drivefs.fs.past import Past
from drivefs.fs.revisions import Revisions, Which
from drivefs.fs.view import View, shrink
from drivefs.protocol.history import RevisionInfo
from drivefs.protocol.ids import InodeId, RevisionNumber
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.protocol.times import iso_seconds

NAME = b"revisions"
MAX_DEVICE_BYTES = 100
MAX_ENDING_BYTES = 20
MAX_FILES = 64
"""Of so many files the list of revisions is kept: what it says of a number never changes."""
STEP_ENTRIES = 1000
_NUMBER = re.compile(rb"[0-9]{1,18}")


def name_of(revision: RevisionInfo, file_name: bytes) -> bytes:
    """What a revision of a file of that name is called."""
    device = re.sub(rb"[/\x00-\x20\x7f]", b"-", os.fsencode(revision.device))[:MAX_DEVICE_BYTES]
    ending = os.path.splitext(file_name)[1]
    parts = (b"%06d" % revision.number, iso_seconds(revision.time_ns).encode(), device or b"unknown")
    return b"_".join(parts) + (ending if len(ending) <= MAX_ENDING_BYTES else b"")


class RevisionTree:
    """The directory, as an item of the virtual tree."""

    def __init__(
        self, view: View, names: Namespace, directories: Directories, *, past: Past, revisions: Revisions
    ) -> None:
        self._view = view
        self._names = names
        self._directories = directories
        self._past = past
        self._revisions = revisions
        self._known: dict[InodeId, dict[RevisionNumber, RevisionInfo]] = {}

    def directory(self, inode: InodeId) -> virtual.Directory:
        """What stands for a directory of the drive."""
        # Names of files in directories that others may not look into would show here: it is for the owner alone.
        return virtual.Directory((NAME, inode), partial(self._find, inode), partial(self._list, inode), mode=0o500)

    def _file(self, inode: InodeId, name: bytes) -> virtual.Directory:
        find, names = partial(self._find_revision, inode, name), partial(self._list_revisions, inode, name)
        return virtual.Directory((NAME, inode, name), find, names, mode=0o500)

    def _item(self, name: bytes, state: InodeState) -> virtual.Item | None:
        if state.kind is InodeKind.DIRECTORY:
            return self.directory(state.inode)
        return self._file(state.inode, name) if state.kind is InodeKind.FILE else None

    async def _find(self, directory: InodeId, name: bytes) -> virtual.Item | None:
        state = await self._names.lookup(directory, name)
        return None if state is None else self._item(name, state)

    async def _list(self, directory: InodeId) -> virtual.Children:
        number = self._directories.open(directory)
        found: list[tuple[bytes, virtual.Item]] = []
        try:
            for name, state, place in await self._directories.read(number, 0):
                if name not in (b".", b"..") and (item := self._item(name, state)) is not None:
                    found.append((name, item))
                if not place % STEP_ENTRIES:
                    await trio.lowlevel.checkpoint()
        finally:
            self._directories.release(number)
        return found

    async def _list_revisions(self, inode: InodeId, name: bytes) -> virtual.Children:
        try:
            found = await self._past.revisions(inode)
        except errors.NotFound:
            found = []  # nothing of the file has arrived at the backend yet
        self._known[inode] = {each.number: each for each in found}
        shrink(self._known, MAX_FILES)
        return [(name_of(each, name), self._revision(inode, each)) for each in found]

    async def _find_revision(self, inode: InodeId, name: bytes, wanted: bytes) -> virtual.Item | None:
        digits = _NUMBER.match(wanted)
        if digits is None:
            return None
        number = RevisionNumber(int(digits[0]))
        found = self._known.get(inode, {}).get(number)
        if found is None:
            found = await self._past.revision(inode, number)
        is_meant = wanted == b"%d" % number or wanted == name_of(found, name)
        return self._revision(inode, found) if is_meant else None

    def _revision(self, inode: InodeId, revision: RevisionInfo) -> virtual.Revision:
        which = Which(inode, revision.number)

        def like() -> InodeState:
            times = {"mtime_ns": revision.mtime_ns, "atime_ns": revision.mtime_ns, "ctime_ns": revision.time_ns}
            return msgspec.structs.replace(self._view.inode(inode), **times)

        known = virtual.Known(revision.size)
        return virtual.Revision((NAME, inode, revision.number), which, like, self._revisions, known)
