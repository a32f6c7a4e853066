"""What the conflict rules ask of the two sides, as dicts that a test fills. Owns nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from drivefs.protocol.ids import NO_INODE, InodeId, RevisionNumber
from drivefs.protocol.model import InodeState
from drivefs.sync.questions import Place

BASE = RevisionNumber(3)
"""What edited content was made on."""


@dataclass
class Tree:
    """One side as dicts; `edited` and `contents` are the device's, `places` the backend's memory of what is gone."""

    inodes: dict[InodeId, InodeState] = field(default_factory=dict)
    entries: dict[Place, InodeId] = field(default_factory=dict)
    edited: set[InodeId] = field(default_factory=set)
    contents: dict[InodeId, bytes] = field(default_factory=dict)
    places: dict[InodeId, Place] = field(default_factory=dict)
    removed: set[Place] = field(default_factory=set)
    rewritten: set[InodeId] = field(default_factory=set)
    emptied: set[InodeId] = field(default_factory=set)

    def put(self, found: InodeState, *names: Place) -> "Tree":
        self.inodes[found.inode] = found
        self.entries.update(dict.fromkeys(names, found.inode))
        return self

    def inode(self, inode: InodeId) -> InodeState | None:
        return self.inodes.get(inode)

    def at(self, place: Place) -> InodeId:
        return self.entries.get(place, NO_INODE)

    def is_edited(self, inode: InodeId) -> bool:
        return inode in self.edited

    def base(self, inode: InodeId) -> RevisionNumber | None:
        return BASE if inode in self.edited else None

    def children(self, directory: InodeId) -> Sequence[tuple[bytes, InodeId]]:
        return [(place.name, inode) for place, inode in self.entries.items() if place.parent == directory]

    def was_rewritten(self, inode: InodeId, base: RevisionNumber | None) -> bool:
        return inode in self.rewritten

    def is_emptied(self, inode: InodeId) -> bool:
        return inode in self.emptied

    def last_place(self, inode: InodeId) -> Place | None:
        return self.places.get(inode)


class Device(Tree):
    def is_removed(self, place: Place) -> bool:
        return place in self.removed

    def content(self, inode: InodeId) -> bytes | None:
        return self.contents.get(inode)


class Backend(Tree):
    def names(self, inode: InodeId) -> list[Place]:
        return [place for place, led in self.entries.items() if led == inode]

    def content(self, found: InodeState) -> bytes:
        assert found.blocks is not None
        return found.blocks
