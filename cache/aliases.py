"""Directories that were found to be others: made here, while another device made one of the same name.

Owns the table `aliases`. The queued mutations that name such a directory as a parent are many and not indexed by it:
their bodies stay as they are until they are sent, and whoever reads them reads the other directory. Invariants: an
alias stands for as long as any mutation may name it; what was sent as it was is never read otherwise, though what it
did is shown in the other directory, until the replica has it.
"""

from cache.database import Database
from cache.effects import renamed
from drivefs.protocol.changes import Create, Mutation
from drivefs.protocol.ids import InodeId

TABLE = """
CREATE TABLE IF NOT EXISTS aliases (
    inode INTEGER PRIMARY KEY,  -- an inode that this device made and nobody else knows, or that was removed elsewhere
    target INTEGER NOT NULL     -- the inode that it is
)
"""


class Aliases:
    """All aliases of one device; used on the event loop, in the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.write(TABLE)
        if database.row("SELECT 1 FROM mutations LIMIT 1") is None:
            database.write("DELETE FROM aliases")
        self._targets = read_aliases(database)

    def add(self, inode: InodeId, target: InodeId) -> None:
        """From now on an inode is another one."""
        target = self._targets.get(target, target)
        for known, before in list(self._targets.items()):
            if before == inode:
                self.add(known, target)
        self._database.write("INSERT OR REPLACE INTO aliases VALUES (?, ?)", (inode, target))
        self._targets[inode] = target

    def actual(self, mutation: Mutation) -> Mutation:
        """What a mutation that was not sent means; what makes an inode makes that one."""
        if not self._targets:
            return mutation
        actual = renamed(mutation, self._targets)
        if isinstance(actual, Create) and actual.inode != mutation.inode:
            actual.inode = mutation.inode
        return actual

    def inode(self, inode: InodeId) -> InodeId:
        """What an id means."""
        return self._targets.get(inode, inode)

    def apart(self, inode: InodeId, other: InodeId) -> InodeId:
        """What an id means that `other` is to mean from now on: itself, if it meant that one until now."""
        if self.inode(inode) == other:
            self.drop(inode)
        return self.inode(inode)

    def is_target(self, inode: InodeId) -> bool:
        """Whether any other id means an inode."""
        return inode in self._targets.values()

    def drop(self, inode: InodeId) -> None:
        """From now on an inode is itself again; the caller has seen to what is queued."""
        self._database.write("DELETE FROM aliases WHERE inode = ?", (inode,))
        self._targets.pop(inode, None)

    def reread(self) -> None:
        """After a rollback."""
        self._targets = read_aliases(self._database)


def read_aliases(database: Database) -> dict[InodeId, InodeId]:
    """What the table says; nothing where there is none yet."""
    if database.row("SELECT 1 FROM sqlite_schema WHERE name = 'aliases'") is None:
        return {}
    return dict(database.rows("SELECT inode, target FROM aliases"))
