"""Opens the local state of a device: its lock, journal, staging, replica and block cache; and closes it.

Owns the layout of the two directories and the order of opening: lock, replica, journal with its recovery, block cache.
Invariants: one process at a time has a state directory open; everything in it is for its owner only; the cache
directory may have been deleted since the last time.
"""

import errno
import fcntl
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cache import synced
from cache.blocks import BlockCache
from cache.counters import Counter
from cache.database import Database, create_private
from cache.durable import make_directory, sync_path
from cache.errors import SUSPECT, Corrupt, DiskFull, Foreign, Misfit, ReplicaCorrupt, StateInUse, Unusable
from cache.findings import Finding, Severity
from cache.foreign import find_foreign
from cache.journal import Journal
from cache.lost import LostAndFound
from cache.pins import Pins
from cache.recovery import Recovery
from cache.redo import NUMBER, Redo, first_group, read_redo
from cache.renumber import renumber_creations
from cache.replica import Replica
from cache.rescue import log_unless_refused, look_at_log, lost_tail, rescue_log, unreadable
from cache.reserve import Reserve
from cache.salvage import finish_salvage
from cache.schema import JOURNAL, JOURNAL_ADDITIONS, JOURNAL_VERSION
from cache.sealing import digest
from cache.shares import Shares
from cache.staging import Staging
from cache.structure import JOURNAL_STRUCTURE, refuse_other
from cache.versions import create_tables, refuse_newer
from drivefs.protocol.ground import Offload, T
from drivefs.protocol.ids import InodeId

CACHE_KIBIBYTES = 8192

CHECKPOINT_BYTES = 16 * 2**20
"""A WAL of this size is copied into its database in the background."""

FINISH_BYTES = 64 * 2**20
"""A WAL of this size never ended while it was copied: the rest is copied on the loop, a few milliseconds."""

REST_BYTES = 2**20
MOST_PASSES = 5
"""So little is left for the loop to copy, or so many passes were made in the thread before it does."""

LEAST_BYTES = 2
"""SQLite takes a file that has fewer for an empty database, and removes its log."""

