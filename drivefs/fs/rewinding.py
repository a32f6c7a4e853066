"""Takes a directory, or a file, back to what it was: by ordinary changes, so that it can itself be taken back.

Owns the order of the changes. What had moved within the directory is moved back; what was removed is brought back as
the inode that it was, with its history; what it was of which nothing is left becomes a new file with that content; what
changed gets its content and its attributes again, as a new revision; and what was not there then is removed, into the
trash. No byte of content travels. Each change is in the journal when it is made; a crash or cancellation leaves those
that were made, and to rewind once more does the rest.

Invariants: nothing is removed before all that comes has come. A share is neither removed nor emptied because it was not
there then, and what is shared to be read only stays as it is. What is ignored, so on this device only, is not touched.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from drivefs.fs import errors
from drivefs.fs.attributes import Attributes, Wanted
from drivefs.fs.borders import Borders
from drivefs.fs.comparing import Coming, Comparison, Differences, Pair, has_other_content, is_changed
from drivefs.fs.directories import Directories
from drivefs.fs.history import History
from drivefs.fs.namespace import Namespace, NewInode
from drivefs.fs.ownership import Owner
from drivefs.fs.past import Past
from drivefs.fs.undeleting import Undeleting
from drivefs.fs.view import Name
from drivefs.fs.xattrs import STORED, Xattrs
from drivefs.protocol.ids import InodeId, Seq
from drivefs.protocol.model import BlockRef, InodeKind, InodeState

HEAD = Seq(0)
ASIDE = b".drivefs-rewind-%d-%d"


class Kernel(Protocol):
    """Hears of what was changed behind its back."""

    def inode(self, inode: InodeId, *, content: bool) -> None:
        """The attributes of an inode have changed, and its content if `content`."""
        ...

    def entry(self, parent: InodeId, name: bytes) -> None:
        """What a name leads to has changed."""
        ...


@dataclass(slots=True)
class Rewound:
    """How many things were dealt with in which way, and the names of those that could not be."""

    changed: int = 0
    moved: int = 0
    restored: int = 0
    removed: int = 0
    lost: list[bytes] = field(default_factory=list)
    """What it was then is not kept any more: they are as they were."""
    busy: list[bytes] = field(default_factory=list)
    """Somebody is writing to them, or has since they were compared: they are as they were."""
    shares: list[bytes] = field(default_factory=list)
    """Shared to be read only, or shares that were not there then: they are as they were."""

    @property
    def total(self) -> int:
        """How much was done."""
        return self.changed + self.moved + self.restored + self.removed


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a rewinding is made with."""

    names: Namespace
    directories: Directories
    attributes: Attributes
    xattrs: Xattrs
    history: History
    undeleting: Undeleting
    past: Past
    owner: Owner
    borders: Borders
    names_of: Callable[[InodeId], Iterable[Name]]
    is_ignored: Callable[[InodeId], bool]


Progress = Callable[[Rewound], Awaitable[None]]


