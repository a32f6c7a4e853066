"""Lets small writes that adjoin become one record: what is appended a few bytes at a time leaves a row for each.

Owns which records are merged, and when: as a barrier begins, and only such as came after the last barrier of staged
bytes had begun. So one checksum never covers bytes that were synced and others that a power cut may take. Invariants:
bytes stay where they are in staging, and each record is verified before it goes; the last record of those that become
one keeps its id, so what is frozen, or dropped, up to a record means the same bytes.
"""

from collections.abc import Iterator

from cache.database import Database
from cache.sealing import digest, is_sealed, row_digest
from cache.staging import StagedRange, Staging

SMALL_BYTES = 16 * 1024
"""A record of so many bytes stays as it is."""
MERGED_BYTES = 128 * 1024
"""No more bytes become one record: as many are lost to it if one of them is."""
LEAST_RECORDS = 256
"""So many small records of one draft make it worth looking at them."""

_Row = tuple[int, int, int, int, int, int, int]
"""Id, offset in the file, length, staging file, offset there, checksum of the bytes, checksum of the row."""


class Stretch:
    """The small staged records of one draft since a barrier began: from `first` to `last`."""

    __slots__ = ("barrier", "count", "first", "last")

    def __init__(self) -> None:
        self.barrier = -1
        self.count = self.first = self.last = 0


class Merging:
    """Merges records of one journal."""

    def __init__(self, database: Database, staging: Staging) -> None:
        self._database = database
        self._staging = staging
        self._barrier = 0
        self._long: list[Stretch] = []

    def added(self, stretch: Stretch, record: int) -> None:
        """Note a small staged record of the draft whose stretch this is."""
        if stretch.barrier != self._barrier:
            stretch.barrier, stretch.first, stretch.count = self._barrier, record, 0
        stretch.last = record
        stretch.count += 1
        if stretch.count == LEAST_RECORDS:
            self._long.append(stretch)

    def merge(self, *, syncs_staging: bool) -> None:
        """A barrier begins: merge what came since the last one of staged bytes began, where that is much.

        Raises:
            DiskFull, Poisoned, Corrupt, OSError: nothing was merged.
        """
        long, self._long = self._long, []
        if syncs_staging:
            # Whatever becomes of the merging: what came before is synced now, and stays apart from what comes.
            self._barrier += 1
        if long:
            with self._database.transaction():
                for stretch in long:
                    self._merge(stretch)

    def _merge(self, stretch: Stretch) -> None:
        rows: list[_Row] = self._database.rows(
            "SELECT id, file_offset, length, staging_file, staging_offset, content, digest FROM records"
            " WHERE id BETWEEN ? AND ? ORDER BY id",
            (stretch.first, stretch.last),
        )
        stretch.count, stretch.first = 0, stretch.last + 1
        for run in _runs(rows):
            self._join(run)

    def _join(self, run: list[_Row]) -> None:
        """Let records that adjoin be the last of them; where one does not verify, whoever reads it is to find it."""
        (first, file_offset, _, file, offset, *_), last = run[0], run[-1][0]
        length = sum(row[2] for row in run)
        data = self._staging.peek(StagedRange(file, offset, length))
        if data is None or any(digest(data[row[4] - offset : row[4] - offset + row[2]]) != row[5] for row in run):
            return
        content = digest(data)
        self._database.write("DELETE FROM records WHERE id BETWEEN ? AND ?", (first, last - 1))
        self._database.write(
            "UPDATE records SET file_offset = ?, length = ?, staging_offset = ?, content = ?, digest = ? WHERE id = ?",
            (
                file_offset, length, offset, content,
                row_digest(b"", last, file_offset, length, file, offset, content), last,
            ),
        )  # fmt: skip


def _runs(rows: list[_Row]) -> Iterator[list[_Row]]:
    """Records one behind the other that adjoin in the file and in staging, all good and small: two or more."""
    run: list[_Row] = []
    length = 0
    for row in rows:
        is_one = row[3] and 0 < row[2] < SMALL_BYTES and is_sealed(row[6], b"", *row[:6])
        if not is_one or not run or not _continues(run[-1], row) or length + row[2] > MERGED_BYTES:
            if len(run) > 1:
                yield run
            run, length = [], 0
        if is_one:
            run.append(row)
            length += row[2]
    if len(run) > 1:
        yield run


def _continues(row: _Row, following: _Row) -> bool:
    """Whether the bytes of a record lie directly behind those of the one before it, in the file and in staging."""
    length = row[2]
    return following[3] == row[3] and following[1] == row[1] + length and following[4] == row[4] + length
