"""Looks again at what stays on this device when the rules, or places in the drive, have changed.

Owns when that is. What no rule keeps here any more is released: it goes to the drive as if it had been made just then.
Nothing is ever taken back from the drive. Invariant: rules that change once more within a moment (a program writes the
file of the rules in steps) release nothing in between.
"""

from contextlib import suppress

import trio

from cache.errors import CacheError, DiskFull
from drivefs.fs import errors
from drivefs.fs.ignore_rules import NAME
from drivefs.fs.interfaces import Publisher
from drivefs.fs.kept_here import KeptHere
from drivefs.fs.namespace import Namespace
from drivefs.fs.view import View
from drivefs.protocol.ids import NO_INODE, InodeId

LOOK_SECONDS = 1.0
PART = 200


class Reconsidering:
    """The background part of ignore rules."""

    def __init__(self, view: View, names: Namespace, kept: KeptHere, *, root: InodeId, publisher: Publisher) -> None:
        self._view = view
        self._names = names
        self._kept = kept
        self._root = root
        self._publisher = publisher
        self.known = trio.Event()
        """Set when the rules have been read, or could not be."""

    async def run(self) -> None:
        """Follow the rules until cancelled."""
        done = seen = -1
        while True:
            await self.read_rules()
            self.known.set()
            count = self._kept.ignoring.change_count
            if count == seen != done and not self._view.is_read_only:
                with suppress(errors.FileSystemError, DiskFull):  # it is tried again in a moment
                    await self._release()
                    done = seen
            seen = count
            await trio.sleep(LOOK_SECONDS)

    async def read_rules(self) -> None:
        """Read the rules that have changed or are new; of those that cannot be had now, what is known counts on."""
        ignoring = self._kept.ignoring
        for directory in (self._root, *ignoring.unread):
            try:
                await self._names.lookup(directory, NAME)
            except (errors.NotFound, errors.NotDirectory):
                ignoring.unread.discard(directory)
            except (errors.FileSystemError, CacheError):
                continue  # others may be had
        await ignoring.learn()

    async def _release(self) -> None:
        """Release all that no rule keeps here any more."""
        after = NO_INODE
        while inodes := self._view.journal.ignored.inodes(after, PART):
            for inode in inodes:
                self._look_at(inode)
            after = inodes[-1]
            await trio.lowlevel.checkpoint()

    def _look_at(self, inode: InodeId) -> None:
        kept, state = self._kept, self._view.inode(inode)
        names = self._view.journal.overlay.names_of(inode)
        if any(kept.has(parent) for parent, _ in names) or all(kept.keeps(name, state) for name in names):
            return
        with self._view.change():
            kept.make_known(state, names)
        kept.released(state)
        self._publisher.changed()
