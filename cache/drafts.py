"""Drafts: content written on this device that no revision has yet, as records over a base.

Owns the tables `drafts`, `bases`, `records` and `retired`. A record is one write (or a part of at most 4 KiB of it):
where in the file, and its bytes, in the row or in staging. Invariants: records of one draft are ordered by id, and a
later one covers earlier ones; ids of one draft are consecutive in the table, so no index is needed; a staging file that
no record names any more is retired in the transaction that drops the last such record.
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import msgspec

from cache import merging
from cache.counters import Counter
from cache.database import Database
from cache.sealing import digest, is_sealed, row_digest
from cache.staging import StagedRange, Staging
from drivefs.protocol import wire
from drivefs.protocol.changes import Base
from drivefs.protocol.ids import NO_INODE, NO_OP, InodeId, OpNumber

_T = TypeVar("_T")
INLINE_BYTES = 4096
PLACE_BITS = 28
MAX_CACHED = 4096
PAGE_ROWS = 500
MAX_MOVED_RECORDS = 1 << 17
"""So many are given new ids in one transaction, which takes about a second."""


class DraftRow(msgspec.Struct, frozen=True, array_like=True):
    """The state of a draft.

    Content = base bytes below `low_size` (the lowest size since the base; past it they read as zeros), covered by the
    records, cut or extended to `size`. `frozen` is the last record that the publication in flight covers (0: none),
    `frozen_op` its mutation. `is_over_past`: the base bytes are not those of `base` but of another revision, which is
    to take its place: one before it that was brought back, or one that the server has lost.
    """

    inode: InodeId
    base: Base
    base_size: int
    low_size: int
    size: int
    mtime_ns: int
    frozen: int = 0
    frozen_op: OpNumber = NO_OP
    is_over_past: bool = False


class Record(NamedTuple):
    """One row of written bytes; `digest` is that of its bytes, `staged` None when they are in the row.

    A record without bytes is a truncation: the content was cut or extended to `file_offset` bytes.
    """

    id: int
    file_offset: int
    length: int
    staged: StagedRange | None
    digest: int

    @property
    def is_truncation(self) -> bool:
        """Whether this is a change of size, not bytes written."""
        return self.length == 0


class Place:
    """Where a draft's records are: ids from `first` up; `next` is the one to use next."""

    __slots__ = ("first", "next", "stretch")

    def __init__(self, first: int, next_id: int) -> None:
        self.first = first
        self.next = next_id
        self.stretch = merging.Stretch()

    @property
    def end(self) -> int:
        return self.first + (1 << PLACE_BITS)


