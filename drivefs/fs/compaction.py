"""Drafts of files that are overwritten again and again: what is left is written anew, and what was overwritten goes.

Staging is append-only, so a database that is written to for weeks without a network would otherwise grow without bound;
and one that is fsynced after each few writes would soon have no more room in the log of the journal, where that costs
least. Owns when that is worth it, and how it is done: in one transaction of the journal, so that a crash leaves the
draft as it was or as it is then. Bytes are verified before they are written anew, so that rot is not given a good
checksum.
"""

import logging
from collections.abc import Callable

from cache.drafts import Drafts
from cache.errors import Corrupt, DiskFull
from cache.journal import Journal
from cache.staging import StagedRange, Staging
from drivefs.fs import recording
from drivefs.fs.content import Content, Staged
from drivefs.fs.extents import Extent, Layer
from drivefs.fs.quota import Quota
from drivefs.fs.snapshots import load_verified

log = logging.getLogger(__name__)

Keep = Callable[[int, bytes], list[Extent]]
"""Writes bytes at an offset, in the open transaction; gives where they are."""

LEAST_WRITTEN_BYTES = 64 * 2**20
"""With less written to a draft, nothing is done."""
WASTE = 4
"""How often as much as is left must have been written."""
MOST_LEFT_BYTES = 32 * 2**20
"""More would hold up the event loop for too long."""
PIECE_BYTES = 2**20
LOG_BYTES = 3 * 2**18
"""With so much in rows of the journal, a draft that is fsynced is written anew there, if it has little left."""


def thaw_if_given_up(content: Content, drafts: Drafts, quota: Quota) -> None:
    """Let what was frozen for a publication that came to nothing be as any other change: it could never be given up.

    Without a network nothing is frozen anew, so a file that stays open would grow for as long as that lasts.
    """
    if content.is_frozen and not content.is_held:
        draft = drafts.draft(content.inode)
        if draft is not None and not draft.frozen_op:
            before = content.dirty_bytes
            content.thaw()
            quota.pend(content.dirty_bytes - before)


def is_worth_it(content: Content) -> bool:
    """Whether a draft, of which nothing is frozen, should be written anew."""
    if min(content.inline_bytes, content.written_bytes) > LOG_BYTES and stays_in_log(content):
        return not content.is_frozen
    return (
        content.written_bytes > LEAST_WRITTEN_BYTES
        and not content.is_frozen
        and content.written_bytes > WASTE * content.dirty_bytes
        and content.dirty_bytes <= MOST_LEFT_BYTES
    )


def stays_in_log(content: Content) -> bool:
    """Whether what is left is little enough for rows of the journal, and somebody waits for each sync of it."""
    return content.is_synced and content.dirty_bytes * WASTE <= LOG_BYTES


def keep_small(content: Content, size: int, journal: Journal, staging: Staging) -> None:
    """Do what a draft needs that was just written to, for a content of `size` bytes; mostly nothing."""
    if is_worth_it(content):
        compact(content, size, journal, staging)
    elif not content.is_frozen and journal.drafts.is_crowded(content.inode):
        _move_records(content, journal)


def _move_records(content: Content, journal: Journal) -> None:
    """Let a draft that is written to for days without a pause have ids for its records again.

    Where they are too many, do not verify, or there is no room, the draft stays as it is; it is tried again later.
    """
    drafts, draft = journal.drafts, journal.drafts.draft(content.inode)
    try:
        is_done = draft is not None and drafts.move_records(content.inode)
    except (Corrupt, DiskFull) as error:
        log.warning("what was written to inode %d cannot be numbered anew: %s", content.inode, error)
        return
    if is_done and draft is not None:
        content.replay(draft, drafts.records(content.inode))


def compact(content: Content, size: int, journal: Journal, staging: Staging) -> None:
    """Write anew what is left of the draft of a content of `size` bytes.

    Where bytes do not verify, or there is no room, the draft stays as it is; it is tried again when as much has been
    written once more.
    """
    drafts, inode, is_in_log = journal.drafts, content.inode, stays_in_log(content)

    def keep(start: int, data: bytes) -> list[Extent]:
        if is_in_log:
            return recording.in_log(drafts, inode, start, data)[1]
        return recording.in_staging(drafts, staging, inode, start, data)[1]

    try:
        content.layers = [_written_anew(content, size, journal, staging, keep)]
    except (Corrupt, DiskFull) as error:
        content.written_bytes = 0
        log.warning("what was overwritten in inode %d cannot be given up: %s", content.inode, error)
        return
    if not is_in_log:
        # What was there may be durable, and goes with the next sync of the log.
        journal.content_goes()
    content.written_bytes = content.dirty_bytes
    content.inline_bytes = content.dirty_bytes if is_in_log else 0


def _written_anew(content: Content, size: int, journal: Journal, staging: Staging, keep: Keep) -> Layer:
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
    with journal.transaction():
        drafts.add_truncate(inode, old.floor)
        for start, data in pieces:
            for extent in keep(start, data):
                fresh.write(extent)
        last = drafts.add_truncate(inode, size)
        drafts.drop_records(inode, content.last_record)
    content.last_record = last
    return fresh


def _part(extent: Extent, start: int, end: int) -> Extent:
    return Extent(start, end, extent.source, extent.offset + start - extent.start)


def _verified(extent: Extent, drafts: Drafts, staging: Staging, records: list[tuple[StagedRange, int]]) -> bytes:
    length = extent.end - extent.start
    if isinstance(extent.source, Staged):
        return load_verified(staging, records, [StagedRange(extent.source.file, extent.offset, length)])[0]
    return drafts.record_data(extent.source)[extent.offset : extent.offset + length]
