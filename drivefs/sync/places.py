"""Where inodes are in the tree that this mount shows: names of inodes, and ways from the root to directories.

Owns nothing: it asks the overlay and the replica, and knows what they know. Invariant: nothing here waits, so a
directory of which nothing is known here has no way.
"""

from collections.abc import Callable
from typing import NamedTuple

from cache.overlay import MISSING
from cache.workspace import LocalState
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeState

MAX_DEPTH = 4096
"""More than any path has: a longer way is a circle in what is known here."""


class Step(NamedTuple):
    """One name on a way, and the directory that it leads to."""

    parent: InodeId
    name: bytes
    inode: InodeId


Way = tuple[Step, ...]


def path_of(way: Way, name: bytes = b"") -> bytes:
    """A way, and a name at its end, as a path relative to the root."""
    return b"/".join([*(step.name for step in way), *([name] if name else [])])


class Places:
    """The tree as it is now; the root is at the end of the empty way."""

    def __init__(self, local: LocalState, root: InodeId) -> None:
        self._local = local
        self._root = root

    def state(self, inode: InodeId) -> InodeState | None:
        """The state of an inode that is known here."""
        return self._local.journal.overlay.inode(inode) or self._local.replica.inode(inode)

    def names_of(self, inode: InodeId) -> list[tuple[InodeId, bytes]]:
        """The known names of an inode, own ones first."""
        overlay = self._local.journal.overlay
        own = overlay.names_of(inode)
        others = self._local.replica.names_of(inode)
        return own + [name for name in others if overlay.dentry(*name) is MISSING]

    def way_to(self, directory: InodeId) -> Way | None:
        """The way from the root to a directory, or None if it is not known here."""
        return self.ways().to(directory)

    def path_of(self, place: tuple[InodeId, bytes]) -> bytes:
        """What people are told that a name is: its path, or that at the backend where own changes took the way away."""
        parent, name = place
        way = self.way_to(parent)
        if way is None:
            way = Ways(self._local.replica.names_of, self._root).to(parent)
        return name if way is None else path_of(way, name)

    def is_reached(self, inode: InodeId) -> bool:
        """Whether the backend has a way from the root to an inode, as far as that is known here."""
        names_of = self._local.replica.names_of
        ways = Ways(names_of, self._root)
        return any(ways.to(parent) is not None for parent, _ in names_of(inode))

    def called(self, inode: InodeId) -> bytes:
        """What people are told that an inode is: its path as far as it is known here."""
        names = self.names_of(inode)
        return self.path_of(names[0]) if names else b"inode %d" % inode

    def ways(self) -> "Ways":
        """Ways of the tree as it is now, for one moment: what was found out is remembered."""
        return Ways(self.names_of, self._root)


class Ways:
    """Ways to many directories, each part found out once."""

    def __init__(self, names_of: Callable[[InodeId], list[tuple[InodeId, bytes]]], root: InodeId) -> None:
        self._names_of = names_of
        self._known: dict[InodeId, Way | None] = {root: ()}

    def to(self, directory: InodeId) -> Way | None:
        """The way from the root to a directory, or None if it is not known here."""
        climbed: list[Step] = []
        while directory not in self._known:
            names = self._names_of(directory)
            if not names or len(climbed) > MAX_DEPTH:
                self._known[directory] = None
                break
            climbed.append(Step(*names[0], directory))
            directory = names[0][0]
        way = self._known[directory]
        for step in reversed(climbed):
            way = None if way is None else (*way, step)
            self._known[step.inode] = way
        return way
