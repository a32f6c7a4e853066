"""Reads the content of single revisions of files, past ones too, as they are in the history of the drive.

Owns the way from (inode, revision) to bytes; keeps the block lists of the latest ones.
What a revision holds never changes, so nothing here has to be told of changes.
"""

import trio

from drivefs.fs import errors
from drivefs.fs.content import Basis, Content
from drivefs.fs.extents import Layer
from drivefs.fs.interfaces import Lister
from drivefs.fs.readahead import ReadState
from drivefs.fs.reading import Reader
from drivefs.fs.view import View, shrink
from drivefs.protocol.changes import Base
from drivefs.protocol.ids import InodeId, RevisionNumber
from drivefs.protocol.model import unpack_blocks
from drivefs.remote.errors import RemoteError

MAX_KNOWN = 256
"""Of how many revisions the block list is remembered."""


class RevisionHandle:
    """One open revision; `content` is known from the first read on."""

    __slots__ = ("ahead", "content", "inode", "revision")

    def __init__(self, inode: InodeId, revision: RevisionNumber) -> None:
        self.inode = inode
        self.revision = revision
        self.content: Content | None = None
        self.ahead = ReadState()


class Revisions:
    """Contents of revisions, by inode and by number in the history that the inode goes on with."""

    def __init__(self, view: View, reader: Reader, lister: Lister, deadline_seconds: float) -> None:
        self._view = view
        self._reader = reader
        self._lister = lister
        self._deadline_seconds = deadline_seconds
        self._known: dict[tuple[InodeId, RevisionNumber], Content] = {}

    def size_here(self, inode: InodeId, revision: RevisionNumber) -> int | None:
        """How long a revision is, if that is known on this device."""
        content = self._content_here(inode, revision)
        return None if content is None else content.base_size

    def _content_here(self, inode: InodeId, revision: RevisionNumber) -> Content | None:
        known = self._known.get((inode, revision))
        if known is not None:
            return known
        # The replica's word only: here, a file's present blocks may be those of a revision that is still on its way.
        state = self._view.replica.inode(inode)
        if state is None or state.revision != revision:
            return None
        packed = state.blocks if state.blocks is not None else self._view.replica.content(inode, revision)
        return None if packed is None else self._keep(inode, revision, packed)

    def _keep(self, inode: InodeId, revision: RevisionNumber, packed: bytes) -> Content:
        refs = unpack_blocks(packed)
        basis = Basis(Base(revision=revision), sum(ref.size_bytes for ref in refs), refs)
        content = self._known[inode, revision] = Content(inode, basis)
        shrink(self._known, MAX_KNOWN)
        return content

    async def content(self, inode: InodeId, revision: RevisionNumber) -> Content:
        """The content of a revision; none of its bytes are fetched yet.

        Raises:
            Unavailable: the list of its blocks is not here and could not be fetched within the deadline.
        """
        content = self._content_here(inode, revision)
        if content is not None:
            return content
        try:
            with trio.fail_after(self._deadline_seconds):
                packed = await self._lister.past_content(inode, revision)
        except (RemoteError, trio.TooSlowError) as error:
            raise errors.Unavailable(f"revision {revision} of inode {inode} is not on this device: {error}") from error
        return self._keep(inode, revision, packed)

    async def read(self, handle: RevisionHandle, offset: int, length: int) -> bytes | bytearray:
        """Up to `length` bytes from `offset` on.

        Raises:
            Unavailable: some bytes are not here and could not be had within the deadline.
        """
        content = handle.content
        if content is None:
            content = handle.content = await self.content(handle.inode, handle.revision)
        end = min(offset + length, content.base_size)
        if offset >= end:
            return b""
        handle.ahead = await self._reader.read_ahead(content, handle.ahead, offset, length)
        now = self._reader.read_now(content, offset, end)
        return now if now is not None else await self._reader.read(content, [Layer(content.base_size)], offset, end)
