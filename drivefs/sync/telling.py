"""What amends change of what is shown, and whom it is told when they are done: the kernel, and who watches.

Owns the list of it while one refusal is made good, and the rule what the kernel is told. Where an inode that programs
know was found to be another one that they have not seen, that one goes on under the number which the kernel has: names
that led to the one and lead to the other look the same, and nobody who works below them notices. Invariant: `note` is
called before what a name leads to changes, and `touch` before what an inode looks like does.
"""

from collections.abc import Callable, Iterable

from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeState
from drivefs.sync.contents import Shown
from drivefs.sync.happenings import NameChange
from drivefs.sync.questions import Place


class Telling:
    """The changes of one refusal; `leads_to` says what a name leads to now, `state` what an inode looks like."""

    def __init__(
        self, shown: Shown, leads_to: Callable[[Place], InodeId], state: Callable[[InodeId], InodeState | None]
    ) -> None:
        self._shown = shown
        self._leads_to = leads_to
        self._state = state
        self._looked: dict[InodeId, InodeState | None] = {}
        self._before: dict[Place, InodeId] = {}
        self._cached: set[Place] = set()
        self._same: dict[InodeId, InodeId] = {}
        self._merged: list[tuple[InodeId, InodeId, bool]] = []

    def begin(self) -> None:
        """Another refusal is to be made good."""
        self._looked, self._before, self._cached, self._same, self._merged = {}, {}, set(), {}, []

    @property
    def inodes(self) -> Iterable[InodeId]:
        """All that were touched."""
        return self._looked.keys()

    def touch(self, inodes: Iterable[InodeId]) -> None:
        """What these inodes look like is about to change."""
        for inode in inodes:
            if inode not in self._looked:
                self._looked[inode] = self._state(inode)

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
        changed = []
        for place, before in self._before.items():
            after = self._leads_to(place)
            if self._same.get(before, before) != after:
                self._shown.invalidator.entry(*place)
                changed.append(NameChange(*place, before, after))
        looks = ((looked, self._state(inode)) for inode, looked in self._looked.items())
        self._shown.announce(changed, [(was, now) for was, now in looks if was is not None and now is not None])
