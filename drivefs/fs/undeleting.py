"""Brings back what was removed: single files, and directories with all that was removed together with them.

Owns what belongs together, and how it is brought back: each inode by a `Restore`, so that it has its content, its
attributes and its history as before. Every page is one journal transaction, directories before what was in them; a
crash in between leaves the rest in the trash.
"""

from collections.abc import Awaitable, Callable, Sequence, Set
from contextlib import aclosing

import msgspec
import trio

from drivefs.fs import errors
from drivefs.fs.interfaces import Publisher
from drivefs.fs.mutations import Mutations
from drivefs.fs.past import Past
from drivefs.fs.view import Name, View
from drivefs.protocol.changes import Restore
from drivefs.protocol.ground import NowNs
from drivefs.protocol.history import TrashEntry
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.protocol.names import with_mark

TOGETHER_NS = 600 * 10**9
"""What was removed from a directory before that was removed itself belongs to it, up to a pause as long as this."""


class Undeleting:
    """Brings back what the trash tells of."""

    def __init__(self, view: View, mutations: Mutations, past: Past, publisher: Publisher, now_ns: NowNs) -> None:
        self._view = view
        self._mutations = mutations
        self._past = past
        self._publisher = publisher
        self._now_ns = now_ns
        self.moved: Callable[[], None] = lambda: None
        """Called when directories have come back, which may be elsewhere than they were."""

    def free_name(self, place: Name) -> Name:
        """The name of a place if it is free, else one like it that says what it is; all names there are known here."""
        parent, name = place
        first, number = name, 1
        while self._view.named(parent, name):
            name = with_mark(first, b" (restored)" if number == 1 else b" (restored %d)" % number)
            number += 1
        return parent, name

    def bring_back_alone(self, removed: InodeState, place: Name) -> None:
        """Give one thing the free name of a place again; what was in a directory stays in the trash.

        Raises:
            NotFound, NotDirectory: the directory of the place is not there; ReadOnly, cache.errors.DiskFull.
        """
        self._view.directory(place[0])
        self._restore(place[0], [(place[1], removed)])

    async def bring_back(self, entry: TrashEntry, place: Name, progress: Callable[[int], Awaitable[None]]) -> int:
        """The same with all that was removed together with a directory; gives how many files are back.

        `progress` hears of their number so far. Cancellation leaves the rest in the trash.

        Raises:
            As `bring_back_alone`, and what `Past` raises.
        """
        self.bring_back_alone(entry.inode, place)
        count = int(entry.inode.kind is not InodeKind.DIRECTORY)
        waiting = [entry] if not count else []
        while waiting:
            directory = waiting.pop()
            until = directory.time_ns
            names: set[bytes] = set()
            async with aclosing(self._past.removed(directory.inode.inode)) as pages:
                async for page in pages:
                    found, until, is_last = together(page, until, names)
                    self._restore(directory.inode.inode, [(each.place.name, each.inode) for each in found])
                    names.update(each.place.name for each in found)
                    inside = [each for each in found if each.inode.kind is InodeKind.DIRECTORY]
                    waiting += inside
                    count += len(found) - len(inside)
                    await progress(count)
                    if is_last:
                        break
                    await trio.lowlevel.checkpoint()
        return count

    def _restore(self, parent: InodeId, named: Sequence[tuple[bytes, InodeState]]) -> None:
        free = [(name, state) for name, state in named if not self._is_back(state.inode)]
        if not free:
            return
        self._mutations.admit()
        now = self._now_ns()
        known = {state.inode: self._known(state.inode) for _, state in free}
        with self._view.change():
            directory = self._view.draft_of(parent)
            for name, state in free:
                self._mutations.taking(parent, name)
                change = Restore(
                    n=self._mutations.next_op(),
                    time_ns=now,
                    inode=state.inode,
                    parent=parent,
                    name=name,
                    expects_content=True,
                )
                self._mutations.append(change)
                is_directory = state.kind is InodeKind.DIRECTORY
                back = msgspec.structs.replace(state, nlink=2 if is_directory else 1, ctime_ns=now)
                before = known[state.inode]
                self._view.put_inode(self._view.coming_back(before, back) if before else back, change.n)
                self._view.put_name(parent, name, state.inode, change.n)
                directory.nlink += is_directory
            directory.mtime_ns = directory.ctime_ns = now
            self._view.put_inode(directory, change.n)
        for _, state in free:
            self._mutations.named_otherwise(state.inode)
            self._view.seen_in(parent, self._view.inode(state.inode))
            if (before := known[state.inode]) is not None:
                self._view.came_back(before)
        if any(state.kind is InodeKind.DIRECTORY for _, state in free):
            self.moved()
        self._publisher.changed()

    def _is_back(self, inode: InodeId) -> bool:
        """Whether a name leads to an inode already: it was brought back meanwhile."""
        known = self._known(inode)
        return known is not None and known.nlink > 0

    def _known(self, inode: InodeId) -> InodeState | None:
        try:
            return self._view.inode(inode)
        except errors.NotFound:
            return None


def together(page: Sequence[TrashEntry], until: int, names: Set[bytes]) -> tuple[list[TrashEntry], int, bool]:
    """Those entries that were removed together with their directory, since when, and whether there are no more.

    The page goes back in time from `until`; of several with one name the latest is meant.
    """
    found: list[TrashEntry] = []
    seen = set(names)
    for entry in page:
        if entry.time_ns < until - TOGETHER_NS:
            return found, until, True
        until = min(until, entry.time_ns)
        if entry.place.name not in seen:
            seen.add(entry.place.name)
            found.append(entry)
    return found, until, False