class Drafts:
    """All drafts of the device."""

    def __init__(self, database: Database, staging: Staging) -> None:
        self._database = database
        self._staging = staging
        self.merging = merging.Merging(database, staging)
        self._places = Counter(database, "draft")
        self._cached: dict[InodeId, Place] = {}
        self._rows: dict[InodeId, DraftRow] = {}
        """Drafts as they are in the database; of the open transaction too."""
        self.dropped: list[InodeId] = []
        """Inodes whose draft was dropped in the open transaction; the journal looks whether they are still needed."""
        self.retired: list[int] = []
        """Staging files retired in the open transaction; handed to staging when it commits."""
        self._crowded: dict[InodeId, int] = {}
        """Drafts that could not get a new place, and from which id on that is tried again."""
        self.record_bytes = self._count_bytes()
        self._bytes_before = self.record_bytes

    def _count_bytes(self) -> int:
        row = self._database.row("SELECT coalesce(sum(length), 0) FROM records")
        return row[0] if row else 0

    def begin(self) -> None:
        """Remember what a rollback goes back to."""
        self._staging.keep_begun()
        self._bytes_before = self.record_bytes

    def committed(self) -> None:
        """Let staging remove, after the next barrier, what this transaction retired."""
        self._staging.keep_begun()
        for file in self.retired:
            self._staging.remove(file)
        self.retired.clear()
        self.dropped.clear()

    def rolled_back(self) -> None:
        """Go back to the state before the transaction."""
        if not self._database.poisoned:  # else nobody knows what the next start finds in the log
            self._staging.remove_begun()
        self.record_bytes = self._bytes_before
        self.retired.clear()
        self.dropped.clear()
        self._cached.clear()
        self._rows.clear()
        self._places.reread()

    def draft(self, inode: InodeId) -> DraftRow | None:
        """The draft of an inode, or None.

        Raises:
            Corrupt: the row does not verify.
        """
        known = self._rows.get(inode)
        if known is not None:
            return known
        row = self._database.row("SELECT place, state, digest FROM drafts WHERE inode = ?", (inode,))
        if row is None:
            return None
        place, state, found = row
        if not is_sealed(found, state, inode, place):
            raise self._database.rot(f"the draft of inode {inode} does not match its checksum")
        return _keep(self._rows, inode, wire.decode(state, DraftRow))

    def put_draft(self, draft: DraftRow) -> None:
        """Create a draft or change its state; records and base blocks stay."""
        inode = draft.inode
        place = self._find_place(inode) or self._new_place(inode)
        state = wire.encode(draft)
        number = place.first >> PLACE_BITS
        self._database.write(
            "INSERT INTO drafts VALUES (?, ?, ?, ?) ON CONFLICT (inode) DO UPDATE"
            " SET place = excluded.place, state = excluded.state, digest = excluded.digest",
            (inode, number, state, row_digest(state, inode, number)),
        )
        _keep(self._rows, inode, draft)

    def drop_draft(self, inode: InodeId) -> bool:
        """Drop a draft with its records and base blocks; its staging files go after the next barrier.

        False if there is none.
        """
        place = self._find_place(inode)
        if place is None:
            return False
        with self._database.transaction():
            self._drop_range(place, place.end, keep=0)
            self._database.write("DELETE FROM drafts WHERE inode = ?", (inode,))
            self._database.write("DELETE FROM bases WHERE inode = ?", (inode,))
            self._cached.pop(inode, None)
            self._rows.pop(inode, None)
            self.dropped.append(inode)
        return True

    def move_draft(self, inode: InodeId, other: InodeId) -> None:
        """Let a draft, with its records and base blocks, belong to another inode, which has none.

        Raises:
            KeyError: the inode has no draft.
        """
        place, draft, blocks = self._place_of(inode), self.draft(inode), self.base_blocks(inode)
        assert draft is not None, "a place is that of a draft"
        with self._database.transaction():
            self._staging.roll(inode)
            self._database.write("DELETE FROM drafts WHERE inode = ?", (inode,))
            self._database.write("DELETE FROM bases WHERE inode = ?", (inode,))
            del self._cached[inode]
            self._rows.pop(inode, None)
            _keep(self._cached, other, place)
            self.put_draft(msgspec.structs.replace(draft, inode=other))
            self.put_base_blocks(other, blocks)
            self.dropped.append(inode)

    def is_crowded(self, inode: InodeId) -> bool:
        """Whether three quarters of the ids that a draft has for its records are used up, and it may have others."""
        place = self._cached.get(inode)
        return place is not None and place.next >= max(place.end - (1 << PLACE_BITS - 2), self._crowded.get(inode, 0))

    def move_records(self, inode: InodeId) -> bool:
        """Give a draft of which nothing is frozen another number, and its records new ids; False: they are too many.

        Bytes stay where they are. Whatever comes of it, it is some time until the draft is crowded again.

        Raises:
            Corrupt: a record does not verify; nothing was changed.
        """
        place, draft = self._place_of(inode), self.draft(inode)
        assert draft is not None, "a place is that of a draft"
        self._crowded[inode] = place.next + (1 << PLACE_BITS - 8)
        records = self.records(inode)
        if len(records) > MAX_MOVED_RECORDS:
            return False
        with self._database.transaction():
            fresh = self._new_place(inode)
            for each in records:
                file, offset = (0, 0) if each.staged is None else (each.staged.file, each.staged.offset)
                rest = (each.file_offset, each.length, file, offset, each.digest)
                self._database.write(
                    "UPDATE records SET id = ?, digest = ? WHERE id = ?",
                    (fresh.next, row_digest(b"", fresh.next, *rest), each.id),
                )
                fresh.next += 1
            self.put_draft(msgspec.structs.replace(draft, frozen=0))
        del self._crowded[inode]
        return True

    def number(self, inode: InodeId) -> int | None:
        """The number of an inode's draft, under which no other one ever was or will be; None: it has no draft."""
        place = self._find_place(inode)
        return None if place is None else place.first >> PLACE_BITS

    def count(self) -> int:
        """How many inodes have a draft."""
        row = self._database.row("SELECT count(*) FROM drafts")
        return row[0] if row else 0

    def draft_inodes(self, after: InodeId = NO_INODE) -> Iterator[InodeId]:
        """Inodes above `after` that have a draft, in order of id; read by pages, so drafts may come and go."""
        while True:
            rows = self._database.rows(
                "SELECT inode FROM drafts WHERE inode > ? ORDER BY inode LIMIT ?", (after, PAGE_ROWS)
            )
            for (after,) in rows:
                yield after
            if len(rows) < PAGE_ROWS:
                return

    def base_blocks(self, inode: InodeId) -> bytes | None:
        """The packed block list of the revision the draft stands on, or None if it is not known here yet.

        Raises:
            Corrupt: the row does not verify.
        """
        row = self._database.row("SELECT blocks, digest FROM bases WHERE inode = ?", (inode,))
        if row is None:
            return None
        blocks: bytes = row[0]
        if not is_sealed(row[1], blocks, inode):
            raise self._database.rot(f"the base of the draft of inode {inode} does not match its checksum")
        return blocks

    def put_base_blocks(self, inode: InodeId, blocks: bytes | None) -> None:
        """Set the base's block list, or make it unknown."""
        if blocks is None:
            self._database.write("DELETE FROM bases WHERE inode = ?", (inode,))
            return
        self._database.write(
            "INSERT OR REPLACE INTO bases VALUES (?, ?, ?)", (inode, blocks, row_digest(blocks, inode))
        )

    def add_record(
        self, inode: InodeId, file_offset: int, data: bytes | memoryview, staged: StagedRange | None = None
    ) -> int:
        """Note that `data`, at least one byte, was written at `file_offset`; gives the id of the (last) record.

        Without `staged` the bytes go into rows of at most 4 KiB.

        Raises:
            KeyError: the inode has no draft.
        """
        place = self._place_of(inode)
        if not data:
            raise ValueError("a record of no bytes would be a truncation")
        if staged is not None or len(data) <= INLINE_BYTES:
            return self._add_bytes(place, file_offset, data, staged).id
        with self._database.transaction():
            for start in range(0, len(data), INLINE_BYTES):
                self._add_bytes(place, file_offset + start, data[start : start + INLINE_BYTES], None)
        return place.next - 1

    def add_inline(self, inode: InodeId, file_offset: int, data: bytes) -> Record:
        """Note that `data`, of 1 byte to 4 KiB, was written at `file_offset`, and keep it in the row.

        Raises:
            KeyError: the inode has no draft.
        """
        return self._add_bytes(self._place_of(inode), file_offset, data, None)

    def add_staged(self, inode: InodeId, file_offset: int, staged: StagedRange, content: int) -> int:
        """The same of bytes that are in staging already, and have the checksum `content`.

        Raises:
            KeyError: the inode has no draft.
        """
        place = self._place_of(inode)
        self._add_row(place, Record(place.next, file_offset, staged.length, staged, content), None)
        return place.next - 1

    def add_truncate(self, inode: InodeId, size: int) -> int:
        """Note that the file was cut or extended to `size` bytes; gives the id of the record.

        Raises:
            KeyError: the inode has no draft.
        """
        return self._add_bytes(self._place_of(inode), size, b"", None).id

    def _place_of(self, inode: InodeId) -> Place:
        place = self._cached.get(inode) or self._find_place(inode)
        if place is None:
            raise KeyError(inode)
        return place

    def _add_bytes(
        self, place: Place, file_offset: int, data: bytes | memoryview, staged: StagedRange | None
    ) -> Record:
        new = Record(place.next, file_offset, len(data), staged, digest(data))
        self._add_row(place, new, data if staged is None else None)
        return new

    def _add_row(self, place: Place, new: Record, inline: bytes | memoryview | None) -> None:
        record, file_offset, length, staged, content = new
        if record >= place.end:
            raise OverflowError(f"a draft cannot have more than {1 << PLACE_BITS} records")
        file, offset = (0, 0) if staged is None else (staged.file, staged.offset)
        self._database.write(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record, file_offset, length, file, offset, content,
                row_digest(b"", record, file_offset, length, file, offset, content), inline,
            ),
        )  # fmt: skip
        place.next = record + 1
        self.record_bytes += length
        if file and length < merging.SMALL_BYTES:
            self.merging.added(place.stretch, record)

    def records(self, inode: InodeId, up_to: int | None = None) -> list[Record]:
        """The records of a draft in order, all or those up to an id.

        Raises:
            Corrupt: a row does not verify.
        """
        place = self._find_place(inode)
        if place is None:
            return []
        last = place.end - 1 if up_to is None else up_to
        found = []
        for row in self._database.rows(
            "SELECT id, file_offset, length, staging_file, staging_offset, content, digest FROM records"
            " WHERE id BETWEEN ? AND ? ORDER BY id",
            (place.first, last),
        ):
            record, file_offset, length, file, offset, content, expected = row
            if not is_sealed(expected, b"", record, file_offset, length, file, offset, content):
                raise self._database.rot(f"a record of the draft of inode {inode} does not match its checksum")
            staged = StagedRange(file, offset, length) if file else None
            found.append(Record(record, file_offset, length, staged, content))
        return found

    def record_data(self, record: Record) -> bytes:
        """The bytes of a record that is not staged.

        Raises:
            Corrupt: they do not match their checksum.
        """
        row = self._database.row("SELECT data FROM records WHERE id = ?", (record.id,))
        data = row[0] if row else None
        if not isinstance(data, bytes) or len(data) != record.length or digest(data) != record.digest:
            raise self._database.rot(f"the bytes written at offset {record.file_offset} do not match their checksum")
        return data

    def drop_records(self, inode: InodeId, up_to: int) -> None:
        """Drop the records up to an id: a revision has their bytes now."""
        place = self._find_place(inode)
        if place is not None:
            self._drop_range(place, up_to + 1, keep=self._staging.current_file(inode))

    def _drop_range(self, place: Place, end: int, *, keep: int) -> None:
        """Drop records from the place's first up to `end`, and retire staging files, but `keep`, that none needs."""
        with self._database.transaction():
            gone = self._database.rows(
                "SELECT staging_file, sum(length) FROM records WHERE id >= ? AND id < ? GROUP BY staging_file",
                (place.first, end),
            )
            self._database.write("DELETE FROM records WHERE id >= ? AND id < ?", (place.first, end))
            for file, length in gone:
                self.record_bytes -= length
                if file and file != keep and not self._is_needed(place, file):
                    self._database.write("INSERT OR IGNORE INTO retired VALUES (?)", (file,))
                    self.retired.append(file)

    def _is_needed(self, place: Place, file: int) -> bool:
        needed = self._database.row(
            "SELECT 1 FROM records WHERE id BETWEEN ? AND ? AND staging_file = ? LIMIT 1",
            (place.first, place.end - 1, file),
        )
        return needed is not None

    def _find_place(self, inode: InodeId) -> Place | None:
        place = self._cached.get(inode)
        if place is not None:
            return place
        row = self._database.row("SELECT place, state FROM drafts WHERE inode = ?", (inode,))
        if row is None:
            return None
        first = (row[0] << PLACE_BITS) + 1
        last = self._database.row(
            "SELECT max(id) FROM records WHERE id BETWEEN ? AND ?", (first, first + (1 << PLACE_BITS) - 1)
        )
        frozen = wire.decode(row[1], DraftRow).frozen
        return _keep(self._cached, inode, Place(first, max(first, frozen + 1, (last[0] or 0) + 1 if last else 0)))

    def _new_place(self, inode: InodeId) -> Place:
        first = (self._places.take() << PLACE_BITS) + 1
        return _keep(self._cached, inode, Place(first, first))


def _keep(cache: dict[InodeId, _T], inode: InodeId, found: _T) -> _T:
    """Remember what was found, in the place of what has been there longest if there is much."""
    if len(cache) >= MAX_CACHED:
        del cache[next(iter(cache))]
    cache[inode] = found
    return found
