"""Where written bytes go: into rows of the journal, or into staging with a row that says where.

Owns how either is done, not which of them; both inside the caller's transaction. What it gives are extents for the
layer that was written to.
"""

from cache.drafts import INLINE_BYTES, Drafts
from cache.staging import Staging
from drivefs.fs.content import Staged
from drivefs.fs.extents import Extent
from drivefs.protocol.ids import InodeId


def in_log(drafts: Drafts, inode: InodeId, offset: int, data: bytes) -> tuple[int, list[Extent]]:
    """Keep bytes in the journal itself; gives the last record, and where they are."""
    records = [
        drafts.add_inline(inode, offset + start, data[start : start + INLINE_BYTES])
        for start in range(0, len(data), INLINE_BYTES)
    ]
    return records[-1].id, [Extent(each.file_offset, each.file_offset + each.length, each, 0) for each in records]


def in_staging(drafts: Drafts, staging: Staging, inode: InodeId, offset: int, data: bytes) -> tuple[int, list[Extent]]:
    """Append bytes to the inode's staging file; gives the record, and where they are.

    Raises:
        cache.errors.DiskFull: nothing was kept.
    """
    staged = staging.append(inode, data)
    record = drafts.add_record(inode, offset, data, staged)
    return record, [Extent(offset, offset + len(data), Staged(staged.file), staged.offset)]
