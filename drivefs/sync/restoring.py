"""Takes held removals back: the names are here again, and the backend never hears that they were gone.

Owns the order of steps. Each step is one journal transaction, so a crash leaves part of it restored and the rest held.
A name that the backend never had stays removed: there is nothing to go back to. What was written to a file and not sent
went with its name, unless the kernel has not forgotten it yet.
"""

from collections.abc import Callable

import msgspec
import trio

from cache.journal import RowState
from cache.overlay import MISSING
from cache.workspace import LocalState
from drivefs.protocol.changes import Unlink
from drivefs.protocol.ids import NO_INODE, NO_OP, InodeId
from drivefs.protocol.model import InodeKind, InodeState, with_content_of
from drivefs.sync.contents import Contents, Shown
from drivefs.sync.guard import Guard

STEP = 128
PAUSE_SECONDS = 0.002


class Restoring:
    """Restores what a guard holds; `offer` hears of files whose unpublished content may go on its way again."""

    def __init__(
        self, local: LocalState, guard: Guard, shown: Shown, offer: Callable[[InodeId], None], contents: Contents
    ) -> None:
        self._journal = local.journal
        self._replica = local.replica
        self._guard = guard
        self._shown = shown
        self._offer = offer
        self._contents = contents

    async def restore(self) -> int:
        """Restore all that is held now; gives how many files are back. Cancellation leaves the rest held."""
        count = 0
        directories: set[InodeId] = set()
        # Latest first: a directory is back before what was in it.
        while numbers := self._guard.last_held(STEP):
            removals: list[tuple[Unlink, InodeState]] = []
            with self._journal.transaction():
                for n in numbers:
                    row = self._journal.get(n)
                    change = row.mutation if row is not None else None
                    known = self._replica.inode(change.inode) if isinstance(change, Unlink) else None
                    is_directory = known is not None and known.kind is InodeKind.DIRECTORY
                    self._guard.dealt_with(n, change.inode if change is not None else NO_INODE)
                    if not isinstance(change, Unlink) or row is None or row.state is not RowState.PENDING:
                        continue
                    if known is not None and self._replica.dentry(change.parent, change.name) == change.inode:
                        self._journal.remove(n)
                        removals.append((change, known))
                        count += not is_directory
                self._guard.keep()
                changed = self._put(removals)
            directories.update(change.parent for change, _ in removals)
            directories.update(known.inode for _, known in removals if known.kind is InodeKind.DIRECTORY)
            self._tell(
                [change.inode for change, _ in removals], [(change.parent, change.name) for change, _ in removals]
            )
            for inode in changed:
                if not self._contents.is_written(inode):
                    self._offer(inode)
            await trio.sleep(PAUSE_SECONDS)
        self._count_links(directories)
        return count

    def _put(self, removals: list[tuple[Unlink, InodeState]]) -> list[InodeId]:
        """Whatever else is pending about these inodes, they have their names again; gives those with changed content.

        In the transaction in which the removals go: what has no name, and changes, is taken for left over by a start.
        """
        overlay = self._journal.overlay
        changed: list[InodeId] = []
        for change, known in removals:
            own = overlay.inode(change.inode)
            if own is None:
                continue
            if self._journal.drafts.draft(change.inode) is not None:
                changed.append(change.inode)
            elif known.kind is InodeKind.FILE:
                own = with_content_of(known, own)
            links = known.nlink if known.kind is InodeKind.DIRECTORY else min(own.nlink + 1, known.nlink)
            overlay.put_inode(msgspec.structs.replace(own, nlink=links), NO_OP)
        return changed

    def _count_links(self, directories: set[InodeId]) -> None:
        """Directories in which something else is pending have as many subdirectories as they show."""
        overlay, replica = self._journal.overlay, self._replica
        with self._journal.transaction():
            for directory in directories:
                own, known = overlay.inode(directory), replica.inode(directory)
                if own is None or known is None:
                    continue
                links = known.nlink
                for name, inode in overlay.children(directory):
                    before = replica.dentry(directory, name)
                    links += self._is_directory(inode) - (before is not MISSING and self._is_directory(before))
                overlay.put_inode(msgspec.structs.replace(own, nlink=links), NO_OP)
        self._tell(list(directories), [])

    def _is_directory(self, inode: InodeId | None) -> bool:
        if not inode:
            return False
        state = self._journal.overlay.inode(inode) or self._replica.inode(inode)
        return state is not None and state.kind is InodeKind.DIRECTORY

    def _tell(self, inodes: list[InodeId], names: list[tuple[InodeId, bytes]]) -> None:
        self._shown.views.forget_cached(inodes, names)
        for inode in inodes:
            self._shown.invalidator.inode(inode, content=False)
        for parent, name in names:
            self._shown.invalidator.entry(parent, name)
