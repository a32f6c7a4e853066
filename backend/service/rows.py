"""Rows of the tree as values: what is read from the tables, changed in memory and written back.

Owns their shapes and how a row becomes the state that travels. Field names are column names of `metadata.schema`.
"""

import stat
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from drivefs.protocol.ids import (
    DeviceId,
    Epoch,
    InodeId,
    LineageId,
    OpNumber,
    RevisionNumber,
    Seq,
    UserId,
    WorkspaceId,
)
from drivefs.protocol.model import InodeKind, InodeState

FILE = stat.S_IFREG
DIRECTORY = stat.S_IFDIR
SYMLINK = stat.S_IFLNK


class Place(NamedTuple):
    """Where a name stands."""

    parent: InodeId
    name: bytes


class InodeRow(msgspec.Struct):
    """A row of `inodes`, without its account."""

    inode: InodeId
    workspace: WorkspaceId
    kind: int
    mode: int
    uid: int | None
    gid: int | None
    rdev: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    nlink: int
    size: int
    revision: RevisionNumber
    content_since: RevisionNumber
    last_number: RevisionNumber
    lineage: LineageId
    blocks: bytes | None
    target: bytes
    from_seq: Seq

    @property
    def is_emptied(self) -> bool:
        """Whether it is a file without a name whose content was let go for good (`releasing`)."""
        return self.content_since > self.revision


class DentryRow(msgspec.Struct):
    """A row of `dentries`, without its account."""

    parent: InodeId
    name: bytes
    inode: InodeId
    target_account: int | None
    target_workspace: int | None
    from_seq: Seq


class RevisionRow(msgspec.Struct):
    """A row of `revisions`, without its account; `runs` are run ids of 32 bytes each."""

    lineage: LineageId
    number: RevisionNumber
    inode: InodeId
    workspace: WorkspaceId
    seq: Seq
    size: int
    time_ns: int
    user: UserId
    device: DeviceId
    epoch: Epoch
    op: OpNumber
    runs: bytes


INODE_COLUMNS: Sequence[str] = InodeRow.__struct_fields__
DENTRY_COLUMNS: Sequence[str] = DentryRow.__struct_fields__
REVISION_COLUMNS: Sequence[str] = RevisionRow.__struct_fields__


def inode_state(row: InodeRow, xattrs: dict[bytes, bytes]) -> InodeState:
    """What a device is told of an inode."""
    return InodeState(
        inode=row.inode,
        kind=InodeKind(row.kind),
        mode=row.mode,
        uid=row.uid,
        gid=row.gid,
        rdev=row.rdev,
        atime_ns=row.atime_ns,
        mtime_ns=row.mtime_ns,
        ctime_ns=row.ctime_ns,
        nlink=row.nlink,
        size=row.size,
        revision=row.revision,
        lineage=row.lineage,
        blocks=row.blocks,
        target=row.target,
        xattrs=xattrs,
        seq=row.from_seq,
    )
