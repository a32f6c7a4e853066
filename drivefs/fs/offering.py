"""Contents that the server had and has lost: what is left of them here is offered again, as changes of this device.

Owns how a revision becomes a draft: all bytes that the draft took from it are written into staging, so that nothing of
the draft refers to the lost revision any more. Its base is one that the server has; if it is not the newest there,
the draft becomes a copy, as any other. Bytes come from this device only: nobody else can be asked for them.

A crash leaves the content as it was, or as a whole draft; bytes in staging without a record go to `lost+found`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from cache.drafts import DraftRow
from cache.sealing import digest
from cache.staging import StagedRange
from cache.workspace import LocalState
from drivefs.fs import errors, extents
from drivefs.fs.content import Basis, Content
from drivefs.fs.contents import Contents
from drivefs.fs.extents import Layer
from drivefs.fs.interfaces import Publisher
from drivefs.fs.view import View
from drivefs.protocol.changes import Base
from drivefs.protocol.model import InodeState


class Copied(NamedTuple):
    """Bytes of a revision that are in staging now."""

    offset: int
    staged: StagedRange
    digest: int


class Offering:
    """Makes drafts of revisions that were lost."""

    def __init__(self, local: LocalState, view: View, contents: Contents, publisher: Publisher) -> None:
        self._journal = local.journal
        self._blocks = local.blocks
        self._staging = local.staging
        self._view = view
        self._contents = contents
        self._publisher = publisher

    async def offer(self, lost: InodeState, basis: Basis, base: Base) -> bool:
        """Make the content `basis` of an inode, which was last in the state `lost`, a draft on the revision `base`.

        Changes that were made over it stay; what of them is in the journal already, on the lost revision, is taken
        back, and is to be published again. False if not all bytes are here, or somebody changed the file meanwhile:
        then nothing was done. Cancellation leaves nothing but bytes in staging.

        Raises:
            DiskFull: there is no room.
        """
        inode = lost.inode
        content = self._contents.load(inode)
        if basis.refs is None:
            return False
        seen = (content.base, content.last_record, bool(content.layers))
        source, layers = Content(inode, basis), [layer.copy() for layer in content.layers]
        copied = await self._copy(source, layers, basis.size if not layers else self._view.inode(inode).size)
        if copied is None or seen != (content.base, content.last_record, bool(content.layers)):
            return False
        self._put(lost, content, copied, base)
        self._publisher.closed(inode)
        return True

    async def _copy(self, source: Content, layers: Sequence[Layer], size: int) -> list[Copied] | None:
        """Write what shows of a revision into staging; None if something of it is not here."""
        pieces = [
            (extent.start, list(source.pieces(extent.start, extent.end)))
            for extent in extents.resolve(layers, 0, size)
            if extent.source is extents.BASE
        ]
        if not all(self._blocks.contains(piece.block) for _, parts in pieces for piece in parts):
            return None
        copied = []
        for position, parts in pieces:
            for block, offset, length in parts:
                data = await self._blocks.read(block, offset, length)
                if data is None:
                    return None
                self._journal.admit(length)
                data = bytes(data)
                copied.append(Copied(position, self._staging.append(source.inode, data), digest(data)))
                position += length
        return copied

    def _put(self, lost: InodeState, content: Content, copied: Sequence[Copied], base: Base) -> None:
        drafts, inode = self._journal.drafts, lost.inode
        try:
            state = self._view.draft_of(inode)
        except errors.NotFound:
            state = msgspec.structs.replace(lost)
        if not content.layers:
            state.size, state.mtime_ns = lost.size, lost.mtime_ns
        before = drafts.draft(inode)
        with self._view.change():
            if before is not None and before.frozen_op and self._journal.get(before.frozen_op) is not None:
                self._journal.take_back(before.frozen_op)
            drafts.put_draft(
                DraftRow(inode=inode, base=base, base_size=0, low_size=0, size=state.size, mtime_ns=state.mtime_ns)
            )
            drafts.put_base_blocks(inode, None)
            for each in copied:
                drafts.add_staged(inode, each.offset, each.staged, each.digest)
            drafts.add_truncate(inode, state.size)
            self._view.put_inode(state)
        content.stand_on(Basis(base, 0, []))
        self._contents.reload(content)
        self._staging.roll(inode)
