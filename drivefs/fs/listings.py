"""Whole listings of directories, in memory, and who reads one part by part.

Owns how many are kept, and which go first. What names lead to is said by who keeps and changes them: `view`.
"""

from drivefs.protocol.ids import InodeId

MAX_LISTED = 32_768
"""How many directories and names all listings in memory may have together."""


class Listings:
    """Whole listings of directories, the latest ones that were asked for, `MAX_LISTED` names together."""

    def __init__(self) -> None:
        self._kept: dict[InodeId, dict[bytes, InodeId]] = {}
        self._name_count = 0
        self._watches: set[Watch] = set()

    @property
    def size(self) -> int:
        """How many directories and names are kept."""
        return len(self._kept) + self._name_count

    def get(self, directory: InodeId) -> dict[bytes, InodeId] | None:
        """A listing that is kept; not to be changed."""
        return self._kept.get(directory)

    def keep(self, directory: InodeId, listing: dict[bytes, InodeId]) -> None:
        """Keep a listing, unless it is too long; others make room for it."""
        self.drop(directory)
        if len(listing) < MAX_LISTED:
            self._kept[directory] = listing
            self._name_count += len(listing)
            self._make_room()

    def put(self, directory: InodeId, name: bytes, inode: InodeId) -> bool:
        """A name leads to an inode now, or to nothing (`NO_INODE`); gives whether it is kept here."""
        self._tell(directory)
        listing = self._kept.get(directory)
        if listing is None:
            return False
        before = len(listing)
        if inode:
            listing[name] = inode
        else:
            listing.pop(name, None)
        self._name_count += len(listing) - before
        self._make_room()
        return directory in self._kept

    def _make_room(self) -> None:
        while self.size > MAX_LISTED:
            self.drop(next(iter(self._kept)))

    def drop(self, directory: InodeId) -> None:
        """Keep a listing no longer."""
        self._tell(directory)
        self._name_count -= len(self._kept.pop(directory, ()))

    def clear(self) -> None:
        """Keep none."""
        self._kept.clear()
        self._name_count = 0
        for watch in self._watches:
            watch.is_stale = True

    def watch(self, directory: InodeId) -> "Watch":
        """Watch the names of a directory for as long as the result is entered."""
        return Watch(self._watches, directory)

    def _tell(self, directory: InodeId) -> None:
        for watch in self._watches:
            if watch.directory == directory:
                watch.is_stale = True


class Watch:
    """Whether the names of a directory have changed since this was entered."""

    def __init__(self, watches: "set[Watch]", directory: InodeId) -> None:
        self.directory = directory
        self.is_stale = False
        self._watches = watches

    def __enter__(self) -> "Watch":
        self._watches.add(self)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._watches.discard(self)
