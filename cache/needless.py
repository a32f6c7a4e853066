"""Which rows of the overlay nothing needs any more.

Owns the two questions, and the deleting; when they are asked is the journal's decision. What is kept on this device
only (`RowState.IGNORED`) keeps its own rows, and not those of the directory that it is in: what other devices do to
that directory shows here all the time.
"""

from collections.abc import Iterable

from cache.database import Database
from cache.effects import entries
from drivefs.protocol import wire
from drivefs.protocol.changes import Mutation
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import DentryState, InodeKind, InodeState


def drop_entries(database: Database, mutation: Mutation) -> list[DentryState]:
    """Drop the overlay entries that this mutation was the last to touch; gives them as they were."""
    dropped = []
    for parent, name in entries(mutation):
        found = database.row(
            "DELETE FROM dentries WHERE parent = ? AND name = ? AND op = ? RETURNING inode", (parent, name, mutation.n)
        )
        if found is not None:
            dropped.append(DentryState(parent, name, found[0]))
    return dropped


def drop_inodes(database: Database, inodes: Iterable[InodeId]) -> list[InodeState]:
    """Drop the rows of those inodes that no mutation, no draft and no entry of the overlay needs; gives them."""
    dropped = []
    for inode in inodes:
        found = database.row(
            "DELETE FROM inodes WHERE inode = ?1"
            " AND NOT EXISTS (SELECT 1 FROM mutations WHERE inode = ?1)"
            " AND NOT EXISTS (SELECT 1 FROM mutations WHERE other = ?1 AND other != 0)"
            " AND NOT EXISTS (SELECT 1 FROM drafts WHERE inode = ?1)"
            " AND NOT EXISTS (SELECT 1 FROM dentries LEFT JOIN mutations ON mutations.n = dentries.op"
            " WHERE parent = ?1 AND mutations.state IS NOT 4) RETURNING state",
            (inode,),
        )
        if found is not None:
            dropped.append(_shown(inode, found[0]))
    return dropped


def _shown(inode: InodeId, body: bytes) -> InodeState:
    """A state that is being dropped; one that cannot be read looks like no other, and the replica has the right one."""
    try:
        return wire.decode(body, InodeState)
    except ProtocolError:
        return InodeState(inode=inode, kind=InodeKind.FILE, mode=0, nlink=0)
