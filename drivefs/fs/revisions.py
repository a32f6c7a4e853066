"""Reads the content of single revisions of files, past ones too, as they are in the history of the drive.

Owns the way from a revision to bytes; keeps the block lists of the latest ones.
What a revision holds never changes, so nothing here has to be told of changes.
"""

from typing import NamedTuple

import trio

from drivefs.fs import errors
from drivefs.fs.content import Basis, Content
from drivefs.fs.extents import Layer
from drivefs.fs.interfaces import Past
from drivefs.fs.readahead import ReadState
from drivefs.fs.reading import Reader
from drivefs.fs.view import View, shrink
from drivefs.protocol.changes import Base
from drivefs.protocol.errors import Code
from drivefs.protocol.ids import NO_REVISION, InodeId, RevisionNumber
from drivefs.protocol.model import unpack_blocks
from drivefs.remote.errors import Refused, RemoteError

MAX_KNOWN = 256
"""Of how many revisions the block list is remembered."""


class Which(NamedTuple):
    """A revision: by its number in the history that an inode goes on with, or among those that the inode was given."""

    inode: InodeId
    number: RevisionNumber
    in_history: bool = True


class RevisionHandle:
    """One open revision; `content` is known from the first read on."""

    __slots__ = ("ahead", "content", "which")

    def __init__(self, which: Which) -> None:
        self.which = which
        self.content: Content | None = None
        self.ahead = ReadState()


class Revisions:
    """Contents of revisions."""

    def __init__(self, view: View, reader: Reader, past: Past, deadline_seconds: float) -> None:
        self._view = view
        self._reader = reader
        self._past = past
        self._deadline_seconds = deadline_seconds
        self._known: dict[Which, Content] = {}

    def size_here(self, which: Which) -> int | None:
        """How long a revision is, if that is known on this device."""
        content = self._content_here(which)
        return None if content is None else content.base_size

    def _content_here(self, which: Which) -> Content | None:
        known = self._known.get(which)
        if known is not None:
            return known
        if which.number == NO_REVISION:
            return self.know(which, b"")
        if which.in_history:
            # What the backend has done is not all known here: an inode that took over a name has another number by now.
            return None
        # The replica's word only: here, a file's present blocks may be those of a revision that is still on its way.
        state = self._view.replica.inode(which.inode)
        if state is None or state.revision != which.number:
            return None
        packed = state.blocks if state.blocks is not None else self._view.replica.content(which.inode, which.number)
        return None if packed is None else self.know(which, packed)

    def know(self, which: Which, packed: bytes) -> Content:
        """The block list of a revision is this one."""
        refs = unpack_blocks(packed)
        basis = Basis(Base(revision=which.number), sum(ref.size_bytes for ref in refs), refs)
        content = self._known[which] = Content(which.inode, basis)
        shrink(self._known, MAX_KNOWN)
        return content

    async def content(self, which: Which) -> Content:
        """The content of a revision; none of its bytes are fetched yet.

        Raises:
            NotFound: it is not kept any more, never was, or is not this user's to see.
            Unavailable: the list of its blocks is not here and could not be fetched within the deadline.
        """
        content = self._content_here(which)
        if content is not None:
            return content
        try:
            with trio.fail_after(self._deadline_seconds):
                packed = await self._past.content(which.inode, which.number, in_history=which.in_history)
        except (RemoteError, trio.TooSlowError) as error:
            what = f"revision {which.number} of inode {which.inode}"
            if isinstance(error, Refused) and error.code is Code.NOT_FOUND:
                raise errors.NotFound(f"there is no {what}: {error}") from error
            raise errors.Unavailable(f"{what} is not on this device: {error}") from error
        return self.know(which, packed)

    async def read(self, handle: RevisionHandle, offset: int, length: int) -> bytes | bytearray:
        """Up to `length` bytes from `offset` on.

        Raises:
            Unavailable: some bytes are not here and could not be had within the deadline.
        """
        content = handle.content
        if content is None:
            try:
                content = handle.content = await self.content(handle.which)
            except errors.NotFound as error:
                # It was there when it was opened.
                raise errors.Unavailable(str(error)) from error
        end = min(offset + length, content.base_size)
        if offset >= end:
            return b""
        handle.ahead = self._reader.read_ahead(content, handle.ahead, offset, length)
        now = self._reader.read_now(content, offset, end)
        return now if now is not None else await self._reader.read(content, [Layer(content.base_size)], offset, end)
