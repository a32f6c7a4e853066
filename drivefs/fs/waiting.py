"""Content that waits to be stored, by the account against which it will count.

Owns the questions to the databases. What is in a share counts against the account of its owner. Invariant: without
ignored files and without shares of others nothing is looked through.
"""

from cache.workspace import LocalState
from drivefs.protocol.ids import InodeId

OWN = ""
"""Stands for the user's own account among the names of owners."""


class Waiting:
    """What waits in one journal."""

    def __init__(self, local: LocalState) -> None:
        self._journal = local.journal
        self._shares = local.shares

    @property
    def total_bytes(self) -> int:
        """All of it, with what was overwritten and not dropped yet, and with what is ignored."""
        return self._journal.pending_bytes

    def payer(self, inode: InodeId) -> str:
        """Against whose account the content of an inode counts."""
        share = self._shares.of(inode)
        return OWN if share is None else share.owner

    def is_ignored(self, inode: InodeId) -> bool:
        """Whether an inode will never be stored."""
        return self._journal.ignored.has(inode)

    def ignored_bytes(self) -> int:
        """How much will never be stored."""
        return self._journal.ignored.drafts()[1]

    def of_others(self) -> dict[str, int]:
        """How much counts against others, by owner."""
        found: dict[str, int] = {}
        if any(share.owner for share in self._shares.roots.values()):
            for inode, length in self._journal.ignored.others():
                if payer := self.payer(inode):
                    found[payer] = found.get(payer, 0) + length
        return found
