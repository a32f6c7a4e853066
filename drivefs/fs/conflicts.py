"""The conflicts of the drive: which copies there are, and where what they lost to is now.

Owns the reading of marks (`protocol.conflicts`) and the entries under `.drivefs/conflicts`. A mark that has done its
service counts no longer: when the copy has taken the place that it lost, whoever moved it there. Settling a conflict is
an ordinary change of names; nothing here changes anything but the mark.

Invariant: marked inodes are found through the databases' own lists of them, never by looking at other inodes.
"""

import contextlib
import json
from dataclasses import dataclass

from cache.overlay import MISSING
from drivefs.fs import errors, virtual
from drivefs.fs.revisions import Revisions, Which
from drivefs.fs.view import Name, View
from drivefs.protocol import conflicts as marks
from drivefs.protocol.conflicts import CONFLICT_XATTR, ConflictMark
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.ids import NO_INODE, InodeId
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.protocol.names import MAX_NAME_BYTES, cut_between_letters

MAX_DEPTH = 4096
"""More directories than any path has: a longer way is a circle in what is known here."""
ENTRIES = b"conflicts"
MINE, THEIRS, BASE = b"mine", b"theirs", b"base"
SHOWN = (InodeKind.FILE, InodeKind.SYMLINK)
"""Kinds of which `mine` and `theirs` can be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """One copy and what it lost to.

    `place` is the copy's name. `original` is the name of what was kept, and `theirs` what that leads to now; None and
    `NO_INODE` when it is gone.
    """

    copy: InodeState
    place: Name
    mark: ConflictMark
    original: Name | None
    theirs: InodeId

    @property
    def has_base(self) -> bool:
        """Whether both contents were made of one revision that is known."""
        return bool(self.mark.base_revision)


def mark_of(state: InodeState) -> ConflictMark | None:
    """The mark of a conflict copy; None if the inode is none, or the mark cannot be read."""
    value = state.xattrs.get(CONFLICT_XATTR) if state.xattrs else None
    if value is None or not state.nlink:
        return None
    try:
        return marks.decode_mark(value)
    except ProtocolError:
        return None


class Conflicts:
    """The conflict copies that are known on this device."""

    def __init__(self, view: View, root: InodeId) -> None:
        self._view = view
        self._root = root

    def _marked(self) -> list[InodeId]:
        return sorted({*self._view.journal.overlay.marked(), *self._view.replica.marked()})

    def count(self) -> int:
        """How many there are."""
        return len(self.all())

    def all(self) -> list[Conflict]:
        """All of them, oldest first."""
        found = [each for inode in self._marked() if (each := self.of(inode)) is not None]
        return sorted(found, key=lambda each: (each.mark.time_ns, each.copy.inode))

    def of(self, inode: InodeId) -> Conflict | None:
        """The conflict of which this inode is the copy."""
        try:
            state = self._view.inode(inode)
        except errors.NotFound:
            return None
        mark = mark_of(state)
        if mark is None or self._named(mark.parent, mark.name) == inode:
            return None
        place = next(iter(self._names_of(inode)), None)
        if place is None:
            return None
        original, theirs = self._theirs(mark)
        return Conflict(copy=state, place=place, mark=mark, original=original, theirs=theirs)

    def about(self, inode: InodeId) -> list[Conflict]:
        """Those that concern an inode: the one of which it is the copy, or all in which it is what was kept."""
        own = self.of(inode)
        return [own] if own is not None else [each for each in self.all() if each.theirs == inode]

    def _theirs(self, mark: ConflictMark) -> tuple[Name | None, InodeId]:
        """What has the name now, or else what once kept it, under whatever name."""
        if named := self._named(mark.parent, mark.name):
            return (mark.parent, mark.name), named
        for place in self._names_of(mark.of):
            return place, mark.of
        return None, NO_INODE

    def _named(self, parent: InodeId, name: bytes) -> InodeId:
        return self._view.named(parent, name) or NO_INODE

    def _names_of(self, inode: InodeId) -> list[Name]:
        """The names of an inode that are known here, own ones first."""
        overlay = self._view.journal.overlay
        others = self._view.replica.names_of(inode)
        return overlay.names_of(inode) + [name for name in others if overlay.dentry(*name) is MISSING]

    def path(self, place: Name) -> bytes | None:
        """The path of a name from the root on; None if the way to it is not known here."""
        parent, name = place
        parts = [name]
        while parent != self._root:
            names = self._names_of(parent)
            if not names or len(parts) > MAX_DEPTH:
                return None
            parent, name = names[0]
            parts.append(name)
        return b"/".join(reversed(parts))

    def text(self, state: InodeState) -> bytes | None:
        """What a conflict copy says of itself, as JSON; None of any other inode."""
        conflict = self.of(state.inode) if state.xattrs else None
        if conflict is None:
            return None
        mark, original = conflict.mark, conflict.original
        path = self.path(original) if original is not None else None
        about = {
            "original": None if path is None else path.decode(errors="surrogateescape"),
            "name": mark.name.decode(errors="surrogateescape"),
            "device": mark.device,
            "time_ns": mark.time_ns,
            "base_revision": mark.base_revision,
            "their_revision": mark.their_revision,
        }
        return json.dumps(about).encode()


class Entries:
    """The directory `.drivefs/conflicts`: for each copy a directory with `mine`, `theirs` and `base`.

    A copy has its own name there; of several with one name, all but the first that was seen have their inode's number
    added. The names stay for as long as the mount lives.
    """

    def __init__(self, conflicts: Conflicts, view: View, revisions: Revisions) -> None:
        self._conflicts = conflicts
        self._view = view
        self._revisions = revisions
        self._names: dict[InodeId, bytes] = {}
        self._copies: dict[bytes, InodeId] = {}
        # Names of files in directories that others may not look into would show here: it is for the owner alone.
        self.directory = virtual.Directory(ENTRIES, self._lookup, self._list, mode=0o500)

    def name_of(self, conflict: Conflict) -> bytes:
        """The name of a conflict's directory."""
        copy = conflict.copy.inode
        if copy not in self._names:
            name = conflict.place[1]
            if name in self._copies and self._conflicts.of(self._copies[name]) is None:
                del self._names[self._copies.pop(name)]
            if name in self._copies:
                number = b" %d" % copy
                name = cut_between_letters(name, MAX_NAME_BYTES - len(number)) + number
            self._names[copy] = name
            self._copies[name] = copy
        return self._names[copy]

    def _refresh(self) -> list[Conflict]:
        present = self._conflicts.all()
        kept = {each.copy.inode for each in present}
        for copy in [copy for copy in self._names if copy not in kept]:
            del self._copies[self._names.pop(copy)]
        for each in present:
            self.name_of(each)
        return present

    async def _list(self) -> virtual.Children:
        return [(self.name_of(each), self._entry(each)) for each in self._refresh()]

    async def _lookup(self, name: bytes) -> virtual.Item | None:
        if name not in self._copies:
            self._refresh()
        conflict = self._conflicts.of(self._copies.get(name, NO_INODE))
        return None if conflict is None else self._entry(conflict)

    def _entry(self, conflict: Conflict) -> virtual.Directory:
        key, copy, mark = (ENTRIES, conflict.copy.inode), conflict.copy, conflict.mark
        look_up = self._view.inode
        items: dict[bytes, virtual.Item] = {}
        if copy.kind in SHOWN:
            items[MINE] = virtual.Mirror((*key, MINE), copy.inode, look_up)
        if conflict.theirs and look_up(conflict.theirs).kind in SHOWN:
            items[THEIRS] = virtual.Mirror((*key, THEIRS), conflict.theirs, look_up)
        if conflict.has_base:
            which = Which(mark.base_of or mark.of, mark.base_revision, in_history=not mark.base_of)
            items[BASE] = virtual.Revision((*key, BASE), which, lambda: look_up(copy.inode), self._revisions)

        async def lookup(name: bytes) -> virtual.Item | None:
            return items.get(name)

        async def names() -> virtual.Children:
            """What is there: of the base only the server knows whether it is, or still this user's to see."""
            with contextlib.suppress(errors.Unavailable):
                try:
                    if BASE in items:
                        await items[BASE].prepare()
                except errors.NotFound:
                    del items[BASE]
            return list(items.items())

        return virtual.Directory(key, lookup, names, mode=0o500)
