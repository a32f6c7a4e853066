"""Names of files that stay on this device: how they come, move and go, and how a file becomes one of the drive.

Owns the journal's rows in the state `IGNORED`. Such a file is made, named, written and removed as any other, as
durably, but none of it is ever sent. When it gets a name that no rule keeps here (a program saves by renaming), it is
released: its mutations get new numbers, as if it had been made just then, and go their ordinary way.

Decided: a rule says what happens to names that come, and takes nothing back. What is in the drive stays there whatever
it is called later, as files that git knows stay known to it. Where the names of both kinds would have to be one (a file
of the drive in a directory that is not in it), the call fails with EXDEV, and `mv` copies.

Invariants: of an ignored inode there are a creation and one link for each further name, each under a name that it has
now; a directory shows its ignored names without being changed by them for anybody else.
"""

from collections.abc import Mapping, Sequence

import msgspec

from cache.journal import JournalRow, RowState
from cache.overlay import MISSING
from drivefs.fs import errors
from drivefs.fs.contents import Contents
from drivefs.fs.ignoring import Ignoring
from drivefs.fs.interfaces import Publisher
from drivefs.fs.mutations import Mutations
from drivefs.fs.view import Name, View
from drivefs.protocol.changes import Create, Exchange, Link, Mutation, Rename, Unlink
from drivefs.protocol.ids import NO_INODE, InodeId
from drivefs.protocol.model import InodeKind, InodeState


