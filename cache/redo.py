"""Transactions that SQLite has not committed yet, or whose COMMIT no sync has covered: a file that has them once more.

A COMMIT brings each page that was touched to the write-ahead log as a whole, and the same few pages are touched by most
transactions. So many of them share one COMMIT: a *group*. Before one of them counts as accepted, its statements are
appended to this file by one write; and a sync of this file makes them durable, as long as it has all that came since
the log was synced. Owns the file, what is in it, and whether that is so; running the statements is the database's.

Invariants: each COMMIT has a number, which is in the database too, and those of one opening are far from those of the
one before, of which a power cut may bring pages back into the file. The transactions in the file stand in their order,
with rising numbers; one is left out where a COMMIT had something that the file has not. Behind the last stands the end.
What a sync of this file made durable is not written over before a sync has covered its COMMIT. What a power cut leaves
of it is what came after some COMMIT, up to a gap: of that counts what follows, number by number, the last COMMIT which
the cut has left of the log.
"""

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

from cache.durable import fill, sync_path
from cache.sealing import digest

Bindings = Sequence[int | float | str | bytes | memoryview | None]

SIZE_BYTES = 2**21
MOST_SYNCED_BYTES = 2**20
"""With so much in the file it is time for a sync of the log; the rest is for what comes meanwhile."""
MOST_TRANSACTIONS = 64
MOST_STATEMENTS = 64
"""A transaction of more is worth a COMMIT of its own."""

NUMBER = "INSERT OR REPLACE INTO meta VALUES ('group', ?)"
"""Makes it a fact of the database which number a COMMIT has."""

_HEADER = struct.Struct(">IQq")
"""Length of what follows, the number of the group and the place in it, and the checksum of what follows.

At the end the length is 0. The first one lies in one page, so a write that a kill has cut short left all of it.
"""

_COUNT_BITS = 16
_LIFE_BITS = 24

Statements = list[tuple[str, Bindings]]


class Pending(NamedTuple):
    """What the file of a journal that was not closed has behind the last COMMIT of the log.

    `transactions`: those that follow it, in their order; `group`: the number that their COMMIT is to have. `is_next`:
    the file goes on where the log ends. `is_whole`: it does, or the log has all of it, and the end stands behind the
    last. `other_count`: how many there are that do not follow.
    """

    group: int
    transactions: list[bytes]
    is_next: bool
    is_whole: bool
    other_count: int


