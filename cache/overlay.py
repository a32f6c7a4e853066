"""The tables that shadow the replica: inodes and dentries as this device's own pending changes make them.

Owns their rows; what is forgotten when is the journal's decision. Invariants: a row stands for as long as a mutation
that is not forgotten, or a draft, needs it; each row verifies when it is read.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from cache.database import Database, json_list
from cache.effects import outcome
from cache.schema import IS_MARKED
from cache.sealing import is_sealed, row_digest
from drivefs.protocol import wire
from drivefs.protocol.changes import Mutation
from drivefs.protocol.ids import NO_INODE, NO_OP, InodeId, OpNumber
from drivefs.protocol.model import InodeState


class Missing(enum.Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""Nothing is known of a name here: neither that it exists nor that it does not."""


class Removal(NamedTuple):
    """A mutation that took a name away, and the inode that the name led to."""

    op: OpNumber
    inode: InodeId


class Overlay:
    """Rows of the overlay; every method is one statement or two."""

    def __init__(self, database: Database, actual: Callable[[Mutation], Mutation] = lambda mutation: mutation) -> None:
        """`actual` says what a mutation of the journal means."""
        self._database = database
        self._actual = actual

    def inode(self, inode: InodeId) -> InodeState | None:
        """The state of an inode that local changes touched, or None; `nlink` 0 is a removed one.

        Raises:
            Corrupt: the row does not verify.
        """
        row = self._database.row("SELECT op, state, digest FROM inodes WHERE inode = ?", (inode,))
        return None if row is None else self._decoded(inode, *row)

    def _decoded(self, inode: InodeId, op: OpNumber, state: bytes, digest: int) -> InodeState:
        if not is_sealed(digest, state, inode, op):
            raise self._database.rot(f"the local state of inode {inode} does not match its checksum")
        return wire.decode(state, InodeState)

    def inodes(self, wanted: Sequence[InodeId]) -> list[InodeState]:
        """The states of those of many inodes that local changes touched, in no order.

        Raises:
            Corrupt: a row does not verify.
        """
        rows = self._database.rows(
            "SELECT inode, op, state, digest FROM inodes WHERE inode IN (SELECT value FROM json_each(?))",
            (json_list(wanted),),
        )
        return [self._decoded(*row) for row in rows]

    def has_inodes(self) -> bool:
        """Whether local changes touched any inode at all."""
        return self._database.row("SELECT 1 FROM inodes LIMIT 1") is not None

    def marked(self) -> list[InodeId]:
        """The inodes that local changes touched and that carry the mark of a conflict copy, perhaps others too."""
        return [InodeId(inode) for (inode,) in self._database.rows(f"SELECT inode FROM inodes WHERE {IS_MARKED}")]

    def put_inode(self, state: InodeState, op: OpNumber) -> None:
        """Set the state of an inode; `op` is the mutation that made it so, or `NO_OP`: the row keeps its op."""
        inode = state.inode
        op = op or self.op_of_inode(inode)
        body = wire.encode(state)
        self._database.write(
            "INSERT INTO inodes VALUES (?, ?, ?, ?) ON CONFLICT (inode) DO UPDATE"
            " SET op = excluded.op, state = excluded.state, digest = excluded.digest",
            (inode, op, body, row_digest(body, inode, op)),
        )

    def drop_inode(self, inode: InodeId) -> None:
        """Let the replica's state show again."""
        self._database.write("DELETE FROM inodes WHERE inode = ?", (inode,))

    def op_of_inode(self, inode: InodeId) -> OpNumber:
        """The mutation that touched an inode last; `NO_OP`: none, or only a draft."""
        row = self._database.row("SELECT op FROM inodes WHERE inode = ?", (inode,))
        return row[0] if row else NO_OP

    def dentry(self, parent: InodeId, name: bytes) -> InodeId | Missing | None:
        """What a name leads to: None says that it is gone, MISSING that local changes did not touch it.

        Raises:
            Corrupt: the row does not verify.
        """
        row = self._database.row("SELECT inode, op, digest FROM dentries WHERE parent = ? AND name = ?", (parent, name))
        if row is None:
            return MISSING
        inode, op, digest = row
        if not is_sealed(digest, name, parent, inode, op):
            raise self._database.rot(f"the local entry {name!r} of directory {parent} does not match its checksum")
        return inode or None

    def put_dentry(self, parent: InodeId, name: bytes, inode: InodeId, op: OpNumber) -> None:
        """Let a name lead to an inode, or to `NO_INODE`: it is gone."""
        self._database.write(
            "INSERT INTO dentries VALUES (?, ?, ?, ?, ?) ON CONFLICT (parent, name) DO UPDATE"
            " SET inode = excluded.inode, op = excluded.op, digest = excluded.digest",
            (parent, name, inode, op, row_digest(name, parent, inode, op)),
        )

    def drop_dentry(self, parent: InodeId, name: bytes) -> None:
        """Let the replica's entry show again."""
        self._database.write("DELETE FROM dentries WHERE parent = ? AND name = ?", (parent, name))

    def op_of_dentry(self, parent: InodeId, name: bytes) -> OpNumber:
        """The mutation that touched a name last; `NO_OP`: none."""
        row = self._database.row("SELECT op FROM dentries WHERE parent = ? AND name = ?", (parent, name))
        return row[0] if row else NO_OP

    def children(self, parent: InodeId) -> list[tuple[bytes, InodeId]]:
        """All touched names of a directory in byte order; `NO_INODE` is a tombstone.

        Raises:
            Corrupt: a row does not verify.
        """
        found = []
        for name, inode, op, digest in self._database.rows(
            "SELECT name, inode, op, digest FROM dentries WHERE parent = ? ORDER BY name", (parent,)
        ):
            if not is_sealed(digest, name, parent, inode, op):
                raise self._database.rot(f"a local entry of directory {parent} does not match its checksum")
            found.append((name, inode))
        return found

    def removal_of(self, parent: InodeId, name: bytes) -> OpNumber:
        """The mutation that took a name away, as far as local changes did and nothing has it since; else `NO_OP`."""
        row = self._database.row("SELECT op FROM dentries WHERE parent = ? AND name = ? AND inode = 0", (parent, name))
        return row[0] if row else NO_OP

    def removed_in(self, parent: InodeId) -> list[Removal]:
        """The names of a directory that unsent local changes took away, and what they led to."""
        rows = self._database.rows(
            "SELECT dentries.op, mutations.inode FROM dentries JOIN mutations ON mutations.n = dentries.op"
            " WHERE dentries.parent = ? AND dentries.inode = 0 AND mutations.state = 0",
            (parent,),
        )
        return [Removal(*row) for row in rows]

    def names_of(self, inode: InodeId) -> list[tuple[InodeId, bytes]]:
        """The touched names that lead to an inode, in order.

        Each was made by a mutation about this inode that is still in the journal: no index of entries is needed.
        """
        bodies = self._database.rows(
            "SELECT body FROM mutations WHERE inode = ?1 UNION ALL"
            " SELECT body FROM mutations WHERE other = ?1 AND other != 0",
            (inode,),
        )
        made = {
            (parent, name)
            for (body,) in bodies
            for parent, name, target in outcome(self._actual(wire.decode_mutation(body)))
            if target == inode != NO_INODE
        }
        return sorted(entry for entry in made if self.dentry(*entry) == inode)
