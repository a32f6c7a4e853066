"""Reads the pages of a SQLite database and its log without SQLite: what is left of a database that SQLite refuses.

Owns the file format as far as rows are concerned: pages, B-trees, cells, records. Changes nothing, trusts nothing: what
makes no sense is told as a hole, never raised. A hole is a part of a tree that cannot be read, with the keys between
which its rows lay.

Source: https://www.sqlite.org/fileformat2.html, sections 1 and 2.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from drivefs.protocol.wal import HEADER_BYTES, Log

Value = int | float | str | bytes | None
Row = tuple[Value, ...]
"""The columns of a row; a column that is the rowid has its number."""

HEADER_END = 100
"""The first page begins with so many bytes about the whole database."""
INTERIOR_INDEX, INTERIOR_TABLE, LEAF_INDEX, LEAF_TABLE = 2, 5, 10, 13
KINDS = frozenset({INTERIOR_INDEX, INTERIOR_TABLE, LEAF_INDEX, LEAF_TABLE})
LEAVES = frozenset({LEAF_INDEX, LEAF_TABLE})
LEAST_KEY, GREATEST_KEY = -(2**63), 2**63 - 1
MOST_DEPTH = 30
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


class Senseless(Exception):
    """These bytes are not what the format says."""


class Hole(NamedTuple):
    """Rows that cannot be read; in a table with rowids, those that lie between two keys, both included."""

    low: int
    high: int


class Cell(NamedTuple):
    """What a cell of a page holds: a child to its left, if it has one, its rowid, if it has one, and its row."""

    child: int
    rowid: int
    row: Row


class Image:
    """A database as it is with the commits of its log; `page_count` is that of its files, whatever they claim."""

    def __init__(self, path: Path, page_bytes: int) -> None:
        self.page_bytes = page_bytes
        self._path = path
        self._log_path = Path(f"{path}-wal")
        self._in_log: dict[int, int | None] = {}
        """Where the last committed state of a page is in the log; None: it does not verify there."""
        self._base_pages = path.stat().st_size // page_bytes if path.exists() else 0
        if self._log_path.exists() and self._log_path.stat().st_size > HEADER_BYTES:
            self._read_log()
        self.page_count = max(self._base_pages, *self._in_log) if self._in_log else self._base_pages

    def _read_log(self) -> None:
        pending: dict[int, int | None] = {}
        most_pages = self._base_pages + self._log_path.stat().st_size // self.page_bytes
        with self._log_path.open("rb") as file:
            for index, (frame, is_good) in enumerate(Log(file, self.page_bytes).verify(0)):
                if 0 < frame.page <= most_pages:
                    pending[frame.page] = index if is_good else None
                if is_good and frame.commit_pages:
                    self._in_log |= pending
                    pending = {}

    def page(self, number: int) -> bytes:
        """One page, counted from 1.

        Raises:
            Senseless: there is no such page, or it does not verify.
        """
        if number in self._in_log:
            index = self._in_log[number]
            if index is None:
                raise Senseless("the log has rotted there")
            with self._log_path.open("rb") as file:
                return Log(file, self.page_bytes).frame(index).body
        if not 0 < number <= self._base_pages:
            raise Senseless(f"there is no page {number}")
        with self._path.open("rb") as file:
            file.seek((number - 1) * self.page_bytes)
            return file.read(self.page_bytes)

    def free_pages(self) -> set[int] | None:
        """The pages that nothing uses, or None if that is not known."""
        found: set[int] = set()
        try:
            header = self.page(1)
            trunk = int.from_bytes(header[32:36], "big")
            expected = int.from_bytes(header[36:40], "big")
            while trunk and trunk not in found:
                found.add(trunk)
                page = self.page(trunk)
                trunk, count = struct.unpack_from(">2I", page)
                if count > self.page_bytes // 4 - 2:
                    raise Senseless("a list of free pages is too long")
                found.update(struct.unpack_from(f">{count}I", page, 8))
        except Senseless:
            return None
        return found if len(found) == expected else None

    def cells(self, number: int) -> tuple[int, list[Cell], int, bool]:
        """The kind of a page, its cells in order, its rightmost child (0: none), and whether all cells make sense.

        Raises:
            Senseless: it is no page of a tree.
        """
        page = self.page(number)
        start = HEADER_END if number == 1 else 0
        kind, count = page[start], int.from_bytes(page[start + 3 : start + 5], "big")
        is_leaf = kind in LEAVES
        pointers = start + (8 if is_leaf else 12)
        if kind not in KINDS or pointers + 2 * count > len(page):
            raise Senseless(f"page {number} is no part of a tree")
        right = 0 if is_leaf else int.from_bytes(page[start + 8 : start + 12], "big")
        cells, is_whole = [], True
        for pointer in struct.unpack_from(f">{count}H", page, pointers):
            try:
                cells.append(self._cell(page, kind, pointer))
            except (Senseless, IndexError, struct.error, UnicodeDecodeError):
                is_whole = False
        return kind, cells, right, is_whole

    def _cell(self, page: bytes, kind: int, at: int) -> Cell:
        child = 0
        if kind not in LEAVES:
            child, at = int.from_bytes(page[at : at + 4], "big"), at + 4
        if kind == INTERIOR_TABLE:
            return Cell(child, _varint(page, at)[0], ())
        length, at = _varint(page, at)
        rowid = 0
        if kind == LEAF_TABLE:
            rowid, at = _varint(page, at)
        row = _record(self._payload(page, at, length, kind))
        # The column that a table's rowid is the other name of is stored as NULL.
        return Cell(child, rowid, (rowid, *row[1:]) if kind == LEAF_TABLE and row[:1] == (None,) else row)

    def _payload(self, page: bytes, at: int, length: int, kind: int) -> bytes:
        usable = self.page_bytes
        most = usable - 35 if kind == LEAF_TABLE else (usable - 12) * 64 // 255 - 23
        if not 0 <= length <= self.page_count * usable:
            raise Senseless("a row is longer than the database")
        if length <= most:
            local = length
        else:
            least = (usable - 12) * 32 // 255 - 23
            local = least + (length - least) % (usable - 4)
            local = local if local <= most else least
        parts, rest = [page[at : at + local]], length - local
        following = int.from_bytes(page[at + local : at + local + 4], "big") if rest else 0
        while rest > 0:
            overflow = self.page(following)
            following = int.from_bytes(overflow[:4], "big")
            parts.append(overflow[4 : 4 + rest])
            rest -= len(parts[-1])
        payload = b"".join(parts)
        if len(payload) != length:
            raise Senseless("a row is cut off")
        return payload


class Tree:
    """What can be read of one tree: `rows` goes through it, then `holes` and `pages` tell what it met."""

    def __init__(self, image: Image, root: int) -> None:
        self._image = image
        self._root = root
        self.holes: list[Hole] = []
        self.pages: set[int] = set()

    def rows(self) -> Iterator[Row]:
        """All rows that can be read, in order."""
        yield from self._below(self._root, Hole(LEAST_KEY, GREATEST_KEY), 0)

    def _below(self, number: int, between: Hole, depth: int) -> Iterator[Row]:
        if number in self.pages or depth > MOST_DEPTH:
            self.holes.append(between)
            return
        self.pages.add(number)
        try:
            kind, cells, right, is_whole = self._image.cells(number)
        except Senseless:
            self.holes.append(between)
            return
        if not is_whole:
            self.holes.append(between)
        low = between.low
        for cell in cells:
            if cell.child:
                high = cell.rowid if kind == INTERIOR_TABLE else between.high
                yield from self._below(cell.child, Hole(low, high), depth + 1)
                low = high if kind == INTERIOR_TABLE else low
            if kind != INTERIOR_TABLE:
                yield cell.row
        if right:
            yield from self._below(right, Hole(low, between.high), depth + 1)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for count in range(8):
        byte = data[at + count]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + count + 1
    value = value << 8 | data[at + 8]
    return value - 2**64 if value >= 2**63 else value, at + 9


def _record(payload: bytes) -> Row:
    end, at = _varint(payload, 0)
    body, values = end, list[Value]()
    while at < end:
        kind, at = _varint(payload, at)
        value, body = _value(payload, kind, body)
        values.append(value)
    if at != end or body != len(payload):
        raise Senseless("a row does not have the length that its columns have")
    return tuple(values)


def _value(payload: bytes, kind: int, at: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if kind == 7:
        return struct.unpack_from(">d", payload, at)[0], at + 8
    if kind in _INTEGER_BYTES:
        end = at + _INTEGER_BYTES[kind]
        return int.from_bytes(payload[at:end], "big", signed=True), end
    if kind < 12:
        raise Senseless("a column has a type that does not exist")
    end = at + (kind - 12) // 2
    return (payload[at:end].decode() if kind % 2 else payload[at:end]), end
