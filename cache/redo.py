"""Transactions that SQLite has not committed yet: a file from which they are run again if the process dies.

A COMMIT brings each page that was touched to the write-ahead log as a whole, and the same few pages are touched by most
transactions. So many of them share one COMMIT: a *group*. Before one of them counts as accepted, its statements are
appended to this file by one write. Owns the file, and what is in it; running the statements is the database's.

Invariants: each COMMIT has a number, which is in the database too, and those of one opening are far from those of the
one before, of which a power cut may bring pages back into the file; the transactions in the file, in their order, are
those after the COMMIT with the number before theirs, or they are in the database already; behind the last of them
stands the end. It is never synced: a barrier commits. What a power cut leaves of it is a beginning of what came after
some COMMIT, and counts only if that is the last one which the cut has left of the log.
"""

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

from cache.sealing import digest

Bindings = Sequence[int | float | str | bytes | memoryview | None]

SIZE_BYTES = 2**20
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
    """What the file of a journal that was not closed has: the transactions of a group, in their order.

    `group` 0: the file does not begin as one. `is_whole`: the end stands behind them.
    """

    group: int
    transactions: list[bytes]
    is_whole: bool


class Redo:
    """The file of an open database, and the group that is not committed yet."""

    def __init__(self, descriptor: int, group: int) -> None:
        self._descriptor = descriptor
        self._encode = msgspec.msgpack.Encoder().encode
        self.group = group
        """The number that the next COMMIT gets."""
        self.accepted: list[bytes] = []
        """The transactions of the group, encoded."""
        self.statements: Statements = []
        """Those of the open transaction."""
        self._end_bytes = 0

    @classmethod
    def opened(cls, path: Path, group: int) -> Self | None:
        """Begin anew with an empty group of this number; None if there is no room for the file."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            os.posix_fallocate(descriptor, 0, SIZE_BYTES)
            os.pwrite(descriptor, _HEADER.pack(0, group << _COUNT_BITS, 0), 0)
        except OSError:
            os.close(descriptor)
            return None
        return cls(descriptor, group)

    def accept(self) -> bool:
        """Take the open transaction into the group, so that it survives the process; False: it needs a COMMIT."""
        statements = self.statements
        if not statements:
            return True
        index = len(self.accepted)
        if index >= MOST_TRANSACTIONS or len(statements) > MOST_STATEMENTS:
            return False
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

    def numbering(self) -> tuple[str, Bindings]:
        """The statement that belongs to the COMMIT of the group."""
        return NUMBER, (self.group.to_bytes(8, "big"),)

    @property
    def is_needed(self) -> bool:
        """Whether a COMMIT would change anything."""
        return bool(self.accepted or self.statements)

    def committed(self) -> None:
        """All of the group, and the open transaction, are in the log."""
        self.group += 1
        self.accepted = []
        self.statements = []
        self._end_bytes = 0

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


def read_redo(path: Path) -> Pending:
    """What is in the file at `path`, which nobody has open."""
    data = b""
    with suppress(FileNotFoundError):
        data = path.read_bytes()
    transactions: list[bytes] = []
    group = place = 0
    while place + _HEADER.size <= len(data):
        length, number, content = _HEADER.unpack_from(data, place)
        place += _HEADER.size
        group = group or number >> _COUNT_BITS
        body = data[place : place + length]
        if not group or number != group << _COUNT_BITS | len(transactions):
            break
        if not length:
            return Pending(group, transactions, True)
        if len(body) != length or digest(body) != content:
            break
        transactions.append(body)
        place += length
    return Pending(group, transactions, False)
