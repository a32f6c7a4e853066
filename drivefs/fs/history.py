"""What people ask of the history of a file: its revisions, keeping one, comparing two, and bringing one back.

Owns how these are put together of what the backend tells (`past`) and of changes made here (`bringing_back`).
"""

from dataclasses import dataclass

from drivefs.fs import errors
from drivefs.fs.bringing_back import BringingBack
from drivefs.fs.interfaces import Publisher
from drivefs.fs.past import Past
from drivefs.fs.revisions import Revisions, Which
from drivefs.fs.view import View
from drivefs.protocol.history import RevisionInfo
from drivefs.protocol.ids import InodeId, RevisionNumber
from drivefs.protocol.model import BlockRef, InodeKind, unpack_blocks


@dataclass(frozen=True, slots=True)
class History:
    """The histories of the files of a mount; the errors are those of `Past`, and those named."""

    view: View
    past: Past
    revisions: Revisions
    bringing_back: BringingBack
    publisher: Publisher

    async def of(self, inode: InodeId) -> list[RevisionInfo]:
        """All revisions of the history that an inode goes on with, by number.

        Raises:
            IsDirectory, Invalid: it has no content.
        """
        self._check_file(inode)
        return await self.past.revisions(inode)

    async def keep(self, inode: InodeId, number: RevisionNumber, *, is_kept: bool) -> None:
        """Mark a revision to be kept for good, or take the mark away.

        Raises:
            IsDirectory, Invalid: it has no content.
            NotPermitted: this user may only read.
        """
        self._check_file(inode)
        await self.past.keep(inode, number, is_kept=is_kept)

    async def blocks(self, inode: InodeId, number: RevisionNumber) -> list[BlockRef]:
        """The blocks of a revision.

        Raises:
            IsDirectory, Invalid: it has no content.
        """
        self._check_file(inode)
        await self.past.revision(inode, number)
        return (await self.revisions.content(Which(inode, number))).refs or []

    async def blocks_now(self, inode: InodeId) -> list[BlockRef]:
        """The blocks of a file as it is, without changes that are no revision yet.

        Their number is one of the inode's own: in its history it may mean another content until the feed has told of
        the name that the inode took over.

        Raises:
            IsDirectory, Invalid: it has no content.
        """
        self._check_file(inode)
        state = self.view.inode(inode)
        if state.blocks is not None:
            return unpack_blocks(state.blocks)
        return (await self.revisions.content(Which(inode, state.revision, in_history=False))).refs or []

    async def blocks_then(self, inode: InodeId, number: RevisionNumber) -> list[BlockRef]:
        """The blocks of what an inode itself held under a number; asked of the backend, which may have let it go."""
        return unpack_blocks(await self.past.blocks(inode, number))

    def is_changed(self, inode: InodeId) -> bool:
        """Whether a file has changes that are no revision yet."""
        return not self.bringing_back.can_bring_back(inode)

    def bring_back(self, inode: InodeId, refs: list[BlockRef]) -> None:
        """Give a file that has no unpublished changes the content that these blocks are; in the journal on return.

        Raises:
            NotFound: it was removed, or replaced, meanwhile: nobody would publish it.
            IsDirectory, Invalid: it has no content.
            TooLarge, ReadOnly: nothing was changed.
        """
        self._check_file(inode)
        if not self.view.inode(inode).nlink:
            raise errors.NotFound
        self.bringing_back.bring_back(inode, refs)
        self.publisher.closed(inode)

    def _check_file(self, inode: InodeId) -> None:
        kind = self.view.inode(inode).kind
        if kind is InodeKind.DIRECTORY:
            raise errors.IsDirectory
        if kind is not InodeKind.FILE:
            raise errors.Invalid
