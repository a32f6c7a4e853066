"""Which messages of a server can be true: what they hold fits where it goes, in the replica and in the kernel.

Owns that judgement of inodes, names and listings; the shapes are `protocol`'s. A server of ours keeps all of it, and
judges mutations by the same bounds; one that does not is as if it were not there, since one number that fits nowhere
would end the mount, each time anew. Whether what it says is true is not asked.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from drivefs.protocol import history, messages
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import BLOCK_ID_BYTES, ID_RANGE_LENGTH, MAX_ID, BlockId
from drivefs.protocol.model import (
    MAX_MODE,
    MAX_OWNER,
    MAX_TIME_NS,
    MIN_TIME_NS,
    PACKED_BLOCK_BYTES,
    DentryState,
    InodeState,
)
from drivefs.protocol.names import MAX_TARGET_BYTES, is_valid_name


def check(message: Any) -> None:
    """Return if the message can be true, as far as it tells of inodes and names.

    Raises:
        ProtocolError: `malformed`.
    """
    match message:
        case messages.ChangesReply(pages=pages):
            for page in pages:
                _check_page(page)
        case messages.ListReply():
            _check_listing(message)
        case messages.ListManyReply(listings=listings, unanswered=unanswered):
            _check_ids(unanswered)
            for listing in listings:
                _check_listing(listing)
        case messages.InodesReply(inodes=inodes):
            _check_inodes(inodes)
        case messages.ContentReply(size=size, blocks=blocks):
            _unless(0 <= size <= MAX_ID and len(blocks) % PACKED_BLOCK_BYTES == 0, "a content")
        case history.TrashReply(entries=entries):
            _check_inodes([entry.inode for entry in entries])
            _check_names([entry.place.name for entry in entries])
        case messages.SessionReply(workspaces=workspaces, shares=shares):
            _check_ids([message.epoch, message.incarnation, message.user, message.device])
            _check_ids([number for each in workspaces for number in (each.workspace, each.account, each.root)])
            _check_shares(shares)
        case messages.IdRangesReply(starts=starts):
            _check_ids([start + edge for start in starts for edge in (0, ID_RANGE_LENGTH - 1)])
        case messages.CommitReply(results=results):
            _check_dentries([gone for result in results for gone in result.gone])
            _check_ids([number for each in results for number in (each.seq, each.revision, each.workspace)])
            _check_blocks([block for result in results for block in result.blocks])
        case messages.MissingReply(missing=blocks) | messages.LostReply(blocks=blocks):
            _check_blocks(blocks)
        case _:
            pass


def _check_page(page: messages.FeedPage) -> None:
    if page.status is messages.FeedStatus.CHANGES:
        # Whoever goes on asking would never end; and nothing leads back.
        _unless(page.cursor.seq >= page.since + page.more, "a part of the changes")
    _check_inodes(page.inodes)
    _check_dentries(page.dentries)
    _check_ids([page.workspace, page.since, page.shared, *page.made])
    _check_shares(page.shares or ())


def _check_listing(listing: messages.ListReply) -> None:
    _check_ids([listing.seq])
    _check_inodes([listing.directory, *(entry.inode for entry in listing.entries)])
    _check_names([entry.name for entry in listing.entries])


def _check_inodes(states: Iterable[InodeState]) -> None:
    for state in states:
        _unless(_is_state(state), "an inode")


def _is_state(state: InodeState) -> bool:
    """The bounds that the server has for a mutation which makes such an inode."""
    return (
        0 < state.inode <= MAX_ID
        and 0 <= state.mode <= MAX_MODE
        and (state.uid is None or 0 <= state.uid <= MAX_OWNER)
        and (state.gid is None or 0 <= state.gid <= MAX_OWNER)
        and 0 <= state.rdev <= MAX_ID
        and MIN_TIME_NS <= state.atime_ns <= MAX_TIME_NS
        and MIN_TIME_NS <= state.mtime_ns <= MAX_TIME_NS
        and MIN_TIME_NS <= state.ctime_ns <= MAX_TIME_NS
        and 0 <= state.nlink <= MAX_ID
        and 0 <= state.size <= MAX_ID
        and 0 <= state.revision <= MAX_ID
        and 0 <= state.lineage <= MAX_ID
        and 0 <= state.seq <= MAX_ID
        and (state.blocks is None or len(state.blocks) % PACKED_BLOCK_BYTES == 0)
        and len(state.target) <= MAX_TARGET_BYTES
        and b"\0" not in state.target
    )


def _check_dentries(dentries: Sequence[DentryState]) -> None:
    _check_names([dentry.name for dentry in dentries])
    _check_ids([number for each in dentries for number in (each.parent, each.inode, each.seq)])


def _check_shares(shares: Iterable[messages.Share]) -> None:
    _check_ids([number for share in shares for number in (share.workspace, share.root)])


def _check_blocks(blocks: Iterable[BlockId]) -> None:
    for block in blocks:
        _unless(len(block) == BLOCK_ID_BYTES, "a block")


def _check_names(names: Iterable[bytes]) -> None:
    for name in names:
        _unless(is_valid_name(name), "a name")


def _check_ids(ids: Iterable[int]) -> None:
    for each in ids:
        _unless(0 <= each <= MAX_ID, "an id")


def _unless(is_possible: bool, what: str) -> None:
    if not is_possible:
        raise ProtocolError(Code.MALFORMED, f"it tells of {what} that cannot be")
