"""What the whole journal holds, at a glance: numbers of mutations, without reading what they say.

Owns the queries that pass over all unsettled mutations, however many wait: 10,000 take 2 to 4 ms. Invariant: nothing is
found here by the inodes that a body names, since those may stand for others (`aliases`).
"""

from collections.abc import Collection

from cache.database import Database
from drivefs.protocol import wire
from drivefs.protocol.ids import OpNumber

_UNSETTLED = "SELECT n FROM mutations WHERE state IN (0, 1)"
_TAKES_A_NAME = "(instr(body, ?) OR instr(body, ?))"
_TAKING = [b"type" + wire.encode(tag) for tag in ("unlink", "rename")]


class Outline:
    """All unsettled mutations of one journal; used on the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def unsettled(self, limit: int) -> list[OpNumber]:
        """The numbers of all mutations without a final answer, or of so many of the oldest, in order."""
        return [n for (n,) in self._database.rows(f"{_UNSETTLED} ORDER BY n LIMIT ?", (limit,))]

    def taking(self, names: Collection[bytes], limit: int) -> list[OpNumber]:
        """The unsettled mutations that may take one of these names away from something, in whatever directory.

        At most `limit` of them; there may be others among them, which have the bytes of such a name somewhere else.
        """
        keys = [b"name" + wire.encode(name) for name in names]
        named = " OR ".join(["instr(body, ?)"] * len(keys))
        found = self._database.rows(
            f"{_UNSETTLED} AND ({named}) AND {_TAKES_A_NAME} ORDER BY n LIMIT ?", (*keys, *_TAKING, limit)
        )
        return [n for (n,) in found]
