"""The durable barrier: what was committed before it began survives a power cut when it ends.

Owns the order (staged bytes, then the WAL that names them, then removal of what was retired) and the grouping: one sync
serves all who came before it began, and all who come until there is something new. Invariant: a sync that fails poisons
the journal, all waiters get the error, and nothing is tried again, since the kernel may have dropped what it could not
write.
"""

from contextlib import suppress
from typing import Protocol

import trio

from cache.database import Database, LogSync
from cache.durable import sync_path
from cache.errors import Corrupt, DiskFull, Poisoned
from cache.staging import PendingSync, Staging
from drivefs.protocol.ground import Offload


class Merge(Protocol):
    """Called as a barrier begins, with whether it syncs staged bytes."""

    def __call__(self, *, syncs_staging: bool) -> None: ...


class Barrier:
    """Syncs of one journal; at most one of an object runs at a time.

    With `staged` False it leaves staged bytes alone, unless they have to come first: enough to let others hear of
    mutations, and for what was written without an fsync, since recovery finds out which staged bytes a power cut has
    left. `merge` hears that one begins, and may still commit to the journal.
    """

    def __init__(self, database: Database, staging: Staging, offload: Offload, merge: Merge, *, staged: bool) -> None:
        self._database = database
        self._staging = staging
        self._staged = staged
        self._offload = offload
        self._merge = merge
        self._begun_count = 0
        self._ended_count = 0
        self._covered_commits = -1
        self._is_running = False
        self._ended = trio.Event()

    @property
    def is_needed(self) -> bool:
        """Whether anything was committed or staged since the last barrier began."""
        return self._database.commit_count != self._covered_commits or (self._staged and self._staging.is_dirty)

    async def wait(self) -> None:
        """Durable on return: all that was committed and staged before the call.

        Cancellation leaves a sync that has begun to the others who wait for it.

        Raises:
            Poisoned: the disk failed, now or earlier.
            DiskFull: there is no room for the log to grow; nothing that was accepted is lost.
        """
        # Where nothing came since the last sync began, that one covers the caller too, whether or not it has ended.
        target = self._begun_count + self.is_needed
        self._refuse_if_poisoned()
        while self._ended_count < target:
            if self._is_running:
                await self._ended.wait()
            else:
                await self._run()
            self._refuse_if_poisoned()

    def _refuse_if_poisoned(self) -> None:
        if self._database.poisoned:
            raise Poisoned(*self._database.poisoned.args)

    async def _run(self) -> None:
        is_staged = self._staged or self._staging.comes_first
        # It only saves room. Whoever needs what does not verify, or cannot be read, is to find that.
        with suppress(DiskFull, Corrupt, OSError):
            self._merge(syncs_staging=is_staged)
        log = self._database.begin_sync()
        self._is_running = True
        self._begun_count += 1
        number, covered = self._begun_count, self._covered_commits
        self._covered_commits = self._database.commit_count
        pending = self._staging.begin_sync() if is_staged else self._staging.nothing_to_sync()
        try:
            removed_bytes = await self._offload(self._sync, pending, log)
        except OSError as error:
            raise self._database.poison(error) from error
        except BaseException:
            self._staging.sync_cancelled(pending)
            self._covered_commits = covered
            raise
        else:
            self._ended_count = number
            self._database.sync_ended(log)
            self._staging.sync_ended(pending, removed_bytes)
            self._forget_retired(pending)
        finally:
            self._is_running = False
            self._ended.set()
            self._ended = trio.Event()

    @staticmethod
    def _sync(pending: PendingSync, log: LogSync) -> int:
        pending.sync()
        sync_path(log.path)
        return pending.remove_retired()

    def _forget_retired(self, pending: PendingSync) -> None:
        if pending.retired:
            # The sync has been made. Where there is no room now, the next start does it.
            with suppress(DiskFull), self._database.transaction():
                for file in pending.retired:
                    self._database.write("DELETE FROM retired WHERE file = ?", (file,))
