"""Asks the backend about the past: revisions of a file, where the drive stood at a time, and the tree as it was then.

Owns no state; what was is never changed, so whoever asks may keep the answers. Each call ends within the deadlines of
`remote`, and at once while the backend is known to be gone.
"""

from functools import partial

from drivefs.protocol import history
from drivefs.protocol.ids import InodeId, RevisionNumber, Seq
from drivefs.protocol.messages import ContentRequest, InodesRequest, ListReply, ListRequest
from drivefs.protocol.model import InodeState
from drivefs.sync.asking import Asking
from drivefs.sync.connection import Reach
from drivefs.sync.ends import Ends


class Past:
    """The past of one workspace; all calls raise `RemoteError` when there is no answer now, or no such thing."""

    def __init__(self, ends: Ends, reach: Reach) -> None:
        self._remote = ends.remote
        self._operation = ends.operation
        self._workspace = ends.workspace
        self._asked = Asking(reach)

    async def content(self, inode: InodeId, revision: RevisionNumber, *, in_history: bool) -> bytes:
        """The packed block list of a revision: of the inode's own numbers, or those of the history it goes on with."""
        request = ContentRequest(inode=inode, revision=revision, history=in_history)
        return (await self._asked(partial(self._remote.content, self._workspace, request))).blocks

    async def revisions(self, inode: InodeId, after: RevisionNumber, limit: int) -> history.RevisionsReply:
        """One page of the history that an inode goes on with."""
        request = history.RevisionsRequest(inode=inode, after=after, limit=limit)
        return await self._asked(partial(self._remote.revisions, self._workspace, request))

    async def keep(self, inode: InodeId, revision: RevisionNumber, *, is_kept: bool) -> None:
        """Mark a revision to be kept for good, or take the mark away."""
        request = history.KeepRequest(inode=inode, revision=revision, is_kept=is_kept)
        await self._asked(partial(self._remote.keep, self._workspace, request))

    async def trash(self, request: history.TrashRequest) -> history.TrashReply:
        """One page of what was removed."""
        return await self._asked(partial(self._remote.trash, self._workspace, request))

    async def empty_trash(self, until: Seq) -> history.EmptyTrashReply:
        """Let a part of what was removed up to a seq go for good."""
        request = history.EmptyTrashRequest(until=until)
        return await self._asked(partial(self._remote.empty_trash, self._workspace, request))

    async def moment(self, request: history.MomentRequest) -> history.MomentReply:
        """Where the drive stood at a time, or at a snapshot."""
        return await self._asked(partial(self._remote.moment, self._workspace, request))

    async def snapshots(self) -> history.SnapshotsReply:
        """All named moments."""
        return await self._asked(partial(self._remote.snapshots, self._workspace))

    async def create_snapshot(self, name: str, time_ns: int) -> history.SnapshotInfo:
        """Name where the drive stood at a time; 0: where it stands now."""
        request = history.CreateSnapshotRequest(op=self._operation(), name=name, time_ns=time_ns)
        return await self._asked(partial(self._remote.create_snapshot, self._workspace, request))

    async def delete_snapshot(self, name: str) -> None:
        """Take a name away."""
        request = history.DeleteSnapshotRequest(op=self._operation(), name=name)
        await self._asked(partial(self._remote.delete_snapshot, self._workspace, request))

    async def inode(self, inode: InodeId, seq: Seq) -> InodeState | None:
        """An inode as it was at a seq."""
        request = InodesRequest(inodes=[inode], as_of=seq)
        reply = await self._asked(partial(self._remote.inodes, self._workspace, request))
        return reply.inodes[0] if reply.inodes else None

    async def directory(self, directory: InodeId, seq: Seq, after: bytes, limit: int) -> ListReply:
        """One page of a directory as it was at a seq."""
        request = ListRequest(directory=directory, as_of=seq, after=after, limit=limit)
        return await self._asked(partial(self._remote.list_directory, self._workspace, request))