FULL = (errno.ENOSPC, errno.EDQUOT)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LocalState:
    """The open state; a context manager that closes it.

    `report` is what recovery found, for `status` and for people. `sync_offload` runs what syncs the journal.
    """

    def __init__(self, state_dir: Path, cache_dir: Path, *, offload: Offload, cache_limit_bytes: int) -> None:
        """Open, and after a crash recover, the state in two directories; blocks, since it reads what needs verifying.

        Raises:
            StateInUse: another process has it open.
            NewerState: a newer drivefs wrote it; nothing was touched.
            Unusable: the journal cannot be read; it was left as it is.
            Foreign: what lies in the place of a file of it is none; nothing was touched.
            DiskFull: what recovery does needs more room than there is; it begins anew the next time.
            Poisoned: the disk fails, or memory is short; the same.
        """
        self.offload = self.sync_offload = offload
        self._state_dir = state_dir
        self._is_checkpointing = False
        self.report: list[Finding] = []
        with ExitStack() as opened, full_disk_told(state_dir):
            for foreign in find_foreign(state_dir, cache_dir):
                raise Foreign(f"{foreign.what}. {foreign.meaning}. {foreign.advice}.")
            make_private(state_dir)
            opened.enter_context(held_lock(state_dir))
            for directory in (cache_dir, cache_dir / "blocks"):
                make_private(directory)
            self.replica = Replica(cache_dir / "replica.db", offload)
            opened.callback(self.replica.close)
            self._open_journal(state_dir, opened)
            self.blocks = BlockCache(cache_dir / "blocks", offload=offload, limit_bytes=cache_limit_bytes)
            opened.callback(self.blocks.close)
            self._opened = opened.pop_all()

    @property
    def is_suspect(self) -> bool:
        """Whether the disk has failed, or given what was not written, since the state was opened."""
        return (self._state_dir / SUSPECT).exists()

    def _offload_sync(self, work: Callable[..., T], /, *args: Any) -> Awaitable[T]:
        return self.sync_offload(work, *args)

    def _open_journal(self, state_dir: Path, opened: ExitStack) -> None:
        path = state_dir / "journal.db"
        self.lost = LostAndFound(state_dir / "lost+found")
        finish_salvage(state_dir)
        refuse_lost(path)
        refuse_newer(path, JOURNAL_VERSION)
        is_suspect = (state_dir / SUSPECT).exists()
        if is_suspect:
            drop_cached([*state_dir.glob("journal.db*"), *state_dir.glob("staging/*")])
        with log_unless_refused(path) as copied, ExitStack() as recovered:
            try:
                self.reserve = self._recover(path, recovered, copied, is_suspect=is_suspect)
            except (Unusable, ReplicaCorrupt):
                raise
            except Corrupt as error:
                raise Unusable(unreadable(path, error)) from error
            opened.push(recovered.pop_all())
        for mark in (SUSPECT, synced.UNSYNCED):
            (state_dir / mark).unlink(missing_ok=True)
        self._note_opened(path)
        self._database.on_distrust = partial(mark_suspect, state_dir)
        self._database.on_failure = partial(synced.mark_unsynced, state_dir)
        self.journal = Journal(self._database, self.staging, reserve=self.reserve, offload=self._offload_sync)
        opened.callback(self._close_journal)
        self.pins = Pins(self._database)
        self.shares = Shares(self.journal, self.replica)

    def _note_opened(self, path: Path) -> None:
        """From here on the journal is open, in its present form, and its transactions may share a COMMIT."""
        reserved = self._database.reserve_log(CHECKPOINT_BYTES)
        last = last_group(self._database)
        group = first_group(last)
        if last is None:
            # Numbers begin anew, and those that the file has may be among them.
            redo_path(path).unlink(missing_ok=True)
        redo = Redo.opened(redo_path(path), group + 1)
        with self._database.transaction():
            note_opened(self._database, boot_id(), reserved)
            note_group(self._database, None if redo is None else group)
            self._database.execute_script(f"PRAGMA user_version = {JOURNAL_VERSION}")
        # In the database itself: a log that is lost is missed then.
        self._database.finish_checkpoint()
        self._database.share_commits(redo)

    def _recover(self, path: Path, opened: ExitStack, copied: Callable[[], None], *, is_suspect: bool) -> Reserve:
        """Open the journal and staging, and bring them into a state that keeps all invariants.

        `copied` is called before the log is copied into the database.
        """
        state_dir, lost = path.parent, self.lost
        rescued = rescue_log(path, lost.directory, boot_id())
        log = look_at_log(path)
        database = self._database = Database(path, cache_kibibytes=CACHE_KIBIBYTES)
        opened.callback(database.close)
        database.leave_log(True)  # until it is known to be usable
        create_tables(database, JOURNAL, JOURNAL_VERSION)
        refuse_other(database, JOURNAL_STRUCTURE)
        database.execute_script(JOURNAL_ADDITIONS)
        sync_path(state_dir)
        last_boot = opened_since(database)
        is_told = bool(rescued)
        if last_boot is not None and not rescued:
            # A power cut may tear the tail; and what a kill has torn of a COMMIT is in `redo`.
            is_cut = log.is_cut and last_boot == boot_id() and not next_transactions(database)
            log = log._replace(is_cut=is_cut)
            rescued = lost_tail(path, log, lost.directory, least_log(database))
            is_told = any(finding.severity is Severity.DAMAGE for finding in rescued)
        self.report += rescued
        is_thorough = is_suspect or last_boot not in (None, boot_id())
        reserve = Reserve(state_dir)
        suspect = partial(mark_suspect, state_dir)
        self.staging = Staging(state_dir / "staging", take_number=self._take_number, reserve=reserve, on_rot=suspect)
        opened.callback(self.staging.close)
        if last_boot == boot_id():
            self._sync_staging(suspect)
        recovery = Recovery(database, self.staging, lost, replica=self.replica.inode, is_thorough=is_thorough)
        first = partial(run_again, database, lost, is_torn=last_boot != boot_id(), is_told=is_told)
        self.report += recovery.run(first)
        self._staging_numbers = Counter(database, "file")
        if last_boot is not None:
            # A crash from here on leaves an empty log, and nothing is lacking then.
            note_opened(database, last_boot, 0)
        copied()
        database.empty_log()
        database.leave_log(False)
        database.shrink()
        return reserve

    def _take_number(self) -> int:
        return self._staging_numbers.take()

    def _sync_staging(self, suspect: Callable[[], None]) -> None:
        """What an earlier process of this boot staged may be in memory only, and its records are to be durable now."""
        try:
            self.staging.sync_earlier()
        except OSError as error:
            suspect()
            if error.errno in FULL:
                raise DiskFull(
                    f"There is no room on the disk for all that was written to {self.staging.directory} before a crash:"
                    f" {error.strerror}. Free some space and mount again: all of it is verified then."
                ) from error
            raise self._database.poison(error) from error

    def _close_journal(self) -> None:
        """Sync, and note that nothing needs verifying the next time; unless the disk has failed."""
        self._database.leave_log(True)  # what was not noted as closed has its log
        if self._database.poisoned:
            return
        try:
            self._database.share_commits(None)
            pending = self.staging.begin_sync()
            pending.sync()
            note_opened(self._database, None)
            sync_path(self._database.wal_path)
            pending.remove_retired()
        except DiskFull:
            return  # as if it had been killed: all is in the log or in `redo`, and the next start looks
        except OSError as error:
            raise self._database.poison(error) from error
        self._database.leave_log(False)

    @property
    def dirty(self) -> bool:
        """Whether anything was committed or staged since the last barrier began."""
        return self.journal.is_dirty

    async def barrier(self) -> None:
        """Durable on return: all that was committed or staged before the call.

        Raises:
            Poisoned: the disk failed.
        """
        await self.journal.barrier()

    def renumber_creations(self) -> dict[InodeId, InodeId]:
        """After a new epoch began: give each inode that the server does not know yet a fresh id.

        Gives the new ids by the old ones. For a state whose files nobody has open: what is cached above the databases
        still has the old ids.

        Raises:
            OutOfIds, DiskFull, Corrupt: nothing was changed.
        """
        with self.journal.transaction():
            fresh = renumber_creations(self._database, self.journal, self.replica.inode_now)
            for old, new in fresh.items():
                self.pins.renumber(old, new)
            # The replica knows of one only if the server has lost it: what was made of it here has the new id.
            self.replica.forget_inodes(list(fresh))
        return fresh

    async def checkpoint(self) -> None:
        """Copy WALs that have grown into their databases; cheap when they have not."""
        for database in (self._database, self.replica.database):
            if database.wal_bytes < CHECKPOINT_BYTES or self._is_checkpointing:
                continue
            self._is_checkpointing = True
            try:
                await self._checkpoint(database)
            finally:
                self._is_checkpointing = False
        await self.blocks.tidy()

    async def _checkpoint(self, database: Database) -> None:
        database.flush()  # else what is open keeps the log from being begun afresh
        copied_bytes = await self._copy_log(database)
        if database.wal_bytes < FINISH_BYTES:
            return
        for _ in range(MOST_PASSES):
            if database.wal_bytes - copied_bytes <= REST_BYTES:
                break
            copied_bytes = await self._copy_log(database)
        database.finish_checkpoint()

    async def _copy_log(self, database: Database) -> int:
        if database is self._database:
            return await self.offload(synced.checkpoint, database, synced.extent_of(database))
        return await self.offload(database.checkpoint)

    def close(self) -> None:
        """Close everything; what is pending stays for the next time."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def refuse_lost(path: Path) -> None:
    """Look whether the journal of a state that has been used is there.

    Raises:
        Unusable: it is gone, or empty; nothing was touched.
    """
    is_gone = not path.exists()
    # The reserve is made once the journal's tables are durable.
    if (is_gone or path.stat().st_size < LEAST_BYTES) and (path.parent / "reserve").exists():
        raise Unusable(unreadable(path, "it is gone" if is_gone else "it is empty"))


@contextmanager
def full_disk_told(state_dir: Path) -> Iterator[None]:
    """Say in words that there is no room to open a state.

    Raises:
        DiskFull: so it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFull(
            f"There is no room on the disk to open {state_dir} after a crash: {error.strerror}. Nothing is lost. Free"
            " some space and mount again."
        ) from error


