"""The directory `.drivefs/at`: under each time or snapshot, the whole tree as it was then, read-only.

Owns how a time or a name becomes a commit and a commit a tree. Only what somebody looks at is asked for; listings of
the past never change, so the latest ones are kept.
"""

from collections.abc import Hashable
from functools import partial

from drivefs.fs import errors, virtual
from drivefs.fs.past import Past
from drivefs.fs.revisions import Revisions, Which
from drivefs.fs.view import shrink
from drivefs.protocol.ground import NowNs
from drivefs.protocol.ids import InodeId, Seq
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.protocol.times import parse_time

NAME = b"at"
MAX_KEPT_ENTRIES = 32_768
"""So many entries of past directories are kept, in listings that are whole."""
MAX_MOMENTS = 256
SETTLED_NS = 300 * 10**9
"""What time it was so long ago, no clock that counts differs about: nothing will be committed at that time any more."""


class PastTree:
    """The directory, as an item of the virtual tree."""

    def __init__(self, past: Past, revisions: Revisions, root: InodeId, now_ns: NowNs) -> None:
        self._past = past
        self._revisions = revisions
        self._root = root
        self._now_ns = now_ns
        self._moments: dict[int, Seq] = {}
        self._roots: dict[Seq, InodeState] = {}
        self._listings: dict[tuple[Seq, InodeId], dict[bytes, InodeState]] = {}
        self._kept_entries = 0
        # Names of files in directories that others may not look into would show here: it is for the owner alone.
        self.directory = virtual.Directory(NAME, self._find_moment, self._snapshots, mode=0o500)

    async def _snapshots(self) -> virtual.Children:
        """Only the moments that have a name: there are too many others."""
        found = await self._past.snapshots()
        return [(each.name.encode(), await self._root_at(each.seq)) for each in found]

    async def _find_moment(self, name: bytes) -> virtual.Item | None:
        try:
            return await self._root_at(await self.seq_of(name.decode()))
        except UnicodeDecodeError:
            return None

    async def seq_of(self, moment: str) -> Seq:
        """The commit that a time, or the name of a snapshot, means.

        Raises:
            NotFound, Unavailable.
        """
        time_ns = parse_time(moment)
        if time_ns is None:
            return (await self._past.at_snapshot(moment)).seq
        seq = self._moments.get(time_ns)
        if seq is None:
            seq = (await self._past.at(time_ns)).seq
            if time_ns < self._now_ns() - SETTLED_NS:
                self._moments[time_ns] = seq
                shrink(self._moments, MAX_MOMENTS)
        return seq

    async def _root_at(self, seq: Seq) -> virtual.Item:
        state = self._roots.get(seq)
        if state is None:
            state = self._roots[seq] = await self._past.inode(self._root, seq)
            shrink(self._roots, MAX_MOMENTS)
        return self._item(seq, state)

    def _item(self, seq: Seq, state: InodeState) -> virtual.Item:
        key = (NAME, seq, state.inode)
        if state.kind is InodeKind.DIRECTORY:
            find, names = partial(self._find, seq, state.inode), partial(self._names, seq, state.inode)
            return virtual.Directory(key, find, names, like=state)
        return content_of(key, state, self._revisions)

    async def _names(self, seq: Seq, directory: InodeId) -> virtual.Children:
        listing = self._listings.pop((seq, directory), None)
        if listing is None:
            listing = await self._past.listing(directory, seq)
            self._kept_entries += len(listing)
        self._listings[seq, directory] = listing
        while self._kept_entries > MAX_KEPT_ENTRIES and len(self._listings) > 1:
            self._kept_entries -= len(self._listings.pop(next(iter(self._listings))))
        return [(name, self._item(seq, state)) for name, state in listing.items()]

    async def _find(self, seq: Seq, directory: InodeId, name: bytes) -> virtual.Item | None:
        listing = self._listings.get((seq, directory))
        if listing is None:
            state: InodeState | None
            try:
                state = await self._past.entry(directory, name, seq)
            except errors.NotFound:
                state = None
        else:
            state = listing.get(name)
        return None if state is None else self._item(seq, state)


def content_of(key: Hashable, state: InodeState, revisions: Revisions) -> virtual.Item:
    """Anything but a directory as it was in a state."""
    if state.kind is not InodeKind.FILE:
        return virtual.Other(key, state)
    which = Which(state.inode, state.revision, in_history=False)
    return virtual.Revision(key, which, lambda: state, revisions, virtual.Known(state.size, state.blocks))
