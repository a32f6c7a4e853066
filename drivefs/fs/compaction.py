"""Drafts of files that are overwritten again and again: what is left is written anew, and what was overwritten goes.

Staging is append-only, so a database that is written to for weeks without a network would otherwise grow without bound.
Owns when that is worth it, and how it is done: in one transaction of the journal, so that a crash leaves the draft as
it was or as it is then. Bytes are verified before they are written anew, so that rot is not given a good checksum.
"""

import logging

from cache.drafts import Drafts
from cache.errors import Corrupt, DiskFull
from cache.journal import Journal
from cache.staging import StagedRange, Staging
from drivefs.fs.content import Content, Staged
from drivefs.fs.extents import Extent, Layer
from drivefs.fs.snapshots import load_verified

log = logging.getLogger(__name__)

LEAST_WRITTEN_BYTES = 64 * 2**20
"""With less written to a draft, nothing is done."""
WASTE = 4
"""How often as much as is left must have been written."""
MOST_LEFT_BYTES = 32 * 2**20
"""More would hold up the event loop for too long."""
PIECE_BYTES = 2**20


def is_worth_it(content: Content) -> bool:
    """Whether a draft, of which nothing is frozen, should be written anew."""
    return (
        content.written_bytes > LEAST_WRITTEN_BYTES
        and not content.frozen
        and content.written_bytes > WASTE * content.dirty_bytes
        and content.dirty_bytes <= MOST_LEFT_BYTES
    )


def compact(content: Content, size: int, journal: Journal, staging: Staging) -> None:
    """Write anew what is left of the draft of a content of `size` bytes.

    Where bytes do not verify, or there is no room, the draft stays as it is; it is tried again when as much has been
    written once more.
    """
    try:
        content.layers = [_written_anew(content, size, journal, staging)]
        content.written_bytes = content.dirty_bytes
    except (Corrupt, DiskFull) as error:
        content.written_bytes = 0
        log.warning("what was overwritten in inode %d cannot be given up: %s", content.inode, error)


def _written_anew(content: Content, size: int, journal: Journal, staging: Staging) -> Layer:
    drafts, inode, (old,) = journal.drafts, content.inode, content.layers
    records = sorted((each.staged, each.digest) for each in drafts.records(inode) if each.staged is not None)
    parts = [
        (start, min(extent.end, start + PIECE_BYTES), extent)
        for extent in old
        for start in range(extent.start, extent.end, PIECE_BYTES)
    ]
    pieces = [(start, _verified(_part(extent, start, end), drafts, staging, records)) for start, end, extent in parts]
    fresh = Layer(old.floor)
    staging.roll(inode)
    try:
        with journal.transaction():
            drafts.add_truncate(inode, old.floor)
            for start, data in pieces:
                place = staging.append(inode, data)
                drafts.add_record(inode, start, data, place)
                fresh.write(Extent(start, start + len(data), Staged(place.file), place.offset))
            last = drafts.add_truncate(inode, size)
            drafts.drop_records(inode, content.last_record)
    except BaseException:
        if file := staging.current_file(inode):
            staging.remove(file)
        raise
    content.last_record = last
    return fresh


def _part(extent: Extent, start: int, end: int) -> Extent:
    return Extent(start, end, extent.source, extent.offset + start - extent.start)


def _verified(extent: Extent, drafts: Drafts, staging: Staging, records: list[tuple[StagedRange, int]]) -> bytes:
    length = extent.end - extent.start
    if isinstance(extent.source, Staged):
        return load_verified(staging, records, [StagedRange(extent.source.file, extent.offset, length)])[0]
    return drafts.record_data(extent.source)[extent.offset : extent.offset + length]
