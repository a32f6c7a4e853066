"""Fetches small files ahead of a program that reads one after the other: those that lie behind the last one.

A file's own readahead (`fs.readahead`) cannot help where a file is one block: with 80 ms to the server and back, a
thousand of them took a minute and a half. Who has to wait for two files of a directory within a moment is likely to go
on; so what lies behind the second is fetched, and twice as much each time that the program had to wait for just that
file with which the last fetch ended. One that goes on in another directory nearby walks through the tree: then what
lies behind goes on there, too.

Owns what is known of the latest walks. Decides from what the replica has; a directory that was never listed is passed
over. Wrong guesses cost what they bring: at most `FIRST_FILES` for each file that a program jumps to.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import trio

from drivefs.protocol.ids import NO_INODE, BlockId, InodeId, WorkspaceId
from drivefs.protocol.model import BlockRef, InodeKind, InodeState, unpack_blocks
from drivefs.sync.ends import Ends
from drivefs.sync.places import MAX_DEPTH

SMALL_BYTES = 2**20
"""A larger file takes longer to come than to be asked for."""
FIRST_FILES = 8
MOST_FILES = 128
BYTES_EACH = 2**15
"""So large are the files that are fetched ahead at once on the average, at most; one alone may be larger."""
MOST_LOOKED_AT = 1024
"""So many entries are looked at for one fetch."""
MOST_WALKS = 8
FORGET_SECONDS = 3.0
"""Who waits again after so long does not read one file after the other."""
STATES = 64
"""So many states are read from the replica at once."""

Place = tuple[InodeId, bytes]


class Expecting(Protocol):
    """Fetches blocks that nobody waits for yet."""

    def expect(self, workspace: WorkspaceId, refs: Sequence[BlockRef]) -> None:
        """Bring blocks into the cache soon."""
        ...

    def is_coming(self, workspace: WorkspaceId, block: BlockId) -> bool:
        """Whether a block is asked for, or will be."""
        ...


@dataclass(slots=True, eq=False)
class _Walk:
    """One program, or several, on their way through a directory, or through all that is below `top`.

    `name` and `inode` are those of the file that was waited for last. `asked` are the last blocks of what was to be
    fetched ahead, by inode; `expected` is the first inode behind that.
    """

    directory: InodeId
    name: bytes
    inode: InodeId
    top: InodeId
    seen_at: float
    goes_below: bool = False
    is_by_number: bool = False
    has_jumped: bool = False
    window_files: int = FIRST_FILES
    expected: InodeId = NO_INODE
    asked: dict[InodeId, BlockId] = field(default_factory=dict)

    def go_on(self, directory: InodeId, name: bytes, inode: InodeId) -> None:
        """It had to wait for this file, too: was that the next one, in the order that was supposed?"""
        self.has_jumped = inode != self.expected and inode not in self.asked
        if self.has_jumped and self.expected and directory == self.directory:
            self.is_by_number = inode > self.inode and not self.is_by_number
        self.directory, self.name, self.inode = directory, name, inode


class Neighbours:
    """Decides what is fetched ahead; `limit_bytes`: no larger file is, and none at all if it is 0."""

    def __init__(self, ends: Ends, fetcher: Expecting, *, limit_bytes: int, is_online: Callable[[], bool]) -> None:
        self._replica = ends.local.replica
        self._blocks = ends.local.blocks
        self._workspace = ends.workspace
        self._fetcher = fetcher
        self._limit_bytes = min(limit_bytes, SMALL_BYTES)
        self._is_online = is_online
        self._walks: list[_Walk] = []

    def waiting(self, inode: InodeId) -> None:
        """A program waits for bytes of a file: have those fetched that it may want next."""
        state = self._replica.inode(inode) if self._limit_bytes and self._is_online() else None
        if state is None or not self._is_small(state):
            return
        now = trio.current_time()
        self._walks = [walk for walk in self._walks if now - walk.seen_at < FORGET_SECONDS][-MOST_WALKS:]
        if any(walk.inode == inode for walk in self._walks):
            return  # another part of the same file
        places = self._replica.names_of(inode)
        if (walk := self._walk_to(inode, places)) is not None:
            walk.seen_at = now
            self._fetcher.expect(self._workspace, self._next_of(walk))
        elif places:
            self._walks.append(_Walk(*places[0], inode, top=places[0][0], seen_at=now))

    def _is_small(self, state: InodeState) -> bool:
        return state.kind is InodeKind.FILE and 0 < state.size <= self._limit_bytes

    # -- whose way leads here ----------------------------------------------------------------------------------------

    def _walk_to(self, inode: InodeId, places: Sequence[Place]) -> _Walk | None:
        """The walk that goes on with a file that has these names; None: this begins another one."""
        for walk in reversed(self._walks):
            for directory, name in places:
                if directory == walk.directory:
                    walk.go_on(directory, name, inode)
                    return walk
        for walk in reversed(self._walks):
            for directory, name in places:
                if (top := self._above_both(walk.top, directory)) is not None:
                    walk.top, walk.goes_below = top, True
                    walk.go_on(directory, name, inode)
                    return walk
        return None

    def _above_both(self, top: InodeId, directory: InodeId) -> InodeId | None:
        """`top`, or else what is just above it, if a directory is below that; None: it is elsewhere."""
        above = self._parent_of(top)
        for _ in range(MAX_DEPTH):
            if directory in (top, above):
                return directory
            if (parent := self._parent_of(directory)) is None:
                break
            directory = parent
        return None

    def _parent_of(self, directory: InodeId) -> InodeId | None:
        places = self._replica.names_of(directory)
        return places[0][0] if places else None

    # -- what lies behind --------------------------------------------------------------------------------------------

    def _next_of(self, walk: _Walk) -> list[BlockRef]:
        """What is not here, and does not come, of the next files of a walk, as many as its window takes.

        Nothing, while more than half of the last ones are still to come.
        """
        walk.asked = {inode: block for inode, block in walk.asked.items() if self._is_coming(block)}
        if 2 * len(walk.asked) > walk.window_files:
            return []
        window = walk.window_files // 2 if walk.has_jumped else 2 * walk.window_files
        walk.window_files = min(MOST_FILES, max(FIRST_FILES, window))
        refs: list[BlockRef] = []
        file_count = size_bytes = 0
        for state in islice(self._behind(walk), MOST_LOOKED_AT):
            lacking = [ref for ref in self._blocks_of(state) if not self._blocks.contains(ref.block)]
            if all(self._is_coming(ref.block) for ref in lacking):
                continue
            size_bytes += state.size
            if file_count == walk.window_files or (file_count and size_bytes > walk.window_files * BYTES_EACH):
                walk.expected = state.inode
                break
            file_count += 1
            walk.asked[state.inode] = lacking[-1].block
            refs += lacking
        return refs

    def _blocks_of(self, state: InodeState) -> list[BlockRef]:
        return unpack_blocks(state.blocks) if state.blocks and self._is_small(state) else []

    def _is_coming(self, block: BlockId) -> bool:
        return self._fetcher.is_coming(self._workspace, block)

    def _behind(self, walk: _Walk) -> Iterator[InodeState]:
        """The entries behind the last file of a walk, in the order in which it goes."""
        directory, name, inode = walk.directory, walk.name, walk.inode
        while True:
            open_listings = [self._entries(directory, name, inode, walk.is_by_number)]
            while open_listings:
                state = next(open_listings[-1], None)
                if state is None:
                    open_listings.pop()
                    continue
                yield state
                if state.kind is InodeKind.DIRECTORY and walk.goes_below and len(open_listings) < MAX_DEPTH:
                    open_listings.append(self._entries(state.inode, b"", NO_INODE, walk.is_by_number))
            places = self._replica.names_of(directory)
            if not walk.goes_below or directory == walk.top or not places:
                return
            inode = directory
            directory, name = places[0]

    def _entries(self, directory: InodeId, name: bytes, inode: InodeId, is_by_number: bool) -> Iterator[InodeState]:
        """The known entries of a directory behind one of them, by name or by number."""
        if is_by_number:
            found = self._replica.names_after(directory, b"", MOST_LOOKED_AT)
            order = sorted(child for _, child in found if child > inode)
        else:
            order = [child for _, child in self._replica.names_after(directory, name, MOST_LOOKED_AT)]
        for start in range(0, len(order), STATES):
            part = order[start : start + STATES]
            states = {state.inode: state for state in self._replica.inodes(part)}
            yield from (states[child] for child in part if child in states)
