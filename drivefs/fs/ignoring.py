"""Which names stay on this device: the rules of the drive as they are now, and where in the drive a name is.

Owns the reading of `.drivefsignore`, an ordinary file that any device may change, and what this device remembers of it
while it cannot be read. Invariants: nothing here waits for the network, but `learn`; while somebody writes to the file,
what it said before counts, so that no half of it ever does.
"""

from collections.abc import Sequence
from typing import NamedTuple

from cache.journal import Journal
from drivefs.fs import errors
from drivefs.fs.contents import Contents
from drivefs.fs.ignore_rules import MAX_BYTES, NAME, Rules
from drivefs.fs.view import MAX_NAMES, View, shrink
from drivefs.protocol.ids import NO_INODE, NO_REVISION, InodeId, RevisionNumber
from drivefs.protocol.model import InodeKind

META = "ignore_rules"
MAX_DEPTH = 4096


class _Edition(NamedTuple):
    """What tells one content of the rules' file from another."""

    inode: InodeId = NO_INODE
    revision: RevisionNumber = NO_REVISION
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0


class Ignoring:
    """The rules of one mount; `temporary` are the device's own patterns."""

    def __init__(self, view: View, contents: Contents, *, root: InodeId, temporary: Sequence[str]) -> None:
        self._view = view
        self._contents = contents
        self._journal: Journal = view.journal
        self._root = root
        self._temporary = temporary
        self._text = self._journal.meta(META) or b""
        self._rules = Rules(temporary, self._text)
        self._edition: _Edition | None = None
        self._paths: dict[InodeId, bytes] = {}
        self.change_count = 0
        """How often the rules have changed, or where in the drive a directory is."""

    def keeps(self, parent: InodeId, name: bytes, *, is_directory: bool) -> bool:
        """Whether what gets a name now stays on this device; all does that is in a directory that does."""
        if self._journal.ignored.has(parent):
            return True
        self._refresh()
        if not self._rules.needs_paths:
            return self._rules.keep_here(name, is_directory=is_directory)
        path = self._path(parent)
        return path is not None and self._rules.keep_here(path + name, is_directory=is_directory)

    def moved(self) -> None:
        """Names elsewhere in the drive have changed: directories may be somewhere else."""
        if self._paths:
            self._paths.clear()
        self.change_count += 1

    async def learn(self) -> None:
        """Read the rules if they have changed.

        Raises:
            Unavailable: they cannot be had now; what was known before counts on.
        """
        if not self._view.is_listed(self._root):
            return
        edition = self._present()
        if edition is None or edition == self._edition:
            return
        text = b""
        if edition.inode:
            content = self._contents.load(edition.inode)
            text = bytes(await self._contents.read(content, 0, min(edition.size, MAX_BYTES)))
        if self._present() == edition:
            self._take(edition, text)

    def _refresh(self) -> None:
        """Read the rules if they have changed, as far as that needs no waiting."""
        edition = self._present()
        if edition is None or edition == self._edition:
            return
        if not edition.inode or not edition.size:
            self._take(edition, b"")
            return
        content = self._contents.load(edition.inode)
        text = self._contents.reader.read_now(content, 0, min(edition.size, MAX_BYTES))
        if text is not None:
            self._take(edition, bytes(text))

    def _take(self, edition: _Edition, text: bytes) -> None:
        self._edition = edition
        if text == self._text:
            return
        self._text, self._rules = text, Rules(self._temporary, text)
        self.change_count += 1
        with self._journal.transaction():
            self._journal.set_meta(META, text)

    def _present(self) -> _Edition | None:
        """The file of the rules as it is now; None: that is not known, or somebody is writing to it."""
        inode = self._view.named(self._root, NAME)
        if inode is None:
            return None
        if not inode:
            return _Edition()
        try:
            state = self._view.inode(inode)
        except errors.NotFound:
            return None
        if state.kind is not InodeKind.FILE:
            return _Edition()
        if self._contents.is_written(inode):
            return None
        return _Edition(inode, state.revision, state.size, state.mtime_ns, state.ctime_ns)

    def _path(self, directory: InodeId) -> bytes | None:
        """The path of a directory with a slash at its end; None: it is nowhere, as far as is known here."""
        if directory == self._root:
            return b""
        known = self._paths.get(directory)
        if known is not None:
            return known
        steps: list[bytes] = []
        place = directory
        while place != self._root:
            names = self._journal.overlay.names_of(place) or self._view.replica.names_of(place)
            if not names or len(steps) > MAX_DEPTH:
                return None
            place, name = names[0]
            steps.append(name)
        path = b"/".join([*reversed(steps), b""])
        self._paths[directory] = path
        shrink(self._paths, MAX_NAMES)
        return path
