"""Opens the local state of a device: its lock, journal, staging, replica and block cache; and closes it.

Owns the layout of the two directories and the order of opening: lock, replica, journal with its recovery, block cache.
Invariants: one process at a time has a state directory open; everything in it is for its owner only; the cache
directory may have been deleted since the last time.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from cache.blocks import BlockCache
from cache.counters import Counter
from cache.database import Database, create_private, create_tables, refuse_newer
from cache.durable import make_directory, sync_path
from cache.errors import StateInUse
from cache.findings import Finding
from cache.journal import Journal
from cache.lost import LostAndFound
from cache.pins import Pins
from cache.recovery import Recovery
from cache.renumber import renumber_creations
from cache.replica import Replica
from cache.rescue import rescue_log
from cache.reserve import Reserve
from cache.schema import JOURNAL, JOURNAL_ADDITIONS, JOURNAL_VERSION
from cache.staging import Staging
from drivefs.protocol.ground import Offload
from drivefs.protocol.ids import InodeId

CACHE_KIBIBYTES = 8192

CHECKPOINT_BYTES = 16 * 2**20
"""A WAL of this size is copied into its database in the background."""

FINISH_BYTES = 64 * 2**20
"""A WAL of this size never ended while it was copied: the rest is copied on the loop, a few milliseconds."""

REST_BYTES = 2**20
MOST_PASSES = 5
"""So little is left for the loop to copy, or so many passes were made in the thread before it does."""

SUSPECT = "suspect"
"""This file says that the disk had failed, or gave what was not written: all of it is to be verified."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LocalState:
    """The open state; a context manager that closes it.

    `report` is what recovery found, for `status` and for people.
    """

    def __init__(self, state_dir: Path, cache_dir: Path, *, offload: Offload, cache_limit_bytes: int) -> None:
        """Open, and after a crash recover, the state in two directories; blocks, since it reads what needs verifying.

        Raises:
            StateInUse: another process has it open.
            NewerState: a newer drivefs wrote it; nothing was touched.
            Corrupt: the journal cannot be read; it was left as it is.
        """
        self.offload = offload
        self._is_checkpointing = False
        self.report: list[Finding] = []
        with ExitStack() as opened:
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

    def _open_journal(self, state_dir: Path, opened: ExitStack) -> None:
        path = state_dir / "journal.db"
        lost = self.lost = LostAndFound(state_dir / "lost+found")
        refuse_newer(path, JOURNAL_VERSION)
        suspect = partial(mark_suspect, state_dir)
        is_suspect = (state_dir / SUSPECT).exists()
        if is_suspect:
            drop_cached([*state_dir.glob("journal.db*"), *state_dir.glob("staging/*")])
        self.report += rescue_log(path, lost.directory)
        database = self._database = Database(path, cache_kibibytes=CACHE_KIBIBYTES)
        opened.callback(database.close)
        create_tables(database, JOURNAL, JOURNAL_VERSION)
        database.execute_script(JOURNAL_ADDITIONS)
        sync_path(state_dir)
        boot, last_boot = boot_id(), opened_since(database)
        is_thorough = is_suspect or last_boot not in (None, boot)
        reserve = Reserve(state_dir)
        numbers = Counter(database, "file")
        self.staging = Staging(state_dir / "staging", take_number=numbers.take, reserve=reserve, on_rot=suspect)
        opened.callback(self.staging.close)
        recovery = Recovery(database, self.staging, lost, replica=self.replica.inode, is_thorough=is_thorough)
        self.report += recovery.run()
        database.empty_log()
        database.shrink()
        (state_dir / SUSPECT).unlink(missing_ok=True)
        note_opened(database, boot)
        database.reserve_log(CHECKPOINT_BYTES)
        database.on_distrust = suspect
        self.journal = Journal(database, self.staging, reserve=reserve, offload=self.offload)
        opened.callback(self._close_journal)
        self.pins = Pins(database)

    def _close_journal(self) -> None:
        """Sync, and note that nothing needs verifying the next time; unless the disk has failed."""
        if self._database.poisoned:
            return
        pending = self.staging.begin_sync()
        try:
            pending.sync()
            note_opened(self._database, None)
            sync_path(self._database.wal_path)
            pending.remove_retired()
        except OSError as error:
            raise self._database.poison(error) from error

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
            fresh = renumber_creations(self._database, self.journal, self.replica.inode)
            for old, new in fresh.items():
                self.pins.renumber(old, new)
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
        copied_bytes = await self.offload(database.checkpoint)
        if database.wal_bytes < FINISH_BYTES:
            return
        for _ in range(MOST_PASSES):
            if database.wal_bytes - copied_bytes <= REST_BYTES:
                break
            copied_bytes = await self.offload(database.checkpoint)
        database.finish_checkpoint()

    def close(self) -> None:
        """Close everything; what is pending stays for the next time."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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


def note_opened(database: Database, boot: bytes | None) -> None:
    """Note the boot in which the journal is open, or None: it is closed."""
    if boot is None:
        database.write("DELETE FROM meta WHERE key = 'open'")
    else:
        database.write("INSERT OR REPLACE INTO meta VALUES ('open', ?)", (boot,))


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
