"""What changes of a drive mean to people, taken together: pure.

Owns the translation of the feed's rows into happenings, and how many of them become one. A file that is saved by
renaming was edited; what was made and removed again did not happen; a thousand changes in one folder are one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from drivefs.protocol.ids import NO_INODE, InodeId
from drivefs.protocol.notifications import Kind

MOST_FOLDERS = 5
"""So many folders of one burst are told of one by one; more are one notification, of the folder they are all in."""

MOST_SINGLE = 3
"""So many things in one folder are told of one by one; more are one notification."""


class Spot(NamedTuple):
    """A name in a directory; no directory: wherever the inode is now."""

    parent: InodeId
    name: bytes


NOWHERE = Spot(NO_INODE, b"")


class Happening(NamedTuple):
    """What became of one inode."""

    kind: Kind
    inode: InodeId
    spot: Spot


@dataclass(slots=True)
class Told:
    """One notification to be: `count` things at a path, all by the same device."""

    kind: Kind
    path: bytes
    folder: bytes
    inode: InodeId
    count: int = 1


def happenings(rows: Iterable[Any], marked: frozenset[InodeId]) -> list[Happening]:
    """What the changes of one device, in order, did to each inode; `marked` are conflict copies."""
    found: dict[InodeId, Happening] = {}
    for row in rows:
        _note(found, row, marked)
    return list(found.values())


def _note(found: dict[InodeId, Happening], row: Any, marked: frozenset[InodeId]) -> None:
    inode, other = InodeId(row.inode), InodeId(row.other_inode or NO_INODE)
    spot = Spot(row.parent, row.name) if row.parent else NOWHERE
    before = found.pop(inode, None)
    match row.kind:
        case "create" | "link" | "restore":
            found[inode] = Happening(Kind.CONFLICT if inode in marked else Kind.ADDED, inode, spot)
        case "unlink":
            if before is None or before.kind is not Kind.ADDED:
                found[inode] = Happening(Kind.DELETED, inode, spot)
        case "rename":
            found.pop(other, None)
            kind = Kind.EDITED if other else before.kind if before is not None else Kind.MOVED
            found[inode] = Happening(kind, inode, Spot(row.other_parent, row.other_name))
        case "exchange":
            found.pop(other, None)
            found[inode] = Happening(Kind.EDITED, inode, Spot(row.other_parent, row.other_name))
        case "store":
            found[inode] = before or Happening(Kind.EDITED, inode, NOWHERE)
        case "set_xattr" if inode in marked:
            found[inode] = Happening(Kind.CONFLICT, inode, before.spot if before is not None else NOWHERE)
        case _ if before is not None:
            found[inode] = before
        case _:
            pass


def gathered(each: Sequence[Told]) -> list[Told]:
    """The same as fewer: what happened in one folder as one, unless it is little, and what in many as one of all."""
    by_kind: dict[Kind, dict[bytes, list[Told]]] = {}
    for told in each:
        by_kind.setdefault(told.kind, {}).setdefault(told.folder, []).append(told)
    found: list[Told] = []
    for kind, folders in by_kind.items():
        if len(folders) > MOST_FOLDERS and kind is not Kind.CONFLICT:
            folder = _all_in(folders)
            found.append(Told(kind, folder, folder, NO_INODE, sum(map(len, folders.values()))))
            continue
        for folder, things in folders.items():
            found += things if len(things) <= MOST_SINGLE else [Told(kind, folder, folder, NO_INODE, len(things))]
    return found


def _all_in(folders: Iterable[bytes]) -> bytes:
    """The deepest folder that all of these are in."""
    shared: list[bytes] | None = None
    for folder in folders:
        steps = folder.split(b"/") if folder else []
        if shared is None:
            shared = steps
        while shared != steps[: len(shared)]:
            shared.pop()
    return b"/".join(shared or [])
