"""Requests and replies about the past: revisions of a file, moments of the drive, the trash; as `messages` are.

Owns shapes and their bounds.
"""

from typing import Annotated

from msgspec import Meta

from drivefs.protocol.ids import InodeId, RevisionNumber, Seq
from drivefs.protocol.messages import BOUND, Count, Doing, Message, Page
from drivefs.protocol.model import InodeState

MAX_SNAPSHOTS = 1000
SnapshotName = Annotated[str, Meta(min_length=1, max_length=255)]


class RevisionInfo(Message, kw_only=True):
    """One content that a file had under its name.

    `time_ns` is when it became the content here, `mtime_ns` what programs call its last change. `device` and `user` are
    names, and empty where they are not known any more.
    """

    number: RevisionNumber
    size: int
    time_ns: int
    mtime_ns: int
    device: str = ""
    user: str = ""
    is_kept: bool = False


class RevisionsRequest(Message, kw_only=True):
    """The revisions of the history that an inode goes on with, `limit` of those with higher numbers than `after`."""

    inode: Annotated[InodeId, BOUND]
    after: Annotated[RevisionNumber, BOUND] = RevisionNumber(0)
    limit: Page = 1000


class RevisionsReply(Message, kw_only=True):
    """By number; `more`: there are others behind the last."""

    revisions: list[RevisionInfo]
    more: bool = False


class KeepRequest(Message, kw_only=True):
    """Never let a revision go, or (`is_kept` false) let it go when its time comes; once more does nothing."""

    inode: Annotated[InodeId, BOUND]
    revision: Annotated[RevisionNumber, BOUND]
    is_kept: bool = True


class MomentRequest(Message, kw_only=True):
    """Where the drive stood at a time, or at the snapshot of that name."""

    time_ns: Count = 0
    snapshot: Annotated[str, Meta(max_length=255)] = ""


class MomentReply(Message, kw_only=True):
    """The newest commit at or before that time, and its time; 0: there was no drive yet."""

    seq: Seq = Seq(0)
    time_ns: int = 0


class SnapshotInfo(Message, kw_only=True):
    """A moment that has a name: the commit and its time, and when, on which device and by whom it was named."""

    name: str
    seq: Seq
    time_ns: int
    created_ns: int
    device: str = ""
    user: str = ""


class SnapshotsReply(Message, kw_only=True):
    """All of a workspace, in the order of their moments."""

    snapshots: list[SnapshotInfo]


class CreateSnapshotRequest(Doing, kw_only=True):
    """Name where the drive stood at a time; 0: where it stands now."""

    name: SnapshotName
    time_ns: Count = 0


class DeleteSnapshotRequest(Doing, kw_only=True):
    """Take a name away."""

    name: SnapshotName


class TrashPlace(Message, kw_only=True):
    """Where something was, and the commit that removed it."""

    seq: Annotated[Seq, BOUND]
    parent: Annotated[InodeId, BOUND]
    name: Annotated[bytes, Meta(min_length=1, max_length=255)]


class TrashRequest(Message, kw_only=True):
    """What was removed and is kept, the latest removals first, `limit` of those behind `after`.

    With `parent`, what was removed from that directory, which may have been removed itself; else what was removed from
    directories that are there. With `name` too, only what had that name there.
    """

    parent: Annotated[InodeId, BOUND] = InodeId(0)
    name: Annotated[bytes, Meta(max_length=255)] = b""
    after: TrashPlace | None = None
    limit: Page = 1000


class TrashEntry(Message, kw_only=True):
    """One thing in the trash: its state, where it was, and when, on which device and by whom it was removed.

    `path` is that of the directory, empty for the root, and None where the directory has been removed itself.
    """

    inode: InodeState
    place: TrashPlace
    time_ns: int
    path: bytes | None = None
    device: str = ""
    user: str = ""


class TrashReply(Message, kw_only=True):
    """`more`: there are others behind the last. After `keep_seconds` what was removed goes for good."""

    entries: list[TrashEntry]
    keep_seconds: int
    more: bool = False


class EmptyTrashRequest(Message, kw_only=True):
    """Let what was removed up to a commit go for good, a part of it at a time."""

    until: Annotated[Seq, BOUND]


class EmptyTrashReply(Message, kw_only=True):
    """How many files and directories went; `more`: ask again."""

    count: int
    more: bool = False