class KeptHere:
    """The ignored inodes of one mount, as the namespace changes them."""

    def __init__(self, view: View, mutations: Mutations, contents: Contents, ignoring: Ignoring) -> None:
        self._view = view
        self._journal = view.journal
        self._mutations = mutations
        self.contents = contents
        self.ignoring = ignoring
        self.publisher: Publisher

    def has(self, inode: InodeId) -> bool:
        """Whether an inode is known on this device only."""
        return self._journal.ignored.has(inode)

    def keeps(self, name: Name, state: InodeState) -> bool:
        """Whether an inode that is ignored stays so under another name."""
        is_directory = state.kind is InodeKind.DIRECTORY
        return self.has(state.inode) and self.ignoring.keeps(*name, is_directory=is_directory)

    async def ready(self, state: InodeState, name: Name) -> bool:
        """Wait a moment for rules that speak for a name which an inode is to get; whether it has waited."""
        if not self.has(state.inode):
            return False
        self.keeps(name, state)  # rules that an earlier mount did not come to read are found so
        return await self.ignoring.ready(*name)

    # -- what may be done --------------------------------------------------------------------------------------------

    def check(self, state: InodeState, name: Name, *, left: Name | None = None) -> None:
        """Refuse a name for an inode that would join what is in the drive and what is not; `left` is one that it loses.

        Raises:
            CrossDevice: the inode is in the drive, or is to be, and a directory that would have its name is not.
        """
        if self.keeps(name, state):
            return
        names = [name]
        if self.has(state.inode):
            names += [each for each in self._journal.overlay.names_of(state.inode) if each != left]
        if any(self.has(parent) for parent, _ in names):
            raise errors.CrossDevice

    # -- inside the namespace's own transactions ---------------------------------------------------------------------

    def touch(self, directory: InodeId, time_ns: int, subdirectories: int = 0) -> None:
        """An ignored name of a directory has changed: it shows that here, and nobody else hears of it."""
        state = self._view.draft_of(directory)
        state.mtime_ns = state.ctime_ns = time_ns
        if self.has(directory):
            state.nlink += subdirectories
            self._view.put_inode(state)
        else:
            self._view.show(state)

    def make_way(
        self, source: Name, target: Name, moved: InodeState, replaced: InodeState | None
    ) -> tuple[Name, InodeState | None]:
        """Prepare a move that the drive is to know of; gives the name that it moves, and what it replaces.

        What is ignored and is to be replaced goes; what is ignored and is moved belongs to the drive from now on.
        """
        if replaced is not None and self.has(replaced.inode):
            self._lose(replaced, target)
            self._journal.content_goes()
            replaced = None
        if not self.has(moved.inode):
            return source, replaced
        is_inside = self.has(source[0])
        place = (target[0], b".drivefs-%d" % moved.inode) if is_inside else source
        if is_inside:
            self._rewrite(moved.inode, RowState.IGNORED, {source: place})
            self._count(source[0], moved, -1)
        self.make_known(moved, [place])
        return place, replaced

    def make_known(self, state: InodeState, names: Sequence[Name]) -> None:
        """Release an ignored inode that has these names, in directories of the drive."""
        self.release(state.inode)
        for parent, _ in names:
            self._count(parent, state, 1)

    def _count(self, parent: InodeId, child: InodeState, difference: int) -> None:
        """A directory counts its subdirectories, but those that are ignored and in the drive's directories."""
        if child.kind is InodeKind.DIRECTORY:
            directory = self._view.draft_of(parent)
            directory.nlink = max(2, directory.nlink + difference)
            self._view.put_inode(directory)

    def release(self, inode: InodeId) -> None:
        """An ignored inode belongs to the drive from now on; `released` tells of its content."""
        if self.has(inode):
            self._rewrite(inode, RowState.PENDING, {})
            self.ignoring.moved()

    def released(self, state: InodeState) -> None:
        """After the transaction that released an inode: its content is to be published."""
        if state.kind is InodeKind.FILE and not self.contents.is_written(state.inode):
            self.publisher.closed(state.inode)

    # -- whole changes -----------------------------------------------------------------------------------------------

    def remove(self, state: InodeState, change: Unlink) -> None:
        """Take one name of an ignored inode away."""
        with self._view.change():
            self._mutations.tell(change)
            self._lose(state, (change.parent, change.name))
            self.touch(change.parent, change.time_ns, -1 if state.kind is InodeKind.DIRECTORY else 0)

    def move(self, change: Rename, moved: InodeState, replaced: InodeState | None) -> None:
        """Move a name of an ignored inode to one that is ignored too."""
        source, target = (change.parent, change.name), (change.new_parent, change.new_name)
        count = 1 if moved.kind is InodeKind.DIRECTORY else 0
        ends = 1 if replaced is not None and replaced.kind is InodeKind.DIRECTORY else 0
        with self._view.change():
            self._mutations.tell(change)
            if replaced is not None:
                self._lose(replaced, target)
                self._journal.content_goes()
            self._rewrite(moved.inode, RowState.IGNORED, {source: target})
            self._touch_moved(moved.inode, change.time_ns)
            if source[0] == target[0]:
                self.touch(source[0], change.time_ns, -ends)
            else:
                self.touch(source[0], change.time_ns, -count)
                self.touch(target[0], change.time_ns, count - ends)
        if count:
            self.ignoring.moved()
        self._view.seen_in(target[0], moved)

    def swap(self, change: Exchange, one: InodeState, other: InodeState) -> None:
        """Swap two names of ignored inodes, both of which stay so."""
        first, second = (change.parent, change.name), (change.other_parent, change.other_name)
        comes = (other.kind is InodeKind.DIRECTORY) - (one.kind is InodeKind.DIRECTORY)
        with self._view.change():
            self._mutations.tell(change)
            self._rewrite(one.inode, RowState.IGNORED, {first: second})
            self._rewrite(other.inode, RowState.IGNORED, {second: first})
            for state in (one, other):
                self._touch_moved(state.inode, change.time_ns)
            self.touch(first[0], change.time_ns, comes if first[0] != second[0] else 0)
            self.touch(second[0], change.time_ns, -comes if first[0] != second[0] else 0)
        self.ignoring.moved()

    # -- rows --------------------------------------------------------------------------------------------------------

    def _touch_moved(self, inode: InodeId, time_ns: int) -> None:
        state = self._view.draft_of(inode)
        state.ctime_ns = time_ns
        self._view.put_inode(state)

    def _lose(self, state: InodeState, name: Name) -> None:
        """An ignored inode loses a name; with the last one, nothing of it is left but for those who have it open."""
        gone = self._view.draft_of(state.inode)
        if state.kind is not InodeKind.DIRECTORY and gone.nlink > 1:
            self._rewrite(state.inode, RowState.IGNORED, {name: None})
            gone.nlink -= 1
            self._view.put_inode(gone)
            return
        for row in self._journal.touching(state.inode):
            self._journal.remove(row.n)
        self._mutations.forget(state.inode)
        self._uncover(*name)
        gone.nlink = 0
        if self.contents.is_kept(state.inode):
            self._view.put_inode(gone)
        else:
            self._view.remember(gone)
        self.contents.nameless(state.inode, self.publisher)

    def _rewrite(self, inode: InodeId, state: RowState, moves: Mapping[Name, Name | None]) -> None:
        """Write all mutations of an ignored inode anew, with its names as `moves` says (None: that one is gone)."""
        rows = self._journal.touching(inode)
        old = [(row.mutation.parent, row.mutation.name) for row in rows if isinstance(row.mutation, Create | Link)]
        new = [place for name in old if (place := moves.get(name, name)) is not None]
        for row in rows:
            self._journal.remove(row.n)
        self._mutations.forget(inode)
        for name in old:
            if name not in new and self._journal.overlay.dentry(*name) == inode:
                self._uncover(*name)
        last = None
        for mutation in _with_names(rows, new):
            last = msgspec.structs.replace(mutation, n=self._mutations.next_op())
            self._journal.append(last, state)
            if isinstance(last, Create | Link):
                self._view.put_name(last.parent, last.name, inode, last.n)
        if last is not None:
            self._view.put_inode(self._view.draft_of(inode), last.n)

    def _uncover(self, parent: InodeId, name: bytes) -> None:
        """A name is ignored no more: what the drive has there shows, as own changes that are not sent make it."""
        theirs = self._view.replica.dentry(parent, name)
        if theirs is None or theirs is MISSING:
            self._journal.overlay.drop_dentry(parent, name)
            self._view.show_name(parent, name, NO_INODE)
            return
        made = self._journal.ignored.earlier(parent, name, theirs)
        if made is not None:
            self._view.put_name(parent, name, made[1], made[0])
        else:
            self._journal.overlay.drop_dentry(parent, name)
            self._view.show_name(parent, name, theirs)


def _with_names(rows: list[JournalRow], names: list[Name]) -> list[Mutation]:
    """The same mutations, creation first, with these names, of which there are as many as before or fewer."""
    left = list(names)
    made: list[Mutation] = []
    for row in sorted(rows, key=lambda row: not isinstance(row.mutation, Create)):
        mutation = row.mutation
        if isinstance(mutation, Create | Link):
            if not left:
                continue
            parent, name = left.pop(0)
            mutation = msgspec.structs.replace(mutation, parent=parent, name=name)
        made.append(mutation)
    return made
