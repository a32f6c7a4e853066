"""The frozen content of a file, for publication: what was written up to one record, over the base of its draft.

Owns nothing durable. A snapshot stays readable for as long as its draft has the records; reading one whose draft was
dropped meanwhile fails with `Unavailable` or `cache.errors.Corrupt`, and its publication has become pointless anyway.
"""

from collections.abc import Sequence

from cache.staging import StagedRange
from drivefs.fs import extents
from drivefs.fs.content import Content, Staged
from drivefs.fs.extents import Layer
from drivefs.fs.reading import Reader
from drivefs.protocol.changes import Base
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import BlockRef


class Snapshot:
    """What `Publishing.snapshot` gives: a content as its lower layer is; `record` is the last one that it covers."""

    def __init__(self, content: Content, reader: Reader, *, size: int, mtime_ns: int) -> None:
        """Take the frozen layer of `content`, whose size was `size` then."""
        self.inode: InodeId = content.inode
        self.base: Base = content.base
        self.base_blocks: Sequence[BlockRef] = content.refs or []
        self.size = size
        self.mtime_ns = mtime_ns
        self.record = content.frozen
        self._content = content
        self._reader = reader
        self._layers: list[Layer] = content.layers[1:]

    def dirty_ranges(self) -> list[tuple[int, int]]:
        """The ranges (start, end) that differ from the base, in order."""
        return extents.dirty_ranges(self._layers, self.size)

    def is_staged(self, start: int, end: int) -> bool:
        """Whether these bytes lie in one piece in a staging file that the block cache will take over."""
        return self._reader.can_hand_over and staged_piece(self._layers[0], start, end) is not None

    async def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes of the frozen content, fetching blocks of the base where needed.

        Raises:
            drivefs.remote.errors.RemoteError: bytes of the base cannot be had now.
            cache.errors.Corrupt: written bytes do not verify.
        """
        return await self._reader.fetch(self._content, self._layers, offset, offset + length)


def staged_piece(layer: Layer, start: int, end: int) -> StagedRange | None:
    """Where in staging a range of a layer lies, if it does so in one piece."""
    extent = layer.covering(start, end)
    if extent is None or not isinstance(extent.source, Staged):
        return None
    return StagedRange(extent.source.file, extent.offset + start - extent.start, end - start)
