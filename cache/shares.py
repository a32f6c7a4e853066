"""Which shares hang in the drive, and in which of them an inode is.

Owns the list as the backend told it last, which the journal's database keeps, so that it holds without a network. An
inode is in the share whose root is the first on its way up, and that no inode ever leaves: what is found out about a
directory is remembered. Invariant: without shares, nothing is looked up.
"""

from collections.abc import Sequence
from itertools import islice

from cache.effects import parents
from cache.journal import Journal
from cache.replica import Replica
from drivefs.protocol import wire
from drivefs.protocol.ids import MAX_ID, NO_INODE, InodeId
from drivefs.protocol.messages import Share

SHARES = "shares"
"""The fact under which the list is kept."""
VIEWER = "viewer"
MAX_KNOWN = 16_384
MAX_DEPTH = 4096


class Shares:
    """The shares of one drive, by their roots."""

    def __init__(self, journal: Journal, replica: Replica) -> None:
        self._journal = journal
        self._replica = replica
        self.drive_root = NO_INODE
        self._known: dict[InodeId, Share | None] = {}
        told = journal.meta(SHARES)
        self.roots = _by_root([] if told is None else wire.decode(told, list[Share]))

    def told(self, shares: Sequence[Share]) -> list[Share]:
        """The backend says which there are now; gives those that are new, or are not as they were."""
        before, self.roots = self.roots, _by_root(shares)
        self._known.clear()
        if before != self.roots:
            self._journal.set_meta(SHARES, wire.encode(list(shares)))
        gone = [share for root, share in before.items() if root not in self.roots]
        return [*gone, *(share for root, share in self.roots.items() if before.get(root) != share)]

    def of(self, inode: InodeId) -> Share | None:
        """The share that an inode is in; None: it is in the drive itself, or virtual, or there is no saying."""
        if not self.roots or inode > MAX_ID:
            return None
        way: list[InodeId] = []
        found = None
        while len(way) < MAX_DEPTH:
            if inode in self.roots:
                found = self.roots[inode]
                break
            if inode in self._known:
                found = self._known[inode]
                break
            way.append(inode)
            above = self._above(inode)
            if above is None or above in way:
                # What has no known way up is asked for again; the drive's own root never has one.
                way = way if inode == self.drive_root else []
                break
            inode = above
        self._known.update(dict.fromkeys(way, found))
        if len(self._known) > MAX_KNOWN:
            self._known = dict(islice(self._known.items(), MAX_KNOWN // 2, None))
        return found

    def is_read_only(self, inode: InodeId) -> bool:
        """Whether the user may not change an inode, nor what is in it."""
        share = self.of(inode) if self.roots else None
        return share is not None and share.role == VIEWER

    def _above(self, inode: InodeId) -> InodeId | None:
        """A directory that an inode is in, or was in before changes that are still to be sent."""
        names = self._journal.overlay.names_of(inode) or self._replica.names_of(inode)
        if names:
            return names[0][0]
        return next((each for row in self._journal.touching(inode) for each in parents(row.mutation)), None)


def _by_root(shares: Sequence[Share]) -> dict[InodeId, Share]:
    return {share.root: share for share in shares}
