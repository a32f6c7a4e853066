"""Numbers that are never given out twice, not even after a crash: of mutations, drafts and staging files.

Owns the table `counters`. A stretch of numbers is reserved in the database before the first of it is given out, so
that taking one costs no row; what a crash leaves of a stretch is skipped. Invariant: every number given out lies below
the reservation of the transaction that used it.
"""

from cache.database import Database

STRETCH = 4096


class Counter:
    """One such sequence; begins at 1."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name
        self._reserved = self._stored()
        self._next = max(1, self._reserved)

    def _stored(self) -> int:
        row = self._database.row("SELECT reserved FROM counters WHERE name = ?", (self._name,))
        return row[0] if row else 0

    @property
    def upcoming(self) -> int:
        """The number that `take` would give."""
        return self._next

    def take(self) -> int:
        """The next number; durable with the transaction that uses it."""
        number = self._next
        if number >= self._reserved:
            reserved = number + STRETCH
            self._database.write(
                "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET reserved = excluded.reserved",
                (self._name, reserved),
            )
            self._reserved = reserved
        self._next = number + 1
        return number

    def reread(self) -> None:
        """After a rollback: the reservation may be gone; numbers taken stay taken."""
        self._reserved = self._stored()
