"""Fetches metadata on demand: directories not yet listed, long block lists, single inodes.

A directory is asked for as of a cursor that the replica has had; what the feed has brought since is newer and stays.
Concurrent requests for one directory are one request. Long listings are applied in small parts, with pauses for those
who wait for system calls. Owns no state but those under way. Invariants: a listing that was asked for before a tree was
forgotten is void: it may be of an earlier time in a share, and nobody has heard what changed between the two. So is
that of a directory which the feed took away meanwhile.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import trio

from cache.errors import DiskFull
from drivefs.protocol.errors import Code
from drivefs.protocol.ids import InodeId, RevisionNumber, Seq
from drivefs.protocol.messages import ContentRequest, Entry, ListManyRequest, ListReply, ListRequest
from drivefs.remote import errors
from drivefs.sync.asking import Asking
from drivefs.sync.connection import Reach
from drivefs.sync.ends import Ends

PAGE_ENTRIES = 2000
MANY_ENTRIES = 1000
"""Of several directories together: decoding them keeps the loop for about a millisecond."""
PART_ENTRIES = 100
"""So many entries are put into the replica at once: less than a millisecond."""


class Lister:
    """Fills the replica from the backend, as of its cursor.

    `changed` hears of a directory whose attributes were shown otherwise: the root of a replica that begins; those in
    `listed` hear of the names that come. Each call ends within the deadlines of `remote`, and at once while the backend
    is known to be gone.
    """

    def __init__(self, ends: Ends, reach: Reach, *, changed: Callable[[InodeId], None]) -> None:
        self._remote = ends.remote
        self._replica = ends.local.replica
        self._workspace = ends.workspace
        self._asked = Asking(reach)
        self._changed = changed
        self.listed: list[Callable[[InodeId, Sequence[Entry]], None]] = []
        self._under_way: dict[InodeId, trio.Event] = {}

    async def list_directory(self, directory: InodeId) -> None:
        """Bring the whole listing of a directory into the replica; at once if it is there.

        Cancellation leaves the directory incomplete.

        Raises:
            RemoteError: it cannot be had now, or was removed.
            DiskFull: there is no room to keep it.
        """
        while not self._replica.is_complete(directory):
            if (other := self._under_way.get(directory)) is not None:
                await other.wait()
                continue
            done = self._under_way[directory] = trio.Event()
            before = self._replica.cursor(self._workspace)
            try:
                forgotten = self._replica.forgotten_count
                if not await self._fetch(directory):
                    if self._replica.forgotten_count != forgotten and not self._is_there(directory):
                        raise errors.Offline("what was known of this directory was forgotten while it was listed")
                    continue
            except errors.Refused as error:
                has_moved = self._replica.cursor(self._workspace) != before
                if error.code is not Code.NOT_FOUND or not has_moved or not self._is_there(directory):
                    raise
                continue  # it was brought back meanwhile, and heard of since
            finally:
                del self._under_way[directory]
                done.set()
            return

    def _is_there(self, directory: InodeId) -> bool:
        state = self._replica.inode(directory)
        return state is not None and state.nlink > 0

    async def _fetch(self, directory: InodeId) -> bool:
        """List a directory; False if what came is void."""
        if self._replica.cursor(self._workspace) is None:
            # A replica that begins has its cursor as soon as the first session opens.
            await self._asked.reachable()
        after, more, database = b"", True, self._replica.database
        as_of, forgotten = self._cursor(), self._replica.forgotten_count
        while more:
            request = ListRequest(directory=directory, as_of=as_of, after=after, limit=PAGE_ENTRIES)
            reply = await self._asked(partial(self._remote.list_directory, self._workspace, request))
            if self._replica.database is not database:
                raise errors.Offline("the drive is being listed again from its beginning, so this listing is void")
            more = reply.more
            if reply.entries:
                after = reply.entries[-1].name
            if not await self._apply(reply, as_of, forgotten):
                return False
        return True

    async def list_many(self, directories: list[InodeId]) -> None:
        """Bring the listings of several directories into the replica; of some only, where they are long.

        Those that the backend does not have are not waited for again. Cancellation leaves some directories incomplete.

        Raises:
            RemoteError: they cannot be had now.
            DiskFull: there is no room to keep them.
        """
        database, as_of, forgotten = self._replica.database, self._cursor(), self._replica.forgotten_count
        request = ListManyRequest(directories=directories, as_of=as_of, limit=MANY_ENTRIES)
        reply = await self._asked(partial(self._remote.list_many, self._workspace, request))
        if self._replica.database is not database:
            return
        answered = set(reply.unanswered)
        for listing in reply.listings:
            directory = listing.directory.inode
            if not listing.more:
                await self._apply(listing, as_of, forgotten)
            elif not await self._is_listed(directory):
                continue
            answered.add(directory)
        if self._replica.forgotten_count == forgotten and self._cursor() == as_of:
            # Else they may have been brought back meanwhile.
            self._replica.leave_incomplete(each for each in directories if each not in answered)

    async def _is_listed(self, directory: InodeId) -> bool:
        """List a directory alone; False if the backend does not have it any more."""
        try:
            await self.list_directory(directory)
        except errors.Refused as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return False
        return True

    async def _apply(self, reply: ListReply, as_of: Seq, forgotten: int) -> bool:
        """Take over one page of a listing, in parts; the directory is complete when it was the last.

        False if it is void, from some part on, which is not taken over: `forgotten` is how often a tree had been
        forgotten when it was asked for.
        """
        replica, directory = self._replica, reply.directory
        database, before = replica.database, replica.inode(directory.inode)
        for start in range(0, max(len(reply.entries), 1), PART_ENTRIES):
            if replica.database is not database or replica.forgotten_count != forgotten:
                return False
            end = start + PART_ENTRIES
            is_last = end >= len(reply.entries) and not reply.more
            if not replica.apply_listing(directory, reply.entries[start:end], as_of, complete=is_last):
                return False
            for hear in self.listed:
                hear(directory.inode, reply.entries[start:end])
            if not start and replica.inode(directory.inode) != before:
                self._changed(directory.inode)
            await trio.lowlevel.checkpoint()
        return True

    async def content(self, inode: InodeId, revision: RevisionNumber) -> bytes:
        """The packed block list of a revision, from the replica or the backend.

        Raises:
            RemoteError: it cannot be had now.
        """
        if (known := self._replica.content(inode, revision)) is not None:
            return known
        request = ContentRequest(inode=inode, revision=revision)
        reply = await self._asked(partial(self._remote.content, self._workspace, request))
        with suppress(DiskFull):  # then it is fetched again when it is needed again
            self._replica.put_content(inode, revision, reply.blocks)
        return reply.blocks

    async def past_content(self, inode: InodeId, revision: RevisionNumber) -> bytes:
        """The packed block list of a revision by its number in the history that the inode goes on with.

        Raises:
            RemoteError: it cannot be had now, or is not kept any more.
        """
        request = ContentRequest(inode=inode, revision=revision, history=True)
        return (await self._asked(partial(self._remote.content, self._workspace, request))).blocks

    def _cursor(self) -> Seq:
        cursor = self._replica.cursor(self._workspace)
        if cursor is None:
            raise errors.Offline("this device has not yet reached the server, so the directory is not known here")
        return cursor.seq
