"""Gives a file the content of a past revision again, as a change like any other.

Owns how a past revision becomes a draft: its blocks are the base of the draft, and nothing is written over them. So no
byte is read or travels, what is written later lies over it, and whoever loses a race gets it as a conflict copy. It is
in the journal when `bring_back` returns.
"""

from cache.drafts import DraftRow
from cache.workspace import LocalState
from drivefs.fs.content import Basis
from drivefs.fs.contents import Contents
from drivefs.fs.quota import Quota
from drivefs.fs.view import View
from drivefs.protocol.ground import NowNs
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import PACKED_BLOCK_BYTES, BlockRef, pack_blocks


class BringingBack:
    """Makes drafts of past revisions."""

    def __init__(self, local: LocalState, view: View, contents: Contents, quota: Quota, now_ns: NowNs) -> None:
        self._journal = local.journal
        self._view = view
        self._contents = contents
        self._quota = quota
        self._now_ns = now_ns

    def can_bring_back(self, inode: InodeId) -> bool:
        """Whether a file has no changes that are still to be published: they would be lost in its place."""
        return self._journal.drafts.draft(inode) is None

    def bring_back(self, inode: InodeId, refs: list[BlockRef]) -> None:
        """Give a file that has no unpublished changes the content that these blocks are; whoever publishes is not told.

        Raises:
            NotFound, TooLarge, ReadOnly, cache.errors.DiskFull: nothing was changed.
        """
        content, state = self._contents.load(inode), self._view.draft_of(inode)
        assert not content.layers, "what has changes is published first"
        basis = Basis(content.base, sum(ref.size_bytes for ref in refs), refs)
        self._quota.check_size(basis.size)
        self._journal.admit(len(refs) * PACKED_BLOCK_BYTES)
        before, drafts = state.size, self._journal.drafts
        state.size = basis.size
        state.mtime_ns = state.ctime_ns = self._now_ns()
        with self._view.change():
            draft = DraftRow(
                inode=inode,
                base=basis.base,
                base_size=basis.size,
                low_size=basis.size,
                size=basis.size,
                mtime_ns=state.mtime_ns,
                is_over_past=True,
            )
            drafts.put_draft(draft)
            drafts.put_base_blocks(inode, pack_blocks(refs))
            drafts.add_truncate(inode, basis.size)
            self._view.put_inode(state)
        content.stand_on(basis)
        self._contents.reload(content)
        content.draft_count += 1
        content.ends_before.add(before)
