"""Goes through the rows of the journal and tells which do not verify: for recovery and for the local check.

Owns the reading of whole tables, by pages, and the checksum of each table's rows. Changes nothing.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from cache.database import Database, Row
from cache.drafts import PLACE_BITS, Record
from cache.sealing import digest, is_sealed
from cache.staging import StagedRange

PAGE_ROWS = 500

PLAIN = "iif(typeof({0}) = 'text', CAST({0} AS BLOB), {0})"
"""A column, text as bytes: damage may have made text of anything."""

LAST_FILE = "SELECT max(staging_file) FROM records WHERE typeof(staging_file) = 'integer'"
"""The highest number of a staging file that any record names."""


StagingReader = Callable[[StagedRange], bytes | None]
"""Gives the bytes of a range as they are, or None if the file is gone or too short."""


class Table(NamedTuple):
    """How the rows of one table are read: columns, how many of the first are its key, and the proof of a row."""

    name: str
    columns: str
    key_count: int
    verifies: Callable[[Row], bool]


class BadRow(NamedTuple):
    """A row that does not verify."""

    table: str
    key: Row
    columns: Row


def _mutation_verifies(row: Row) -> bool:
    n, state, seq, revision, status, reason, body, found, mark, *subjects = row
    if not (
        isinstance(status, bytes) and isinstance(reason, bytes) and all(isinstance(each, int) for each in subjects)
    ):
        return False
    return is_sealed(found, body, n) and is_sealed(mark, status + reason, n, state, seq, revision)


TABLES = (
    Table("inodes", "inode, op, state, digest", 1, lambda row: is_sealed(row[3], row[2], row[0], row[1])),
    Table(
        "dentries",
        "parent, name, inode, op, digest",
        2,
        lambda row: is_sealed(row[4], row[1], row[0], row[2], row[3]),
    ),
    Table(
        "mutations", "n, state, seq, revision, status, reason, body, digest, mark, inode, other", 1, _mutation_verifies
    ),
    Table("drafts", "inode, place, state, digest", 1, lambda row: is_sealed(row[3], row[2], row[0], row[1])),
    Table("bases", "inode, blocks, digest", 1, lambda row: is_sealed(row[2], row[1], row[0])),
    Table("id_ranges", "start, next, digest", 1, lambda row: is_sealed(row[2], b"", row[0], row[1])),
)

RECORDS = Table(
    "records",
    "id, file_offset, length, staging_file, staging_offset, content, digest, data",
    1,
    lambda row: is_sealed(row[6], b"", *row[:6]),
)


def pages(database: Database, table: str, columns: str, start: Row, end: int | None = None) -> Iterator[Row]:
    """The rows in order of the first columns, which are the key, after `start` and before `end`; never many at once.

    Columns are `PLAIN`.
    """
    names = columns.split(", ")
    key = ", ".join(names[: len(start)])
    places = ", ".join("?" * len(start))
    plain = ", ".join(PLAIN.format(name) for name in names)
    bound = "" if end is None else f" AND {key} < {end}"
    sql = f"SELECT {plain} FROM {table} WHERE ({key}) > ({places}){bound} ORDER BY {key} LIMIT {PAGE_ROWS}"
    while True:
        rows = database.rows(sql, start)
        yield from rows
        if len(rows) < PAGE_ROWS:
            return
        start = rows[-1][: len(start)]


def bad_rows(database: Database) -> Iterator[BadRow]:
    """All rows that do not verify, but those of records."""
    for table in TABLES:
        start: Row = (-(2**63), b"")[: table.key_count]
        for row in pages(database, table.name, table.columns, start):
            if not table.verifies(row):
                yield BadRow(table.name, row[: table.key_count], row)


def end_of_records(place: int) -> int:
    """The id behind the last that the records at a place can have."""
    return ((place + 1) << PLACE_BITS) + 1


def records_of(
    database: Database, place: int, *, with_data: bool = True
) -> Iterator[tuple[Record, bytes | None, bool]]:
    """The records at a place in order, with their inline bytes if asked for, and whether each row verifies."""
    return _records(database, place << PLACE_BITS, end_of_records(place), with_data)


def all_records(database: Database, *, with_data: bool) -> Iterator[tuple[Record, bytes | None, bool]]:
    """The same for the records of all drafts."""
    return _records(database, 0, None, with_data)


def _records(
    database: Database, start: int, end: int | None, with_data: bool
) -> Iterator[tuple[Record, bytes | None, bool]]:
    columns = RECORDS.columns if with_data else RECORDS.columns.replace("data", "NULL")
    for row in pages(database, "records", columns, (start,), end):
        # What is no number tells nothing; the row does not verify then.
        numbers = (each if isinstance(each, int) else 0 for each in row[:6])
        record, file_offset, length, file, offset, content = numbers
        staged = StagedRange(file, offset, length) if file else None
        data = row[7] if isinstance(row[7], bytes) else None
        yield Record(record, file_offset, length, staged, content), data, RECORDS.verifies(row)


def place_of(record: Record) -> int:
    """The place of the draft that a record belongs to."""
    return (record.id - 1) >> PLACE_BITS


def record_bytes(read: StagingReader, record: Record, data: bytes | None) -> bytes | None:
    """The bytes of a record, from its row or by `read` from staging, or None if they are not what was written."""
    found = data if record.staged is None else read(record.staged)
    if found is None or len(found) != record.length or digest(found) != record.digest:
        return None
    return found
