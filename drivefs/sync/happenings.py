"""Makes sense of differences between two states of a tree: what was created, renamed, removed and changed.

Owns pure functions only. A page of the feed says what names lead to at its end, not how it came about: a rename is one
inode that lost a name and got another. Invariant: every name that changed is spoken of exactly once, as the name of one
happening or the source of one.

The order is one in which a local program could have done it all: what frees names comes before what takes them, a
directory before what is in it, and its content before a directory that goes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from drivefs.protocol.ids import NO_INODE, InodeId
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.sync.events import Kind

Name = tuple[InodeId, bytes]


class NameChange(NamedTuple):
    """What a name led to before and leads to now; `NO_INODE`: nothing, or nothing that is known here."""

    parent: InodeId
    name: bytes
    before: InodeId
    after: InodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One thing that happened to an inode.

    `name` is where it is now or, removed, where it was; None where that is not known. `source` is where a renamed one
    was. `replaced` is the inode that had the name before and has not moved: of a renamed one, or of another inode that
    took a name in one step (`changed`).
    """

    kind: Kind
    inode: InodeId
    name: Name | None = None
    source: Name | None = None
    replaced: InodeId = NO_INODE


def of_names(changes: Sequence[NameChange]) -> list[Happening]:
    """What happened to names: removed, renamed and created, in this order."""
    lost: dict[InodeId, list[NameChange]] = {}
    for change in changes:
        if change.before:
            lost.setdefault(change.before, []).append(change)
    sources = {(change.parent, change.name): _source(change, lost) for change in changes if change.after}
    moved = {source for source in sources.values() if source is not None}
    removed, renamed, created = [], [], []
    for change in changes:
        name = (change.parent, change.name)
        is_freed = name not in moved
        if change.after:
            source, replaced = sources[name], change.before if is_freed else NO_INODE
            if source is not None:
                renamed.append(
                    Happening(kind=Kind.RENAMED, inode=change.after, name=name, source=source, replaced=replaced)
                )
            else:
                kind = Kind.CHANGED if replaced else Kind.CREATED
                created.append(Happening(kind=kind, inode=change.after, name=name, replaced=replaced))
        elif is_freed:
            removed.append(Happening(kind=Kind.REMOVED, inode=change.before, name=name))
    return removed + renamed + created


def _source(change: NameChange, lost: dict[InodeId, list[NameChange]]) -> Name | None:
    """Take the name from which an inode came to this one, if it lost any; one in the same directory first."""
    candidates = lost.get(change.after)
    if not candidates:
        return None
    found = next((each for each in candidates if each.parent == change.parent), candidates[0])
    candidates.remove(found)
    return found.parent, found.name


def in_order(happened: Sequence[Happening], depths: Mapping[InodeId, int]) -> list[Happening]:
    """Sort by how deep the directories lie: removals deepest first, all else from the root down."""
    removed = [each for each in happened if each.kind is Kind.REMOVED]
    others = [each for each in happened if each.kind is not Kind.REMOVED]
    removed.sort(key=lambda each: -_depth(each, depths))
    # Renames stay before creations: one may free the name that the other takes.
    others.sort(key=lambda each: (each.kind is not Kind.RENAMED, _depth(each, depths)))
    return removed + others


def _depth(happened: Happening, depths: Mapping[InodeId, int]) -> int:
    return 0 if happened.name is None else depths.get(happened.name[0], 0)


def of_state(before: InodeState, after: InodeState) -> Kind | None:
    """What happened to an inode besides its names; None if nothing that anyone would want to be told.

    What entries do to their directory, and names to the inode's link count and ctime, is told with the names.
    """
    if after.kind is InodeKind.FILE and _has_other_content(before, after):
        return Kind.CHANGED
    same = (
        before.mode == after.mode
        and (before.uid, before.gid) == (after.uid, after.gid)
        and before.xattrs == after.xattrs
        and (before.mtime_ns == after.mtime_ns or after.kind is InodeKind.DIRECTORY)
    )
    return None if same else Kind.ATTRIBUTES


def _has_other_content(before: InodeState, after: InodeState) -> bool:
    """A file that takes over a name's history gets another revision number and keeps its content and mtime."""
    if before.size != after.size:
        return True
    is_same_write = before.mtime_ns == after.mtime_ns and before.blocks is not None and before.blocks == after.blocks
    return before.revision != after.revision and not is_same_write
