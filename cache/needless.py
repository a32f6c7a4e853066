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


def drop_entries(database: Database, mutations: Iterable[Mutation]) -> list[DentryState]:
    """Drop the overlay entries that these mutations were the last to touch; gives them as they were."""
    touched = [(parent, name, mutation.n) for mutation in mutations for parent, name in entries(mutation)]
    dropped = database.rows_of_many(
        "DELETE FROM dentries WHERE parent = ? AND name = ? AND op = ? RETURNING parent, name, inode", touched
    )
    return [DentryState(parent, name, inode) for parent, name, inode in dropped]


def drop_inodes(database: Database, inodes: Iterable[InodeId]) -> list[InodeState]:
    """Drop the rows of those inodes that no mutation, no draft and no entry of the overlay needs; gives them."""
    dropped = database.rows_of_many(
        "DELETE FROM inodes WHERE inode = ?1"
        " AND NOT EXISTS (SELECT 1 FROM mutations WHERE inode = ?1)"
        " AND NOT EXISTS (SELECT 1 FROM mutations WHERE other = ?1 AND other != 0)"
        " AND NOT EXISTS (SELECT 1 FROM drafts WHERE inode = ?1)"
        " AND NOT EXISTS (SELECT 1 FROM dentries LEFT JOIN mutations ON mutations.n = dentries.op"
        " WHERE parent = ?1 AND mutations.state IS NOT 4) RETURNING inode, state",
        [(inode,) for inode in inodes],
    )
    return [_shown(InodeId(inode), body) for inode, body in dropped]


def _shown(inode: InodeId, body: bytes) -> InodeState:
    """A state that is being dropped; one that cannot be read looks like no other, and the replica has the right one."""
    try:
        return wire.decode(body, InodeState)
    except ProtocolError:
        return InodeState(inode=inode, kind=InodeKind.FILE, mode=0, nlink=0)
