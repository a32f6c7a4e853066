"""A tree as simple as can be, which says what a commit should have done: the reference for random histories.

It knows names, kinds, modes, extended attributes and revision numbers; it finds link counts by counting. Nothing in it
is shared with the product but the shapes of mutations.
"""

from copy import deepcopy
from dataclasses import dataclass, field

from drivefs.protocol.changes import (
    Base,
    Create,
    Exchange,
    Link,
    Mutation,
    OpResult,
    Rename,
    Restore,
    SetAttributes,
    SetXattr,
    Store,
    Unlink,
)
from drivefs.protocol.model import InodeKind, InodeState

Place = tuple[int, bytes]


@dataclass
class ModelInode:
    kind: InodeKind
    mode: int
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    contents: list[bytes] = field(default_factory=list)
    bases: list[Base] = field(default_factory=lambda: [Base()])
    """What names each of its contents, the present one last; the first is that there is none."""


@dataclass
class Model:
    """`inodes` holds all that ever were; those without a name are what `names` does not mention."""

    root: int
    inodes: dict[int, ModelInode] = field(default_factory=dict)
    names: dict[Place, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inodes[self.root] = ModelInode(InodeKind.DIRECTORY, 0o755)

    def copy(self) -> "Model":
        return deepcopy(self)

    def links(self, inode: int) -> int:
        names = sum(1 for target in self.names.values() if target == inode)
        if self.inodes[inode].kind is not InodeKind.DIRECTORY:
            return names
        return 2 + len(self.children(inode, directories=True)) if names or inode == self.root else 0

    def children(self, directory: int, *, directories: bool = False) -> dict[bytes, int]:
        found = {name: inode for (parent, name), inode in self.names.items() if parent == directory}
        if not directories:
            return found
        return {name: inode for name, inode in found.items() if self.is_directory(inode)}

    def is_directory(self, inode: int) -> bool:
        return inode in self.inodes and self.inodes[inode].kind is InodeKind.DIRECTORY

    def lives(self, inode: int) -> bool:
        return inode == self.root or inode in self.names.values()

    def holds(self, directory: int) -> bool:
        """Whether it is a directory that can take names."""
        return self.is_directory(directory) and self.lives(directory)

    def is_below(self, directory: int, ancestor: int) -> bool:
        above = {inode: parent for (parent, _), inode in self.names.items() if self.is_directory(inode)}
        while directory != ancestor and directory in above:
            directory = above[directory]
        return directory == ancestor

    def apply(self, mutation: Mutation) -> bool:
        """Do it if it can be done, and say whether."""
        match mutation:
            case Create():
                can = self.holds(mutation.parent) and (mutation.parent, mutation.name) not in self.names
                if can:
                    self.inodes[mutation.inode] = ModelInode(mutation.kind, mutation.mode)
                    self.names[mutation.parent, mutation.name] = mutation.inode
                return can
            case Link() | Restore():
                return self._bind(mutation)
            case Unlink():
                place = (mutation.parent, mutation.name)
                can = self.names.get(place) == mutation.inode and self._may_go(mutation.inode, mutation.base)
                if can:
                    del self.names[place]
                return can
            case Rename():
                return self._rename(mutation)
            case Exchange():
                return self._exchange(mutation)
            case _:
                return self._change(mutation)

    def _bind(self, mutation: Link | Restore) -> bool:
        wanted = self.lives(mutation.inode) and not self.is_directory(mutation.inode)
        if isinstance(mutation, Restore):
            wanted = mutation.inode in self.inodes and not self.lives(mutation.inode)
        can = wanted and self.holds(mutation.parent) and (mutation.parent, mutation.name) not in self.names
        if can:
            self.names[mutation.parent, mutation.name] = mutation.inode
        return can

    def _may_go(self, inode: int, base: Base) -> bool:
        if self.is_directory(inode):
            return not self.children(inode)
        is_file = self.inodes[inode].kind is InodeKind.FILE
        return not is_file or self.links(inode) > 1 or base == self.inodes[inode].bases[-1]

    def _rename(self, mutation: Rename) -> bool:
        source, target = (mutation.parent, mutation.name), (mutation.new_parent, mutation.new_name)
        inode, replaced = mutation.inode, mutation.replaced
        can = self.names.get(source) == inode and self.names.get(target, 0) == replaced
        can = can and self.holds(mutation.new_parent)
        can = can and not (self.is_directory(inode) and self.is_below(mutation.new_parent, inode))
        if can and replaced:
            can = self.is_directory(inode) == self.is_directory(replaced)
            can = can and self._may_go(replaced, mutation.base)
        if can:
            del self.names[source]
            self.names[target] = inode
        return can

    def _exchange(self, mutation: Exchange) -> bool:
        here, there = (mutation.parent, mutation.name), (mutation.other_parent, mutation.other_name)
        can = self.names.get(here) == mutation.inode and self.names.get(there) == mutation.other
        for inode, parent in ((mutation.inode, there[0]), (mutation.other, here[0])):
            can = can and not (self.is_directory(inode) and self.is_below(parent, inode))
        if can:
            self.names[here], self.names[there] = mutation.other, mutation.inode
        return can

    def _change(self, mutation: SetAttributes | SetXattr | Store) -> bool:
        if not self.lives(mutation.inode):
            return False
        inode = self.inodes[mutation.inode]
        match mutation:
            case SetAttributes():
                inode.mode = inode.mode if mutation.mode is None else mutation.mode
            case SetXattr():
                inode.xattrs.pop(mutation.name, None)
                if mutation.value is not None:
                    inode.xattrs[mutation.name] = mutation.value
            case Store():
                if inode.kind is not InodeKind.FILE or mutation.base != inode.bases[-1]:
                    return False
                inode.bases.append(Base(revision_op=mutation.n))
                inode.contents.append(b"".join(mutation.new_runs))
        return True

    def settle(self, results: list[OpResult]) -> None:
        """From now on name contents by the numbers that the backend gave."""
        numbers = {result.n: result.revision for result in results}
        for inode in self.inodes.values():
            inode.bases = [Base(revision=numbers[b.revision_op]) if b.revision_op else b for b in inode.bases]

    def seen(self, state: InodeState) -> tuple[object, ...]:
        """What of a state the model knows, to be compared with `knows`."""
        return state.kind, state.mode, state.nlink, state.xattrs, state.blocks

    def knows(self, inode: int) -> tuple[object, ...]:
        known = self.inodes[inode]
        return known.kind, known.mode, self.links(inode), known.xattrs, b"".join(known.contents[-1:])
