"""Fetches metadata on demand: directories not yet listed, long block lists, single inodes.

Everything is asked for as of the replica's cursor, so that what arrives never contradicts what is there. Concurrent
requests for one directory are one request. Owns no state but those under way.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import trio

from cache.errors import DiskFull
from drivefs.protocol.ids import InodeId, RevisionNumber, Seq
from drivefs.protocol.messages import ContentRequest, ListRequest
from drivefs.remote import errors
from drivefs.sync.ends import Ends

PAGE_ENTRIES = 2000
WAIT_SECONDS = 25.0


class Lister:
    """Fills the replica from the backend, as of its cursor.

    `failed` hears when the backend is found gone; `tried` waits until it is known whether it can be reached; `changed`
    hears of a directory whose attributes were shown otherwise: the root of a replica that begins.
    """

    def __init__(
        self,
        ends: Ends,
        *,
        failed: Callable[[errors.RemoteError], None],
        tried: Callable[[], Awaitable[None]],
        changed: Callable[[InodeId], None],
    ) -> None:
        self._remote = ends.remote
        self._replica = ends.local.replica
        self._workspace = ends.workspace
        self._failed = failed
        self._tried = tried
        self._changed = changed
        self._under_way: dict[InodeId, trio.Event] = {}

    async def list_directory(self, directory: InodeId) -> None:
        """Bring the whole listing of a directory into the replica; at once if it is there.

        Cancellation leaves the directory incomplete.

        Raises:
            RemoteError: it cannot be had now.
            DiskFull: there is no room to keep it.
        """
        while not self._replica.is_complete(directory):
            if (other := self._under_way.get(directory)) is not None:
                await other.wait()
                continue
            done = self._under_way[directory] = trio.Event()
            try:
                await self._fetch(directory)
            finally:
                del self._under_way[directory]
                done.set()

    async def _fetch(self, directory: InodeId) -> None:
        if self._replica.cursor(self._workspace) is None:
            # A replica that begins has its cursor as soon as the first session opens.
            with trio.move_on_after(WAIT_SECONDS):
                await self._tried()
        after, more = b"", True
        while more:
            as_of = self._cursor()
            request = ListRequest(directory=directory, as_of=as_of, after=after, limit=PAGE_ENTRIES)
            with self._bounded():
                reply = await self._remote.list_directory(self._workspace, request)
            if self._cursor() != as_of:
                # A page of the feed was applied meanwhile: what was listed may be older than what is here. Ask again.
                continue
            more = reply.more
            if reply.entries:
                after = reply.entries[-1].name
            before = self._replica.inode(directory)
            self._replica.apply_listing(reply.directory, reply.entries, as_of, complete=not more)
            if before != reply.directory:
                self._changed(directory)

    async def content(self, inode: InodeId, revision: RevisionNumber) -> bytes:
        """The packed block list of a revision, from the replica or the backend.

        Raises:
            RemoteError: it cannot be had now.
        """
        if (known := self._replica.content(inode, revision)) is not None:
            return known
        with self._bounded():
            reply = await self._remote.content(self._workspace, ContentRequest(inode=inode, revision=revision))
        with suppress(DiskFull):  # then it is fetched again when it is needed again
            self._replica.put_content(inode, revision, reply.blocks)
        return reply.blocks

    def _cursor(self) -> Seq:
        cursor = self._replica.cursor(self._workspace)
        if cursor is None:
            raise errors.Offline("this device has not yet reached the server, so the directory is not known here")
        return cursor.seq

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """A deadline for one call, and word to the connection when it finds the backend gone."""
        try:
            with trio.fail_after(WAIT_SECONDS):
                yield
        except trio.TooSlowError as error:
            slow = errors.Offline(f"the server did not answer within {WAIT_SECONDS:.0f} s")
            self._failed(slow)
            raise slow from error
        except errors.RemoteError as error:
            self._failed(error)
            raise
