"""Mutations that take names from one place to another: pure.

Owns how a move or an exchange is said, what it expects of an inode whose name goes, and what a move may replace.
"""

from typing import NamedTuple

from drivefs.fs import errors
from drivefs.fs.view import Name, View
from drivefs.protocol.changes import Base, Exchange, Rename
from drivefs.protocol.ids import NO_INODE, InodeId, OpNumber
from drivefs.protocol.model import InodeKind, InodeState


class Stamp(NamedTuple):
    """The number of a mutation, and when it is made."""

    n: OpNumber
    time_ns: int


def base_of(state: InodeState) -> Base:
    """What a removal expects of an inode: that it goes with its last name is right for what was seen of it.

    One that leaves names expects nothing: who took those away elsewhere relied on this one.
    """
    return _seen(state) if state.nlink == 1 else Base()


def _seen(state: InodeState) -> Base:
    return Base(revision=state.revision) if state.kind is InodeKind.FILE else Base()


def is_possible(view: View, moved: InodeState, replaced: InodeState, *, replace: bool) -> bool:
    """Whether one inode may take the other's name; False if that is a directory that has to be listed first.

    Raises:
        Exists, IsDirectory, NotDirectory, NotEmpty: it may not.
    """
    if not replace:
        raise errors.Exists
    if moved.inode == replaced.inode:
        return True
    if replaced.kind is not InodeKind.DIRECTORY:
        if moved.kind is InodeKind.DIRECTORY:
            raise errors.NotDirectory
        return True
    if moved.kind is not InodeKind.DIRECTORY:
        raise errors.IsDirectory
    if not view.is_listed(replaced.inode):
        return False
    if not view.is_empty(replaced.inode):
        raise errors.NotEmpty
    return True


def rename(stamp: Stamp, source: Name, target: Name, moved: InodeId, replaced: InodeState | None) -> Rename:
    """A move; what the target name led to loses it.

    It expects the content that was seen there, however many names that has: the others may have gone elsewhere.
    """
    return Rename(
        n=stamp.n,
        time_ns=stamp.time_ns,
        parent=source[0],
        name=source[1],
        new_parent=target[0],
        new_name=target[1],
        inode=moved,
        replaced=replaced.inode if replaced else NO_INODE,
        base=_seen(replaced) if replaced else Base(),
    )


def exchange(stamp: Stamp, first: Name, one: InodeId, second: Name, other: InodeId) -> Exchange:
    """Two names swap what they lead to."""
    return Exchange(
        n=stamp.n,
        time_ns=stamp.time_ns,
        parent=first[0],
        name=first[1],
        inode=one,
        other_parent=second[0],
        other_name=second[1],
        other=other,
    )


def exchange_without(exchange: Exchange, inode: InodeId) -> Rename:
    """What an exchange does to the other one of its two inodes: it is moved."""
    moved, old, new = exchange.inode, (exchange.parent, exchange.name), (exchange.other_parent, exchange.other_name)
    if inode == exchange.inode:
        moved, old, new = exchange.other, new, old
    return rename(Stamp(exchange.n, exchange.time_ns), old, new, moved, None)
