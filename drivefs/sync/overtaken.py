"""Own moves of directories that a move on another device has overtaken: they give way as soon as that is known.

Owns the rule what the tree shows until the backend has refused such a move. A directory has one name, and none of its
own below itself; an own move that the feed makes impossible would show it under two names, or out of reach of the root.
First wins, so the own one is lost: it goes from the overlay, and if it was not sent yet, it is refused here. What was
sent stays in the journal until it is answered. Invariant: what the replica has alone is a tree, so a circle has an own
name in it.
"""

from collections.abc import Iterable

from cache.effects import entries
from cache.journal import JournalRow, RowState
from cache.overlay import MISSING
from cache.workspace import LocalState
from drivefs.protocol.changes import Exchange, Rename, Restore, Status
from drivefs.protocol.ids import NO_INODE, InodeId, Seq
from drivefs.protocol.messages import FeedPage
from drivefs.protocol.model import DentryState, InodeKind
from drivefs.sync.places import MAX_DEPTH
from drivefs.sync.resolver import CYCLE

OVERTAKEN = "overtaken"
"""The reason of a move that is refused here, since the backend could only do the same."""


class Overtaken:
    """Finds own moves that are lost, and takes them out of what is shown."""

    def __init__(self, local: LocalState) -> None:
        self._journal = local.journal
        self._overlay = local.journal.overlay
        self._replica = local.replica

    def moved_by(self, page: FeedPage) -> list[InodeId]:
        """The directories that a page, before it is applied, gives a name which own changes do not speak for."""
        if not self._overlay.has_inodes():
            return []
        kinds = {state.inode: state.kind for state in page.inodes}
        return [
            dentry.inode
            for dentry in page.dentries
            if kinds.get(dentry.inode) is InodeKind.DIRECTORY
            and self._overlay.dentry(dentry.parent, dentry.name) is MISSING
            and self._replica.dentry(dentry.parent, dentry.name) != dentry.inode
        ]

    def give_way(self, moved: Iterable[InodeId], seq: Seq) -> list[DentryState]:
        """Now that the page up to `seq` is applied, let own moves go that it has overtaken; gives their entries."""
        dropped: list[DentryState] = []
        with self._journal.transaction():
            for directory in moved:
                for row in self._naming(directory, seq):
                    dropped += self._let_go(row, OVERTAKEN)
                for step in self._circle(directory):
                    for row in self._naming(step, seq):
                        if not isinstance(row.mutation, Restore):
                            dropped += self._let_go(row, CYCLE)
        return dropped

    def _naming(self, directory: InodeId, seq: Seq) -> list[JournalRow]:
        """The own changes that give a directory a name, in order, but those that were committed later than the page."""
        shown = [self._journal.get(self._overlay.op_of_dentry(*name)) for name in self._overlay.names_of(directory)]
        rows = {row.n: row for row in [*self._journal.touching(directory), *filter(None, shown)]}
        return [
            row
            for _, row in sorted(rows.items())
            if isinstance(row.mutation, Rename | Exchange | Restore)
            and (not isinstance(row.mutation, Rename) or row.mutation.inode == directory)
            and (row.state is not RowState.ACKED or row.seq <= seq)
        ]

    def _let_go(self, row: JournalRow, reason: str) -> list[DentryState]:
        dropped = []
        for place in entries(row.mutation):
            if self._overlay.op_of_dentry(*place) == row.n:
                was = self._overlay.dentry(*place)
                dropped.append(DentryState(*place, was if isinstance(was, int) else NO_INODE))
                self._overlay.drop_dentry(*place)
        if row.state is RowState.PENDING:
            self._journal.fail(row.n, Status.CONFLICT, reason)
        return dropped

    def _circle(self, directory: InodeId) -> list[InodeId]:
        """The directories on the way up from one that lead back to it; none if the way does not."""
        climbed: list[InodeId] = []
        at = directory
        while len(climbed) < MAX_DEPTH and (parent := self._parent_of(at)):
            climbed.append(at)
            at = parent
            if at == directory:
                return climbed
        return []

    def _parent_of(self, directory: InodeId) -> InodeId:
        """The directory in which one shows, NO_INODE if in none that is known here."""
        for parent, _name in self._overlay.names_of(directory):
            return parent
        theirs = self._replica.names_of(directory)
        return next((parent for parent, name in theirs if self._overlay.dentry(parent, name) is MISSING), NO_INODE)
