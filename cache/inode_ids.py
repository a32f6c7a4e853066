"""Inode ids that the server handed to this device, and which of them were given out.

Owns the table `id_ranges`. Ids are reserved a stretch at a time, as in `counters`; what a crash leaves of a stretch is
never used. Invariant: an id is given out at most once in the life of the device.
"""

from cache.database import Database
from cache.errors import OutOfIds
from cache.sealing import is_sealed, row_digest
from drivefs.protocol.ids import ID_RANGE_LENGTH, InodeId

STRETCH = 1024


class InodeIds:
    """The ranges; the lowest one that has ids left is used first."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._start = 0
        self._next = 0
        self._reserved = 0

    def allocate(self) -> InodeId:
        """An id for a new inode; durable with the transaction that uses it.

        Raises:
            OutOfIds: none is left.
            Corrupt: a range does not verify.
        """
        if self._next >= self._reserved:
            self._reserve()
        self._next += 1
        return InodeId(self._next - 1)

    def _reserve(self) -> None:
        if self._next and self._next < self._start + ID_RANGE_LENGTH:
            start, following = self._start, self._next
        else:
            start, following = self._first_usable()
        reserved = min(following + STRETCH, start + ID_RANGE_LENGTH)
        self._put(start, reserved)
        self._start, self._next, self._reserved = start, following, reserved

    def _first_usable(self) -> tuple[int, int]:
        row = self._database.row(
            "SELECT start, next, digest FROM id_ranges WHERE next < start + ? AND start != ? ORDER BY start LIMIT 1",
            (ID_RANGE_LENGTH, self._start),
        )
        if row is None:
            raise OutOfIds("No inode id is left for new files: connect to the server once, so that it hands out more.")
        if not is_sealed(row[2], b"", row[0], row[1]):
            raise self._database.rot(f"the range of inode ids at {row[0]} does not match its checksum")
        return row[0], row[1]

    def _put(self, start: int, following: int) -> None:
        self._database.write(
            "INSERT OR REPLACE INTO id_ranges VALUES (?, ?, ?)", (start, following, row_digest(b"", start, following))
        )

    def add_range(self, start: InodeId) -> None:
        """Take over a range from the server; one that is here already stays as it is."""
        self._database.write(
            "INSERT OR IGNORE INTO id_ranges VALUES (?, ?, ?)", (start, start, row_digest(b"", start, start))
        )

    def drop_ranges(self) -> None:
        """Forget all ranges: they belong to another epoch."""
        self._database.write("DELETE FROM id_ranges")
        self._start = self._next = self._reserved = 0

    def drop_range_of(self, inode: InodeId) -> None:
        """Forget the range that an id is of, if it is here."""
        start = inode - inode % ID_RANGE_LENGTH
        self._database.write("DELETE FROM id_ranges WHERE start = ?", (start,))
        if self._start == start:
            self._start = self._next = self._reserved = 0

    def left(self) -> int:
        """How many ids can be given out before the server has to be asked."""
        row = self._database.row("SELECT coalesce(sum(start + ? - next), 0) FROM id_ranges", (ID_RANGE_LENGTH,))
        return (row[0] if row else 0) + self._reserved - self._next

    def rolled_back(self) -> None:
        """A rollback may have taken back the reservation; ids that were given out stay so."""
        row = self._database.row("SELECT next FROM id_ranges WHERE start = ?", (self._start,))
        self._reserved = row[0] if row else 0
        if not row:
            self._start = self._next = 0
