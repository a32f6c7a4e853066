"""What the backend tells of the past, for those who wait for it in a system call or a command.

Owns the deadline and what an error means here: that there is no such thing, or that it cannot be found out now.
"""

from collections.abc import AsyncGenerator, Awaitable, Mapping
from typing import TypeVar

import trio

from drivefs.fs import errors, interfaces
from drivefs.protocol.errors import Code
from drivefs.protocol.history import (
    MomentReply,
    MomentRequest,
    RevisionInfo,
    SnapshotInfo,
    TrashEntry,
    TrashPlace,
    TrashRequest,
)
from drivefs.protocol.ids import NO_REVISION, InodeId, RevisionNumber, Seq
from drivefs.protocol.messages import MAX_PAGE_ENTRIES, Entry
from drivefs.protocol.model import InodeState
from drivefs.remote.errors import Refused, RemoteError

PAGE_REMOVED = 500
Refusals = Mapping[str, type[errors.FileSystemError]]
"""What the server refuses for good, and says why in a sentence."""
_COMMON: Refusals = {Code.NOT_FOUND: errors.NotFound, Code.FORBIDDEN: errors.NotPermitted}
_OF_NAMES: Refusals = {
    **_COMMON,
    Code.CONFLICT: errors.Exists,
    Code.MALFORMED: errors.Invalid,
    Code.TOO_LARGE: errors.NoSpace,
}

T = TypeVar("T")


class Past:
    """Questions about what was.

    All raise NotFound where there was no such thing, or it is not kept any more, and Unavailable where it cannot be
    found out within the deadline.
    """

    def __init__(self, source: interfaces.Past, deadline_seconds: float) -> None:
        self._source = source
        self._deadline_seconds = deadline_seconds

    async def revisions(self, inode: InodeId) -> list[RevisionInfo]:
        """All revisions of the history that an inode goes on with, by number."""
        found: list[RevisionInfo] = []
        while True:
            after = found[-1].number if found else NO_REVISION
            reply = await self._answer(self._source.revisions(inode, after, MAX_PAGE_ENTRIES))
            found += reply.revisions
            if not reply.more:
                return found

    async def revision(self, inode: InodeId, number: RevisionNumber) -> RevisionInfo:
        """One revision of the history that an inode goes on with."""
        if number <= NO_REVISION:
            raise errors.NotFound
        reply = await self._answer(self._source.revisions(inode, RevisionNumber(number - 1), 1))
        if not reply.revisions or reply.revisions[0].number != number:
            raise errors.NotFound
        return reply.revisions[0]

    async def blocks(self, inode: InodeId, number: RevisionNumber) -> bytes:
        """The packed block list of a content, by the number that the inode itself gave it, if it is kept still."""
        return await self._answer(self._source.content(inode, number, in_history=False))

    async def keep(self, inode: InodeId, number: RevisionNumber, *, is_kept: bool) -> None:
        """Mark a revision to be kept for good, or take the mark away."""
        await self._answer(self._source.keep(inode, number, is_kept=is_kept))

    async def at(self, time_ns: int) -> MomentReply:
        """The newest commit at or before a time."""
        return await self._moment(MomentRequest(time_ns=time_ns))

    async def at_snapshot(self, name: str) -> MomentReply:
        """The commit that the name of a snapshot means."""
        return await self._moment(MomentRequest(snapshot=name))

    async def _moment(self, request: MomentRequest) -> MomentReply:
        reply = await self._answer(self._source.moment(request))
        if not reply.seq:
            raise errors.NotFound
        return reply

    async def snapshots(self) -> list[SnapshotInfo]:
        """All moments that have a name, in their order."""
        return (await self._answer(self._source.snapshots())).snapshots

    async def create_snapshot(self, name: str, time_ns: int) -> SnapshotInfo:
        """Name where the drive stood at a time; 0: where it stands now.

        Raises:
            Exists, Invalid, NoSpace: the name is taken, or cannot be one, or there are too many; the message says it.
        """
        return await self._answer(self._source.create_snapshot(name, time_ns), _OF_NAMES)

    async def delete_snapshot(self, name: str) -> None:
        """Take a name away."""
        await self._answer(self._source.delete_snapshot(name))

    async def removed(self, parent: InodeId, name: bytes = b"") -> AsyncGenerator[list[TrashEntry], None]:
        """What was removed from a directory, or (`NO_INODE`) from all that are there, the latest first, by pages."""
        after: TrashPlace | None = None
        while True:
            request = TrashRequest(parent=parent, name=name, after=after, limit=PAGE_REMOVED)
            reply = await self._answer(self._source.trash(request))
            yield reply.entries
            if not reply.more:
                return
            after = reply.entries[-1].place

    async def empty_trash(self, until: Seq) -> AsyncGenerator[int, None]:
        """Let what was removed up to a seq go for good, part by part: how much each of them was."""
        while True:
            reply = await self._answer(self._source.empty_trash(until))
            yield reply.count
            if not reply.more:
                return

    async def inode(self, inode: InodeId, seq: Seq) -> InodeState:
        """An inode as it was at a seq."""
        state = await self._answer(self._source.inode(inode, seq))
        if state is None:
            raise errors.NotFound
        return state

    async def listing(self, directory: InodeId, seq: Seq) -> dict[bytes, InodeState]:
        """All entries of a directory as they were at a seq."""
        found: dict[bytes, InodeState] = {}
        after = b""
        while True:
            reply = await self._answer(self._source.directory(directory, seq, after, MAX_PAGE_ENTRIES))
            found.update((entry.name, entry.inode) for entry in reply.entries)
            if not reply.more:
                return found
            after = reply.entries[-1].name

    async def entry(self, directory: InodeId, name: bytes, seq: Seq) -> InodeState:
        """What one name led to at a seq."""
        reply = await self._answer(self._source.directory(directory, seq, _before(name), 1))
        first: list[Entry] = reply.entries
        if not first or first[0].name != name:
            raise errors.NotFound
        return first[0].inode

    async def _answer(self, call: Awaitable[T], refusals: Refusals = _COMMON) -> T:
        try:
            with trio.fail_after(self._deadline_seconds):
                return await call
        except Refused as error:
            if (kind := refusals.get(error.code)) is not None:
                raise kind(str(error)) from error
            raise errors.Unavailable(f"the past of the drive is not on this device: {error}") from error
        except (RemoteError, trio.TooSlowError) as error:
            raise errors.Unavailable(f"the past of the drive is not on this device: {error}") from error


def _before(name: bytes) -> bytes:
    """What all names that come before a name are not after, in byte order, as far as names can be that long."""
    return (name[:-1] + bytes([name[-1] - 1])).ljust(255, b"\xff")
