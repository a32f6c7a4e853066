"""Which directories programs were told names of: when nothing that was known holds any more, these are listed again.

Owns the list as long as it is short. Invariant: it takes a bounded place, however much of the drive programs walk
through: past `MOST` nobody knows which they were, and all that are known count.
"""

from collections.abc import Iterator, Mapping

from drivefs.protocol.ids import InodeId

MOST = 32_768


class Told:
    """A set of directories, or all."""

    def __init__(self, root: InodeId) -> None:
        self._directories = {root}
        self.is_all = False
        """Whether they were too many to be remembered."""

    def __iter__(self) -> Iterator[InodeId]:
        """Those that are remembered."""
        return iter(self._directories)

    def add(self, directory: InodeId) -> None:
        """Programs are told something of the names in a directory."""
        if directory in self._directories or self.is_all:
            return
        self._directories.add(directory)
        self.is_all = len(self._directories) > MOST

    def renumber(self, fresh: Mapping[InodeId, InodeId]) -> None:
        """Inodes have new ids, by the old ones."""
        self._directories = {fresh.get(inode, inode) for inode in self._directories}
