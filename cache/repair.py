"""Mends the local state of a device that nobody has open; `check` says what is wrong with it.

Owns the order: modes; the replica, which is fetched again if anything is wrong with it; the journal, made anew of what
can be read where SQLite cannot use it; then the state is opened as after a failure of the disk, so that recovery reads
everything back and deals with each row and each written byte; then each cached block is read, and dropped if it is not
what its id says. Nothing that exists only here is removed: it stays, or goes to `lost+found`. Doing it again, after a
crash at any moment, goes on where it stopped or finds nothing left to do.
"""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from cache import workspace
from cache.blocks import BlockCache
from cache.check import CACHE_KIBIBYTES, Findings, check, check_replica, is_sound
from cache.database import Database, remove_database
from cache.errors import CacheError, NewerState, Unusable
from cache.findings import Finding, Severity
from cache.foreign import find_foreign
from cache.replica import Replica
from cache.rescue import copy_aside, log_unless_refused, rescue_log
from cache.salvage import finish_salvage, salvage
from cache.schema import JOURNAL_VERSION
from cache.structure import JOURNAL_STRUCTURE
from cache.versions import refuse_newer
from cache.workspace import LocalState, held_lock, make_private, mark_suspect, refuse_lost
from drivefs.protocol.ground import Offload

Progress = Callable[[int, int], Awaitable[None]]
"""Told how many cached blocks were read, and how many there are."""

NO_LIMIT = 2**63 - 1
"""Nothing is evicted while it is mended."""
NOTHING_TO_DO = "There is nothing to be done about it"


class Repaired(NamedTuple):
    """What was found, by the check or while it was mended, and what is left."""

    found: list[Finding]
    left: list[Finding]


async def repair(state_dir: Path, cache_dir: Path, *, offload: Offload, progress: Progress) -> Repaired:
    """Mend what can be mended; durable on return. Blocks, but while cached blocks are read. Cancellation leaves a part.

    Raises:
        StateInUse: a process has it open; nothing was touched.
        NewerState: a newer drivefs wrote it; nothing was touched.
        DiskFull, Poisoned: the disk is full, or fails; a part may have been mended, nothing is lost.
        Corrupt: the journal cannot be used, and could not be replaced either.
    """
    found = check(state_dir, cache_dir)
    if find_foreign(state_dir, cache_dir):
        return Repaired(found, found)
    with held_lock(state_dir):
        finish_salvage(state_dir)
        refuse_newer(state_dir / "journal.db", JOURNAL_VERSION)
        _mend_modes(state_dir)
        found += _mend_replica(cache_dir)
        found += _mend_journal(state_dir, cache_dir, offload)
        mark_suspect(state_dir)
    try:
        local = LocalState(state_dir, cache_dir, offload=offload, cache_limit_bytes=NO_LIMIT)
    except Unusable:
        # SQLite found it whole, and then not what it needs in it.
        with held_lock(state_dir):
            found += _salvage(state_dir, cache_dir, offload)
            mark_suspect(state_dir)
        local = LocalState(state_dir, cache_dir, offload=offload, cache_limit_bytes=NO_LIMIT)
    with local:
        found += local.report
        found += await _read_blocks(local.blocks, progress)
    return Repaired(list(dict.fromkeys(found)), check(state_dir, cache_dir))


def _mend_modes(state_dir: Path) -> None:
    for path in [state_dir, *state_dir.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o600)


def _mend_replica(cache_dir: Path) -> list[Finding]:
    path = cache_dir / "replica.db"
    wrong = Findings()
    check_replica(cache_dir, wrong)
    if not wrong.all:
        return []
    remove_database(path)
    what = f"{path} was removed"
    return [Finding(Severity.WARNING, what, "Nothing is lost: the next mount fetches it again", NOTHING_TO_DO)]


def _mend_journal(state_dir: Path, cache_dir: Path, offload: Offload) -> list[Finding]:
    path = state_dir / "journal.db"
    if not path.exists() and not (state_dir / "reserve").exists():
        return []  # it was never mounted
    found: list[Finding] = []
    try:
        refuse_lost(path)
        with log_unless_refused(path):
            found += rescue_log(path, state_dir / "lost+found", workspace.boot_id())
            if _is_usable(path, state_dir / "mending"):
                return found
    except NewerState:
        raise
    except CacheError:
        pass
    return found + _salvage(state_dir, cache_dir, offload)


def _salvage(state_dir: Path, cache_dir: Path, offload: Offload) -> list[Finding]:
    make_private(cache_dir)
    replica = Replica(cache_dir / "replica.db", offload)
    try:
        return salvage(state_dir, replica.inode)
    finally:
        replica.close()


def _is_usable(path: Path, trying: Path) -> bool:
    """Whether SQLite finds the database whole, or would with new indexes, which recovery makes: a copy shows it."""
    database = Database(path, cache_kibibytes=CACHE_KIBIBYTES, is_for_reading=True)
    try:
        if is_sound(database, JOURNAL_STRUCTURE):
            return True
    finally:
        database.close()
    shutil.rmtree(trying, ignore_errors=True)
    copy_aside(path, trying)
    database = Database(trying / path.name, cache_kibibytes=CACHE_KIBIBYTES)
    try:
        database.execute_script("REINDEX")
        return is_sound(database, JOURNAL_STRUCTURE)
    finally:
        database.close()
        shutil.rmtree(trying)


async def _read_blocks(blocks: BlockCache, progress: Progress) -> list[Finding]:
    everything = list(blocks.all_blocks())
    for done, block in enumerate(everything):
        await progress(done, len(everything))
        await blocks.get(block)
    await progress(len(everything), len(everything))
    if not blocks.damaged_count:
        return []
    what = f"{blocks.damaged_count} cached blocks were not what they should be, and were dropped"
    return [Finding(Severity.WARNING, what, "They are fetched again when they are needed", "Check the disk")]
