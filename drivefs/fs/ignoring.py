"""Which names stay on this device: the rules of the drive as they are now, and where in the drive a name is.

Owns the reading of `.drivefsignore`, ordinary files that any device may change, and what this device remembers of them
while they cannot be read. Each speaks for the directory that it is in, and a deeper one goes before those above.
Invariants: nothing here waits for the network, but `learn` and, for a moment, `ready`; while somebody writes to such a
file, what it said before counts, so that no half of it ever does.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

import trio

from cache.errors import CacheError
from cache.journal import Journal
from drivefs.fs import errors
from drivefs.fs.contents import Contents
from drivefs.fs.ignore_rules import MAX_BYTES, NAME, Rules, Temporary
from drivefs.fs.view import MAX_NAMES, Name, View, shrink
from drivefs.protocol import wire
from drivefs.protocol.ids import NO_INODE, NO_REVISION, InodeId, RevisionNumber
from drivefs.protocol.messages import Entry
from drivefs.protocol.model import InodeKind

META = "ignore_rules"
"""The fact that keeps what the file at the root says."""
META_INSIDE = "ignore_rules_inside"
"""The fact that keeps what the files in other directories say, by directory."""
MAX_DEPTH = 4096
MAX_INSIDE, MOST_INSIDE_BYTES = 1000, 2**20
"""So many rules in directories are remembered: they are written whenever one of them changes."""
MOST_ABOVE_BYTES = 2**16
"""Of the rules above a name no more is asked than so much, the nearest first: each directory of somebody's share may
have some, and reading them takes time."""
UNREADABLE = (errors.FileSystemError, CacheError, OSError)
"""While rules cannot be had or read, what they said before counts."""
READY_SECONDS = 1.5
"""So long the first name that is made in a directory waits for rules that are there, and were never read here."""


class _Edition(NamedTuple):
    """What tells one content of a file of rules from another."""

    inode: InodeId = NO_INODE
    revision: RevisionNumber = NO_REVISION
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0


NO_FILE = _Edition()


class Ignoring:
    """The rules of one mount; `temporary` are the device's own patterns."""

    def __init__(self, view: View, contents: Contents, *, root: InodeId, temporary: Sequence[str]) -> None:
        self._view = view
        self._contents = contents
        self._journal: Journal = view.journal
        self._root = root
        self._temporary = Temporary(temporary)
        self._rules = {directory: Rules(text) for directory, text in self._remembered().items()}
        """What is known to be said in each directory; those without rules are left out."""
        self._editions: dict[InodeId, _Edition] = {}
        self.unread: set[InodeId] = set()
        """Directories whose rules are new, or could not be read when they were asked for."""
        self._awaited: set[InodeId] = set()
        """Those of them for which somebody has waited in vain: nobody waits again."""
        self._ways: dict[InodeId, list[tuple[InodeId, bytes]]] = {}
        self.change_count = 0
        """How often the rules have changed, or where in the drive a directory is."""

    def _remembered(self) -> dict[InodeId, bytes]:
        inside = self._journal.meta(META_INSIDE)
        found = {} if inside is None else wire.decode(inside, dict[InodeId, bytes])
        return {**found, self._root: self._journal.meta(META) or b""}

    def keeps(self, parent: InodeId, name: bytes, *, is_directory: bool) -> bool:
        """Whether what gets a name now stays on this device; all does that is in a directory that does."""
        if self._journal.ignored.has(parent):
            return True
        if name == NAME:
            self.unread.add(parent)
            return False
        heard_bytes = 0
        for directory, above in self._way(parent) or ():
            rules = self._refreshed(directory)
            if rules is None:
                continue
            heard_bytes += len(rules.text)
            if heard_bytes > MOST_ABOVE_BYTES:
                break
            said = rules.say(above + name, is_directory=is_directory)
            if said is not None:
                return said
        return not is_directory and self._temporary.has(name)

    def came(self, names: Iterable[Name]) -> None:
        """Others have changed what these names lead to."""
        self.unread.update(parent for parent, name in names if name == NAME)
        self.moved()

    def listed(self, directory: InodeId, entries: Iterable[Entry]) -> None:
        """A part of a directory's names has come to be known here."""
        if any(each.name == NAME for each in entries):
            self.unread.add(directory)

    def moved(self) -> None:
        """Names elsewhere in the drive have changed: directories may be somewhere else."""
        if self._ways:
            self._ways.clear()
        self.change_count += 1

    async def ready(self, directory: InodeId, name: bytes) -> bool:
        """Wait a moment for rules that speak for a name and are there, but not read; whether it has waited.

        Those that an earlier mount did not come to read are known to be unread once `keeps` was asked.
        """
        if not self.unread or name == NAME:
            return False
        above = [each for each, _ in self._way(directory) or () if each in self.unread and each not in self._awaited]
        late = [each for each in above if self._is_late(each)]
        if late:
            with trio.move_on_after(READY_SECONDS), suppress(*UNREADABLE):
                for each in late:
                    await self._read(each)
            self._awaited.update(self.unread.intersection(late))
        return bool(late)

    def _is_late(self, directory: InodeId) -> bool:
        self._refreshed(directory)
        return directory in self.unread and self._present(directory) is not None

    async def learn(self) -> None:
        """Read the rules that have changed; of those that cannot be had now, what was known before counts on."""
        for directory in {self._root, *self._rules, *self.unread}:
            with suppress(*UNREADABLE):
                await self._read(directory)

    async def _read(self, directory: InodeId) -> None:
        edition = self._present(directory)
        if edition is None:
            return
        if edition == self._editions.get(directory):
            self.unread.discard(directory)
            return
        text = b""
        if edition.inode:
            content = self._contents.load(edition.inode)
            text = bytes(await self._contents.read(content, 0, min(edition.size, MAX_BYTES)))
        if self._present(directory) == edition:
            self._take(directory, edition, text)

    def _refreshed(self, directory: InodeId) -> Rules | None:
        """What is said in a directory, read again if it has changed, as far as that needs no waiting."""
        edition = self._present(directory)
        if edition is None or edition == self._editions.get(directory):
            return self._rules.get(directory)
        if not edition.inode or not edition.size:
            self._take(directory, edition, b"")
            return self._rules.get(directory)
        text = None
        with suppress(*UNREADABLE):
            content = self._contents.load(edition.inode)
            text = self._contents.reader.read_now(content, 0, min(edition.size, MAX_BYTES))
        if text is None:
            self.unread.add(directory)
        else:
            self._take(directory, edition, bytes(text))
        return self._rules.get(directory)

    def _take(self, directory: InodeId, edition: _Edition, text: bytes) -> None:
        self.unread.discard(directory)
        self._awaited.discard(directory)
        self._editions[directory] = edition
        shrink(self._editions, MAX_NAMES)
        known = self._rules.get(directory)
        if text == (known.text if known is not None else b""):
            return
        if text:
            self._rules[directory] = Rules(text)
        else:
            self._rules.pop(directory)
        self.change_count += 1
        with self._journal.transaction():
            if directory == self._root:
                self._journal.set_meta(META, text)
                return
            self._journal.set_meta(META_INSIDE, wire.encode(self._inside()))

    def _inside(self) -> dict[InodeId, bytes]:
        """What is said in directories, as far as it is remembered: what came first goes first."""
        found: dict[InodeId, bytes] = {}
        left_bytes = MOST_INSIDE_BYTES
        for directory, rules in reversed(self._rules.items()):
            left_bytes -= len(rules.text)
            if left_bytes < 0 or len(found) == MAX_INSIDE:
                break
            if directory != self._root:
                found[directory] = rules.text
        return dict(reversed(found.items()))

    def _present(self, directory: InodeId) -> _Edition | None:
        """The file of the rules as it is now; None: that is not known, or somebody is writing to it."""
        inode = self._view.named(directory, NAME)
        if inode is None:
            return None
        if not inode:
            return NO_FILE
        try:
            state = self._view.inode(inode)
        except errors.NotFound:
            return None
        if state.kind is not InodeKind.FILE:
            return NO_FILE
        if self._contents.is_written(inode):
            return None
        return _Edition(inode, state.revision, state.size, state.mtime_ns, state.ctime_ns)

    def _way(self, directory: InodeId) -> list[tuple[InodeId, bytes]] | None:
        """A directory and those above it up to the root, each with the path from it, with a slash at its end.

        None: the directory is nowhere, as far as is known here.
        """
        known = self._ways.get(directory)
        if known is not None:
            return known
        way = [(directory, b"")]
        while way[-1][0] != self._root:
            place, path = way[-1]
            names = self._journal.overlay.names_of(place) or self._view.replica.names_of(place)
            if not names or len(way) > MAX_DEPTH:
                return None
            above, name = names[0]
            way.append((above, name + b"/" + path))
        self._ways[directory] = way
        shrink(self._ways, MAX_NAMES)
        return way