class Redo:
    """The file of an open database, and the group that is not committed yet."""

    def __init__(self, path: Path, descriptor: int, group: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._encode = msgspec.msgpack.Encoder().encode
        self.group = group
        """The number of the group that is not committed yet."""
        self.accepted: list[bytes] = []
        """The transactions of the group, encoded."""
        self.statements: Statements = []
        """Those of the open transaction."""
        self._end_bytes = 0
        self._durable_group = 0
        """The last COMMIT that a sync of the log has covered."""
        self._lost_group = group - 1
        """The last COMMIT of which the file lacks something."""
        self._promised_group = 0
        """The last group of which something may be durable in this file alone."""

    @classmethod
    def opened(cls, path: Path, group: int) -> Self | None:
        """Begin anew with an empty group of this number; None if there is no room for the file.

        Its name is durable then.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            fill(path, SIZE_BYTES)
            os.pwrite(descriptor, _HEADER.pack(0, group << _COUNT_BITS, 0), 0)
            sync_path(path.parent)
        except OSError:
            os.close(descriptor)
            return None
        return cls(path, descriptor, group)

    def accept(self) -> bool:
        """Take the open transaction into the group, so that it survives the process; False: it needs a COMMIT."""
        statements = self.statements
        if not statements:
            return True
        index = len(self.accepted)
        if len(statements) > MOST_STATEMENTS:
            return False
        if not index and self._begins_anew():
            self._end_bytes = 0
            self._lost_group = self.group - 1
        body = self._encode(statements)
        place = self.group << _COUNT_BITS | index
        written = b"".join((_HEADER.pack(len(body), place, digest(body)), body, _HEADER.pack(0, place + 1, 0)))
        if self._end_bytes + len(written) > SIZE_BYTES:
            return False
        try:
            if os.pwrite(self._descriptor, written, self._end_bytes) != len(written):
                return False
        except OSError:
            return False
        self._end_bytes += len(written) - _HEADER.size
        self.accepted.append(body)
        self.statements = []
        return True

    def _begins_anew(self) -> bool:
        """Whether a group goes to the beginning of the file: not over what a sync has promised."""
        if self._promised_group > self._durable_group:
            return False
        is_all_durable = self._durable_group == self.group - 1
        return is_all_durable or self._lost_group > self._durable_group or self._end_bytes > MOST_SYNCED_BYTES

    @property
    def number(self) -> int:
        """The number of the next COMMIT: another than that of the group if the file has only a part of it."""
        return self.group + bool(self.accepted and self.statements)

    def numbering(self) -> tuple[str, Bindings]:
        """The statement that belongs to the COMMIT of the group."""
        return NUMBER, (self.number.to_bytes(8, "big"),)

    @property
    def is_full(self) -> bool:
        """Whether the group is to be committed before another transaction begins."""
        return len(self.accepted) >= MOST_TRANSACTIONS

    @property
    def is_needed(self) -> bool:
        """Whether a COMMIT would change anything."""
        return bool(self.accepted or self.statements)

    def committed(self) -> None:
        """All of the group, and the open transaction, are in the log."""
        number = self.number
        if self.statements:
            self._lost_group = number
        self.group = number + 1
        self.accepted = []
        self.statements = []

    def begin_sync(self) -> bool:
        """Whether a sync of this file, begun now, makes durable all that no sync of the log has covered."""
        if self._lost_group > self._durable_group or self._end_bytes > MOST_SYNCED_BYTES:
            return False
        self._promised_group = self.group if self.accepted else self.group - 1
        return True

    def log_synced(self, number: int) -> None:
        """A sync has covered the log up to the COMMIT of this number."""
        self._durable_group = max(self._durable_group, number)

    def close(self) -> None:
        """Close the file; what is in it stays."""
        os.close(self._descriptor)


def first_group(last: int | None) -> int:
    """The number of the COMMIT that opens a database; `last` is the last that it has.

    Behind all that an opening before may have given COMMITs which a power cut took.
    """
    return (((last or 0) >> _LIFE_BITS) + 1) << _LIFE_BITS


def statements_of(transaction: bytes) -> Statements:
    """What an accepted transaction was made of."""
    found: Statements = msgspec.msgpack.decode(transaction)
    return found


def read_redo(path: Path, last: int) -> Pending:
    """What is in the file at `path`, which nobody has open, behind the COMMIT `last` of the log."""
    data = b""
    with suppress(FileNotFoundError):
        data = path.read_bytes()
    transactions: list[bytes] = []
    current, before, place, other_count = last, -1, 0, 0
    is_next = is_ended = False
    while not is_ended and place + _HEADER.size <= len(data):
        length, number, content = _HEADER.unpack_from(data, place)
        place += _HEADER.size
        group, index = number >> _COUNT_BITS, number & (1 << _COUNT_BITS) - 1
        is_ended = not length and group > 0 and number == (before + 1 if before >= 0 else group << _COUNT_BITS)
        if is_ended or (number != before + 1 if index else group <= before >> _COUNT_BITS or not group):
            break
        follows = last < group <= current + 1
        is_next = is_next or follows
        body = data[place : place + length]
        # What the log has is not needed any more, sound or not.
        if len(body) != length or (group > last and digest(body) != content):
            break
        if follows:
            transactions.append(body)
            current = group
        other_count += group > current
        place += length
        before = number
    return Pending(current, transactions, is_next, is_ended and not other_count, other_count)
