"""Mutations: the changes that a device makes, as they stand in its journal and travel in a commit.

Owns their shapes. A mutation is about ids, not paths. `n` orders the journal of one epoch and may have gaps; `after`
names the ops that must be settled as `ok` before this one is tried. `time_ns` is when the change was made on the
device: it becomes ctime of what changed, and mtime and ctime of the directories whose entries changed.

A base is what the device saw when it made the change, and the backend compares it: `revision` is a revision number of
the inode, unless `revision_op` is not 0: then the base is the revision that this device's own op of that number made.
"""

import enum

import msgspec

from drivefs.protocol.ids import BlockId, InodeId, OpNumber, RevisionNumber, RunId, Seq, WorkspaceId
from drivefs.protocol.model import DentryState, InodeKind


class Base(msgspec.Struct, frozen=True, omit_defaults=True):
    """The revision on which a change was made: a number, or the outcome of one of the device's own ops."""

    revision: RevisionNumber = RevisionNumber(0)
    revision_op: OpNumber = OpNumber(0)


class Change(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What all mutations carry."""

    n: OpNumber
    after: list[OpNumber] = []
    time_ns: int


class Create(Change, tag="create", kw_only=True):
    """A new inode under a name; expects the name to be free."""

    inode: InodeId
    parent: InodeId
    name: bytes
    kind: InodeKind
    mode: int
    uid: int | None = None
    gid: int | None = None
    rdev: int = 0
    target: bytes = b""


class Link(Change, tag="link", kw_only=True):
    """One more name for an inode; expects the name to be free."""

    inode: InodeId
    parent: InodeId
    name: bytes


class Unlink(Change, tag="unlink", kw_only=True):
    """Remove a name; expects `inode`: an empty directory or, if this is its last name, at `base`."""

    parent: InodeId
    name: bytes
    inode: InodeId
    base: Base = Base()


class Rename(Change, tag="rename", kw_only=True):
    """Move a name; expects the source to lead to `inode` and the target to `replaced` (0: free) at revision `base`."""

    parent: InodeId
    name: bytes
    new_parent: InodeId
    new_name: bytes
    inode: InodeId
    replaced: InodeId = InodeId(0)
    base: Base = Base()


class Exchange(Change, tag="exchange", kw_only=True):
    """Swap two names; expects them to lead to `inode` and `other`."""

    parent: InodeId
    name: bytes
    inode: InodeId
    other_parent: InodeId
    other_name: bytes
    other: InodeId


class SetAttributes(Change, tag="set_attributes", kw_only=True):
    """Change attributes of an inode; what is None stays. `own_uid`/`own_gid` set the owner to "mine"."""

    inode: InodeId
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    own_uid: bool = False
    own_gid: bool = False
    atime_ns: int | None = None
    mtime_ns: int | None = None


class SetXattr(Change, tag="set_xattr", kw_only=True):
    """Set an extended attribute, or remove it (`value` None)."""

    inode: InodeId
    name: bytes
    value: bytes | None = None


class Store(Change, tag="store", kw_only=True):
    """New content: a revision of `size` bytes made of `runs`; expects the inode to be at revision `base`.

    `new_runs` holds, packed, those runs that the base revision does not have. `mtime_ns` is that of the last write.
    """

    inode: InodeId
    base: Base
    size: int
    runs: list[RunId]
    new_runs: list[bytes] = []
    mtime_ns: int


class Restore(Change, tag="restore", kw_only=True):
    """Bring an inode without a name back under one; expects the name to be free.

    `expects_content`: and that a file has its content still. Who has new content for it does not.
    """

    inode: InodeId
    parent: InodeId
    name: bytes
    expects_content: bool = False


Mutation = Create | Link | Unlink | Rename | Exchange | SetAttributes | SetXattr | Store | Restore


class Status(enum.StrEnum):
    """What became of one mutation. The first five are final; for the others the same op is sent again."""

    OK = "ok"
    CONFLICT = "conflict"
    REJECTED = "rejected"
    MOVED = "moved"
    ID_TAKEN = "id_taken"
    STALE = "stale"
    BLOCKED = "blocked"
    NEEDS_BLOCKS = "needs_blocks"
    OVER_QUOTA = "over_quota"


FINAL = frozenset({Status.OK, Status.CONFLICT, Status.REJECTED, Status.MOVED, Status.ID_TAKEN})


class OpResult(msgspec.Struct, omit_defaults=True):
    """The answer to op `n`.

    `seq` and `revision` (the number that a store or its lineage gave) are set for `ok`; `reason` is for programs
    (`exists`, `absent`, `changed`, `not_empty`, `cycle`, `no_parent`, `gone`, `not_directory`, `role`, `limit`, …);
    `blocks` are the ids that `needs_blocks` asks for, and `workspace` is where they are to be sent: only the server
    knows for certain which share a file is in (0: it does not say). `gone` says of inodes without a name, for lack of
    which ops of this commit are refused, and of the directories above them where they last were; each stands in one
    answer only. `content_since` is told to each op that is refused because its file has no name: the revision that was
    the first to have the content that it had last, and `is_emptied` says that this has gone from the trash for good.
    """

    n: OpNumber
    status: Status
    seq: Seq = Seq(0)
    revision: RevisionNumber = RevisionNumber(0)
    reason: str = ""
    blocks: list[BlockId] = []
    workspace: WorkspaceId = WorkspaceId(0)
    gone: list[DentryState] = []
    content_since: RevisionNumber = RevisionNumber(0)
    is_emptied: bool = False
