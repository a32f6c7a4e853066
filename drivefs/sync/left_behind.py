"""Finds what is kept on this device only (ignored files) in directories that another device has removed.

Owns the finding. Such a file does not bring its directory back, as a file of the drive would: nobody else knew of it,
and the removal was meant. It is refused here as the backend would refuse it, and `giving_up` keeps its content in
`lost+found` and tells people. Invariant: the backend says that a directory is gone; what this device does not know, or
does not know yet, is no sign of it.
"""

from collections.abc import Callable

import trio

from cache.errors import DiskFull
from drivefs.protocol.ids import InodeId
from drivefs.protocol.messages import InodesRequest
from drivefs.remote.errors import RemoteError
from drivefs.sync.connection import Connection
from drivefs.sync.ends import Ends
from drivefs.sync.places import Places

LOOK_SECONDS = 2.0
REASON = "left_behind"
MOST_ASKED = 100


class LeftBehind:
    """Looks for ignored files without a place; `change_count` moves when names in the drive may have changed."""

    def __init__(
        self, ends: Ends, places: Places, *, change_count: Callable[[], int], found: Callable[[], None]
    ) -> None:
        self._ends = ends
        self._journal = ends.local.journal
        self._places = places
        self._change_count = change_count
        self._found = found

    async def run(self, connection: Connection, caught_up: trio.Event) -> None:
        """Look whenever names may have changed, until cancelled."""
        seen = -1
        while True:
            await connection.wait_online()
            await caught_up.wait()
            count = self._change_count()
            if count != seen:
                try:
                    await self.look()
                except RemoteError as error:
                    connection.lost(error)
                except DiskFull:
                    pass  # it is tried again in a moment
                else:
                    seen = count
            await trio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Refuse all that is left behind now.

        Raises:
            RemoteError: the backend does not say whether a directory is there.
        """
        homeless: dict[InodeId, list[InodeId]] = {}
        for number, inode in enumerate(self._journal.ignored.all()):
            for parent, _ in self._journal.overlay.names_of(inode)[:1]:
                if not self._journal.ignored.has(parent) and not self._is_placed(parent):
                    homeless.setdefault(parent, []).append(inode)
            if number % MOST_ASKED == 0:
                await trio.lowlevel.checkpoint()
        parents = list(homeless)
        for start in range(0, len(parents), MOST_ASKED):
            part = parents[start : start + MOST_ASKED]
            reply = await self._ends.remote.inodes(self._ends.workspace, InodesRequest(inodes=part))
            there = {state.inode for state in reply.inodes if state.nlink}
            for parent in part:
                if parent not in there and not self._is_placed(parent):
                    self._refuse(homeless[parent])

    def _is_placed(self, directory: InodeId) -> bool:
        """Whether a directory is in the tree here, or own changes that are on their way may bring it back."""
        return self._places.way_to(directory) is not None or bool(self._journal.touching(directory))

    def _refuse(self, inodes: list[InodeId]) -> None:
        with self._journal.transaction():
            while inodes:
                inode = inodes.pop()
                inodes += [child for _, child in self._journal.overlay.children(inode) if child]
                self._journal.refuse_ignored(inode, REASON)
        self._found()
