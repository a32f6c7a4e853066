"""How a directory as it is now differs from what it was: what has changed, what is to come, what is to leave.

Owns the comparison of two trees, which are asked for directory by directory, and nothing of how one becomes the other.
Invariants: what is in both trees at one place, or is a directory that was moved, is compared and neither comes nor
leaves; whatever comes or leaves does so behind the directory that it is in. What is shared to be read only is not
compared, and nothing in a share leaves because the share was not there.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from drivefs.fs.borders import Borders
from drivefs.fs.view import Name
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState

Listing = Callable[[InodeId], Awaitable[Mapping[bytes, InodeState]]]


class Pair(NamedTuple):
    """What stands at one place, now and then; of one kind."""

    now: InodeState
    then: InodeState


class Coming(NamedTuple):
    """What was there then and is not now: its directory, as it was then, its name, and what it was."""

    parent: InodeId
    name: bytes
    then: InodeState


@dataclass(slots=True)
class Differences:
    """`leaving` is by where it is now; `directories` are those that both trees have, as they are now by then.

    All of these are among what has `changed`, since what is done in them moves their times.
    """

    changed: list[Pair] = field(default_factory=list)
    coming: list[Coming] = field(default_factory=list)
    leaving: dict[Name, InodeState] = field(default_factory=dict)
    directories: dict[InodeId, InodeId] = field(default_factory=dict)
    staying: set[InodeId] = field(default_factory=set)
    """Inodes that had several names then, of which one leads to them still."""
    leaving_directories: dict[InodeId, InodeState] = field(default_factory=dict)
    read_only: list[InodeId] = field(default_factory=list)


class Comparison:
    """Compares trees; `now` and `then` list a directory of each."""

    def __init__(self, now: Listing, then: Listing, borders: Borders) -> None:
        self._now = now
        self._then = then
        self._borders = borders
        self.found = Differences()

    async def directories(self, pair: Pair) -> Differences:
        """Compare two directories and all that is in them. Raises what the listings raise."""
        await self._compare(pair)
        # What leaves is known whole before anything is looked for in it.
        position = 0
        while position < len(self.found.coming):
            each = self.found.coming[position]
            if each.then.kind is InodeKind.DIRECTORY:
                moved = self.found.leaving_directories.pop(each.then.inode, None)
                if moved is not None:
                    await self._compare(Pair(moved, each.then))
                else:
                    below = await self._then(each.then.inode)
                    self.found.coming += [Coming(each.then.inode, name, state) for name, state in below.items()]
            position += 1
        return self.found

    async def _compare(self, first: Pair) -> None:
        found, waiting = self.found, [first]
        while waiting:
            pair = waiting.pop()
            if self._borders.is_read_only(pair.now.inode):
                found.read_only.append(pair.now.inode)
                continue
            found.directories[pair.then.inode] = pair.now.inode
            found.changed.append(pair)
            here, there = await self._now(pair.now.inode), await self._then(pair.then.inode)
            for name in [*there, *(name for name in here if name not in there)]:
                now, then, place = here.get(name), there.get(name), (pair.now.inode, name)
                if now is not None and then is not None and _is_match(now, then):
                    found.leaving.pop(place, None)
                    found.leaving_directories.pop(now.inode, None)
                    self._match(Pair(now, then), waiting)
                    continue
                if now is not None and place not in found.leaving:
                    await self._leave(place, now)
                if then is not None:
                    found.coming.append(Coming(pair.then.inode, name, then))

    def _match(self, pair: Pair, waiting: list[Pair]) -> None:
        if pair.now.kind is InodeKind.DIRECTORY:
            waiting.append(pair)
            return
        if self._borders.is_read_only(pair.now.inode):
            self.found.read_only.append(pair.now.inode)
            return
        if pair.then.nlink > 1 and pair.now.inode == pair.then.inode:
            self.found.staying.add(pair.now.inode)
        if is_changed(pair):
            self.found.changed.append(pair)

    async def _leave(self, place: Name, state: InodeState) -> None:
        waiting = [(place, state)]
        while waiting:
            place, state = waiting.pop()
            self.found.leaving[place] = state
            if state.kind is InodeKind.DIRECTORY:
                self.found.leaving_directories[state.inode] = state
                if self._borders.is_share(state.inode):
                    continue
                below = await self._now(state.inode)
                waiting += [((state.inode, name), each) for name, each in below.items()]


def _is_match(now: InodeState, then: InodeState) -> bool:
    """Whether one can become the other where it stands."""
    if now.kind is not then.kind:
        return False
    if now.inode == then.inode or now.kind is InodeKind.DIRECTORY:
        return True
    if now.kind is InodeKind.FILE:
        return now.nlink == 1  # else its other names would change with it
    return now.kind is InodeKind.SYMLINK and now.target == then.target


def is_changed(pair: Pair) -> bool:
    """Whether content or attributes differ."""
    now, then = pair
    attributes = (now.mode, now.uid, now.gid, now.mtime_ns, dict(now.xattrs))
    return has_other_content(pair) or attributes != (then.mode, then.uid, then.gid, then.mtime_ns, dict(then.xattrs))


def has_other_content(pair: Pair) -> bool:
    """Whether contents differ, as far as can be told without asking."""
    now, then = pair
    if now.kind is not InodeKind.FILE or (now.inode, now.revision) == (then.inode, then.revision):
        return False
    return now.blocks is None or then.blocks is None or now.blocks != then.blocks
