"""Directories that were found to be others here, and that are there again: each is itself from then on.

Owns when an alias ends before all that may name it is gone: somebody brought the directory back, or the backend was put
back to a state that has it, and the feed or a listing says so. Invariant: what is queued goes on being meant for the
other one.
"""

from collections.abc import Iterable, Sequence

from cache.workspace import LocalState
from drivefs.protocol.ids import InodeId
from drivefs.protocol.messages import Entry
from drivefs.protocol.model import InodeState
from drivefs.sync.contents import Shown

MAX_TOLD_NAMES = 10_000
"""So many names of a directory that is itself again the kernel is told of: it may have others under them."""


class Parting:
    """Tells apart what one device took for one."""

    def __init__(self, local: LocalState, shown: Shown) -> None:
        self._journal = local.journal
        self._replica = local.replica
        self._invalidator = shown.invalidator

    def came(self, states: Iterable[InodeState]) -> list[tuple[InodeId, bytes]]:
        """The backend has these; gives the names that directories which are themselves again seemed to have."""
        journal, found = self._journal, list[tuple[InodeId, bytes]]()
        for state in states:
            into = journal.aliases.inode(state.inode)
            if into == state.inode or not state.nlink:
                continue
            with journal.transaction():
                journal.rename_queued(state.inode, into)
                journal.aliases.drop(state.inode)
            self._invalidator.parted(state.inode)
            theirs = self._replica.names_after(into, b"", MAX_TOLD_NAMES)
            found += [(state.inode, name) for name, _ in [*theirs, *journal.overlay.children(into)]]
        return found

    def listed(self, _directory: InodeId, entries: Sequence[Entry]) -> None:
        """A part of a directory's names was taken over, as far as the feed has brought nothing newer."""
        known = (self._replica.inode_now(entry.inode.inode) for entry in entries if self._is_alias(entry.inode.inode))
        for directory, name in self.came([state for state in known if state is not None]):
            self._invalidator.entry(directory, name)

    def _is_alias(self, inode: InodeId) -> bool:
        return self._journal.aliases.inode(inode) != inode
