"""What the journal has of files that a rule keeps on this device: questions about rows in the state `IGNORED`.

Owns the queries only. An inode is ignored as long as its creation is in that state; all its other mutations are then
too. Everything is asked of the database each time, so a transaction that fails leaves nothing to put right; but as long
as nothing was ever ignored, which is so for most, nothing is asked.
"""

from collections.abc import Iterator

from cache.database import Database
from cache.drafts import PLACE_BITS
from cache.effects import outcome
from drivefs.protocol import wire
from drivefs.protocol.ids import NO_INODE, InodeId, OpNumber

PAGE_ROWS = 500
_WHERE = "FROM mutations WHERE state = 4"


class Ignored:
    """The ignored inodes of one journal; used on the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._may_be = self.has_any()

    def expect(self) -> None:
        """A row in the state `IGNORED` is about to come."""
        self._may_be = True

    def has(self, inode: InodeId) -> bool:
        """Whether an inode is known on this device only."""
        if not self._may_be:
            return False
        return self._database.row(f"SELECT 1 {_WHERE} AND inode = ? LIMIT 1", (inode,)) is not None

    def has_any(self) -> bool:
        """Whether there is one at all."""
        return self._database.row(f"SELECT 1 {_WHERE} LIMIT 1") is not None

    def count(self) -> int:
        """How many there are."""
        row = self._database.row(f"SELECT count(DISTINCT inode) {_WHERE}")
        return row[0] if row else 0

    def inodes(self, after: InodeId, limit: int) -> list[InodeId]:
        """The first so many above an id, in order."""
        rows = self._database.rows(
            f"SELECT DISTINCT inode {_WHERE} AND inode > ? ORDER BY inode LIMIT ?", (after, limit)
        )
        return [InodeId(inode) for (inode,) in rows]

    def all(self) -> Iterator[InodeId]:
        """All of them, in order; read by pages, so they may come and go."""
        after = NO_INODE
        while inodes := self.inodes(after, PAGE_ROWS):
            yield from inodes
            after = inodes[-1]

    def drafts(self) -> tuple[int, int]:
        """How many of them have content, and how many bytes of it were written."""
        row = self._database.row(
            f"SELECT count(*), total((SELECT sum(length) FROM records WHERE id > place << {PLACE_BITS}"
            f" AND id <= (place + 1) << {PLACE_BITS})) FROM drafts WHERE inode IN (SELECT inode {_WHERE})"
        )
        return (row[0], int(row[1])) if row else (0, 0)

    def others(self) -> list[tuple[InodeId, int]]:
        """All other inodes that have unpublished content, and how many bytes of it were written."""
        return [
            (InodeId(inode), int(length))
            for inode, length in self._database.rows(
                f"SELECT inode, (SELECT total(length) FROM records WHERE id > place << {PLACE_BITS}"
                f" AND id <= (place + 1) << {PLACE_BITS}) FROM drafts WHERE inode NOT IN (SELECT inode {_WHERE})"
            )
        ]

    def earlier(self, parent: InodeId, name: bytes, inode: InodeId) -> tuple[OpNumber, InodeId] | None:
        """The last mutation about an inode that changed a name, and what it made the name lead to; None: none did."""
        rows = self._database.rows(
            "SELECT n, body FROM mutations WHERE inode = ?1 UNION ALL"
            " SELECT n, body FROM mutations WHERE other = ?1 AND other != 0",
            (inode,),
        )
        found = None
        for n, body in sorted(rows):
            for place, called, target in outcome(wire.decode_mutation(body)):
                if (place, called) == (parent, name):
                    found = OpNumber(n), target
        return found
