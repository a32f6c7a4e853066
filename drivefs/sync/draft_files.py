"""Writes content that no revision has into an ordinary file: the base of a draft, and over it what was written here.

Owns the order of that, and what of it could not be had; changes nothing in the state. Written bytes are verified. What
is not on this device is left out and named, so that a file of which something is missing never passes for the whole.
"""

import os
from dataclasses import dataclass, field

from cache.drafts import DraftRow, Record
from cache.errors import Corrupt
from cache.workspace import LocalState
from drivefs.protocol.model import InodeState, unpack_blocks

Range = tuple[int, int]
"""Begin and end of some bytes of a file."""


class Missing:
    """Ranges of a file that are not here, in order, none touching another."""

    def __init__(self) -> None:
        self.ranges: list[Range] = []

    def add(self, start: int, end: int) -> None:
        """These bytes are not here."""
        self.remove(start, end)
        self.ranges = sorted([*self.ranges, (start, end)])

    def remove(self, start: int, end: int) -> None:
        """These bytes are here."""
        kept: list[Range] = []
        for first, last in self.ranges:
            kept += [(a, b) for a, b in ((first, min(last, start)), (max(first, end), last)) if a < b]
        self.ranges = kept

    def cut(self, size: int) -> None:
        """The file ends here: nothing behind is missing."""
        self.ranges = [(first, min(last, size)) for first, last in self.ranges if first < size]


@dataclass(slots=True)
class Written:
    """What became of a draft: which ranges are not in the file, and which of them had been written here and rotted.

    `size_bytes` of it were written here.
    """

    missing: Missing = field(default_factory=Missing)
    rotten: Missing = field(default_factory=Missing)
    size_bytes: int = 0

    def fetchable(self) -> list[Range]:
        """What the backend has: ranges of the base that nothing was written over."""
        found = Missing()
        found.ranges = list(self.missing.ranges)
        for start, end in self.rotten.ranges:
            found.remove(start, end)
        return found.ranges


class DraftFiles:
    """Writes the drafts of one device."""

    def __init__(self, local: LocalState) -> None:
        self._local = local
        self._drafts = local.journal.drafts

    async def write(self, draft: DraftRow, descriptor: int) -> Written:
        """Write the content of a draft, as far as it is on this device, into an empty file.

        Raises:
            OSError: the file cannot be written.
            Corrupt: a row of the draft does not verify.
        """
        written = Written()
        records = self._drafts.records(draft.inode)
        # Before anything is waited for: a mounted drive may send the draft, and drop it, meanwhile.
        rows = {each.id: self._row(each) for each in records if each.staged is None and not each.is_truncation}
        await self._write_base(draft, descriptor, written)
        for record in records:
            await self._write_record(record, rows.get(record.id), descriptor, written)
        return written

    def _row(self, record: Record) -> bytes | None:
        """The bytes of a record in the journal; None if they are damaged."""
        try:
            return self._drafts.record_data(record)
        except Corrupt:
            return None

    async def _write_base(self, draft: DraftRow, descriptor: int, written: Written) -> None:
        """What was not written here of a content that the server has: as far as its blocks are in the cache."""
        os.ftruncate(descriptor, draft.base_size)
        if not draft.base_size:
            return
        packed = self._drafts.base_blocks(draft.inode)
        if packed is None and not draft.is_over_past:
            packed = self._local.replica.content(draft.inode, draft.base.revision)
        if packed is None:
            written.missing.add(0, draft.base_size)
            return
        position = 0
        for block, size in unpack_blocks(packed):
            data = await self._local.blocks.read(block, 0, size)
            if data is None:
                written.missing.add(position, position + size)
            else:
                await self._local.offload(write_at, descriptor, bytes(data), position)
            position += size

    async def _write_record(self, record: Record, data: bytes | None, descriptor: int, written: Written) -> None:
        start, end = record.file_offset, record.file_offset + record.length
        if record.is_truncation:
            os.ftruncate(descriptor, start)
            written.missing.cut(start)
            written.rotten.cut(start)
            return
        if record.staged is not None:
            try:
                data = await self._local.offload(self._local.staging.load, record.staged, record.digest)
            except Corrupt:
                data = None
        if data is None:
            written.missing.add(start, end)
            written.rotten.add(start, end)
            return
        await self._local.offload(write_at, descriptor, data, start)
        written.missing.remove(start, end)
        written.rotten.remove(start, end)
        written.size_bytes += record.length


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of `data`; for a thread."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


def finish(descriptor: int, state: InodeState, others_mode: int = 0o077) -> None:
    """Give a copy the times and the mode of the original, and make it durable; for a thread.

    `others_mode`: the bits of the mode that are left to others than the owner.
    """
    os.fchmod(descriptor, state.mode & (0o700 | others_mode) | 0o600)
    os.utime(descriptor, ns=(state.mtime_ns, state.mtime_ns))
    os.fsync(descriptor)
