"""Saves a journal whose write-ahead log has rotted, before SQLite opens it.

Owns the decision between a torn tail (nothing to do: nobody was promised anything) and rot. A power cut, or a sync that
failed, leaves any of the pages that were not synced, so after one a gap before good frames is a torn tail too: to close
it would be to take a part of some transactions without the rest. What is behind it is put aside. A gap in what is known
to have been synced is rot all the same, and has to be closed: what is behind may be in the database already.

Owns also the order of steps for rot: all files are copied aside into `lost+found`; the log is mended in a copy, its
damaged pages as they are; if the whole then is a sound database, the mended log takes the place of the damaged one, and
the rows that the damage hit are found by their checksums. If not, SQLite goes on with the commits before the damage. A
crash between any two steps leaves the damaged log in its place, so that the next start does the same again; so does a
start that is refused after all.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import apsw
import xxhash

from cache import synced
from cache.database import PAGE_BYTES, remove_database
from cache.durable import make_directory, sync_path
from cache.errors import CacheError, Unusable
from cache.findings import Finding, Severity
from cache.structure import JOURNAL_STRUCTURE, schema_problem
from drivefs.protocol.wal import HEADER_BYTES, Damage, Log

FOUND = "-wal.found"
"""The end of the name that a log has, beside the one that was mended in its place, until nothing can be refused."""

_PAGE_SIZES = frozenset(2**power for power in range(9, 16))
"""That SQLite knows, but for the largest, which is written as 1."""


def rescue_log(path: Path, lost_and_found: Path, boot: bytes) -> list[Finding]:
    """Look for rot in the log of the database at `path`, which nobody has open, and save what can be saved.

    Raises:
        Corrupt: the database itself cannot be opened.
    """
    rot, torn = find_gaps(path, boot)
    if rot is None and torn is None:
        return []
    log_path, mended = Path(f"{path}-wal"), path.parent / "mending" / path.name
    with log_path.open("rb") as file:
        log = Log(file, _page_bytes(path))
        found = [_put_aside(log, torn, lost_and_found)] if torn is not None else []
        if rot is None:
            return found
        aside = lost_and_found / f"journal-{log.salts[0]:08x}{log.salts[1]:08x}"
        copy_aside(path, aside)
        is_sound = _mend(path, log, rot, mended)
    if is_sound:
        _keep_found(path)
        os.replace(f"{mended}-wal", log_path)
        Path(f"{path}-shm").unlink(missing_ok=True)
    shutil.rmtree(mended.parent)
    sync_path(path.parent)
    return [*found, _finding(rot, aside, is_sound)]


@contextmanager
def log_unless_refused(path: Path) -> Iterator[Callable[[], None]]:
    """Where what is done inside is refused, or never ends, the log of the database at `path` is the one that was found.

    Nobody has the database open then. What was mended is put back too: the next start does the same again. Gives what
    is called before the log is copied into the database: over pages that are newer, it must not come back.
    """
    log_path, is_copied = Path(f"{path}-wal"), False
    _put_back(path)
    had_log = log_path.exists()

    def copied() -> None:
        nonlocal is_copied
        is_copied = True
        _forget_found(path)

    try:
        yield copied
    except (CacheError, OSError):
        if not is_copied:
            _put_back(path)
            if not had_log and log_path.exists() and not log_path.stat().st_size:
                log_path.unlink()
        raise
    _forget_found(path)


def _keep_found(path: Path) -> None:
    """Let the log that was found have another name too, as far as the disk knows such a thing; durable on return."""
    found = Path(f"{path}{FOUND}")
    found.unlink(missing_ok=True)
    with suppress(OSError):
        os.link(f"{path}-wal", found)
        sync_path(path.parent)


def _forget_found(path: Path) -> None:
    found = Path(f"{path}{FOUND}")
    if found.exists():
        found.unlink()
        sync_path(path.parent)


def _put_back(path: Path) -> None:
    """Let the log that was found take its place again; no room is needed for it."""
    found = Path(f"{path}{FOUND}")
    if found.exists():
        os.replace(found, f"{path}-wal")
        Path(f"{path}-shm").unlink(missing_ok=True)
        sync_path(path.parent)


class LogState(NamedTuple):
    """A log before SQLite opened it: its size; whether it is no log; whether its last change does not verify."""

    size_bytes: int
    is_senseless: bool
    is_cut: bool

    def is_lost(self, least_bytes: int) -> bool:
        """Whether it is not the log of a journal that was not closed, whose log had so many bytes at least."""
        return self.size_bytes < least_bytes or self.is_senseless


def look_at_log(path: Path) -> LogState:
    """What the log of the database at `path` is like, which nobody has open; nothing is changed.

    Raises:
        Unusable: the database itself cannot be opened.
    """
    log_path = Path(f"{path}-wal")
    size_bytes = log_path.stat().st_size if log_path.exists() else 0
    if size_bytes <= HEADER_BYTES:
        return LogState(size_bytes, False, False)
    accepted = _accepted_frames(path)
    with log_path.open("rb") as file:
        log = Log(file, _page_bytes(path))
        file.seek(0)
        is_senseless = not log.header_is_good and any(file.read(HEADER_BYTES))
        is_cut = log.header_is_good and accepted < log.frame_count and log.frame(accepted).salts == log.salts
    return LogState(size_bytes, is_senseless, is_cut)


def lost_tail(path: Path, log: LogState, lost_and_found: Path, least_bytes: int) -> list[Finding]:
    """What to say of the log of a journal that was not closed, and had at least so many bytes then.

    The files are copied aside first: what follows lets SQLite begin the log anew.
    """
    is_lost = log.is_lost(least_bytes)
    if not is_lost and not log.is_cut:
        return []
    aside = lost_and_found / f"journal-{content_name(path)}"
    copy_aside(path, aside)
    advice = f"Look whether what you wrote last is there. The journal as it was found is in {aside}"
    if not is_lost:
        what = "The last change in the log of the journal does not verify"
        meaning = "It was being written when the mount was ended, or has rotted: it is not there"
        return [Finding(Severity.NOTE, what, meaning, advice)]
    what = "The log of the journal is not the one that was written, or a part of it is gone"
    meaning = "What was in it is missing: the last changes before the mount ended"
    return [Finding(Severity.DAMAGE, what, meaning, f"Check the disk. {advice}")]


def content_name(path: Path) -> str:
    """What a copy of a database and its log is named by: the same bytes, the same name."""
    content = xxhash.xxh3_64()
    for each in (path, Path(f"{path}-wal")):
        if each.exists():
            with each.open("rb") as file:
                while part := file.read(2**20):
                    content.update(part)
    return content.hexdigest()


class Gaps(NamedTuple):
    """Where frames of a log do not verify and later ones do: by rot, and behind that since they were never synced."""

    rot: Damage | None
    torn: Damage | None


def find_gaps(path: Path, boot: bytes) -> Gaps:
    """The gaps in the log of the database at `path`, which nobody has open; nothing is changed.

    Raises:
        Corrupt: the database itself cannot be opened.
    """
    log_path = Path(f"{path}-wal")
    if not log_path.exists() or log_path.stat().st_size <= HEADER_BYTES:
        return Gaps(None, None)
    accepted = _accepted_frames(path)
    with log_path.open("rb") as file:
        log = Log(file, _page_bytes(path))
        found = log.find_damage(accepted)
        if found is None or not log.header_is_good or not (synced.is_unsynced(path) or _was_cut_short(path, boot)):
            return Gaps(found, None)
        torn = log.first_bad(min(max(found.first_bad, synced.noted(path, log.salts)), log.frame_count))
        rot = log.find_damage(accepted, torn)
    if rot is None:
        return Gaps(None, found)
    behind = found.lost_commits - rot.lost_commits
    return Gaps(rot, Damage(torn, found.end, behind) if behind else None)


def _was_cut_short(path: Path, boot: bytes) -> bool:
    """Whether the database at `path` was open when the power went: in another boot than this."""
    try:
        connection = apsw.Connection(
            f"{path.absolute().as_uri()}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        )
        try:
            # The note is in the database itself from the opening on: the log is what is in question.
            last = connection.execute("SELECT value FROM meta WHERE key = 'open'").fetchone()
        finally:
            connection.close()
    except apsw.Error:
        return False
    return last is not None and last[0] != boot


def _put_aside(log: Log, damage: Damage, lost_and_found: Path) -> Finding:
    """Keep what stands behind a gap in the log, of which SQLite takes no more; durable on return."""
    make_directory(lost_and_found)
    aside = lost_and_found / f"log-{log.salts[0]:08x}{log.salts[1]:08x}-from-{damage.first_bad}"
    with open(os.open(aside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
        file.write(log.raw(damage.first_bad, damage.end))
        file.flush()
        os.fsync(file.fileno())
    sync_path(lost_and_found)
    why = "The power went, or the disk failed, while the log of the journal was written"
    what = f"{why}: {damage.lost_commits} changes are behind a gap"
    meaning = f"They are not there: they had not been synced, unless the disk has rotted. Their bytes are in {aside}"
    return Finding(Severity.NOTE, what, meaning, "Look whether what you wrote last is there, then delete that file")


def _page_bytes(path: Path) -> int:
    with path.open("rb") as file:
        header = file.read(18)
    found = int.from_bytes(header[16:18], "big")
    # The first page may be damaged where the log has a whole one: then SQLite does not look at this.
    return found if found in _PAGE_SIZES else PAGE_BYTES


def _accepted_frames(path: Path) -> int:
    """How many frames of its log SQLite takes; looking changes neither the database nor the log."""
    try:
        connection = apsw.Connection(str(path))
        try:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            return max(0, connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)[0])
        finally:
            connection.close()
    except apsw.Error as error:
        raise Unusable(unreadable(path, error)) from error


def unreadable(path: Path, why: object) -> str:
    """What to say of a journal that cannot be read at all."""
    return (
        f"{path} cannot be used ({why}). It was left as it is; changes that were not uploaded are in it. Check the disk"
        f" and keep a copy of {path.parent}; then `drivefs check --repair` makes a new journal of all that can be read."
    )


def copy_aside(path: Path, aside: Path, *more: Path) -> None:
    """Copy a database that nobody has open, and its log, into a directory, with other files; durable on return."""
    make_directory(aside)
    for source in (path, Path(f"{path}-wal"), *more):
        if source.exists():
            copy_private(source, aside / source.name)
    sync_path(aside)
    sync_path(aside.parent)


def copy_private(source: Path, target: Path) -> None:
    """Copy a file for its owner only; durable on return."""
    with source.open("rb") as reader, open(os.open(target, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
        shutil.copyfileobj(reader, file, 2**20)
        file.flush()
        os.fsync(file.fileno())


def _mend(path: Path, log: Log, damage: Damage, mended: Path) -> bool:
    """Make a copy with a mended log; whether it is a sound database."""
    mended.parent.mkdir(mode=0o700, exist_ok=True)
    remove_database(mended)
    copy_private(path, mended)
    with open(os.open(f"{mended}-wal", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
        for part in log.mended(0, damage.end):
            file.write(part)
        # A log that is shorter than it was would be missed; zeros are no frames.
        file.truncate(os.stat(f"{path}-wal").st_size)
        file.flush()
        os.fsync(file.fileno())
    return is_sound_copy(mended)


def is_sound_copy(path: Path) -> bool:
    """Whether a database that nobody else has open is whole; its log stays as it is."""
    try:
        connection = apsw.Connection(str(path))
        try:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            is_whole = connection.execute("PRAGMA integrity_check(1)").fetchall() == [("ok",)]
            return is_whole and not schema_problem(connection.execute, JOURNAL_STRUCTURE)
        finally:
            connection.close()
    except apsw.Error:
        return False


def _finding(damage: Damage, aside: Path, is_sound: bool) -> Finding:
    what = f"The log of the journal had rotted: {damage.lost_commits} changes were written behind the damage"
    advice = f"Check the disk. The journal as it was found is in {aside}"
    if is_sound:
        meaning = "All changes but those in the damaged place were saved; see the other findings"
        return Finding(Severity.WARNING, what, meaning, advice)
    meaning = "They could not be saved: what was not uploaded of the last changes is missing"
    return Finding(Severity.DAMAGE, what, meaning, advice)
