"""What the file system needs of those who speak to the backend; `sync` satisfies it, `mount` brings the two together.

Owns declarations only. Whatever is asynchronous here raises `drivefs.remote.errors.RemoteError` when it cannot be had
now.
"""

from collections.abc import Sequence
from typing import Protocol

from drivefs.protocol.changes import Unlink
from drivefs.protocol.history import (
    EmptyTrashReply,
    MomentReply,
    MomentRequest,
    RevisionsReply,
    SnapshotInfo,
    SnapshotsReply,
    TrashReply,
    TrashRequest,
)
from drivefs.protocol.ids import BlockId, InodeId, RevisionNumber, Seq, WorkspaceId
from drivefs.protocol.messages import ListReply
from drivefs.protocol.model import BlockRef, InodeState


class BlockFetcher(Protocol):
    """Brings blocks of the backend here."""

    async def fetch(self, workspace: WorkspaceId, blocks: Sequence[BlockId]) -> None:
        """Put the verified plaintexts of these blocks into the block cache, as far as it takes them."""
        ...

    def expect(self, workspace: WorkspaceId, refs: Sequence[BlockRef]) -> None:
        """The same for blocks that may be read soon; they come later, and a failure is not told."""
        ...

    async def read(self, workspace: WorkspaceId, inode: InodeId, block: BlockId) -> bytes:
        """The verified plaintext of one block, whether or not the cache takes it."""
        ...


class Lister(Protocol):
    """Brings metadata of the backend into the replica."""

    async def list_directory(self, directory: InodeId) -> None:
        """Bring the whole listing of a directory into the replica; at once if it is there."""
        ...

    async def content(self, inode: InodeId, revision: RevisionNumber) -> bytes:
        """The packed block list of a revision."""
        ...


class Past(Protocol):
    """Tells of what was; none of it ever changes."""

    async def content(self, inode: InodeId, revision: RevisionNumber, *, in_history: bool) -> bytes:
        """The packed block list of a revision.

        By its number among the inode's own or, `in_history`, in the history that the inode goes on with, whichever
        inode made it.
        """
        ...

    async def revisions(self, inode: InodeId, after: RevisionNumber, limit: int) -> RevisionsReply:
        """Those revisions of the history that an inode goes on with whose numbers are higher than `after`."""
        ...

    async def keep(self, inode: InodeId, revision: RevisionNumber, *, is_kept: bool) -> None:
        """Mark a revision to be kept for good, or take the mark away."""
        ...

    async def trash(self, request: TrashRequest) -> TrashReply:
        """One page of what was removed, the latest first."""
        ...

    async def empty_trash(self, until: Seq) -> EmptyTrashReply:
        """Let a part of what was removed up to a seq go for good."""
        ...

    async def moment(self, request: MomentRequest) -> MomentReply:
        """Where the drive stood at a time, or at a snapshot."""
        ...

    async def snapshots(self) -> SnapshotsReply:
        """All moments that have a name."""
        ...

    async def create_snapshot(self, name: str, time_ns: int) -> SnapshotInfo:
        """Name where the drive stood at a time; 0: where it stands now."""
        ...

    async def delete_snapshot(self, name: str) -> None:
        """Take a name away."""
        ...

    async def inode(self, inode: InodeId, seq: Seq) -> InodeState | None:
        """An inode as it was at a seq; None if the drive did not have it."""
        ...

    async def directory(self, directory: InodeId, seq: Seq, after: bytes, limit: int) -> ListReply:
        """The first `limit` entries of a directory behind a name, as they were at a seq."""
        ...


class Publisher(Protocol):
    """Hears what there is to publish; every method returns at once."""

    def acting(self, process: int) -> None:
        """The changes that come now are made by this process (or thread)."""
        ...

    def changed(self) -> None:
        """A mutation was added to the journal."""
        ...

    def opened(self, inode: InodeId) -> None:
        """A file was opened."""
        ...

    def closed(self, inode: InodeId) -> None:
        """The last descriptor that could write to a changed or new file was closed."""
        ...

    def synced(self, inode: InodeId) -> None:
        """A changed file that stays open was fsynced."""
        ...

    def dropped(self, inode: InodeId) -> None:
        """The inode has nothing to publish now: its last name went, or it is cut and about to be written anew."""
        ...


class Deletions(Protocol):
    """Hears which names go and come, and may keep back what was removed; every method returns at once."""

    def made(self, inode: InodeId) -> None:
        """A new inode got its first name just now."""
        ...

    def removed(self, change: Unlink, *, is_directory: bool) -> None:
        """A removal was added to the journal just now."""
        ...

    def taking(self, parent: InodeId, name: bytes, replaced: InodeId) -> None:
        """A name is about to lead to something new, in the caller's transaction; `replaced` is what it leads to yet."""
        ...
