"""Where each cached block lies: the index of the block cache, in SQLite, with a bounded front in memory.

Owns the two tables and the counting of bytes; touches no block file. Everything here is short and runs on the loop.
Invariants: every row of `blocks` has a row in `units`; the sum of `units.size_bytes` is `used_bytes`; no two units have
the same turn, and of two blocks' own units the later admitted has the higher number; a unit that is protected is in no
queue that victims are taken from.
"""

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

from cache import errors, eviction
from cache.block_files import ADOPTED
from cache.database import Database
from cache.versions import create_tables
from drivefs.protocol.ids import BlockId

FORMAT = 1
SCHEMA = """
-- What is evicted as one: a block's own file, a segment of small blocks, or a stretch of an adopted file.
CREATE TABLE units (
    unit INTEGER PRIMARY KEY,        -- grows with every admission; of a segment, also its file's number
    kind INTEGER NOT NULL,           -- block_files.OWN, SEGMENT or ADOPTED
    file INTEGER NOT NULL,           -- adopted: number of the file; else 0
    start INTEGER NOT NULL,          -- adopted: where the stretch begins in the file; else 0
    size_bytes INTEGER NOT NULL,     -- what evicting it frees
    queue INTEGER NOT NULL,          -- of the eviction; 0: probation, 1: main, 2: none, it is protected
    turn INTEGER NOT NULL,           -- its place in the queue: lower is older; protected: when that was last confirmed
    visits INTEGER NOT NULL          -- how often it was used again, up to eviction.MOST_VISITS
);
CREATE INDEX units_by_turn ON units (queue, turn);
CREATE INDEX units_by_file ON units (file) WHERE file != 0;
CREATE TABLE blocks (
    block BLOB PRIMARY KEY,          -- BlockId
    unit INTEGER NOT NULL,
    start INTEGER NOT NULL,          -- where it begins in the unit's file
    size INTEGER NOT NULL,           -- bytes of plaintext
    checksum INTEGER                 -- XXH3-64 of the plaintext; null: verify by the id
) WITHOUT ROWID;
CREATE INDEX blocks_by_unit ON blocks (unit);
-- Blocks of their own units that were evicted from probation not long ago.
CREATE TABLE ghosts (
    block BLOB PRIMARY KEY,          -- BlockId
    turn INTEGER NOT NULL            -- when it went, in the count of turns
) WITHOUT ROWID;
CREATE INDEX ghosts_by_turn ON ghosts (turn);
CREATE TABLE facts (
    name TEXT PRIMARY KEY,           -- clean: 1 if the cache was closed in order
    value INTEGER NOT NULL
) WITHOUT ROWID;
"""
CACHE_KIBIBYTES = 2048
MOST_PLACES = 4096
MOST_VISITED = 1024
PAGE_UNITS = 64
MOST_GHOSTS = 20_000
PROBATION, MAIN, PROTECTED = 0, 1, 2


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
        self._see_to_format()
        self._places: OrderedDict[BlockId, Place] = OrderedDict()
        self._visits: Counter[int] = Counter()
        self.was_closed_in_order = self.fact("clean") == 1
        self._set_fact("clean", 0)
        self._may_lack_files = False
        self._count()
        self._next_unit = self._number("SELECT coalesce(max(unit), 0) + 1 FROM units")
        self._next_turn = self._number("SELECT coalesce(max(turn), 0) + 1 FROM units")
        self._next_file = self._number("SELECT coalesce(max(file), 0) + 1 FROM units")

    def _see_to_format(self) -> None:
        """Make the tables. An index of another version of drivefs is as good as none: the blocks' files are there."""
        found = self._number("PRAGMA user_version")
        if found not in (0, FORMAT):
            self._database.close()
            raise errors.Corrupt(f"the index of the block cache has format {found}, this drivefs uses {FORMAT}")
        if not found:
            create_tables(self._database, SCHEMA, FORMAT)

    def _count(self) -> None:
        self.used_bytes = self._number("SELECT coalesce(sum(size_bytes), 0) FROM units")
        self._probation_bytes = self._number("SELECT coalesce(sum(size_bytes), 0) FROM units WHERE queue = 0")
        self.protected_bytes = self._number("SELECT coalesce(sum(size_bytes), 0) FROM units WHERE queue = 2")

    def goes_on(self, error: errors.CacheError) -> bool:
        """Whether the index is still of use: only the disk was full, and nothing in it was changed.

        Files may lie about now that it does not know: the next opening looks for itself.
        """
        if isinstance(error, errors.DiskFull):
            with suppress(errors.CacheError):
                self._may_lack_files = True
                self._visits.clear()
                self._places.clear()
                self._count()
                return True
        return False

    def close(self) -> None:
        """Remember the marks, say that all is in order if it is, and close."""
        self._remember_visits()
        self._set_fact("clean", int(not self._may_lack_files))
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
            self._visits[place.unit.unit] += 1
            if len(self._visits) > MOST_VISITED:
                self._remember_visits()
        place.reached = offset + length

    def _remember_visits(self) -> None:
        with self._database.transaction():
            for unit, count in self._visits.items():
                self._database.write(
                    "UPDATE units SET visits = min(?, visits + ?) WHERE unit = ?", (eviction.MOST_VISITS, count, unit)
                )
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
        units = {place.unit.unit: place for place in added}
        grown = [0, 0, 0]
        with self._database.transaction():
            for place in units.values():
                queue, growth = self._enter_unit(place)
                grown[queue] += growth
            for place in added:
                self._database.write(
                    "INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?, ?)",
                    (place.block, place.unit.unit, place.start, place.size, place.checksum),
                )
        self.used_bytes += sum(grown)
        self._probation_bytes += grown[PROBATION]
        self.protected_bytes += grown[PROTECTED]
        for place in added:
            self._remember(place)

    def _enter_unit(self, place: Place) -> tuple[int, int]:
        """Gives the unit's queue, and by how many bytes it is larger than the index knew."""
        unit = place.unit
        row = self._database.row("SELECT queue, size_bytes FROM units WHERE unit = ?", (unit.unit,))
        if row is not None:
            queue, known_bytes = cast("tuple[int, int]", row)
            size_bytes = max(known_bytes, unit.size_bytes)
            self._database.write("UPDATE units SET size_bytes = ? WHERE unit = ?", (size_bytes, unit.unit))
            return queue, size_bytes - known_bytes
        queue = MAIN if self._is_ghost(place.block) else PROBATION
        self._database.write("INSERT INTO units VALUES (?, ?, ?, ?, ?, ?, ?, 0)", (*unit, queue, self._new_turn()))
        return queue, unit.size_bytes

    def _is_ghost(self, block: BlockId) -> bool:
        if self._database.row("SELECT 1 FROM ghosts WHERE block = ?", (block,)) is None:
            return False
        self._database.write("DELETE FROM ghosts WHERE block = ?", (block,))
        return True

    def _new_turn(self) -> int:
        self._next_turn += 1
        return self._next_turn - 1

    def forget_block(self, place: Place) -> None:
        """Take one block out and leave its unit."""
        self._database.write("DELETE FROM blocks WHERE block = ? AND unit = ?", (place.block, place.unit.unit))
        self._places.pop(place.block, None)

    def remove_units(self, units: Sequence[int]) -> list[tuple[Unit, BlockId]]:
        """Take units and their blocks out; gives each unit with one of its blocks (empty if it has none)."""
        removed: list[tuple[Unit, BlockId]] = []
        removed_bytes = [0, 0, 0]
        with self._database.transaction():
            for number in units:
                unit = self.unit(number)
                if unit is None:
                    continue
                blocks = self._blocks_of(number)
                queue = self._number("SELECT queue FROM units WHERE unit = ?", (number,))
                removed_bytes[queue] += unit.size_bytes
                if queue == PROBATION and len(blocks) == 1:
                    self._database.write("INSERT OR REPLACE INTO ghosts VALUES (?, ?)", (blocks[0], self._next_turn))
                self._database.write("DELETE FROM blocks WHERE unit = ?", (number,))
                self._database.write("DELETE FROM units WHERE unit = ?", (number,))
                removed.append((unit, blocks[0] if blocks else BlockId(b"")))
                for block in blocks:
                    self._places.pop(block, None)
        self.used_bytes -= sum(removed_bytes)
        self._probation_bytes -= removed_bytes[PROBATION]
        self.protected_bytes -= removed_bytes[PROTECTED]
        for number in units:
            self._visits.pop(number, None)
        return removed

    def _blocks_of(self, unit: int) -> list[BlockId]:
        return [
            cast(BlockId, row[0]) for row in self._database.rows("SELECT block FROM blocks WHERE unit = ?", (unit,))
        ]

    def unit(self, number: int) -> Unit | None:
        """A unit by its number."""
        row = self._database.row("SELECT unit, kind, file, start, size_bytes FROM units WHERE unit = ?", (number,))
        return Unit(*cast("tuple[int, int, int, int, int]", row)) if row else None

    def units_of_file(self, file: int) -> list[int]:
        """The units that lie in an adopted file."""
        found = self._database.rows("SELECT unit FROM units WHERE file = ? AND file != 0", (file,))
        return [cast(int, row[0]) for row in found]

    def newest_segment(self, kind: int) -> Unit | None:
        """The segment that was begun last, if it is still here."""
        sql = "SELECT unit, kind, file, start, size_bytes FROM units WHERE kind = ? ORDER BY unit DESC LIMIT 1"
        row = self._database.row(sql, (kind,))
        return Unit(*cast("tuple[int, int, int, int, int]", row)) if row else None

    def choose_victims(self, wanted_bytes: int, limit_bytes: int, pinned: Collection[int]) -> list[int]:
        """Units to evict for so many bytes, by `eviction`; may be too few."""
        self._remember_visits()
        decision = eviction.choose(
            self._queue(PROBATION, pinned),
            self._queue(MAIN, pinned),
            wanted_bytes=wanted_bytes,
            probation_excess_bytes=self._probation_bytes - limit_bytes // eviction.PROBATION_PART,
        )
        self._move(decision.moved)
        self._forget_ghosts()
        return decision.victims

    def protect(self, units: Collection[int], most_bytes: int) -> set[int]:
        """Let these units never be victims, as far as all that are protected stay within `most_bytes`; gives which.

        Those that are protected already are confirmed: `unprotect_before` spares them.
        """
        done: set[int] = set()
        left_probation = 0
        with self._database.transaction():
            for unit in units:
                row = self._database.row("SELECT queue, size_bytes FROM units WHERE unit = ?", (unit,))
                if row is None:
                    continue
                queue, size_bytes = cast("tuple[int, int]", row)
                if queue != PROTECTED:
                    if self.protected_bytes + size_bytes > most_bytes:
                        continue
                    self.protected_bytes += size_bytes
                    left_probation += size_bytes if queue == PROBATION else 0
                turn = self._new_turn()
                self._database.write("UPDATE units SET queue = 2, turn = ? WHERE unit = ?", (turn, unit))
                done.add(unit)
        self._probation_bytes -= left_probation
        return done

    @property
    def now(self) -> int:
        """The turn that comes next: what is protected from now on has this one or a later one."""
        return self._next_turn

    def unprotect_before(self, turn: int, most: int) -> int:
        """Let up to `most` units whose protection was last confirmed before `turn` be victims again; gives how many."""
        rows = self._database.rows(
            "SELECT unit, size_bytes FROM units WHERE queue = 2 AND turn < ? ORDER BY turn LIMIT ?", (turn, most)
        )
        with self._database.transaction():
            for row in rows:
                unit, size_bytes = cast("tuple[int, int]", row)
                self.protected_bytes -= size_bytes
                self._database.write(
                    "UPDATE units SET queue = 1, turn = ?, visits = 0 WHERE unit = ?", (self._new_turn(), unit)
                )
        return len(rows)

    def _queue(self, queue: int, pinned: Collection[int]) -> Iterator[eviction.Candidate]:
        """The units of a queue, oldest first."""
        turn = -1
        while True:
            rows = self._database.rows(
                "SELECT unit, size_bytes, visits, turn FROM units WHERE queue = ? AND turn > ? ORDER BY turn LIMIT ?",
                (queue, turn, PAGE_UNITS),
            )
            for row in rows:
                unit, size_bytes, visits, turn = cast("tuple[int, int, int, int]", row)
                yield eviction.Candidate(unit, size_bytes, visits, unit in pinned)
            if len(rows) < PAGE_UNITS:
                return

    def _move(self, moved: dict[int, int]) -> None:
        """Put units at the end of the main queue, with so many visits."""
        left_probation = 0
        with self._database.transaction():
            for unit, visits in moved.items():
                row = self._database.row("SELECT queue, size_bytes FROM units WHERE unit = ?", (unit,))
                queue, size_bytes = cast("tuple[int, int]", row)
                left_probation += size_bytes if queue == PROBATION else 0
                self._database.write(
                    "UPDATE units SET queue = ?, turn = ?, visits = ? WHERE unit = ?",
                    (MAIN, self._new_turn(), visits, unit),
                )
        self._probation_bytes -= left_probation

    def _forget_ghosts(self) -> None:
        self._database.write("DELETE FROM ghosts WHERE turn < ?", (self._next_turn - MOST_GHOSTS,))

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

    def all_blocks(self) -> Iterator[BlockId]:
        """All blocks in order; they may be removed meanwhile."""
        position = b""
        sql = "SELECT block FROM blocks WHERE block > ? ORDER BY block LIMIT 500"
        while rows := self._database.rows(sql, (position,)):
            yield from (BlockId(block) for (block,) in rows)
            position = rows[-1][0]

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


def tiled(
    index: BlockIndex, file: int, stretches: Sequence[tuple[int, int, BlockId]], allocated: int, *, is_verified: bool
) -> list[Place]:
    """One unit for each block, each with the gap before it; the last with the file's rest: so all of it is counted."""
    places: list[Place] = []
    position = 0
    for offset, length, block in stretches:
        unit = Unit(index.new_unit(), ADOPTED, file, position, offset + length - position)
        places.append(Place(block, unit, offset, length, None, is_verified))
        position = offset + length
    rest = max(0, allocated - position)
    last = places[-1]
    places[-1] = replace(last, unit=last.unit._replace(size_bytes=last.unit.size_bytes + rest))
    return places
