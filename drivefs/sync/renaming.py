"""Names that mutations give and take, and the same mutations under other names: pure.

Owns what the amends of a refusal have to know of the names in a mutation, and how conflict copies are called; what is
done with it is theirs.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from cache.effects import entries
from drivefs.protocol.changes import Base, Create, Exchange, Link, Mutation, Rename, Restore, Unlink
from drivefs.protocol.ids import NO_INODE, InodeId
from drivefs.protocol.names import cut_between_letters, with_mark
from drivefs.sync.questions import Place

MAX_DEVICE_BYTES = 100
"""So much of a device's name stands in that of a conflict copy, of which more than a third is left to the file's."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What conflict copies are called after: the device's name, and the date now as text."""

    device: str
    today: Callable[[], str]


def places(mutation: Mutation) -> set[Place]:
    """The names that a mutation changes."""
    return {Place(*entry) for entry in entries(mutation)}


def moves_nothing(mutation: Mutation) -> bool:
    """Whether a rename, or an exchange, is between a name and itself: two directories were found to be one."""
    return isinstance(mutation, Rename | Exchange) and len(places(mutation)) == 1


def target(mutation: Mutation) -> Place | None:
    """The name that a mutation gives to something."""
    if isinstance(mutation, Rename):
        return Place(mutation.new_parent, mutation.new_name)
    if isinstance(mutation, Create | Link | Restore):
        return Place(mutation.parent, mutation.name)
    return None


def moved_to(mutation: Mutation, place: Place) -> Mutation:
    """The same change with another name given."""
    if isinstance(mutation, Rename):
        return msgspec.structs.replace(mutation, new_parent=place.parent, new_name=place.name)
    return msgspec.structs.replace(mutation, parent=place.parent, name=place.name)


def at_new_name(mutation: Mutation, inode: InodeId, old: Place, new: Place) -> Mutation | None:
    """A later change to an inode's old name, made to its new one; None if it does not name the old one."""
    if isinstance(mutation, Unlink | Rename) and mutation.inode == inode and (mutation.parent, mutation.name) == old:
        return msgspec.structs.replace(mutation, parent=new.parent, name=new.name)
    if isinstance(mutation, Rename) and mutation.replaced == inode and target(mutation) == old:
        return msgspec.structs.replace(mutation, new_parent=new.parent, new_name=new.name)
    if not isinstance(mutation, Exchange):
        return None
    if mutation.inode == inode and (mutation.parent, mutation.name) == old:
        return msgspec.structs.replace(mutation, parent=new.parent, name=new.name)
    if mutation.other == inode and (mutation.other_parent, mutation.other_name) == old:
        return msgspec.structs.replace(mutation, other_parent=new.parent, other_name=new.name)
    return None


def names_more(mutation: Mutation, inode: InodeId) -> int:
    """How many names more an inode has by a mutation."""
    if isinstance(mutation, Link | Restore):
        return int(mutation.inode == inode)
    if isinstance(mutation, Unlink):
        return -int(mutation.inode == inode)
    return -int(isinstance(mutation, Rename) and mutation.replaced == inode)


def to_be_named(
    mutations: Iterable[Mutation], inode: InodeId, nlink: int
) -> Iterator[tuple[Mutation, Mutation | None]]:
    """Each of these with what it may do to an inode that has one name now, and `nlink` of them when all are done.

    None: it takes the only name away, though one is to be left, and does nothing else.
    """
    count = 1
    for mutation in mutations:
        count += names_more(mutation, inode)
        is_last, count = count <= 0 < nlink, max(count, 1)
        if is_last and isinstance(mutation, Rename):
            yield mutation, msgspec.structs.replace(mutation, replaced=NO_INODE, base=Base())
        else:
            yield mutation, None if is_last else mutation


def conflict_name(name: bytes, *, device: str, date: str, taken: int) -> bytes:
    """Derive the name of a conflict copy: `name (conflicted copy, DEVICE, DATE).ext`, within 255 bytes.

    `taken` counts the derived names already found in use; from 1 on it is added to the label, which is one line. What
    is too long is cut, between letters where it is UTF-8.
    """
    number = f" {taken + 1}" if taken else ""
    safe_device = "".join(each if each.isprintable() and each != "/" else "-" for each in device)
    called = cut_between_letters(safe_device.encode(errors="replace"), MAX_DEVICE_BYTES)
    return with_mark(name, b" (conflicted copy, %s, %s)" % (called, f"{date}{number}".encode()))