class Rewinding:
    """Takes parts of a drive back."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def rewind(self, place: Name, then: InodeState, seq: Seq, kernel: Kernel, progress: Progress) -> Rewound:
        """Make what stands at a place, or is to stand there, what `then` was at a seq; `place` is of a directory now.

        All that this device changed before has been sent.

        Raises:
            What `Past` raises, and what the changes raise: what was done until then stays.
        """
        now = await self._parts.names.lookup(*place) if place[1] else self._parts.history.view.inode(place[0])
        return await _Run(self._parts, seq, kernel, progress).run(place, now, then)


class _Run:
    """One rewinding; `_directories` are those that are there, by what they were then."""

    def __init__(self, parts: Parts, seq: Seq, kernel: Kernel, progress: Progress) -> None:
        self._parts = parts
        self._seq = seq
        self._kernel = kernel
        self._progress = progress
        self._done = Rewound()
        self._found = Differences()
        self._where: dict[InodeId, Name] = {}
        """Where those are that leave, unless they have several names."""
        self._aside: dict[Name, Name] = {}
        """Where those are whose name was needed before they could leave, by that name."""
        self._came: set[InodeId] = set()
        self._given: set[InodeId] = set()
        """Files that got their content again, under one name of several perhaps: that they differ now is our doing."""
        self._holding: set[InodeId] = set()
        """Directories in which something is ignored: it is on this device only, in no trash and in no history."""
        self._stay: set[InodeId] = set()
        """Shares that were not there then, directories that hold what is ignored, and those that these are in."""
        self._stamps: list[Pair] = []
        """Directories whose attributes are set last: what happens in them moves their times."""

    async def run(self, place: Name, now: InodeState | None, then: InodeState) -> Rewound:
        """Do it."""
        comparison = Comparison(self._list_now, self._list_then, self._parts.borders)
        self._found = comparison.found
        if now is None:
            self._found.coming.append(Coming(place[0], place[1], then))
            self._found.directories[place[0]] = place[0]
            await self._list_coming()
        elif then.kind is InodeKind.DIRECTORY:
            await comparison.directories(Pair(now, then))
        else:
            self._found.changed.append(Pair(now, then))
        self._where = {state.inode: place for place, state in self._found.leaving.items()}
        self._keep()
        for coming in self._found.coming:
            await self._come(coming)
        for pair in self._found.changed:
            await self._change(pair)
        for gone, state in reversed(list(self._found.leaving.items())):
            await self._leave(self._aside.get(gone, gone), state)
        for pair in reversed(self._stamps):
            self._set_attributes(pair)
        return self._done

    def _keep(self) -> None:
        coming = {each.then.inode for each in self._found.coming}
        for (parent, name), state in reversed(self._found.leaving.items()):
            is_share = self._parts.borders.is_share(state.inode)
            stays = is_share or state.inode in self._holding | self._stay
            if stays and state.inode not in coming:
                self._stay |= {state.inode, parent}
                self._done.shares += [name] * is_share
        self._done.shares += [self._name_of(inode) for inode in self._found.read_only]

    async def _list_now(self, directory: InodeId) -> dict[bytes, InodeState]:
        """What is in a directory of the drive, without what is ignored."""
        number = self._parts.directories.open(directory)
        try:
            listed = await self._parts.directories.read(number, 0)
        finally:
            self._parts.directories.release(number)
        found = {name: state for name, state, _ in listed if name not in (b".", b"..")}
        ignored = [name for name, state in found.items() if self._parts.is_ignored(state.inode)]
        for name in ignored:
            del found[name]
            self._holding.add(directory)
        return found

    async def _list_then(self, directory: InodeId) -> dict[bytes, InodeState]:
        return await self._parts.past.listing(directory, self._seq)

    async def _list_coming(self) -> None:
        """All that was in what is not there now."""
        for each in self._found.coming:
            if each.then.kind is InodeKind.DIRECTORY:
                below = await self._list_then(each.then.inode)
                self._found.coming += [Coming(each.then.inode, name, state) for name, state in below.items()]

    # -- what was there then -----------------------------------------------------------------------------------------

    async def _come(self, coming: Coming) -> None:
        parent = self._found.directories.get(coming.parent)
        if parent is None:
            return  # its directory could not be had either
        then, place = coming.then, (parent, coming.name)
        here = await self._as_it_is(then)
        refs = None
        if then.kind is InodeKind.FILE and (here is None or has_other_content(Pair(here, then))):
            refs = await self._content(then, coming.name)
            if refs is None:
                return
        place = await self._room(place)
        await self._name(place, then, here)
        self._kernel.entry(*place)
        now = await self._parts.names.lookup(*place)
        if now is None:
            return  # another device was faster
        self._came.add(now.inode)
        if then.kind is InodeKind.DIRECTORY:
            self._found.directories[then.inode] = now.inode
            self._stamps.append(Pair(now, then))
        else:
            self._apply(Pair(now, then), refs, seen=here or now, name=place[1])
        await self._told()

    async def _as_it_is(self, then: InodeState) -> InodeState | None:
        """The inode that gets its name back; None: a new one has to be made, since this one is elsewhere, or gone."""
        source = self._where.get(then.inode)
        if source is not None:
            return self._found.leaving[source]
        if then.inode in self._found.staying | self._came:
            return self._parts.history.view.inode(then.inode) if then.nlink > 1 else None
        try:
            head = await self._parts.past.inode(then.inode, HEAD)
        except errors.NotFound:
            return None
        return None if head.nlink else head

    async def _name(self, place: Name, then: InodeState, here: InodeState | None) -> None:
        source = self._where.pop(then.inode, None)
        if source is not None:
            self._found.leaving.pop(source)
            moved = self._aside.get(source, source)
            await self._parts.names.rename(moved, place, replace=False)
            self._kernel.entry(*moved)
            self._done.moved += 1
            return
        if here is None:
            owner = self._parts.owner
            new = NewInode(
                parent=place[0], name=place[1], kind=then.kind, mode=then.mode, rdev=then.rdev, target=then.target
            )
            await self._parts.names.create(new, _Caller(owner.shown_uid(then), owner.shown_gid(then)))
        elif here.nlink:
            await self._parts.names.link(here.inode, *place)
        else:
            self._parts.undeleting.bring_back_alone(here, place)
        self._done.restored += then.kind is not InodeKind.DIRECTORY

    async def _room(self, place: Name) -> Name:
        """The name to come to, which is free: what leaves goes on under another one; what is new there keeps it."""
        if await self._parts.names.lookup(*place) is None:
            return place
        if place not in self._found.leaving or self._found.leaving[place].inode in self._stay:
            return self._parts.undeleting.free_name(place)
        aside = (place[0], ASIDE % (self._found.leaving[place].inode, len(self._aside)))
        await self._parts.names.rename(place, aside, replace=False)
        self._kernel.entry(*place)
        self._aside[place] = aside
        return place

    # -- what changed ------------------------------------------------------------------------------------------------

    async def _change(self, pair: Pair) -> None:
        if pair.now.kind is InodeKind.DIRECTORY:
            self._stamps.append(pair)
            return
        refs, name = None, self._name_of(pair.now.inode)
        if has_other_content(pair):
            refs = await self._content(pair.then, name)
            if refs is None:
                return
        self._apply(pair, refs, seen=pair.now, name=name)
        self._done.changed += 1
        await self._told()

    async def _content(self, then: InodeState, name: bytes) -> list[BlockRef] | None:
        """The blocks of a file; None: they are not kept any more, and the file is one of those that are told."""
        if not then.revision:
            return []
        try:
            return await self._parts.history.blocks_then(then.inode, then.revision)
        except errors.NotFound:
            self._done.lost.append(name)
            return None

    def _apply(self, pair: Pair, refs: list[BlockRef] | None, *, seen: InodeState, name: bytes) -> None:
        """Nobody else runs meanwhile; `seen` is what was compared, at this name."""
        if self._parts.borders.is_read_only(pair.now.inode):
            return
        now = self._parts.history.view.inode(pair.now.inode)
        if refs is not None and now.inode not in self._given and has_other_content(Pair(now, pair.then)):
            if not now.nlink or self._is_written_since(seen):
                self._done.busy.append(name)
                return
            self._parts.history.bring_back(now.inode, refs)
            self._given.add(now.inode)
            self._kernel.inode(now.inode, content=True)
        self._set_attributes(pair)

    def _is_written_since(self, seen: InodeState) -> bool:
        """Whether somebody, here or elsewhere, has given a file another content than the one that was compared."""
        now = self._parts.history.view.inode(seen.inode)
        return (
            now.kind is InodeKind.FILE
            and seen.inode not in self._given
            and (has_other_content(Pair(now, seen)) or self._parts.history.is_changed(seen.inode))
        )

    def _set_attributes(self, pair: Pair) -> None:
        parts, then, owner = self._parts, pair.then, self._parts.owner
        now = parts.history.view.inode(pair.now.inode)
        if not now.nlink or not is_changed(Pair(now, then)) or parts.borders.is_read_only(now.inode):
            return
        publisher = parts.history.publisher
        for name in {*now.xattrs, *then.xattrs}:
            if name.startswith(STORED) and now.xattrs.get(name) != then.xattrs.get(name):
                if name in then.xattrs:
                    parts.xattrs.set(now.inode, name, then.xattrs[name], publisher)
                else:
                    parts.xattrs.remove(now.inode, name, publisher)
        wanted = Wanted(
            mode=None if then.mode == now.mode else then.mode,
            uid=None if then.uid == now.uid else owner.shown_uid(then),
            gid=None if then.gid == now.gid else owner.shown_gid(then),
            mtime_ns=None if then.mtime_ns == now.mtime_ns else then.mtime_ns,
        )
        if wanted != Wanted():
            parts.attributes.set(now.inode, wanted, publisher)
        self._kernel.inode(now.inode, content=False)

    # -- what was not there then -------------------------------------------------------------------------------------

    async def _leave(self, place: Name, state: InodeState) -> None:
        is_directory = state.kind is InodeKind.DIRECTORY
        if state.inode in self._stay or self._parts.borders.is_share(state.inode):
            return
        try:
            if self._is_written_since(state):
                self._done.busy.append(place[1])
                return
            if is_directory:
                await self._parts.names.rmdir(*place)
            else:
                await self._parts.names.unlink(*place)
        except errors.NotFound:
            return
        except errors.NotEmpty:
            # Somebody has put something there meanwhile.
            self._done.busy.append(place[1])
            return
        self._kernel.entry(*place)
        self._done.removed += not is_directory
        await self._told()

    def _name_of(self, inode: InodeId) -> bytes:
        return next((name for _, name in self._parts.names_of(inode)), b"%d" % inode)

    async def _told(self) -> None:
        await self._progress(self._done)
        await trio.lowlevel.checkpoint()


@dataclass(frozen=True, slots=True)
class _Caller:
    """For whom something is made: whose it was."""

    uid: int
    gid: int
    pid: int = 0
