"""Where each cached block lies: the index of the block cache, in SQLite, with a bounded front in memory.

Owns the two tables and the counting of bytes; touches no block file. Everything here is short and runs on the loop.
Invariants: every row of `blocks` has a row in `units`; the sum of `units.size_bytes` is `used_bytes`; the number of a
unit is never used again, so their order is the order of admission.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

from cache import eviction
from cache.database import Database
from drivefs.protocol.ids import MAX_ID, BlockId

SCHEMA = """
-- What is evicted as one: a block's own file, a segment of small blocks, or a stretch of an adopted file.
CREATE TABLE IF NOT EXISTS units (
    unit INTEGER PRIMARY KEY,        -- grows with every admission; of a segment, also its file's number
    kind INTEGER NOT NULL,           -- block_files.OWN, SEGMENT or ADOPTED
    file INTEGER NOT NULL,           -- adopted: number of the file; else 0
    start INTEGER NOT NULL,          -- adopted: where the stretch begins in the file; else 0
    size_bytes INTEGER NOT NULL,     -- what evicting it frees
    visited INTEGER NOT NULL         -- 1: read since the hand of the eviction last passed
);
CREATE INDEX IF NOT EXISTS units_by_file ON units (file) WHERE file != 0;
CREATE TABLE IF NOT EXISTS blocks (
    block BLOB PRIMARY KEY,          -- BlockId
    unit INTEGER NOT NULL,
    start INTEGER NOT NULL,          -- where it begins in the unit's file
    size INTEGER NOT NULL,           -- bytes of plaintext
    checksum INTEGER                 -- XXH3-64 of the plaintext; null: verify by the id
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS blocks_by_unit ON blocks (unit);
CREATE TABLE IF NOT EXISTS facts (
    name TEXT PRIMARY KEY,           -- hand: unit that the eviction met last; clean: 1 if closed in order
    value INTEGER NOT NULL
) WITHOUT ROWID;
"""
CACHE_KIBIBYTES = 4096
MOST_PLACES = 8192
MOST_VISITS = 1024
PAGE_UNITS = 64


class Unit(NamedTuple):
    """A row of `units`, without its mark."""

    unit: int
    kind: int
    file: int
    start: int
    size_bytes: int


@dataclass(slots=True)
class Place:
    """Where a block lies. `is_verified`: its bytes were seen to be right since the cache was opened.

    `reached` is where the last read of it ended: one that goes back behind it uses the block again.
    """

    block: BlockId
    unit: Unit
    start: int
    size: int
    checksum: int | None
    is_verified: bool = False
    reached: int = 0


class BlockIndex:
    """The index in one database file.

    Raises, from every method:
        errors.CacheError: the database is damaged or cannot be written; the whole cache can be fetched again.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, cache_kibibytes=CACHE_KIBIBYTES)
        self._database.execute_script(SCHEMA)
        self._places: OrderedDict[BlockId, Place] = OrderedDict()
        self._visits: set[int] = set()
        self.was_closed_in_order = self.fact("clean") == 1
        self._set_fact("clean", 0)
        self._hand = self.fact("hand")
        self.used_bytes = self._number("SELECT coalesce(sum(size_bytes), 0) FROM units")
        self._unit_count = self._number("SELECT count(*) FROM units")
        self._next_unit = self._number("SELECT coalesce(max(unit), 0) + 1 FROM units")
        self._next_file = self._number("SELECT coalesce(max(file), 0) + 1 FROM units")

    def close(self) -> None:
        """Remember the marks, say that all is in order, and close."""
        self._remember_visits()
        self._set_fact("clean", 1)
        self._database.close()

    def abandon(self) -> None:
        """Close without saying that all is in order: the next opening looks for itself."""
        self._database.close()

    def is_sound(self) -> bool:
        """Whether SQLite finds its own file in order; takes time in proportion to its size."""
        return self._database.row("PRAGMA quick_check(1)") == ("ok",)

    def fact(self, name: str) -> int:
        """A fact of the cache; 0 if it was never set."""
        row = self._database.row("SELECT value FROM facts WHERE name = ?", (name,))
        return int(cast(int, row[0])) if row else 0

    def _set_fact(self, name: str, value: int) -> None:
        self._database.write("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def _number(self, sql: str, bindings: Sequence[int] = ()) -> int:
        row = self._database.row(sql, bindings)
        return int(cast(int, row[0])) if row else 0

    def find(self, block: BlockId) -> Place | None:
        """Where the block is, or None."""
        place = self._places.get(block)
        if place is not None:
            self._places.move_to_end(block)
            return place
        row = self._database.row(
            "SELECT unit, kind, file, units.start, size_bytes, blocks.start, size, checksum"
            " FROM blocks JOIN units USING (unit) WHERE block = ?",
            (block,),
        )
        if row is None:
            return None
        number = cast("tuple[int, int, int, int, int, int, int, int | None]", row)
        place = Place(block, Unit(*number[:5]), number[5], number[6], number[7])
        self._remember(place)
        return place

    def _remember(self, place: Place) -> None:
        self._places[place.block] = place
        while len(self._places) > MOST_PLACES:
            self._places.popitem(last=False)

    def note_read(self, place: Place, offset: int, length: int) -> None:
        """Count a read; reading once through a block, piece by piece, is what admitted it and not a visit."""
        if offset < place.reached:
            self._visits.add(place.unit.unit)
            if len(self._visits) > MOST_VISITS:
                self._remember_visits()
        place.reached = offset + length

    def _remember_visits(self) -> None:
        with self._database.transaction():
            for unit in self._visits:
                self._database.write("UPDATE units SET visited = 1 WHERE unit = ?", (unit,))
        self._visits.clear()

    def new_unit(self) -> int:
        """A number for a unit, never given before to one that the index still has."""
        self._next_unit += 1
        return self._next_unit - 1

    def new_file(self) -> int:
        """A number for an adopted file."""
        self._next_file += 1
        return self._next_file - 1

    def add(self, places: Iterable[Place]) -> None:
        """Enter blocks and their units in one transaction; a unit that is known already may grow to the size given."""
        added = list(places)
        units = {place.unit.unit: place.unit for place in added}
        growth = new = 0
        with self._database.transaction():
            for unit in units.values():
                known_bytes = self._size_of(unit.unit)
                growth += max(0, unit.size_bytes - known_bytes)
                new += not known_bytes
                self._database.write(
                    "INSERT INTO units VALUES (?, ?, ?, ?, ?, 0)"
                    " ON CONFLICT (unit) DO UPDATE SET size_bytes = max(size_bytes, excluded.size_bytes)",
                    unit,
                )
            for place in added:
                self._database.write(
                    "INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?, ?)",
                    (place.block, place.unit.unit, place.start, place.size, place.checksum),
                )
        self.used_bytes += growth
        self._unit_count += new
        for place in added:
            self._remember(place)

    def _size_of(self, unit: int) -> int:
        return self._number("SELECT size_bytes FROM units WHERE unit = ?", (unit,))

    def forget_block(self, place: Place) -> None:
        """Take one block out and leave its unit."""
        self._database.write("DELETE FROM blocks WHERE block = ? AND unit = ?", (place.block, place.unit.unit))
        self._places.pop(place.block, None)

    def remove_units(self, units: Sequence[int]) -> list[tuple[Unit, BlockId]]:
        """Take units and their blocks out; gives each unit with one of its blocks (empty if it has none)."""
        removed = []
        with self._database.transaction():
            for number in units:
                unit = self.unit(number)
                if unit is None:
                    continue
                blocks = [cast(BlockId, row[0]) for row in self._blocks_of(number)]
                self._database.write("DELETE FROM blocks WHERE unit = ?", (number,))
                self._database.write("DELETE FROM units WHERE unit = ?", (number,))
                removed.append((unit, blocks[0] if blocks else BlockId(b"")))
                for block in blocks:
                    self._places.pop(block, None)
        self.used_bytes -= sum(unit.size_bytes for unit, _ in removed)
        self._unit_count -= len(removed)
        self._visits.difference_update(units)
        return removed

    def _blocks_of(self, unit: int) -> list[tuple[object, ...]]:
        return cast("list[tuple[object, ...]]", self._database.rows("SELECT block FROM blocks WHERE unit = ?", (unit,)))

    def unit(self, number: int) -> Unit | None:
        """A unit by its number."""
        row = self._database.row("SELECT unit, kind, file, start, size_bytes FROM units WHERE unit = ?", (number,))
        return Unit(*cast("tuple[int, int, int, int, int]", row)) if row else None

    def units_of_file(self, file: int) -> list[int]:
        """The units that lie in an adopted file."""
        return [cast(int, row[0]) for row in self._database.rows("SELECT unit FROM units WHERE file = ?", (file,))]

    def newest_segment(self, kind: int) -> Unit | None:
        """The segment that was begun last, if it is still here."""
        sql = "SELECT unit, kind, file, start, size_bytes FROM units WHERE kind = ? ORDER BY unit DESC LIMIT 1"
        row = self._database.row(sql, (kind,))
        return Unit(*cast("tuple[int, int, int, int, int]", row)) if row else None

    def choose_victims(self, wanted_bytes: int, pinned: "frozenset[int] | set[int]") -> list[int]:
        """Units to evict for so many bytes, by `eviction`; may be too few."""
        self._remember_visits()
        decision = eviction.choose(self._behind_hand(pinned), wanted_bytes, self._hand)
        with self._database.transaction():
            for unit in decision.spared:
                self._database.write("UPDATE units SET visited = 0 WHERE unit = ?", (unit,))
            self._set_fact("hand", decision.hand)
        self._hand = decision.hand
        return decision.victims

    def _behind_hand(self, pinned: "frozenset[int] | set[int]") -> Iterator[eviction.Candidate]:
        """Units in the order of `eviction`: the older ones from the hand on, round and round; at last the newest."""
        newest = self._next_unit - self._unit_count // eviction.SPARED_PART
        stretches = ((self._hand, newest), (0, newest), (0, newest), (newest - 1, MAX_ID), (newest - 1, MAX_ID))
        for position, end in stretches:
            rows: Sequence[object] = range(PAGE_UNITS)
            while len(rows) == PAGE_UNITS:
                rows = found = self._database.rows(
                    "SELECT unit, size_bytes, visited FROM units WHERE unit > ? AND unit < ? ORDER BY unit LIMIT ?",
                    (position, end, PAGE_UNITS),
                )
                for row in found:
                    unit, size_bytes, visited = cast("tuple[int, int, int]", row)
                    yield eviction.Candidate(unit, size_bytes, visited == 1, unit in pinned)
                    position = unit

    def pages_of_units(self) -> Iterator[list[Unit]]:
        """All units in order, a page at a time."""
        position = 0
        while True:
            rows = self._database.rows(
                "SELECT unit, kind, file, start, size_bytes FROM units WHERE unit > ? ORDER BY unit LIMIT 1000",
                (position,),
            )
            if not rows:
                return
            page = [Unit(*cast("tuple[int, int, int, int, int]", row)) for row in rows]
            yield page
            position = page[-1].unit

    @property
    def wal_bytes(self) -> int:
        """How much a checkpoint would copy."""
        return self._database.wal_bytes

    def checkpoint(self) -> None:
        """Copy the WAL into the database: for a thread; `finish_checkpoint` completes it on the loop."""
        self._database.checkpoint()

    def finish_checkpoint(self) -> None:
        """Copy what came in the meantime."""
        self._database.finish_checkpoint()
