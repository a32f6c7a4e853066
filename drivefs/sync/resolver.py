"""What to do when the backend refuses a mutation for good; pure.

Owns the rules. It is given the refused mutation, why it was refused, and what the name and the inode are now on the
backend, and gives actions; `commits` performs them. Invariant: no action drops bytes that exist nowhere else: content
of a refused `Store` or `Create` always ends under another name, or in `lost+found`.
"""

import enum

from drivefs.protocol.changes import (
    Create,
    Exchange,
    Link,
    Mutation,
    Rename,
    Restore,
    SetAttributes,
    SetXattr,
    Store,
    Unlink,
)
from drivefs.protocol.names import MAX_NAME_BYTES


class Action(enum.Enum):
    """What becomes of a refused mutation and its effect here.

    GIVE_UP: the effect here is undone, what the backend has shows again; the change carried no content.
    COPY_CONTENT: the stored blocks become a new file, the conflict copy, beside the old name.
    OTHER_NAME: the same change is made again under a derived name, with all that depends on it.
    TRY_AGAIN: the same change is made again as it is, on the state that the backend has now.
    """

    GIVE_UP = "give_up"
    COPY_CONTENT = "copy_content"
    OTHER_NAME = "other_name"
    TRY_AGAIN = "try_again"


def resolve(mutation: Mutation, reason: str) -> Action:
    """Choose what to do with a mutation that was refused for this `reason` (`OpResult.reason`)."""
    if reason == "predecessor":
        return Action.TRY_AGAIN
    match mutation:
        case Store():
            return Action.COPY_CONTENT
        case Create() | Link() | Restore():
            return Action.OTHER_NAME if reason in ("exists", "no_parent") else Action.GIVE_UP
        case Rename():
            return Action.OTHER_NAME if reason in ("exists", "changed", "no_parent") else Action.GIVE_UP
        case Unlink() | Exchange() | SetAttributes() | SetXattr():
            return Action.GIVE_UP


def conflict_name(name: bytes, *, device: str, date: str, taken: int) -> bytes:
    """Derive the name of a conflict copy: `name (conflicted copy, DEVICE, DATE).ext`, within 255 bytes.

    `taken` counts the derived names already found in use; from 1 on it is added to the label.
    """
    stem, dot, extension = name.rpartition(b".")
    if not stem or len(extension) > 16:
        stem, dot, extension = name, b"", b""
    number = f" {taken + 1}" if taken else ""
    safe_device = device.replace("/", "-").replace("\0", "-")
    label = f" (conflicted copy, {safe_device}, {date}{number})".encode(errors="replace")[:160]
    room = MAX_NAME_BYTES - len(label) - len(dot) - len(extension)
    return stem[:room] + label + dot + extension
