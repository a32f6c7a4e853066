"""Stand-ins in the devices of a `fleet`: for the kernel and those who fetch one thing at a time."""

from collections.abc import Callable, Sequence
from typing import Any

from drivefs.protocol import blocks as codec
from drivefs.protocol import messages
from drivefs.protocol.ids import InodeId, WorkspaceId
from drivefs.remote.errors import Offline
from drivefs.sync.ends import Ends


class Kernel:
    """Knows nothing that it could forget, but which numbers mean which inodes."""

    def __init__(self) -> None:
        self.aliases: dict[InodeId, InodeId] = {}

    def inode(self, inode: InodeId, *, content: bool) -> None:
        pass

    def entry(self, parent: InodeId, name: bytes) -> None:
        pass

    def merged(self, inode: InodeId, into: InodeId, *, is_new: bool) -> None:
        self.aliases[inode] = into

    def parted(self, inode: InodeId) -> None:
        pass

    def meant(self, inode: InodeId) -> InodeId:
        while inode in self.aliases:
            inode = self.aliases[inode]
        return inode


class Lister:
    """Lists directories and block lists as of the replica's cursor."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self.listed: list[Callable[[InodeId, Sequence[messages.Entry]], None]] = []

    async def list_directory(self, directory: InodeId) -> None:
        replica = self._ends.local.replica
        cursor = replica.cursor(self._ends.workspace)
        if cursor is None:
            raise Offline("this device knows nothing yet")
        request = messages.ListRequest(directory=directory, as_of=cursor.seq, limit=2000)
        reply = await self._ends.remote.list_directory(self._ends.workspace, request)
        assert not reply.more
        replica.apply_listing(reply.directory, reply.entries, cursor.seq, complete=True)
        for hear in self.listed:
            hear(directory, reply.entries)

    async def list_many(self, directories: list[InodeId]) -> None:
        """None of them together: each is asked for by itself."""

    async def content(self, inode: InodeId, revision: Any) -> bytes:
        known = self._ends.local.replica.content(inode, revision)
        if known is not None:
            return known
        request = messages.ContentRequest(inode=inode, revision=revision)
        reply = await self._ends.remote.content(self._ends.workspace, request)
        self._ends.local.replica.put_content(inode, revision, reply.blocks)
        return reply.blocks

    async def past_content(self, inode: InodeId, revision: Any) -> bytes:
        request = messages.ContentRequest(inode=inode, revision=revision, history=True)
        return (await self._ends.remote.content(self._ends.workspace, request)).blocks


class NotServed(AssertionError):
    """The server gives no block that was asked for: where nothing was ended or taken away meanwhile, that is wrong."""


class Fetcher:
    """Fetches blocks one request at a time."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends

    async def fetch(self, workspace: WorkspaceId, blocks: Any) -> None:
        for block in blocks:
            await self._ends.local.blocks.keep([(block, await self.read(workspace, InodeId(0), block))])

    async def read(self, workspace: WorkspaceId, inode: InodeId, block: Any) -> bytes:
        found: list[bytes] = []

        async def arrived(frames: list[codec.Frame]) -> None:
            for frame in frames:
                if frame.payload is None:
                    raise NotServed("the server has the block, and this device may read it")
                found.append(codec.decode_payload(frame.payload, block))

        await self._ends.remote.get_blocks(workspace, [block], arrived)
        return found[0]
