"""What a mount shows: the overlay of own changes over the replica, with bounded caches in front of both.

Owns the caches and the rule which of the two databases speaks for an inode or a name. It changes the overlay only, and
only inside `change()`, one transaction in which the caller also appends the mutation.

Invariants: a state that was handed out is never changed in place, a newer one takes its part; what is cached is what
the databases say, or the transaction that says so is open. An inode without a name left (`nlink` 0) is remembered
here as long as something uses it, whatever the databases keep.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from types import TracebackType
from typing import TypeVar

import msgspec

from cache.journal import Journal
from cache.overlay import MISSING
from cache.replica import Replica
from drivefs.fs import errors
from drivefs.fs.listings import Listings, Watch
from drivefs.protocol import wire
from drivefs.protocol.ids import NO_INODE, NO_OP, InodeId, OpNumber, Seq
from drivefs.protocol.model import InodeKind, InodeState

MAX_INODES = 16_384
LEAST_LOADED = 4
"""Fewer inodes than this are not worth a query for all of them."""
FIRST_ENTRIES = 128
"""So many entries of a directory are looked up together with their states: about as many as go into one reply."""
PART_NAMES = 4000
"""So many names of a directory are looked up at once: about two milliseconds."""
MAX_NAMES = 32_768
MAX_NAMELESS = 4096

Key = TypeVar("Key")
Value = TypeVar("Value")
Name = tuple[InodeId, bytes]


def shrink(cached: dict[Key, Value], limit: int) -> None:
    """Drop the oldest quarter of a cache that has grown past `limit`."""
    if len(cached) > limit:
        for key in list(islice(cached, limit // 4)):
            del cached[key]


class View:
    """Inodes and names as this mount shows them."""

    def __init__(self, journal: Journal, replica: Replica) -> None:
        self.journal = journal
        self._overlay = journal.overlay
        self.replica = replica
        self._inodes: dict[InodeId, InodeState] = {}
        self._names: dict[Name, InodeId] = {}
        self._parents: dict[InodeId, InodeId] = {}
        self._listings = Listings()
        self._nameless: dict[InodeId, InodeState] = {}
        self._lost: set[InodeId] = set()
        """Those of them that another device removed."""
        self._used: Callable[[InodeId], bool] = lambda inode: False
        self._change = _Change(self)
        self.is_read_only = False
        """Whether changes are refused; what was accepted before goes on being there."""
        self.touched: list[InodeId | Name] = []
        """What the open `change` has put into the caches; of others nothing is noted."""
        self.open_changes = 0
        self.undone: Callable[[], object] = lambda: None
        """Called when a transaction failed, for whoever remembers what was in it."""
        self.coming_back: Callable[[InodeState, InodeState], InodeState] = lambda before, now: now
        """Gives the state, in a transaction, in which an inode comes back that had lost its last name here."""
        self.came_back: Callable[[InodeState], object] = lambda before: None
        """Hears of an inode that had lost its last name here and has one again: it may have another content."""

    def keep_while(self, used: Callable[[InodeId], bool]) -> None:
        """Keep what is known of an inode without a name as long as `used` says so."""
        self._used = used

    def change(self) -> "_Change":
        """A transaction of the journal; when it fails, the caches forget what was put in it.

        Entering it raises ReadOnly where changes are refused.
        """
        return self._change

    def inode(self, inode: InodeId) -> InodeState:
        """The state of an inode; not to be changed.

        Raises:
            NotFound: nothing is known of it here.
        """
        state = self._inodes.get(inode)
        if state is not None:
            return state
        state = self._overlay.inode(inode) or self.replica.inode(inode) or self._nameless.get(inode)
        if state is None:
            raise errors.NotFound
        self._inodes[inode] = state
        shrink(self._inodes, MAX_INODES)
        return state

    def under_name(self, inode: InodeId) -> InodeState:
        """The state of an inode to which a name leads: what is written to it is not lost as what has no name is.

        What was removed here under its old name, while another device moved it or gave it one more, is there again.

        Raises:
            NotFound: nothing is known of it here.
        """
        state = self.inode(inode)
        if state.nlink or self.is_read_only:
            return state
        theirs = self.replica.inode(inode)
        if theirs is None or not theirs.nlink or not self.has_their_name(inode):
            return state
        if self._overlay.inode(inode) is None:
            # It was removed here in vain, and forgotten since: nothing of that is to hide what others do to it.
            self._nameless.pop(inode, None)
            self._inodes[inode] = theirs
            self.came_back(state)
            return theirs
        with self.change():
            shown = self.coming_back(state, theirs)
            self.put_inode(shown)
        self.came_back(state)
        return shown

    def has_their_name(self, inode: InodeId) -> bool:
        """Whether a name that the replica has, and own changes did not touch, leads to an inode."""
        return any(self._overlay.dentry(*name) is MISSING for name in self.replica.names_of(inode))

    def has_name(self, inode: InodeId) -> bool:
        """Whether any name leads to an inode: own changes may have moved it to one, and another device to another."""
        return bool(self._overlay.names_of(inode)) or self.has_their_name(inode)

    def has_no_name(self, inode: InodeId) -> bool:
        """Whether own changes took away all names that another device has left of an inode: it is known how many."""
        theirs = self.replica.inode(inode)
        return theirs is not None and theirs.nlink <= len(self.replica.names_of(inode)) and not self.has_name(inode)

    def cached(self, inode: InodeId) -> InodeState | None:
        """The state of an inode if it is in memory."""
        return self._inodes.get(inode)

    def load(self, inodes: Iterable[InodeId]) -> None:
        """Bring the states of many inodes into the cache at once."""
        wanted = [inode for inode in inodes if inode not in self._inodes]
        if len(wanted) < LEAST_LOADED:
            return
        own = {state.inode: state for state in self._overlay.inodes(wanted)}
        self._inodes.update(own)
        for state in self.replica.inodes([inode for inode in wanted if inode not in own]):
            self._inodes[state.inode] = state
        shrink(self._inodes, MAX_INODES)

    def draft_of(self, inode: InodeId) -> InodeState:
        """A copy of an inode's state, to be changed and put back.

        Raises:
            NotFound: nothing is known of it here.
        """
        return copy.copy(self.inode(inode))

    def directory(self, inode: InodeId) -> InodeState:
        """The state of a directory that still has a name.

        Raises:
            NotDirectory: it is something else.
            NotFound: it was removed, or nothing is known of it.
        """
        state = self.inode(inode)
        if state.kind is not InodeKind.DIRECTORY:
            raise errors.NotDirectory
        if not state.nlink:
            raise errors.NotFound
        return state

    def named(self, parent: InodeId, name: bytes) -> InodeId | None:
        """What a name leads to, `NO_INODE` if to nothing; None if the directory has to be listed first."""
        known = self._names.get((parent, name))
        if known is not None:
            return known
        if (listing := self._listings.get(parent)) is not None:
            return listing.get(name, NO_INODE)
        found = self._overlay.dentry(parent, name)
        if found is MISSING:
            found = self.replica.dentry(parent, name)
        if found is MISSING:
            if not self._is_own(parent):
                return None
            found = None
        inode = NO_INODE if found is None else found
        self._names[parent, name] = inode
        shrink(self._names, MAX_NAMES)
        return inode

    def is_untouched(self, parent: InodeId, name: bytes) -> bool:
        """Whether the overlay has nothing about a name, not even that it went."""
        return self._overlay.dentry(parent, name) is MISSING

    def is_unknown(self, parent: InodeId, name: bytes) -> bool:
        """Whether neither database has anything about a name."""
        return self.is_untouched(parent, name) and self.replica.dentry(parent, name) in (None, MISSING)

    def has_own_names(self, directory: InodeId) -> bool:
        """Whether the overlay has anything about names in a directory."""
        return bool(self._overlay.children(directory))

    def has_own(self, inode: InodeId) -> bool:
        """Whether own changes speak for an inode."""
        return self._overlay.inode(inode) is not None

    def is_listed(self, directory: InodeId) -> bool:
        """Whether all names of a directory are known here."""
        return self.replica.is_complete(directory) or self._is_own(directory)

    def _is_own(self, directory: InodeId) -> bool:
        """Whether a directory was made here and nothing of it came from the backend: then the overlay has all of it."""
        state = self._overlay.inode(directory)
        if state is None or state.seq:
            return False
        made = self.journal.made_in(directory)
        return made is not None and not (made and self.replica.has_passed(made))

    def listing(self, directory: InodeId) -> dict[bytes, InodeId] | None:
        """All names of a directory that is listed, not to be changed; None if they are too many to be had at once."""
        if (listing := self._listings.get(directory)) is not None:
            return listing
        found = self._first_children(directory)
        if len(found) == FIRST_ENTRIES:
            more = self.names_after(directory, found[-1][0])
            if len(more) == PART_NAMES:
                return None
            found += more
        return self.keep_listing(directory, dict(found))

    def _first_children(self, directory: InodeId) -> list[tuple[bytes, InodeId]]:
        """The first names that the replica has of a directory; the states of what they lead to are cached."""
        entries = self.replica.entries(directory, FIRST_ENTRIES)
        own: set[InodeId] = set()
        if entries and self._overlay.has_inodes():
            own = {state.inode for state in self._overlay.inodes([inode for _, inode, _ in entries])}
        for _, inode, state in entries:
            if state is not None and inode not in self._inodes and inode not in own:
                self._inodes[inode] = wire.decode(state, InodeState)
        shrink(self._inodes, MAX_INODES)
        return [(name, inode) for name, inode, _ in entries]

    def names_after(self, directory: InodeId, after: bytes) -> list[tuple[bytes, InodeId]]:
        """The next `PART_NAMES` names that the replica has of a directory; fewer are the last."""
        return self.replica.names_after(directory, after, PART_NAMES)

    def keep_listing(self, directory: InodeId, listing: dict[bytes, InodeId]) -> dict[bytes, InodeId]:
        """Keep all names that the replica has of a directory, with own changes on top; gives what is shown."""
        for name, inode in self._overlay.children(directory):
            if inode:
                listing[name] = inode
            else:
                listing.pop(name, None)
        self._listings.keep(directory, listing)
        return listing

    def watch_listing(self, directory: InodeId) -> Watch:
        """For one who reads a listing part by part: whether any of its names has changed meanwhile."""
        return self._listings.watch(directory)

    def is_empty(self, directory: InodeId) -> bool:
        """Whether a directory that is listed has no names."""
        if (listing := self._listings.get(directory)) is not None:
            return not listing
        own = self._overlay.children(directory)
        gone = {name for name, inode in own if not inode}
        if len(gone) < len(own):
            return False
        return all(name in gone for name, _ in self.replica.names_after(directory, b"", len(gone) + 1))

    def parent_of(self, directory: InodeId) -> InodeId:
        """The directory in which a directory is, as far as that is known; else itself."""
        if (parent := self._parents.get(directory)) is not None:
            return parent
        names = self._overlay.names_of(directory) or self.replica.names_of(directory)
        return names[0][0] if names else directory

    def begin_listing(self, directory: InodeId) -> None:
        """A directory was made just now: it has no names."""
        self._listings.keep(directory, {})

    def seen_in(self, parent: InodeId, child: InodeState) -> None:
        """Remember where a directory was seen, for its `..`."""
        if child.kind is InodeKind.DIRECTORY:
            self._parents[child.inode] = parent
            shrink(self._parents, MAX_NAMES)

    def put_inode(self, state: InodeState, op: OpNumber = NO_OP) -> None:
        """Give an inode a new state, made by `op`; only inside `change()`."""
        self._overlay.put_inode(state, op)
        self.remember(state)

    def remember(self, state: InodeState) -> None:
        """Show a state, and one without a name for as long as something uses it; only inside `change()`."""
        before = self._inodes.get(state.inode)
        self.show(state)
        if not state.nlink:
            self._nameless[state.inode] = state
            if before is None or before.nlink:
                self._lost.discard(state.inode)
            if len(self._nameless) > MAX_NAMELESS:
                self._nameless = {each: kept for each, kept in self._nameless.items() if self._used(each)}
                self._lost &= self._nameless.keys()
        shrink(self._inodes, MAX_INODES)

    def is_lost(self, inode: InodeId) -> bool:
        """Whether an inode without a name was removed by another device, and not here."""
        return inode in self._lost

    def show(self, state: InodeState) -> None:
        """Show a state that the databases do not have, for as long as it stays cached; only inside `change()`."""
        if self.open_changes:
            self.touched.append(state.inode)
        self._inodes[state.inode] = state

    def show_name(self, parent: InodeId, name: bytes, inode: InodeId) -> None:
        """The same for a name."""
        key = (parent, name)
        if self.open_changes:
            self.touched.append(key)
        if self._listings.put(parent, name, inode):
            self._names.pop(key, None)
        else:
            self._names[key] = inode

    def put_name(self, parent: InodeId, name: bytes, inode: InodeId, op: OpNumber) -> None:
        """Let a name lead to an inode, or to nothing (`NO_INODE`); only inside `change()`."""
        self._overlay.put_dentry(parent, name, inode, op)
        self.show_name(parent, name, inode)
        shrink(self._names, MAX_NAMES)

    def drop_name(self, parent: InodeId, name: bytes) -> None:
        """A name that own changes gave was never given, and leads to nothing; only inside `change()`."""
        self._overlay.drop_dentry(parent, name)
        self.show_name(parent, name, NO_INODE)

    def forget(self, inodes: Iterable[InodeId], names: Iterable[Name]) -> dict[InodeId, InodeState]:
        """Drop what is cached of these: the databases have something newer. Gives the states that were dropped."""
        dropped = {inode: state for inode in inodes if (state := self._inodes.pop(inode, None)) is not None}
        for inode, state in dropped.items():
            if self._used(inode) and self._overlay.inode(inode) is None and self.replica.inode(inode) is None:
                # Removed elsewhere: it stays whole for those who have it open.
                self._nameless[inode] = msgspec.structs.replace(state, nlink=0)
                if state.nlink:
                    self._lost.add(inode)
        for name in names:
            self._names.pop(name, None)
            self._listings.drop(name[0])
        return dropped

    def replace_cached(self, states: Iterable[InodeState]) -> None:
        """Cache these states in place of older ones; what was not cached, or has changed here since, stays as it is."""
        cached = [state for state in states if state.inode in self._inodes]
        own = {state.inode for state in self._overlay.inodes([state.inode for state in cached])}
        self._inodes.update((state.inode, state) for state in cached if state.inode not in own)

    def see_to_root(self, root: InodeId) -> None:
        """Nothing can be shown without a root, and a cache that was deleted has none: until it is listed, any will do.

        Its seq says that the backend has it, and that it may hold more than is known here.
        """
        if self.replica.inode(root) is None:
            state = InodeState(inode=root, kind=InodeKind.DIRECTORY, mode=0o755, nlink=2, seq=Seq(1))
            self.replica.put_inodes([state], Seq(0))

    def begin_again(self, root: InodeId) -> None:
        """Drop all that is cached of the databases: they are not what they were."""
        self.see_to_root(root)
        self._inodes.clear()
        self._names.clear()
        self._parents.clear()
        self._listings.clear()

    def renumber(self, fresh: Mapping[InodeId, InodeId]) -> None:
        """Inodes have new ids (by the old ones) in the databases; those without a name are known here only."""
        self._inodes.clear()
        self._names.clear()
        self._parents.clear()
        self._listings.clear()
        self._lost = {fresh.get(inode, inode) for inode in self._lost}
        self._nameless = {
            (new := fresh.get(inode, inode)): msgspec.structs.replace(state, inode=new)
            for inode, state in self._nameless.items()
        }

    def undo(self) -> None:
        """The open transaction failed: the caches forget what it put."""
        for key in self.touched:
            if isinstance(key, tuple):
                self._names.pop(key, None)
                self._listings.drop(key[0])
            else:
                self._inodes.pop(key, None)
                self._nameless.pop(key, None)
        if not self.open_changes:
            self.touched.clear()
        self.undone()


class _Change:
    """What `View.change` gives."""

    __slots__ = ("_view",)

    def __init__(self, view: View) -> None:
        self._view = view

    def __enter__(self) -> None:
        if self._view.is_read_only:
            raise errors.ReadOnly
        self._view.journal.transaction().__enter__()
        self._view.open_changes += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        view = self._view
        view.open_changes -= 1
        try:
            view.journal.transaction().__exit__(kind, error, trace)
        except BaseException:
            view.undo()
            raise
        if error is not None:
            view.undo()
        elif not view.open_changes:
            view.touched.clear()
