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

from backend.service import batches, ids, workspaces
from backend.service.commit.batch import ChangeRow, Verdict
from backend.service.commit.loading import Loader
from backend.service.commit.state import Author, State
from backend.service.commit.wants import Wants
from backend.service.commit.writing import Writer
from backend.service.ground import Ground
from backend.service.rows import FILE, Place
from backend.service.workspaces import Access, Stamp
from drivefs.protocol.ids import COMMIT_ID_BYTES, CommitId, Epoch, InodeId, LineageId, Seq

PART = "part"
"""Kind of the change that a name leads to a file of its own (`inode`) now, and no more to `other_inode`."""


class Outside(NamedTuple):
    """A name outside of what is shared, of an inode that is inside."""

    inode: InodeId
    place: Place


def part(connection: Connection, ground: Ground, home: Access, names: Sequence[Outside], change: ChangeRow) -> Access:
    """Give these names files of their own, in a commit that has `change` too; the drive is locked by the caller."""
    last_ns = workspaces.stamp_at(connection, home, home.head_seq).time_ns
    stamp = Stamp(CommitId(ground.random_bytes(COMMIT_ID_BYTES)), max(ground.now_ns(), last_ns + 1))
    state = _load(connection, ground, home, names, stamp.time_ns)
    by_inode: dict[InodeId, list[Place]] = {}
    for inode, place in names:
        by_inode.setdefault(inode, []).append(place)
    changes = [change]
    for inode, places in by_inode.items():
        own = _copied(state, inode, ids.take_inode(connection), len(places))
        for place in places:
            state.tree.names[place] = own
            changes.append(ChangeRow(PART, own, place.parent, place.name, other_inode=inode))
    Writer(connection, home.account, state).write_commit(Verdict(changes=changes), stamp)
    return workspaces.at_head(home, state.author.seq)


def _load(connection: Connection, ground: Ground, home: Access, names: Sequence[Outside], now_ns: int) -> State:
    author = Author(
        workspace=home.workspace,
        user=home.user,
        device=ids.BACKEND_DEVICE,
        epoch=Epoch(0),
        may_write=True,
        seq=Seq(home.head_seq + 1),
    )
    inodes, parents = {each.inode for each in names}, {each.place.parent for each in names}
    wants = Wants(
        inodes=inodes | parents,
        parents=parents,
        places={each.place for each in names},
        with_xattrs=inodes,
        with_content=inodes,
    )
    figures = batches.figures_of(connection, home.account, ground)
    loader = Loader(connection, home.account, author, now_ns)
    return loader.load(wants, figures, lambda: LineageId(ids.random_id(ground.random_bytes)))


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
