"""The log of a metadata database that was not closed, and that lacks what was committed: by rot, or cut, or gone.

Owns looking at it before SQLite does, which would drop all from the first bad byte on without a word; and what becomes
of it. What was committed is known from the log itself, where later commits verify, and from what the last process left
in the shared memory (`-shm`): how many frames it had committed, and how many of them it had copied into the database.
Both are noted after the log was synced. Invariants: a log that lacks nothing is not touched; one that does is copied
aside, whole, before anything changes; what was copied into the database is never put back to an older state by it.

Source: https://www.sqlite.org/walformat.html, sections 2.1 and 2.2.
"""

import io
import itertools
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, NamedTuple

from backend.durable import sync_path
from drivefs.protocol.wal import Frame, Log, checksum

log = logging.getLogger(__name__)

LOST, WHOLE = ".lost-", ".whole-"
"""Follow the name of a log, in that of a damaged one: commits of it are lost, or are all in the database."""
TORN_COMMITS = 1
"""So many a power cut may leave behind a gap: each is synced before the next one begins."""
_PAGE_SIZES = frozenset(2**power for power in range(9, 16))
WAS_DAMAGED = (
    "The log of the database was damaged, cut or removed while no server ran; as it was found it is %s. What was "
    "committed %s"
)
IS_LOST = (
    "last is not in the database any more: %d commits that can still be counted, maybe more. A new incarnation begins, "
    "and devices send what they have of it."
)
IS_WHOLE = "is all in the database."


class _Noted(NamedTuple):
    """What the shared memory says of the log: frames that were committed, and those that were copied; its salts."""

    committed: int
    copied: int
    salts: tuple[int, int]


class _Parts(NamedTuple):
    """Frames that a new log needs, from `start` up to `end`; the others before are in the database already."""

    start: int
    end: int
    lost_commits: int
    is_loss: bool


def lost_logs(path: Path) -> list[str]:
    """The names of damaged logs of the database at `path` that lie beside it and of which commits are lost."""
    return sorted(each.name for each in path.parent.glob(f"{path.name}-wal{LOST}*"))


def mend(path: Path, on_loss: Callable[[], None]) -> None:
    """Let the database at `path`, which nobody has open, have a log that verifies; durable on return.

    `on_loss` is called before anything changes if commits are lost; a crash after that may call it once more.

    Raises:
        OSError: it cannot be read, or written; the log is as it was.
    """
    shared, log_path = path.with_name(f"{path.name}-shm"), path.with_name(f"{path.name}-wal")
    if not path.exists() or not (shared.exists() or log_path.exists()):
        return
    with closing(_opened(log_path)) as file:
        found = Log(file, _page_bytes(path))
        parts = _look(found, _noted(shared))
        if parts is None:
            return
        aside = _put_aside(file, log_path, LOST if parts.is_loss else WHOLE)
        if parts.is_loss:
            on_loss()
        log.warning(WAS_DAMAGED, aside, IS_LOST % parts.lost_commits if parts.is_loss else IS_WHOLE)
        fresh = log_path.with_name(f"{log_path.name}.mended")
        with open(os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as mended:
            mended.writelines(found.mended(parts.start, parts.end))
            mended.flush()
            os.fsync(mended.fileno())
    fresh.replace(log_path)
    shared.unlink(missing_ok=True)
    sync_path(path.parent)


def _opened(log_path: Path) -> BinaryIO:
    """The log, or an empty one if it is gone."""
    return log_path.open("rb") if log_path.exists() else io.BytesIO()


def _look(found: Log, noted: _Noted | None) -> _Parts | None:
    """What is to be kept of a log; None: it lacks nothing."""
    if noted is not None and noted.salts != found.salts and found.header_is_good:
        noted = None  # It was begun anew since; the power went, and took what was noted then.
    committed, copied = (noted.committed, noted.copied) if noted else (0, 0)
    accepted = _last_commit(found, 0) if found.header_is_good else 0
    behind = _commits_from(found, accepted)
    if accepted >= committed and behind <= (TORN_COMMITS if found.header_is_good else 0):
        return None
    is_of_another = noted is not None and noted.salts != found.salts
    start = copied if accepted < copied else 0
    end = max(start, 0 if is_of_another else _last_commit(found, start))
    lost = _commits_from(found, end)
    return _Parts(start, end, lost, is_loss=end < committed or lost > 0)


def _last_commit(found: Log, start: int) -> int:
    """The end of the last commit before the first frame from `start` on that does not verify."""
    end = start
    for index, (frame, is_good) in enumerate(_verified(found, start), start=start):
        if not is_good:
            break
        if frame.commit_pages:
            end = index + 1
    return end


def _commits_from(found: Log, start: int) -> int:
    """How many commits verify from `start` on, whatever lies between them."""
    return sum(is_good and frame.commit_pages > 0 for frame, is_good in _verified(found, start))


def _verified(found: Log, start: int) -> Iterator[tuple[Frame, bool]]:
    """Frames from `start` on, and whether each verifies; none where the log was cut before that."""
    return found.verify(start) if start <= found.frame_count else iter(())


def _noted(shared: Path) -> _Noted | None:
    """What the last process noted in the shared memory; None: nothing that verifies."""
    data = shared.read_bytes()[:136] if shared.exists() else b""
    header = data[:48]
    if len(data) < 136 or header != data[48:96] or not header[12]:
        return None
    words = memoryview(data).cast("I")
    if checksum(header[:40], (0, 0), big_endian=sys.byteorder == "big") != (words[10], words[11]):
        return None
    salts = int.from_bytes(header[32:36], "big"), int.from_bytes(header[36:40], "big")
    return _Noted(committed=words[4], copied=words[24], salts=salts)


def _page_bytes(path: Path) -> int:
    with path.open("rb") as file:
        found = int.from_bytes(file.read(18)[16:18], "big")
    if found == 1:
        return 65536
    # The first page may be damaged where the log has a whole one.
    return found if found in _PAGE_SIZES else 4096


def _put_aside(file: BinaryIO, log_path: Path, kind: str) -> Path:
    """Copy a log, under a name that is free; durable on return."""
    names = (log_path.with_name(f"{log_path.name}{kind}{number}") for number in itertools.count(1))
    aside = next(each for each in names if not each.exists())
    with open(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as copy:
        file.seek(0)
        shutil.copyfileobj(file, copy)
        copy.flush()
        os.fsync(copy.fileno())
    sync_path(log_path.parent)
    return aside
