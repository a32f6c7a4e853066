"""Which inodes and names a mutation is about: pure.

Owns the one table of it that the journal, recovery, the local check and the order of commits share.
"""

from collections.abc import Mapping

import msgspec

from drivefs.protocol.changes import (
    Create,
    Exchange,
    Link,
    Mutation,
    Rename,
    Restore,
    Unlink,
)
from drivefs.protocol.ids import NO_INODE, InodeId

INODE_FIELDS = ("inode", "parent", "new_parent", "replaced", "other", "other_parent")
"""All fields of mutations that name an inode."""


def renamed(mutation: Mutation, actual: Mapping[InodeId, InodeId]) -> Mutation:
    """The same mutation about other inodes: `actual` gives for old ids the ones that take their place."""
    named = {field: actual.get(getattr(mutation, field, NO_INODE)) for field in INODE_FIELDS}
    changed = {field: inode for field, inode in named.items() if inode is not None}
    return msgspec.structs.replace(mutation, **changed) if changed else mutation


def subjects(mutation: Mutation) -> tuple[InodeId, InodeId]:
    """The inodes that a mutation is about: the main one, and the other of a rename or an exchange (or `NO_INODE`)."""
    if isinstance(mutation, Rename):
        return mutation.inode, mutation.replaced
    if isinstance(mutation, Exchange):
        return mutation.inode, mutation.other
    return mutation.inode, NO_INODE


def entries(mutation: Mutation) -> list[tuple[InodeId, bytes]]:
    """The names that a mutation changes."""
    if isinstance(mutation, Create | Link | Unlink | Restore):
        return [(mutation.parent, mutation.name)]
    if isinstance(mutation, Rename):
        return [(mutation.parent, mutation.name), (mutation.new_parent, mutation.new_name)]
    if isinstance(mutation, Exchange):
        return [(mutation.parent, mutation.name), (mutation.other_parent, mutation.other_name)]
    return []


def parents(mutation: Mutation) -> set[InodeId]:
    """The directories whose entries a mutation changes."""
    return {parent for parent, _name in entries(mutation)}


def outcome(mutation: Mutation) -> list[tuple[InodeId, bytes, InodeId]]:
    """What the changed names lead to afterwards; `NO_INODE`: to nothing."""
    if isinstance(mutation, Create | Link | Restore):
        return [(mutation.parent, mutation.name, mutation.inode)]
    if isinstance(mutation, Unlink):
        return [(mutation.parent, mutation.name, NO_INODE)]
    if isinstance(mutation, Rename):
        return [
            (mutation.parent, mutation.name, NO_INODE),
            (mutation.new_parent, mutation.new_name, mutation.inode),
        ]
    if isinstance(mutation, Exchange):
        return [
            (mutation.parent, mutation.name, mutation.other),
            (mutation.other_parent, mutation.other_name, mutation.inode),
        ]
    return []
