"""Completes the replica in the background: directories that nobody has asked for yet are listed too.

Owns the rhythm only. What is to be listed stands in the replica, so the walk goes on where it was after any end, and
holds no more than one batch in memory. It keeps out of the way: it waits while system calls come in, but never for
ever, since a program that does not stop calling (an indexer, a backup) would otherwise keep it from ending.
"""

from cache.replica import Replica
from drivefs.sync.lister import Lister
from drivefs.sync.quiet import Quiet

BATCH_DIRECTORIES = 100
LONGEST_WAIT_SECONDS = 1.0
"""It goes on after so long however busy the mount is: a batch takes about a hundredth of that."""
IDLE_SECONDS = 2.0


class Walker:
    """Lists what is not listed yet."""

    def __init__(self, replica: Replica, lister: Lister, quiet: Quiet) -> None:
        self._replica = replica
        self._lister = lister
        self._quiet = quiet

    async def walk(self) -> None:
        """List all that is known to be incomplete, nearest to the root first; returns when nothing is.

        Cancellation loses at most the batch that is under way.

        Raises:
            RemoteError: the backend cannot be had now.
            DiskFull: there is no room to keep more.
        """
        while True:
            await self._quiet.wait(LONGEST_WAIT_SECONDS)
            batch = self._replica.incomplete(BATCH_DIRECTORIES)
            if not batch:
                return
            await self._lister.list_many(batch)
