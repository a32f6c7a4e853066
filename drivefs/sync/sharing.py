"""What the mount does when shares come, go, or may be changed no more, or again.

Owns the order: what the databases know, then the caches, then the kernel. Invariant: what is known of a share from an
earlier time in it is forgotten before it is there again, since nobody has heard what happened meanwhile.
"""

from collections.abc import Callable, Sequence

from cache.workspace import LocalState
from drivefs.protocol.ids import InodeId
from drivefs.protocol.messages import FeedPage, Share
from drivefs.sync.contents import Shown

OWNER = "owner"


class Sharing:
    """Hears of the shares of one mount."""

    def __init__(self, local: LocalState, shown: Shown) -> None:
        self._local = local
        self._shown = shown
        self.changed: Callable[[], None] = lambda: None
        """Called when there are other shares than before, or others' roles in them."""

    def told(self, shares: Sequence[Share]) -> None:
        """The backend says which shares hang in the drive, with the user's roles."""
        before = self._local.shares.roots
        changed = self._local.shares.told(shares)
        if changed:
            self.changed()
        for share in changed:
            if share.root not in before and share.role != OWNER:
                self._forget(share.root)
            else:
                self._tell(share.root)

    def named(self, page: FeedPage) -> None:
        """Hear of a page before it is applied: what it names without a state may not be seen any more by now.

        It is the root of a share that came and went; what is known of it is from an earlier time in it, if anything.
        """
        stated = {state.inode for state in page.inodes}
        for inode in {dentry.inode for dentry in page.dentries if dentry.inode} - stated:
            if self._local.replica.inode(inode) is not None:
                self._forget(inode)

    def _forget(self, root: InodeId) -> None:
        """What was known of a share from an earlier time is not shown any more either."""
        inodes, names = self._local.replica.forget_tree(root, self._local.shares.drive_root)
        # Also of a directory that had no names it is remembered that it has none.
        self._shown.views.forget_cached(inodes, [*names, *((inode, b"") for inode in inodes)])
        for inode in inodes:
            self._shown.invalidator.inode(inode, content=True)
        for parent, name in names:
            self._shown.invalidator.entry(parent, name)

    def _tell(self, root: InodeId) -> None:
        """What may be done with all that is in a share has changed."""
        replica, waiting, seen = self._local.replica, [root], {root}
        while waiting:
            inode = waiting.pop()
            self._shown.attributes_changed(inode)
            children = {child for _, child in [*replica.names(inode), *self._local.journal.overlay.children(inode)]}
            waiting += children - seen
            seen |= children
