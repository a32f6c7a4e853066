"""Reads contents: from the journal, from staging, from cached blocks, or else through the backend.

Owns no state. What is here is read at once on the event loop; what is not waits for the fetcher, until the deadline.
Invariant: one read shows one content: when it changed while bytes were fetched, the read begins again.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable

import trio

from cache.staging import StagedRange
from cache.workspace import LocalState
from drivefs.fs import errors, extents, readahead
from drivefs.fs.content import Content, Piece, Staged
from drivefs.fs.extents import Extent, Layer
from drivefs.fs.interfaces import BlockFetcher, Lister
from drivefs.fs.readahead import ReadState
from drivefs.protocol.ids import MAX_ID, InodeId, WorkspaceId
from drivefs.protocol.model import unpack_blocks
from drivefs.remote.errors import BlockGone, RemoteError


def nobody(inode: InodeId) -> None:
    """Hears of a read, and does nothing."""


class Reader:
    """Gives bytes of contents."""

    def __init__(
        self,
        local: LocalState,
        fetcher: BlockFetcher,
        lister: Lister,
        *,
        workspace: WorkspaceId,
        deadline_seconds: float,
    ) -> None:
        self.offload = local.offload
        self.drafts = local.journal.drafts
        self.staging = local.staging
        self._blocks = local.blocks
        self.can_hand_over = local.blocks.can_adopt_from(local.staging.directory)
        """Whether published content goes from staging into the block cache as it is, without being copied."""
        self.waiting: Callable[[InodeId], None] = nobody
        """Hears of each read by a program that waits for the backend, just before it does."""
        self._fetcher = fetcher
        self._lister = lister
        self._workspace = workspace
        self._deadline_seconds = deadline_seconds

    def read_now(self, content: Content, start: int, end: int) -> bytes | bytearray | None:
        """Bytes `start` to `end` of a content that has at least so many, if they can be had at once.

        Raises:
            cache.errors.Corrupt: bytes that exist nowhere else do not verify.
        """
        if not content.layers:
            return None if content.refs is None else self._base_now(content, start, end)
        parts: list[bytes | bytearray] = []
        for extent in extents.resolve(content.layers, start, end):
            if extent.source is not extents.BASE:
                parts.append(self._own_bytes(content, extent))
                continue
            part = None if content.refs is None else self._base_now(content, extent.start, extent.end)
            if part is None:
                return None
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read(self, content: Content, layers: list[Layer], start: int, end: int) -> bytes:
        """The same through given layers over the content's present base, fetching what is not here.

        Raises:
            Unavailable: some bytes could not be had within the deadline.
        """
        try:
            with trio.fail_after(self._deadline_seconds):
                return await self.fetch(content, layers, start, end, self.waiting)
        except (RemoteError, trio.TooSlowError) as error:
            raise errors.Unavailable(f"bytes of inode {content.inode} are not on this device: {error}") from error

    async def fetch(
        self,
        content: Content,
        layers: list[Layer],
        start: int,
        end: int,
        waiting: Callable[[InodeId], None] = nobody,
    ) -> bytes:
        """The same without a deadline; `waiting` hears of the inode if its bytes have to come from the backend.

        Raises:
            drivefs.remote.errors.RemoteError: some bytes cannot be had now.
        """
        found = extents.resolve(layers, start, end)
        # Before anything is waited for: what was written may be dropped meanwhile, for other bytes or with its file.
        parts = [each if each.source is extents.BASE else self._own_bytes(content, each) for each in found]
        await self.learn_base(content, found)
        wanted: list[Piece | bytes] = []
        for part in parts:
            wanted += content.pieces(part.start, part.end) if isinstance(part, Extent) else [part]
        missing = {part.block: None for part in wanted if isinstance(part, Piece)}
        absent = [block for block in missing if not self._blocks.contains(block)]
        if absent:
            waiting(content.inode)
            await self._fetcher.fetch(self._workspace, absent)
        return b"".join(
            [await self._block(content.inode, part) if isinstance(part, Piece) else part for part in wanted]
        )

    async def _block(self, inode: InodeId, piece: Piece) -> bytes | bytearray:
        block, offset, length = piece
        part = await self._blocks.read(block, offset, length)
        if part is None:
            whole = await self._fetcher.read(self._workspace, inode, block)
            part = whole[offset : offset + length]
        return part

    def read_ahead(self, content: Content, state: ReadState, offset: int, length: int) -> ReadState:
        """Before a read: have blocks of the base fetched that will be read next; gives the descriptor's new state."""
        refs = content.refs
        if refs is None or len(refs) < 2:
            return state
        last_block = content.block_at(offset + length - 1)
        ahead = readahead.after_read(state, offset, length, last_block=last_block, block_count=len(refs))
        if ahead.first < ahead.end:
            self._fetcher.expect(self._workspace, refs[ahead.first : ahead.end])
        return ahead.state

    async def learn_base(self, content: Content, found: Iterable[Extent]) -> None:
        """Get the block list of the base, if bytes of it are needed and it is not known."""
        if content.refs is None and any(extent.source is extents.BASE for extent in found):
            revision = content.base.revision
            draft = self.drafts.draft(content.inode)
            if draft is not None and draft.is_over_past:
                raise BlockGone("nobody knows any more which blocks it had")
            packed = await self._lister.content(content.inode, revision)
            if content.refs is None and content.base.revision == revision:
                content.know(unpack_blocks(packed))

    def _own_bytes(self, content: Content, extent: Extent) -> bytes:
        """Bytes that are in no block yet."""
        start, end, source, offset = extent
        if source is extents.ZEROS:
            return bytes(end - start)
        if isinstance(source, Staged):
            wanted = StagedRange(source.file, offset, end - start)
            if self.staging.is_earlier(source.file):
                self._verify(content, wanted)
            return self.staging.read(wanted, 0, end - start)
        return self.drafts.record_data(source)[offset : offset + end - start]

    def _verify(self, content: Content, wanted: StagedRange) -> None:
        """See that what an earlier mount wrote is still that: each record as a whole, the first time it is read.

        Raises:
            cache.errors.Corrupt: it is not.
        """
        if content.unverified is None:
            records = self.drafts.records(content.inode)
            content.unverified = sorted((each.staged, each.digest) for each in records if each.staged is not None)
        file, start, length = wanted
        first = bisect_right(content.unverified, (StagedRange(file, start, MAX_ID), MAX_ID)) - 1
        last = bisect_left(content.unverified, (StagedRange(file, start + length, 0), 0))
        for staged, digest in content.unverified[max(first, 0) : last]:
            if staged.file == file and staged.offset + staged.length > start:
                self.staging.load(staged, digest)
                content.unverified.remove((staged, digest))

    def _base_now(self, content: Content, start: int, end: int) -> bytes | bytearray | None:
        parts = []
        for block, offset, length in content.pieces(start, end):
            part = self._blocks.read_now(block, offset, length)
            if part is None:
                return None
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
