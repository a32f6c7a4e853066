"""The part of a tree that a batch touches, in memory; pure.

Owns inodes and names as loaded and as the batch has left them so far, and the bookkeeping that every change of a name
brings: link counts and times. It decides nothing: callers check first. Invariants: what was loaded stays unchanged
beside what became of it, so that the difference can be written; a directory has one name; `nlink` of a directory is 2
plus its subdirectories, or 0.
"""

import copy
from dataclasses import dataclass, field
from typing import NamedTuple

from backend.service.rows import DIRECTORY, DentryRow, InodeRow, Place
from drivefs.protocol.ids import NO_INODE, InodeId


class Link(NamedTuple):
    """Where what hangs in a drive as a share is kept."""

    account: int | None
    workspace: int | None


NOWHERE = Link(None, None)
"""Of a name that leads to an inode of its own workspace."""


def is_link(row: DentryRow) -> bool:
    """Whether a name leads into another workspace."""
    return row.target_workspace is not None


@dataclass(slots=True)
class Tree:
    """A working copy. All that a mutation may name has been loaded: what is not here does not exist.

    `child_counts` and `parents` (of directories, up to the root) are loaded only where a mutation needs them.
    """

    loaded_inodes: dict[InodeId, InodeRow]
    loaded_names: dict[Place, DentryRow]
    child_counts: dict[InodeId, int]
    parents: dict[InodeId, InodeId]
    links: dict[InodeId, Link] = field(default_factory=dict)
    """Roots of shares to which names of the batch lead; they are among the inodes, and never written."""
    inodes: dict[InodeId, InodeRow] = field(init=False)
    edited: dict[InodeId, InodeRow] = field(init=False, default_factory=dict)
    names: dict[Place, InodeId] = field(init=False, default_factory=dict)
    last_places: dict[InodeId, Place] = field(init=False, default_factory=dict)
    """Of each inode the loaded name that was removed last: its place in the trash when no name is left."""

    def __post_init__(self) -> None:
        self.inodes = dict(self.loaded_inodes)

    def living(self, inode: InodeId) -> InodeRow | None:
        """An inode that has a name."""
        row = self.inodes.get(inode)
        return row if row is not None and row.nlink > 0 else None

    def at(self, place: Place) -> InodeId:
        """What a name leads to; NO_INODE if it is free."""
        inode = self.names.get(place)
        if inode is not None:
            return inode
        loaded = self.loaded_names.get(place)
        return loaded.inode if loaded is not None else NO_INODE

    def edit(self, inode: InodeId) -> InodeRow:
        """A row that may be changed."""
        row = self.edited.get(inode)
        if row is None:
            row = copy.copy(self.inodes[inode])
            self.edited[inode] = self.inodes[inode] = row
        return row

    def add_inode(self, row: InodeRow) -> None:
        """A new inode, not yet under its name."""
        self.edited[row.inode] = self.inodes[row.inode] = row

    def add_name(self, place: Place, row: InodeRow, time_ns: int) -> None:
        """Put an inode under a free name; its own link count is the caller's affair."""
        self.names[place] = row.inode
        self._change_directory(place.parent, time_ns, +1, is_directory=row.kind == DIRECTORY)
        if row.kind == DIRECTORY:
            self.parents[row.inode] = place.parent

    def remove_name(self, place: Place, row: InodeRow, time_ns: int) -> None:
        """Free a name that leads to an inode; its own link count is the caller's affair."""
        self.names[place] = NO_INODE
        loaded = self.loaded_names.get(place)
        if loaded is not None and loaded.inode == row.inode:
            self.last_places[row.inode] = place
        self._change_directory(place.parent, time_ns, -1, is_directory=row.kind == DIRECTORY)

    def drop_link(self, inode: InodeId, time_ns: int) -> InodeRow:
        """Count one name less for an inode; a directory has only one."""
        row = self.edit(inode)
        row.nlink = 0 if row.kind == DIRECTORY else row.nlink - 1
        row.ctime_ns = max(row.ctime_ns, time_ns)
        return row

    def child_count(self, directory: InodeId) -> int:
        """How many names a directory holds; only for those loaded with their count, or made in this batch."""
        return self.child_counts.get(directory, 0)

    def is_within(self, directory: InodeId, ancestor: InodeId) -> bool:
        """Whether a directory is another one or lies below it."""
        while directory != ancestor:
            above = self.parents.get(directory)
            if above is None:
                return False
            directory = above
        return True

    def _change_directory(self, directory: InodeId, time_ns: int, sign: int, *, is_directory: bool) -> None:
        row = self.edit(directory)
        row.mtime_ns = row.ctime_ns = max(row.ctime_ns, time_ns)
        row.nlink += sign * is_directory
        self.child_counts[directory] = self.child_counts.get(directory, 0) + sign
