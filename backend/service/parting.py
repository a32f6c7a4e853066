"""Files that have names inside and outside of what is shared: those outside become files of their own.

Owns that step. The names outside stay names of one file, with the content, attributes and history of the old one up to
now; the inode itself goes with the share. No content is stored anew: a revision more names it. Invariant: it is part of
the commit by which the drive shares.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection

from backend.service import ids, own_commits
from backend.service.commit.batch import ChangeRow
from backend.service.commit.state import State
from backend.service.commit.wants import Wants
from backend.service.ground import Ground
from backend.service.rows import FILE, Place
from backend.service.workspaces import Access
from drivefs.protocol.ids import InodeId, LineageId, Seq

PART = "part"
"""Kind of the change that a name leads to a file of its own (`inode`) now, and no more to `other_inode`."""


class Outside(NamedTuple):
    """A name outside of what is shared, of an inode that is inside."""

    inode: InodeId
    place: Place


def part(connection: Connection, ground: Ground, home: Access, names: Sequence[Outside], change: ChangeRow) -> Access:
    """Give these names files of their own, in a commit that has `change` too; the drive is locked by the caller."""
    when = own_commits.stamp(connection, ground, home)
    inodes, parents = {each.inode for each in names}, {each.place.parent for each in names}
    wants = Wants(
        inodes=inodes | parents,
        parents=parents,
        places={each.place for each in names},
        with_xattrs=inodes,
        with_content=inodes,
    )
    state = own_commits.load(connection, ground, home, wants, when.time_ns)
    by_inode: dict[InodeId, list[Place]] = {}
    for inode, place in names:
        by_inode.setdefault(inode, []).append(place)
    changes = [change]
    for inode, places in by_inode.items():
        own = _copied(state, inode, ids.take_inode(connection), len(places))
        for place in places:
            state.tree.names[place] = own
            changes.append(ChangeRow(PART, own, place.parent, place.name, other_inode=inode))
    return own_commits.write(connection, home, state, changes, when)


def _copied(state: State, inode: InodeId, own: InodeId, name_count: int) -> InodeId:
    """A new inode that is like another one, which loses so many names to it."""
    before = state.tree.edit(inode)
    before.nlink -= name_count
    row = copy.copy(before)
    row.inode, row.nlink = own, name_count
    state.tree.add_inode(row)
    state.xattrs[own] = {
        name: value._replace(from_seq=Seq(0)) for name, value in state.loaded_xattrs.get(inode, {}).items()
    }
    if row.kind == FILE and row.revision:
        state.contents.current[own] = msgspec.structs.replace(state.contents.current[inode], inode=own)
        state.lineages.fork(row)
    elif row.kind == FILE:
        row.lineage = LineageId(own)
    return own
