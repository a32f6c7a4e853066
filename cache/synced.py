"""What is known, beside the log of a journal, of how far it was synced: it tells rot from what never reached the disk.

Owns two files next to the journal. `unsynced` is there after a write or a sync failed: any page of the log that came
since the sync before may be lacking, as after a power cut. `synced` names the life of a log and how many of its frames
were on the disk for certain; it is written before the log is copied into the database, and again when that is done, so
that what was copied is never taken for a torn tail. Either may be lacking or old: then less is known, nothing is wrong.
"""

import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cache.database import FRAME_BYTES, Database, create_private
from cache.durable import sync_path
from cache.sealing import row_digest
from cache.staging import write_all

UNSYNCED = "unsynced"
NOTE = "synced"

_NOTE = struct.Struct(">8sqq")
_SALTS = slice(16, 24)
"""Where they are in the header of a log."""


class Extent(NamedTuple):
    """So many frames of the life of a log that has these salts."""

    salts: bytes
    frame_count: int


def mark_unsynced(state_dir: Path) -> None:
    """Say that a sync failed; as far as a failing disk still takes a name."""
    with suppress(OSError):
        create_private(state_dir / UNSYNCED)
        sync_path(state_dir)


def is_unsynced(path: Path) -> bool:
    """Whether a sync failed while the database at `path` was open."""
    return (path.parent / UNSYNCED).exists()


def extent_of(database: Database) -> Extent:
    """How far the log of an open database has been written by now; for the thread that writes it."""
    with database.wal_path.open("rb") as log:
        return Extent(log.read(_SALTS.stop)[_SALTS], database.wal_bytes // FRAME_BYTES)


def checkpoint(database: Database, written: Extent) -> int:
    """Copy the log into the database, as `Database.checkpoint`, and note what of it is synced; for a thread.

    `written` is what there was of it before.

    Raises:
        Poisoned: a sync failed.
    """
    if _noted(database.path, written.salts) < written.frame_count:
        try:
            sync_path(database.wal_path)
        except OSError as error:
            raise database.poison(error) from error
        _note(database.path, written)
    copied_bytes = database.checkpoint()
    if copied_bytes > written.frame_count * FRAME_BYTES:
        _note(database.path, Extent(written.salts, copied_bytes // FRAME_BYTES))
    return copied_bytes


def _note(path: Path, synced: Extent) -> None:
    """Durable on return, unless there is no room: then less is known, should the log rot."""
    place = path.parent / NOTE
    is_new = not place.exists()
    with suppress(OSError):
        descriptor = os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, _NOTE.pack(*synced, row_digest(*synced)), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            sync_path(place.parent)


def noted(path: Path, salts: tuple[int, int]) -> int:
    """How many frames of the log at `path`, in its life with these salts, were on the disk for certain."""
    return _noted(path, b"".join(salt.to_bytes(4, "big") for salt in salts))


def _noted(path: Path, salts: bytes) -> int:
    try:
        life, frame_count, expected = _NOTE.unpack((path.parent / NOTE).read_bytes())
    except (FileNotFoundError, struct.error):
        return 0
    return frame_count if life == salts and row_digest(life, frame_count) == expected else 0
