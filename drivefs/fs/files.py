"""Open files: what a descriptor may do, and where its bytes go.

Owns descriptors. The bytes are the business of `contents`. Writes to a descriptor with O_APPEND are placed at the
present end here.
"""

import os
from collections.abc import Iterable

from drivefs.fs import errors
from drivefs.fs.attributes import Attributes, Wanted
from drivefs.fs.content import Content
from drivefs.fs.contents import PAGE_BYTES, Contents
from drivefs.fs.handles import FileHandle
from drivefs.fs.interfaces import Publisher
from drivefs.fs.ownership import Caller
from drivefs.fs.view import View
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState


class Files:
    """The open files of a mount."""

    def __init__(self, view: View, contents: Contents, attributes: Attributes, publisher: Publisher) -> None:
        self._view = view
        self._contents = contents
        self._attributes = attributes
        self._publisher = publisher
        self.handles = contents.handles

    def open(self, inode: InodeId, flags: int, caller: Caller, *, is_new: bool = False) -> int:
        """Open a file; O_TRUNC empties it, and clears what a write by that user clears. Gives the descriptor's number.

        Raises:
            IsDirectory, Invalid: it is no file.
            ReadOnly, NotFound.
        """
        kind = self._view.inode(inode).kind
        if kind is InodeKind.DIRECTORY:
            raise errors.IsDirectory
        if kind is not InodeKind.FILE:
            raise errors.Invalid
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        if writing and self._view.is_read_only:
            raise errors.ReadOnly
        content = self._contents.acquire(inode, writing=writing)
        self._publisher.opened(inode)
        content.fresh = content.fresh or is_new
        handle = FileHandle(content, flags, caller)
        if flags & os.O_TRUNC:
            try:
                self._attributes.resize(inode, 0, self._publisher)
                if handle.is_unprivileged:
                    self._attributes.clear_privileges(inode, self._publisher)
            except BaseException:
                self._end(handle)
                raise
        return self.handles.add(handle)

    async def read(self, number: int, offset: int, length: int) -> bytes | bytearray:
        """Up to `length` bytes from `offset` on.

        Raises:
            BadHandle, Unavailable.
        """
        handle = self.handles.get(number)
        if not handle.reads:
            raise errors.BadHandle
        handle.ahead = self._contents.reader.read_ahead(handle.content, handle.ahead, offset, length)
        data = await self._contents.read(handle.content, offset, length)
        if not handle.content.layers:
            handle.older = None
        return data

    def write(self, number: int, offset: int, data: bytes) -> int:
        """Write bytes at `offset`, or at the end if the descriptor appends; gives how many were written: all.

        Raises:
            BadHandle, TooLarge, OverQuota, cache.errors.DiskFull: nothing was written.
        """
        handle = self.handles.get(number)
        if not handle.writes:
            raise errors.BadHandle
        content, place = handle.content, offset
        if handle.appends:
            place = self._end_for(content, offset)
            if place == self._view.inode(content.inode).size and not content.layers:
                # What is added at the present end goes with whatever stands before it.
                handle.older = None
        if data:
            if handle.is_unprivileged:
                self._attributes.clear_privileges(content.inode, self._publisher)
            self._contents.write(handle, place, data)
            if place != offset:
                # The kernel goes on from where this would have ended.
                content.ends_before.discard(offset)
                content.ends_before.add(offset + len(data))
        return len(data)

    def replace(self, number: int, parts: Iterable[bytes]) -> None:
        """Let the content be these bytes, whatever it was.

        Raises:
            BadHandle, TooLarge, OverQuota, cache.errors.DiskFull.
        """
        handle, offset = self.handles.get(number), 0
        self._attributes.resize(handle.content.inode, 0, self._publisher, handle)
        for part in parts:
            offset += self.write(number, offset, part)

    def copy(self, number: int, parts: Iterable[bytes], original: InodeState) -> None:
        """Give a new file the content of another one, which is these bytes, and its times.

        Raises:
            BadHandle, TooLarge, OverQuota, cache.errors.DiskFull.
        """
        inode, offset = self.handles.get(number).content.inode, 0
        for part in parts:
            offset += self.write(number, offset, part)
        self._attributes.set(inode, Wanted(atime_ns=original.atime_ns, mtime_ns=original.mtime_ns), self._publisher)

    def move(self, inode: InodeId, other: InodeId) -> None:
        """Let whoever has a file open have another one open from now on."""
        content = self._contents.peek(inode)
        for handle in self.handles if content is not None else ():
            if handle.content is content:
                handle.content = self._contents.acquire(other, writing=handle.writes)
                handle.older, handle.draft = None, 0
                self._contents.release(content, writing=handle.writes, publisher=self._publisher)

    def _end_for(self, content: Content, offset: int) -> int:
        """Where a write through a descriptor that appends goes.

        The kernel gives the end as it knows it, which may be older than a change from elsewhere, and goes by that until
        somebody asks for the size; what it has to write in parts goes on from there. Any other place below the end is
        that of a mapped page, which begins where pages do: the kernel writes it back through whatever descriptor it
        finds.
        """
        size = self._view.inode(content.inode).size
        is_page = offset < size and not offset % PAGE_BYTES and offset not in content.ends_before
        return offset if is_page else size

    def synced(self, number: int) -> None:
        """What the descriptor wrote is durable now: it may be published.

        Raises:
            BadHandle.
        """
        handle = self.handles.get(number)
        content = handle.content
        content.fresh = False
        content.is_synced = True
        if content.layers and self._view.inode(content.inode).nlink:
            self._publisher.acting(handle.process)
            self._publisher.synced(content.inode)

    def release(self, number: int) -> None:
        """Close a descriptor.

        Raises:
            BadHandle.
        """
        self._end(self.handles.remove(number))

    def _end(self, handle: FileHandle) -> None:
        self._publisher.acting(handle.process)
        self._contents.release(handle.content, writing=handle.writes, publisher=self._publisher)
