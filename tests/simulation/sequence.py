"""The sequential tree: what a drive is after each commit, worked out from the mutations that were answered with `ok`.

Owns a second, simple meaning of mutations, with nothing in common with the server's but their shapes. It refuses what
the server must not have accepted: a mutation whose base is not what is there. Trees of all seqs are kept, so that a
view can be compared with the tree as of its cursor.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

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
from drivefs.protocol.conflicts import CONFLICT_XATTR
from drivefs.protocol.model import InodeKind, InodeState, run_id

Place = tuple[int, bytes]
Op = tuple[int, int, int]
"""Device, epoch and number."""


class Sort(NamedTuple):
    """What is known of an inode, but for its links."""

    kind: InodeKind
    mode: int
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    blocks: bytes = b""
    size: int = 0
    since: int = 0
    """The number under which the content was stored; a later one that the inode was given since means it too."""


class Marked(NamedTuple):
    """An inode that was marked as a conflict copy, and in which commit."""

    seq: int
    inode: int
    value: bytes
    before: bytes
    """The blocks with which it was brought back for an edit that comes behind; empty if it was not."""


class Refused(AssertionError):
    """The server took what it must not have taken."""


@dataclass
class Tree:
    """The drive as of one seq; the dicts are never changed once another tree has been made of it."""

    root: int
    inodes: dict[int, Sort]
    names: dict[Place, int] = field(default_factory=dict)
    others: frozenset[int] = frozenset()
    """The roots of the drives of other users."""
    hung: frozenset[Place] = frozenset()
    """The names of shares in the drives of their members: they are no links of theirs."""

    def copy(self) -> "Tree":
        return Tree(self.root, dict(self.inodes), dict(self.names), self.others, self.hung)

    def listed(self, directory: int) -> dict[bytes, int]:
        return {name: inode for (parent, name), inode in self.names.items() if parent == directory}

    def is_directory(self, inode: int) -> bool:
        return inode in self.inodes and self.inodes[inode].kind is InodeKind.DIRECTORY

    def links(self, inode: int) -> int:
        if not self.is_directory(inode):
            return sum(target == inode and place not in self.hung for place, target in self.names.items())
        if not self.lives(inode):
            return 0
        return 2 + sum(self.is_directory(child) for child in self.listed(inode).values())

    def lives(self, inode: int) -> bool:
        return inode == self.root or inode in self.others or inode in self.names.values()

    def is_below(self, directory: int, ancestor: int) -> bool:
        own = ((place, inode) for place, inode in self.names.items() if place not in self.hung)
        above = {inode: parent for (parent, _), inode in own if self.is_directory(inode)}
        while directory != ancestor and directory in above:
            directory = above[directory]
        return directory == ancestor

    def looks(self, inode: int) -> tuple[object, ...]:
        """What a view shows of an inode."""
        known = self.inodes[inode]
        return (known.kind, known.mode, known.target, known.xattrs, known.blocks, known.size, self.links(inode))


def shown(state: InodeState) -> tuple[object, ...]:
    """The same of a state as devices have it."""
    xattrs = tuple(sorted(state.xattrs.items()))
    return (state.kind, state.mode, state.target, xattrs, state.blocks, state.size, state.nlink)


class Sequence:
    """All trees, from the first one on; with several users, of all drives and shares together (`orders`)."""

    def __init__(self, root: int, first_seq: int, others: Collection[int] = ()) -> None:
        roots = {each: Sort(InodeKind.DIRECTORY, 0o755) for each in (root, *others)}
        self.trees = {first_seq: Tree(root, roots, others=frozenset(others))}
        self.seq = first_seq
        self.effects: dict[Op, int] = {}
        self.stored: dict[tuple[int, int], bytes] = {}
        """The blocks of each revision, by inode and number."""
        self.marked: list[Marked] = []
        self.made_in: dict[int, int] = {}
        """In which directory each inode was made."""
        self.removed: dict[int, int] = {}
        """What was removed and not brought back, and has a history that nothing goes on with, with the commit.

        What was made in the same commit was never to be seen, and is not in the trash.
        """
        self._removed_at: dict[Place, int] = {}
        self._numbers: dict[int, int] = {}
        self._brought_back: dict[int, bytes] = {}
        self._runs: dict[bytes, bytes] = {}
        self._revisions: dict[Op, int] = {}

    def append(self, seq: int, by: tuple[int, int], steps: list[tuple[Mutation, OpResult]]) -> None:
        """One commit: those of its mutations that had an effect, in order."""
        if seq != self.seq + 1:
            raise Refused(f"commit {seq} follows {self.seq}")
        tree = self.trees[self.seq].copy()
        for mutation, result in steps:
            op = (*by, mutation.n)
            if op in self.effects:
                raise Refused(f"op {op} had an effect in commits {self.effects[op]} and {seq}")
            self.effects[op] = seq
            self._revisions[op] = result.revision
            if not self._apply(tree, mutation, by, result):
                raise Refused(f"commit {seq} took {mutation}")
            is_known = mutation.inode in self.trees[self.seq].inodes
            if isinstance(mutation, Unlink) and is_known and not tree.lives(mutation.inode):
                self.removed[mutation.inode] = seq
                self._removed_at[mutation.parent, mutation.name] = mutation.inode
            elif isinstance(mutation, Store | Rename):
                self._goes_on(tree, mutation.inode, result.revision, is_next=isinstance(mutation, Store))
            elif isinstance(mutation, Restore):
                self.removed.pop(mutation.inode, None)
            if isinstance(mutation, Store):
                self.stored[mutation.inode, result.revision] = tree.inodes[mutation.inode].blocks
            elif isinstance(mutation, Restore) and not mutation.expects_content:
                self._brought_back[mutation.inode] = tree.inodes[mutation.inode].blocks
            elif isinstance(mutation, SetXattr) and mutation.name == CONFLICT_XATTR and mutation.value:
                before = self._brought_back.get(mutation.inode, b"")
                self.marked.append(Marked(seq, mutation.inode, mutation.value, before))
        self.trees[seq], self.seq = tree, seq

    def _goes_on(self, tree: Tree, inode: int, revision: int, *, is_next: bool) -> None:
        """A number that is not its own next one: it goes on with the history of what was removed where it is."""
        if revision > self._numbers.get(inode, 0) + is_next:
            for place in [place for place, there in tree.names.items() if there == inode]:
                self.removed.pop(self._removed_at.get(place, 0), None)
        self._numbers[inode] = revision

    def hang(self, inode: int, place: Place) -> None:
        """In the last step, a share came to hang in a member's drive; its owner's has it by that name already."""
        tree = self.last
        if tree.names.get(place, inode) != inode:
            raise Refused(f"a share came to hang where {tree.names[place]} is: {place}")
        if place not in tree.names:
            tree.names[place], tree.hung = inode, tree.hung | {place}

    def unhang(self, inode: int, place: Place) -> None:
        """In the last step, a share went from a member's drive."""
        tree = self.last
        if place not in tree.hung or tree.names.pop(place) != inode:
            raise Refused(f"no share {inode} hung at {place}")
        tree.hung -= {place}

    def part(self, inode: int, place: Place, other: int) -> None:
        """In the last step, a name came to lead to a file of its own, which is as the other one was."""
        tree = self.last
        if tree.names.get(place) != other:
            raise Refused(f"{place} was parted from {other}, and led to {tree.names.get(place)}")
        tree.inodes[inode], tree.names[place] = tree.inodes[other], inode
        self.made_in[inode] = place[0]

    def content_of(self, inode: int, number: int) -> bytes | None:
        """The blocks of a revision by any of its numbers: an inode that takes over a name is given a later one."""
        stored = max((each for each in self.stored if each[0] == inode and each[1] <= number), default=None)
        return None if stored is None else self.stored[stored]

    def pause(self) -> None:
        """A step that has changed nothing yet."""
        self.trees[self.seq + 1] = self.last.copy()
        self.seq += 1

    @property
    def last(self) -> Tree:
        return self.trees[self.seq]

    def _base(self, base: Base, by: tuple[int, int]) -> int:
        return self._revisions.get((*by, base.revision_op), -1) if base.revision_op else base.revision

    def _apply(self, tree: Tree, mutation: Mutation, by: tuple[int, int], result: OpResult) -> bool:
        match mutation:
            case Create():
                is_new = mutation.inode not in tree.inodes
                self.made_in[mutation.inode] = mutation.parent
                kind, mode, target = mutation.kind, mutation.mode, mutation.target
                tree.inodes[mutation.inode] = Sort(kind, mode, target, size=len(target))
                return is_new and self._bind(tree, mutation.parent, mutation.name, mutation.inode)
            case Link() | Restore():
                is_link = isinstance(mutation, Link)
                if not is_link and not result.revision:
                    self._empty(tree, mutation.inode)
                can = mutation.inode in tree.inodes and tree.lives(mutation.inode) is is_link
                can = can and not (is_link and tree.is_directory(mutation.inode))
                return can and self._bind(tree, mutation.parent, mutation.name, mutation.inode)
            case Unlink():
                place = (mutation.parent, mutation.name)
                can = tree.names.get(place) == mutation.inode
                can = can and self._may_go(tree, mutation.inode, self._base(mutation.base, by))
                tree.names.pop(place, None)
                return can
            case Rename():
                return self._rename(tree, mutation, self._base(mutation.base, by))
            case Exchange():
                return self._exchange(tree, mutation)
            case Store():
                return self._store(tree, mutation, self._base(mutation.base, by), result)
            case _:
                return self._change(tree, mutation)

    @staticmethod
    def _empty(tree: Tree, inode: int) -> None:
        """A file whose content was let go for good, with the trash, comes back without one."""
        if (known := tree.inodes.get(inode)) is not None and known.blocks:
            tree.inodes[inode] = known._replace(blocks=b"", size=0, since=0)

    @staticmethod
    def _bind(tree: Tree, parent: int, name: bytes, inode: int) -> bool:
        can = tree.is_directory(parent) and tree.lives(parent) and (parent, name) not in tree.names
        tree.names[parent, name] = inode
        return can

    @staticmethod
    def _may_go(tree: Tree, inode: int, base: int) -> bool:
        known = tree.inodes[inode]
        if known.kind is InodeKind.DIRECTORY:
            return not tree.listed(inode)
        return known.kind is not InodeKind.FILE or tree.links(inode) > 1 or base >= known.since

    def _rename(self, tree: Tree, mutation: Rename, base: int) -> bool:
        source, target = (mutation.parent, mutation.name), (mutation.new_parent, mutation.new_name)
        inode, replaced = mutation.inode, mutation.replaced
        can = tree.names.get(source) == inode and tree.names.get(target, 0) == replaced
        can = can and tree.is_directory(mutation.new_parent) and tree.lives(mutation.new_parent)
        can = can and not (tree.is_directory(inode) and tree.is_below(mutation.new_parent, inode))
        if can and replaced:
            can = tree.is_directory(inode) == tree.is_directory(replaced) and self._may_go(tree, replaced, base)
        tree.names.pop(source, None)
        tree.names[target] = inode
        if source in tree.hung:
            tree.hung = tree.hung - {source} | {target}
        return can

    @staticmethod
    def _exchange(tree: Tree, mutation: Exchange) -> bool:
        here, there = (mutation.parent, mutation.name), (mutation.other_parent, mutation.other_name)
        can = tree.names.get(here) == mutation.inode and tree.names.get(there) == mutation.other
        for inode, parent in ((mutation.inode, there[0]), (mutation.other, here[0])):
            can = can and not (tree.is_directory(inode) and tree.is_below(parent, inode))
        tree.names[here], tree.names[there] = mutation.other, mutation.inode
        if (here in tree.hung) != (there in tree.hung):
            tree.hung ^= {here, there}
        return can

    def _store(self, tree: Tree, mutation: Store, base: int, result: OpResult) -> bool:
        known = tree.inodes.get(mutation.inode)
        if known is None or known.kind is not InodeKind.FILE or not tree.lives(mutation.inode):
            return False
        self._runs.update({run_id(packed): packed for packed in mutation.new_runs})
        if any(run not in self._runs for run in mutation.runs):
            return False
        blocks = b"".join(self._runs[run] for run in mutation.runs)
        stored = known._replace(blocks=blocks, size=mutation.size, since=result.revision)
        tree.inodes[mutation.inode] = stored
        return base >= known.since

    @staticmethod
    def _change(tree: Tree, mutation: SetAttributes | SetXattr) -> bool:
        known = tree.inodes.get(mutation.inode)
        if known is None or not tree.lives(mutation.inode):
            return False
        if isinstance(mutation, SetXattr):
            xattrs = dict(known.xattrs)
            xattrs.pop(mutation.name, None)
            if mutation.value is not None:
                xattrs[mutation.name] = mutation.value
            tree.inodes[mutation.inode] = known._replace(xattrs=tuple(sorted(xattrs.items())))
        elif mutation.mode is not None:
            tree.inodes[mutation.inode] = known._replace(mode=mutation.mode)
        return True
