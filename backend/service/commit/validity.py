"""Whether a mutation makes sense by itself, before anything is looked up; pure.

Owns the bounds of every field. Invariant: what passes fits the columns of the tables, so nothing overflows later.
"""

from drivefs.protocol import changes, names
from drivefs.protocol.ids import BLOCK_ID_BYTES, MAX_ID
from drivefs.protocol.model import (
    MAX_MODE,
    MAX_OWNER,
    MAX_RUN_BLOCKS,
    MAX_TIME_NS,
    MIN_TIME_NS,
    PACKED_BLOCK_BYTES,
    InodeKind,
)

MALFORMED = "malformed"
LIMIT = "limit"

MAX_DEVICE_NUMBER = 2**63 - 1
NO_BASE = changes.Base()

DEVICE_KINDS = (InodeKind.CHARACTER_DEVICE, InodeKind.BLOCK_DEVICE)


def problem(mutation: changes.Mutation) -> str:
    """Why the mutation can never be applied: `malformed` or `limit`; empty when it may be tried."""
    if not _ids_fit(mutation) or not _is_time(mutation.time_ns):
        return MALFORMED
    match mutation:
        case changes.Create():
            return _create(mutation)
        case changes.Rename() | changes.Exchange():
            return _two_places(mutation)
        case changes.SetAttributes():
            return _attributes(mutation)
        case changes.SetXattr():
            return _xattr(mutation)
        case changes.Store():
            return _store(mutation)
        case _:
            return _name(mutation.name)


def _ids_fit(mutation: changes.Mutation) -> bool:
    match mutation:
        case changes.Create() | changes.Link() | changes.Unlink() | changes.Restore():
            fit = 0 < mutation.parent <= MAX_ID
        case changes.Rename():
            parents_fit = 0 < mutation.parent <= MAX_ID and 0 < mutation.new_parent <= MAX_ID
            fit = parents_fit and 0 <= mutation.replaced <= MAX_ID
        case changes.Exchange():
            parents_fit = 0 < mutation.parent <= MAX_ID and 0 < mutation.other_parent <= MAX_ID
            fit = parents_fit and 0 < mutation.other <= MAX_ID
        case _:
            fit = True
    if not fit or not 0 < mutation.inode <= MAX_ID:
        return False
    for op in mutation.after:
        if not 0 < op <= MAX_ID:
            return False
    base = getattr(mutation, "base", NO_BASE)
    return 0 <= base.revision <= MAX_ID and 0 <= base.revision_op <= MAX_ID


def _is_time(time_ns: int | None) -> bool:
    return time_ns is None or MIN_TIME_NS <= time_ns <= MAX_TIME_NS


def _name(name: bytes) -> str:
    return "" if names.is_valid_name(name) else MALFORMED


def _owner(owner: int | None) -> bool:
    return owner is None or 0 <= owner <= MAX_OWNER


def _create(mutation: changes.Create) -> str:
    if len(mutation.target) > names.MAX_TARGET_BYTES:
        return LIMIT
    is_link = mutation.kind is InodeKind.SYMLINK
    fine = (
        0 <= mutation.mode <= MAX_MODE
        and _owner(mutation.uid)
        and _owner(mutation.gid)
        and 0 <= mutation.rdev <= MAX_DEVICE_NUMBER
        and (mutation.rdev == 0 or mutation.kind in DEVICE_KINDS)
        and bool(mutation.target) == is_link
        and b"\0" not in mutation.target
    )
    return _name(mutation.name) if fine else MALFORMED


def _two_places(mutation: changes.Rename | changes.Exchange) -> str:
    if isinstance(mutation, changes.Rename):
        target, other = (mutation.new_parent, mutation.new_name), mutation.replaced
    else:
        target, other = (mutation.other_parent, mutation.other_name), mutation.other
    if target == (mutation.parent, mutation.name) or other == mutation.inode:
        return MALFORMED
    return _name(mutation.name) or _name(target[1])


def _attributes(mutation: changes.SetAttributes) -> str:
    fine = (
        (mutation.mode is None or 0 <= mutation.mode <= MAX_MODE)
        and _owner(mutation.uid)
        and _owner(mutation.gid)
        and not (mutation.own_uid and mutation.uid is not None)
        and not (mutation.own_gid and mutation.gid is not None)
        and _is_time(mutation.atime_ns)
        and _is_time(mutation.mtime_ns)
    )
    return "" if fine else MALFORMED


def _xattr(mutation: changes.SetXattr) -> str:
    if not mutation.name or b"\0" in mutation.name:
        return MALFORMED
    if len(mutation.name) > names.MAX_XATTR_NAME_BYTES:
        return LIMIT
    return LIMIT if len(mutation.value or b"") > names.MAX_XATTR_VALUE_BYTES else ""


def _store(mutation: changes.Store) -> str:
    largest = MAX_RUN_BLOCKS * PACKED_BLOCK_BYTES
    fine = (
        0 <= mutation.size <= MAX_ID
        and _is_time(mutation.mtime_ns)
        and all(len(run) == BLOCK_ID_BYTES for run in mutation.runs)
        and all(0 < len(packed) <= largest and len(packed) % PACKED_BLOCK_BYTES == 0 for packed in mutation.new_runs)
    )
    return "" if fine else MALFORMED


def block_references(mutation: changes.Mutation) -> int:
    """How many block references a mutation carries: what a batch is bounded by."""
    if not isinstance(mutation, changes.Store):
        return 0
    return sum(len(packed) for packed in mutation.new_runs) // PACKED_BLOCK_BYTES
