"""Which files are pinned, and how much of them is here: questions about the local databases only.

Owns the rule: a pin covers its inode and all that is below it, by whatever name, whoever made it and whenever. Nothing
here waits for the network; walks give way to others after every few entries.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import trio

from cache.overlay import MISSING
from cache.workspace import LocalState
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState, unpack_blocks
from drivefs.sync.places import MAX_DEPTH, Places, path_of

NamesOf = Callable[[InodeId], list[tuple[InodeId, bytes]]]

PAGE_NAMES = 128
"""How many entries are looked at between two pauses."""


@dataclass(slots=True)
class Presence:
    """How much of what one pin covers is here; `is_listed`: all of it is known here."""

    inode: InodeId
    path: bytes
    file_count: int = 0
    total_bytes: int = 0
    here_bytes: int = 0
    is_listed: bool = True

    @property
    def is_complete(self) -> bool:
        """Whether nothing is lacking."""
        return self.is_listed and self.here_bytes == self.total_bytes


class PinnedTrees:
    """What the pins of this device cover, as it is known here now."""

    def __init__(self, local: LocalState, places: Places, root: InodeId) -> None:
        self.root = root
        self._local = local
        self._places = places
        self.pins = local.pins

    def covers(self, inode: InodeId) -> bool:
        """Whether a pin covers an inode."""
        return self._covers(inode, self._places.names_of, {})

    def keeping(self) -> Callable[[InodeId], bool]:
        """What says whether a pin covers an inode, here or at the backend: where a change of this device is refused.

        It remembers what it found out of directories, and is for one moment.
        """
        here: dict[InodeId, bool] = {}
        there: dict[InodeId, bool] = {}
        names_there = self._local.replica.names_of
        return lambda inode: self._covers(inode, self._places.names_of, here) or self._covers(inode, names_there, there)

    def _covers(self, inode: InodeId, names_of: NamesOf, known: dict[InodeId, bool]) -> bool:
        if not self.pins.roots:
            return False
        if inode in self.pins.roots:
            return True
        return any(self._covers_directory(parent, names_of, known) for parent, _ in names_of(inode))

    def _covers_directory(self, directory: InodeId, names_of: NamesOf, known: dict[InodeId, bool]) -> bool:
        climbed: list[InodeId] = []
        found = False
        while len(climbed) < MAX_DEPTH:
            if directory in self.pins.roots:
                found = True
                climbed.append(directory)
                break
            if directory in known:
                found = known[directory]
                break
            climbed.append(directory)
            names = names_of(directory)
            if not names:
                break
            directory = names[0][0]
        known.update(dict.fromkeys(climbed, found))
        return found

    def value_of(self, state: InodeState) -> bytes | None:
        """The value of `user.drivefs.pinned`: `pinned` itself, `inherited` from a directory above, or nothing."""
        if state.inode in self.pins.roots:
            return b"pinned"
        return b"inherited" if self.covers(state.inode) else None

    def path_of(self, inode: InodeId) -> bytes | None:
        """Where an inode is, from the root of the drive, or None if that is not known here."""
        names = self._places.names_of(inode)
        if not names:
            return b"" if inode == self.root else None
        way = self._places.way_to(names[0][0])
        return None if way is None else path_of(way, names[0][1])

    async def presence(self, root: InodeId) -> Presence:
        """How much of what a pin covers is here; takes about 20 µs for each file, in small steps."""
        found = Presence(root, self.path_of(root) or self.pins.roots.get(root, b""))
        state = self._places.state(root)
        if state is None:
            found.is_listed = False
            return found
        pending = [state]
        while pending:
            state = pending.pop()
            if state.kind is InodeKind.DIRECTORY:
                found.is_listed = found.is_listed and self.is_listed(state)
                async for children in self.children(state.inode):
                    for child in children:
                        if child.kind is InodeKind.DIRECTORY:
                            pending.append(child)
                        else:
                            self._count(found, child)
            else:
                self._count(found, state)
        return found

    def is_listed(self, directory: InodeState) -> bool:
        """Whether all names of a directory are known here."""
        return self._local.replica.is_complete(directory.inode) or not directory.seq

    async def children(self, directory: InodeId) -> AsyncIterator[list[InodeState]]:
        """The states of what is in a directory, as far as it is known here, in groups; each name's once."""
        overlay = self._local.journal.overlay
        async for page in self._pages(directory):
            yield self._states([inode for name, inode in page if overlay.dentry(directory, name) is MISSING])
        yield self._states([inode for _, inode in overlay.children(directory) if inode])

    async def kept_children(self, directory: InodeId) -> AsyncIterator[list[InodeState]]:
        """The states that the backend gave of what is in a directory, as far as it is known here, in groups.

        That is also what a change of this device hides, which may be refused, and what is in the directory by such one.
        """
        replica = self._local.replica
        async for page in self._pages(directory):
            yield replica.inodes([inode for _, inode in page])
        yield replica.inodes([inode for _, inode in self._local.journal.overlay.children(directory) if inode])

    async def _pages(self, directory: InodeId) -> AsyncIterator[list[tuple[bytes, InodeId]]]:
        after, more = b"", True
        while more:
            page = self._local.replica.names_after(directory, after, PAGE_NAMES)
            more = len(page) == PAGE_NAMES
            after = page[-1][0] if page else after
            yield page
            await trio.lowlevel.checkpoint()

    def _states(self, inodes: list[InodeId]) -> list[InodeState]:
        own = self._local.journal.overlay.inodes(inodes)
        owned = {state.inode for state in own}
        return own + self._local.replica.inodes([inode for inode in inodes if inode not in owned])

    def _count(self, found: Presence, state: InodeState) -> None:
        if state.kind is not InodeKind.FILE:
            return
        found.file_count += 1
        found.total_bytes += state.size
        if self._local.journal.drafts.draft(state.inode) is not None and not state.revision:
            found.here_bytes += state.size  # it was never anywhere else
            return
        packed = state.blocks
        if packed is None:
            packed = self._local.replica.content(state.inode, state.revision)
        if packed is None:
            return
        contains = self._local.blocks.contains
        lacking = sum(ref.size_bytes for ref in unpack_blocks(packed) if not contains(ref.block))
        found.here_bytes += max(0, state.size - lacking)
