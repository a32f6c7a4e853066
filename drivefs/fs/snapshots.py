"""The frozen content of a file, for publication: what was written up to one record, over the base of its draft.

Owns nothing durable, and verifies what it gives: written bytes that have rotted never leave this device. A snapshot
whose draft was dropped meanwhile (its file was removed) has become pointless: it reads as zeros, and `storing`
refuses it.
"""

from bisect import bisect_right
from collections.abc import Sequence

from cache.errors import Corrupt
from cache.staging import StagedRange, Staging
from drivefs.fs import extents
from drivefs.fs.content import Content, Staged
from drivefs.fs.extents import Layer
from drivefs.fs.reading import Reader
from drivefs.protocol.changes import Base
from drivefs.protocol.ids import MAX_ID, InodeId
from drivefs.protocol.model import BlockRef

KEPT_RECORDS = 8
"""How many verified records are kept while the pieces left of them are read."""


class Snapshot:
    """What `Publishing.snapshot` gives: a content as its lower layer is; `record` is the last one that it covers.

    `draft` is the number of the draft that was frozen: the file may have another one by now.
    """

    def __init__(self, content: Content, reader: Reader, *, size: int, mtime_ns: int, ctime_ns: int) -> None:
        """Take the frozen layer of `content`, whose size was `size` then."""
        draft = reader.drafts.draft(content.inode)
        self.is_over_past = draft is not None and draft.is_over_past
        self.draft = reader.drafts.number(content.inode)
        self.inode: InodeId = content.inode
        self.base: Base = content.base
        self.base_blocks: Sequence[BlockRef] = content.refs or []
        self.size = size
        self.mtime_ns = mtime_ns
        self.ctime_ns = ctime_ns
        self.record = content.frozen
        self._content = content
        self._reader = reader
        self._records: list[tuple[StagedRange, int]] | None = None
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
        parts: list[bytes] = []
        jobs: list[StagedRange] = []
        for extent in extents.resolve(self._layers, offset, offset + length):
            if isinstance(extent.source, Staged):
                jobs.append(StagedRange(extent.source.file, extent.offset, extent.end - extent.start))
                continue
            parts += await self._verified(jobs)
            jobs = []
            if not self.is_pending:
                return bytes(length)
            parts.append(await self._reader.fetch(self._content, self._layers, extent.start, extent.end))
        parts += await self._verified(jobs)
        return b"".join(parts) if self.is_pending else bytes(length)

    async def read_into(self, offset: int, target: memoryview) -> None:
        """The same for as many bytes as there is room in `target`; what is staged is read into it as it is.

        Raises:
            as `read`.
        """
        found = extents.resolve(self._layers, offset, offset + len(target))
        staged = [
            StagedRange(each.source.file, each.offset, each.end - each.start)
            for each in found
            if isinstance(each.source, Staged)
        ]
        if len(staged) < len(found) or not self.is_pending:
            target[:] = await self.read(offset, len(target))
            return
        try:
            await self._reader.offload(fill_verified, self._reader.staging, self._staged_records(), staged, target)
        except Corrupt:
            if self.is_pending:
                raise
        if not self.is_pending:
            target[:] = bytes(len(target))

    @property
    def is_pending(self) -> bool:
        """Whether the draft still has what was frozen, and the file still has the draft."""
        drafts = self._reader.drafts
        if self._content.inode != self.inode or drafts.number(self.inode) != self.draft:
            return False
        draft = drafts.draft(self.inode)
        return draft is not None and draft.base == self._content.base

    async def _verified(self, wanted: list[StagedRange]) -> list[bytes]:
        """Bytes from staging, each record that they are part of verified as a whole."""
        if not wanted or not self.is_pending:
            return []
        try:
            return await self._reader.offload(load_verified, self._reader.staging, self._staged_records(), wanted)
        except Corrupt:
            if self.is_pending:
                raise
            return []

    def _staged_records(self) -> list[tuple[StagedRange, int]]:
        """Where the records lie that it covers, with their checksums, in order."""
        if self._records is None:
            records = self._reader.drafts.records(self._content.inode, self.record)
            self._records = sorted((each.staged, each.digest) for each in records if each.staged is not None)
        return self._records


def load_verified(
    staging: Staging, records: Sequence[tuple[StagedRange, int]], wanted: Sequence[StagedRange]
) -> list[bytes]:
    """Read ranges of staging files; for a thread. `records` are all ranges with their checksums, in order.

    Raises:
        cache.errors.Corrupt: a record that a range touches does not verify.
    """
    found: list[bytes] = []
    loaded: dict[StagedRange, bytes] = {}
    for file, offset, length in wanted:
        parts, position, end = [], offset, offset + length
        while position < end:
            record, checksum = _record_at(records, file, position)
            if record not in loaded:
                if len(loaded) == KEPT_RECORDS:
                    del loaded[next(iter(loaded))]
                loaded[record] = staging.load(record, checksum)
            parts.append(loaded[record][position - record.offset : end - record.offset])
            position += len(parts[-1])
        found.append(b"".join(parts))
    return found


def fill_verified(
    staging: Staging, records: Sequence[tuple[StagedRange, int]], wanted: Sequence[StagedRange], target: memoryview
) -> None:
    """Read ranges of staging files one behind the other into `target`; for a thread. `records` as in `load_verified`.

    Raises:
        cache.errors.Corrupt: a record that a range touches does not verify.
    """
    filled = 0
    for file, offset, length in wanted:
        position, end = offset, offset + length
        while position < end:
            record, checksum = _record_at(records, file, position)
            size = min(end, record.offset + record.length) - position
            part = target[filled : filled + size]
            if size == record.length:
                staging.load_into(record, checksum, part)
            else:
                start = position - record.offset
                part[:] = staging.load(record, checksum)[start : start + size]
            position += size
            filled += size


def _record_at(records: Sequence[tuple[StagedRange, int]], file: int, position: int) -> tuple[StagedRange, int]:
    """The range that has a byte of a staging file, with its checksum; of all, which are in order."""
    index = bisect_right(records, (StagedRange(file, position, MAX_ID), MAX_ID)) - 1
    if index >= 0:
        record, checksum = records[index]
        if record.file == file and position < record.offset + record.length:
            return record, checksum
    raise Corrupt(f"no record says what is at offset {position} of staging file {file:016x}")


def staged_piece(layer: Layer, start: int, end: int) -> StagedRange | None:
    """Where in staging a range of a layer lies, if it does so in one piece."""
    extent = layer.covering(start, end)
    if extent is None or not isinstance(extent.source, Staged):
        return None
    return StagedRange(extent.source.file, extent.offset + start - extent.start, end - start)