def make_private(directory: Path) -> None:
    """Create a directory for its owner only, or make it so."""
    make_directory(directory)
    directory.chmod(0o700)


def boot_id() -> bytes:
    """What the running system is told from the one after a power cut by."""
    return BOOT_ID.read_bytes().strip()


def opened_since(database: Database) -> bytes | None:
    """The boot in which the journal was opened and never closed, or None if it was closed."""
    row = database.row("SELECT value FROM meta WHERE key = 'open'")
    return row[0] if row else None


def least_log(database: Database) -> int:
    """How many bytes the log of a journal must have: without a power cut, those that it had when it was opened last."""
    row = database.row("SELECT value FROM meta WHERE key = 'log'")
    least_bytes = int.from_bytes(row[0], "big") if row else 0
    return least_bytes if opened_since(database) == boot_id() else min(least_bytes, 1)


def note_opened(database: Database, boot: bytes | None, log_bytes: int = 0) -> None:
    """Note the boot in which the journal is open, and the size of its log then; or None: it is closed."""
    with database.transaction():
        if boot is None:
            database.write("DELETE FROM meta WHERE key = 'open'")
            return
        database.write("INSERT OR REPLACE INTO meta VALUES ('open', ?)", (boot,))
        database.write("INSERT OR REPLACE INTO meta VALUES ('log', ?)", (log_bytes.to_bytes(8, "big"),))


