"""What amends change of what is shown, and whom it is told when they are done.

Owns the list of it while one refusal is made good, and the rule what the kernel is told. Where an inode that programs
know was found to be another one that they have not seen, that one goes on under the number which the kernel has: names
that led to the one and lead to the other look the same, and nobody who works below them notices. Invariant: `note` is
called before what a name leads to changes.
"""

from collections.abc import Callable, Iterable

from drivefs.protocol.ids import InodeId
from drivefs.sync.contents import Shown
from drivefs.sync.questions import Place


class Telling:
    """The changes of one refusal; `leads_to` says what a name leads to now."""

    def __init__(self, shown: Shown, leads_to: Callable[[Place], InodeId]) -> None:
        self._shown = shown
        self._leads_to = leads_to
        self.inodes: set[InodeId] = set()
        self._before: dict[Place, InodeId] = {}
        self._cached: set[Place] = set()
        self._same: dict[InodeId, InodeId] = {}
        self._merged: list[tuple[InodeId, InodeId, bool]] = []

    def begin(self) -> None:
        """Another refusal is to be made good."""
        self.inodes, self._before, self._cached, self._same, self._merged = set(), {}, set(), {}, []

    def note(self, places: Iterable[Place]) -> None:
        """What these names lead to is about to change."""
        for place in places:
            if place not in self._before:
                self._before[place] = self._leads_to(place)

    def was(self, place: Place) -> InodeId:
        """What a name led to before."""
        before = self._before.get(place)
        return self._leads_to(place) if before is None else before

    def note_merged_names(self, inode: InodeId, into: InodeId, names: Iterable[bytes], *, is_new: bool) -> None:
        """The names in one directory are about to be those in another; `is_new` as in `merged`."""
        for name in names:
            old, new = Place(inode, name), Place(into, name)
            self._cached.add(old)
            if is_new:
                self._before[new] = self._leads_to(old)
            else:
                self.note((old, new))

    def merged(self, inode: InodeId, into: InodeId, *, is_new: bool) -> None:
        """One inode is another one from now on; `is_new`: programs have not seen that one yet."""
        if is_new:
            self._same[inode] = into
        self._merged.append((inode, into, is_new))

    def undone(self) -> None:
        """Nothing of it has come about: whatever the caches took from it goes."""
        self._shown.views.forget_cached(self.inodes, self._before.keys() | self._cached)

    def tell(self) -> None:
        """All is done: the caches in front forget it, and the kernel what looks different."""
        for inode, into, is_new in self._merged:
            self._shown.invalidator.merged(inode, into, is_new=is_new)
        self._shown.views.forget_cached(self.inodes, self._before.keys() | self._cached)
        for inode in self.inodes:
            self._shown.invalidator.inode(inode, content=True)
        for place, before in self._before.items():
            if self._same.get(before, before) != self._leads_to(place):
                self._shown.invalidator.entry(*place)
