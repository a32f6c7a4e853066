"""Where shares begin: what programs may change, and what may not be carried across.

Owns the checks that programs meet; what synchronising does is not checked here, since it makes good what was accepted
before. Invariant: without shares nothing is looked up.
"""

from cache.shares import Shares
from drivefs.fs import errors
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState


class Borders:
    """The checks of one mount."""

    def __init__(self, shares: Shares, root: InodeId) -> None:
        """`root` is that of the drive."""
        self._shares = shares
        shares.drive_root = root

    @property
    def has_shares(self) -> bool:
        """Whether there are any."""
        return bool(self._shares.roots)

    def is_share(self, inode: InodeId) -> bool:
        """Whether an inode is the root of a share."""
        return inode in self._shares.roots

    def is_read_only(self, inode: InodeId) -> bool:
        """Whether an inode is shared to be read only."""
        return bool(self._shares.roots) and self._shares.is_read_only(inode)

    def check_writable(self, inode: InodeId) -> None:
        """Refuse to change an inode, or what is in it.

        Raises:
            AccessDenied: it is shared to be read only.
        """
        if self.is_read_only(inode):
            raise errors.AccessDenied

    def check_together(self, inode: InodeId, other: InodeId) -> None:
        """Refuse what would carry something from one workspace to another.

        Raises:
            CrossDevice: the two are not in the same.
        """
        if self._shares.roots and self._shares.of(inode) != self._shares.of(other):
            raise errors.CrossDevice

    def has_file_at(self, state: InodeState) -> bool:
        """Whether a file is a share by itself."""
        return state.kind is InodeKind.FILE and state.inode in self._shares.roots

    def check_stay(self, *states: InodeState) -> None:
        """Refuse to exchange a file that is a share: a program that saves so would leave the share elsewhere.

        Raises:
            Busy: one is.
        """
        if any(map(self.has_file_at, states)):
            raise errors.Busy

    def check_goes(self, inode: InodeId | None) -> None:
        """Refuse to remove or replace the root of a share.

        Raises:
            Busy: it is one.
        """
        if self._shares.roots and inode in self._shares.roots:
            raise errors.Busy
