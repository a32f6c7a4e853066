"""Requests and replies about notifications: what a user is told of, in order, and which folders are muted.

Owns shapes and their bounds. Notifications are numbered per user; a number is never used twice, and one that is merged
into a later one is gone.
"""

import enum
from typing import Annotated

from msgspec import Meta

from drivefs.protocol.ids import InodeId
from drivefs.protocol.messages import BOUND, Message

MAX_PAGE = 1000


class Kind(enum.StrEnum):
    """What people are told of."""

    ADDED = "added"
    EDITED = "edited"
    MOVED = "moved"
    DELETED = "deleted"
    CONFLICT = "conflict"
    SHARED = "shared"
    ROLE = "role"
    UNSHARED = "unshared"
    QUOTA = "quota"
    DEVICE = "device"


class NotificationsRequest(Message, kw_only=True):
    """Those behind a number, in order; without `own` not those of what the asking device did itself."""

    since: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 200
    own: bool = False


class NotificationInfo(Message, kw_only=True):
    """One notification: `count` things happened at `path`, which is that of the thing or of the folder of all.

    `user` and `device` did it; `text` says what no path says. `inode` is the thing's, or the folder's, or 0.
    """

    number: int
    time_ns: int
    kind: str
    path: bytes = b""
    count: int = 1
    inode: int = 0
    user: str = ""
    device: str = ""
    text: str = ""


class NotificationsReply(Message, kw_only=True):
    """One page; `newest` is the number of the newest that there is, of all."""

    notifications: list[NotificationInfo]
    newest: int
    more: bool = False


class ActivityRequest(Message, kw_only=True):
    """What was done to a file, or in a folder and all below it, before a commit of the drive (0: up to now)."""

    inode: Annotated[InodeId, BOUND]
    before: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0


class ActivityReply(Message, kw_only=True):
    """A part of it, the latest first; a `number` is that of the last commit of an entry.

    `before` asks for what was before this part; 0: nothing earlier is known.
    """

    entries: list[NotificationInfo]
    before: int = 0


class MuteRequest(Message, kw_only=True):
    """Be told of what happens in a folder no more, or again; it holds for all devices of the user."""

    inode: Annotated[InodeId, BOUND]
    is_muted: bool


class MutedReply(Message, kw_only=True):
    """The folders that are muted: by path, as far as they are in the drive."""

    paths: list[bytes]
