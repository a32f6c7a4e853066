"""What the small numbers and words in the tables mean: states of blocks, copies and keys, roles, the trash.

Owns the values, which are stored and so never change their meaning.
"""

import enum


class BlockState(enum.IntEnum):
    """Where the life of a block stands; a block without a row is absent."""

    UPLOADING = 1
    STORED = 2
    CONDEMNED = 3
    DELETING = 4


class CopyState(enum.IntEnum):
    """Where the life of one copy of a block stands."""

    OWED = 1
    STORED = 2


class KeyState(enum.IntEnum):
    """What an account key is for: new objects are sealed by the active one; retired ones only open."""

    ACTIVE = 1
    RETIRED = 2


class Role(enum.StrEnum):
    """What a member may do in a workspace."""

    OWNER = "owner"
    EDITOR = "editor"
    VIEWER = "viewer"


class MemberState(enum.StrEnum):
    """Whether a membership counts yet."""

    INVITED = "invited"
    ACTIVE = "active"
    ENDED = "ended"
    """It was active: what the user's devices still send is refused by role, and not as if nothing were there."""
    INVITED_AGAIN = "invited_again"
    """It ended, and the user is asked once more; declined, or taken back, it has ended as before."""


class Trash(enum.IntEnum):
    """What the closing of a dentry means for the trash."""

    NONE = 0
    """The inode has, or had then, another name; or was replaced or moved."""
    HELD = 1
    """The inode lost its last name here: this row is its place in the trash."""
    LEFT = 2
    """It was in the trash and is not any more: brought back or purged."""