def redo_path(path: Path) -> Path:
    """The file of the transactions that are not in the log yet, of the database at `path`."""
    return path.with_name("redo")


def last_group(database: Database) -> int | None:
    """The number of the last COMMIT that the database has; None: its transactions never shared one."""
    row = database.row("SELECT value FROM meta WHERE key = 'group'")
    return int.from_bytes(row[0], "big") if row else None


def note_group(database: Database, group: int | None) -> None:
    """Let that be the number of this COMMIT; None: no transactions will share one."""
    if group is None:
        database.write("DELETE FROM meta WHERE key = 'group'")
    else:
        database.write(NUMBER, (group.to_bytes(8, "big"),))


def next_transactions(database: Database) -> list[bytes]:
    """What `redo` has that comes behind the last COMMIT."""
    last = last_group(database)
    return [] if last is None else read_redo(redo_path(database.path), last).transactions


def run_again(database: Database, lost: LostAndFound, *, is_torn: bool, is_told: bool) -> list[Finding]:
    """In a transaction, run those again that were accepted and are not in the log; gives what to tell of them.

    They are a beginning of what came after the last COMMIT, or all of it: so they count after a power cut too. Where
    that tore the file there is nothing to tell; nor where it was told that a part of the log is gone.

    Raises:
        Corrupt, DiskFull, Poisoned: they could not be run; the next start has them still.
    """
    path = redo_path(database.path)
    last = last_group(database)
    if last is None:
        return []
    group, transactions, is_next, is_whole, _ = read_redo(path, last)
    fits = True
    if transactions:
        try:
            database.run_again(transactions)
            note_group(database, group)
        except Misfit:
            is_next = fits = False
    if fits and (is_torn or is_whole):
        return []
    data = path.read_bytes() if path.exists() else b""
    kept = lost.keep_pieces(f"redo-{digest(data) + 2**63:016x}", [(0, data)]) if any(data) else None
    if is_told:
        return []
    if is_next:
        severity, what = Severity.NOTE, f"The last change in {path} does not verify"
        meaning = "It was being written when the mount was ended, or has rotted: it is not there"
    else:
        severity, what = Severity.DAMAGE, f"{path} is not the file that was written, or does not fit the journal"
        meaning = "What was in it is missing: the last changes before the mount ended"
    advice = "Look whether what you wrote last is there"
    if kept is not None:
        advice += f". The file as it was found is in {kept}"
    return [Finding(severity, what, meaning, advice)]


def mark_suspect(state_dir: Path) -> None:
    """Let the next start verify everything; as far as a failing disk still takes a name."""
    with suppress(OSError):
        create_private(state_dir / SUSPECT)
        sync_path(state_dir)


def drop_cached(paths: Iterable[Path]) -> None:
    """Let the kernel forget what it remembers of files that nobody has open, so that reading them asks the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@contextmanager
def held_lock(state_dir: Path) -> Iterator[None]:
    """A state directory, locked for whoever opened it, in this process or another.

    Raises:
        StateInUse: another one has it.
    """
    path = state_dir / "lock"
    create_private(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateInUse(
                f"{state_dir} is in use by another drivefs process: a drive can be mounted once at a time on a device."
                " Unmount it there first."
            ) from error
        yield
    finally:
        os.close(descriptor)
