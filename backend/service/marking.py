"""Noticing that a data directory is not the one that was used last, but a copy of it that was put back by hand.

Owns the file `mark` in the data directory and what the database remembers of it: a word that is drawn anew at each
start and each stop, and which file has it (its inode number, the moment of its last change, and the database's own
inode number). A copy of the directory has files of its own, whatever tool made it; an older database in the same
directory remembers another word, and so does one that lacks what its log had (`spoil`). What cannot be told apart: a
whole file system that was set back, and a database that was copied into its file since a start that no stop followed.
Devices notice that all the same, by the commits that they have seen.

Invariant: whoever finds another mark begins a new incarnation before anything is served.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection, select, update

from backend.metadata.schema import deployment
from backend.service import garbage, ids
from drivefs.protocol.ground import NowNs, RandomBytes

MARK_NAME = "mark"
WORD_BYTES = 16
UNMARKED = (
    "It could not be noted that {data} was used last here ({reason}). Make room on its disk: all is there, and the "
    "next start takes it for a copy, which does no harm."
)

log = logging.getLogger(__name__)


def renew_if_copied(
    connection: Connection, data: Path, database: Path, random_bytes: RandomBytes, now_ns: NowNs
) -> bool:
    """Begin a new incarnation if the data is not where it was used last, then mark it; gives whether it was not.

    Data that no program of this kind has marked yet is taken for what it seems to be.
    """
    known = connection.execute(select(deployment.c.mark)).scalar_one_or_none()
    present = _present(data, database)
    is_copied = known != present and (known is not None or present is not None)
    if is_copied:
        is_copied = ids.renew_incarnation(connection, random_bytes=random_bytes) is not None
        garbage.begin_anew(connection, now_ns())
    mark(connection, data, database, random_bytes)
    return is_copied


def mark(connection: Connection, data: Path, database: Path, random_bytes: RandomBytes) -> None:
    """Write a new word into the file, and remember it; a crash in between looks like a copy, which does no harm."""
    _write(data, random_bytes(WORD_BYTES).hex())
    connection.execute(update(deployment).values(mark=_present(data, database)))


def mark_at_the_end(connection: Connection, data: Path, database: Path, random_bytes: RandomBytes) -> None:
    """The same where nothing follows: without room for it, people are told, and the next start takes it for a copy."""
    try:
        mark(connection, data, database, random_bytes)
    except OSError as error:
        log.warning("%s", UNMARKED.format(data=data, reason=error.strerror or error))


def _write(data: Path, word: str) -> None:
    descriptor = os.open(data / MARK_NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, word.encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def spoil(data: Path) -> None:
    """See that the next start begins a new incarnation; durable on return."""
    _write(data, "the log of the database was damaged")


def _present(data: Path, database: Path) -> str | None:
    """What is to be remembered of the file as it is now; None: there is none."""
    with suppress(OSError):
        path = data / MARK_NAME
        found = path.stat()
        word = path.read_bytes()[: 4 * WORD_BYTES].decode("ascii", "replace").strip()
        return f"{word} {found.st_ino} {found.st_ctime_ns} {database.stat().st_ino}"
    return None
