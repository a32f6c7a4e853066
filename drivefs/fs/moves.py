"""Mutations that take names from one place to another: pure.

Owns how a move or an exchange is said, and what it expects of an inode whose name goes.
"""

from typing import NamedTuple

from drivefs.fs.view import Name
from drivefs.protocol.changes import Base, Exchange, Rename
from drivefs.protocol.ids import NO_INODE, InodeId, OpNumber
from drivefs.protocol.model import InodeKind, InodeState


class Stamp(NamedTuple):
    """The number of a mutation, and when it is made."""

    n: OpNumber
    time_ns: int


def base_of(state: InodeState) -> Base:
    """What a mutation that takes the last name of an inode expects of it; one that leaves names expects nothing."""
    return Base(revision=state.revision) if state.nlink == 1 and state.kind is InodeKind.FILE else Base()


def rename(stamp: Stamp, source: Name, target: Name, moved: InodeId, replaced: InodeState | None) -> Rename:
    """A move; what the target name led to loses it."""
    return Rename(
        n=stamp.n,
        time_ns=stamp.time_ns,
        parent=source[0],
        name=source[1],
        new_parent=target[0],
        new_name=target[1],
        inode=moved,
        replaced=replaced.inode if replaced else NO_INODE,
        base=base_of(replaced) if replaced else Base(),
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
