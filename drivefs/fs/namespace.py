"""Names: looking them up, and making, moving and removing them.

Owns what each change does to the inodes and directories concerned, and the mutation that says so; both are one
transaction, in the journal before the call returns. Permissions are the kernel's business (`default_permissions`), and
so is that no directory moves below itself: both know the whole path, this does not.

Invariant: whether a name exists is decided without an `await` between the answer and the change that depends on it.
"""

from dataclasses import dataclass

import trio

from drivefs.fs import errors, moves
from drivefs.fs.borders import Borders
from drivefs.fs.interfaces import Lister, Publisher
from drivefs.fs.kept_here import KeptHere
from drivefs.fs.moves import base_of
from drivefs.fs.mutations import Mutations
from drivefs.fs.ownership import Caller, Owned, Owner
from drivefs.fs.view import Name, View
from drivefs.protocol.changes import Create, Exchange, Link, Mutation, Rename, Unlink
from drivefs.protocol.errors import Code
from drivefs.protocol.ground import NowNs
from drivefs.protocol.ids import NO_INODE, InodeId
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.protocol.names import MAX_NAME_BYTES, MAX_TARGET_BYTES, is_valid_name
from drivefs.remote.errors import Refused, RemoteError

EMPTY_LINKS = 2
"""A directory's own name and its `.`; each subdirectory adds its `..`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInode:
    """What is to be made, and under which name; `mode` has the permission bits, without those of the umask."""

    parent: InodeId
    name: bytes
    kind: InodeKind
    mode: int
    rdev: int = 0
    target: bytes = b""


def check_name(name: bytes) -> None:
    """Refuse what cannot be a name.

    Raises:
        NameTooLong, Invalid: it cannot.
    """
    if len(name) > MAX_NAME_BYTES:
        raise errors.NameTooLong
    if not is_valid_name(name):
        raise errors.Invalid


class Namespace:
    """The tree of names."""

    def __init__(self, view: View, mutations: Mutations, kept: KeptHere, *, owner: Owner, now_ns: NowNs) -> None:
        self._view = view
        self._mutations = mutations
        self._next_op = mutations.next_op
        self._contents = kept.contents
        self._owner = owner
        self._now_ns = now_ns
        self.borders: Borders
        self._kept = kept
        self._lister: Lister
        self._publisher: Publisher
        self._deadline_seconds = 0.0

    def connect(self, lister: Lister, publisher: Publisher, deadline_seconds: float) -> None:
        """Who lists what is not known here, within how long, and who hears of changes."""
        self._lister = lister
        self._publisher = self._kept.publisher = publisher
        self._deadline_seconds = deadline_seconds

    async def know(self, *names: Name) -> None:
        """Return when it is known here what these names lead to.

        Raises:
            NotDirectory, NotFound: a parent is no directory, or was removed.
            Unavailable: a directory is not known here and could not be listed within the deadline.
        """
        while True:
            unknown = next((parent for parent, name in names if self._view.named(parent, name) is None), None)
            if unknown is None:
                return
            self._view.directory(unknown)
            await self.list(unknown)

    async def list(self, directory: InodeId) -> None:
        """Return when all names of a directory are known here.

        Raises:
            Unavailable: they are not, and could not be had within the deadline.
        """
        if self._view.is_listed(directory):
            return
        try:
            with trio.fail_after(self._deadline_seconds):
                await self._lister.list_directory(directory)
        except (RemoteError, trio.TooSlowError) as error:
            if not self._is_gone(directory, error):
                raise errors.Unavailable(f"directory {directory} is not known on this device: {error}") from error
        if not self._view.is_listed(directory):
            raise errors.Unavailable(f"directory {directory} is not known on this device")

    def _is_gone(self, directory: InodeId, error: Exception) -> bool:
        """Whether a directory was removed elsewhere, while own changes have names in it, or give it one.

        It was empty then: what it shows until they are sent is all here, and what comes into it comes with the feed.
        """
        if not isinstance(error, Refused) or error.code is not Code.NOT_FOUND or not self._view.has_own(directory):
            return False
        self._view.replica.mark_complete(directory)
        return True

    async def lookup(self, parent: InodeId, name: bytes) -> InodeState | None:
        """What a name leads to, or None.

        Raises:
            NotDirectory, NameTooLong, Unavailable: there is no saying.
        """
        inode = self._view.named(parent, name)
        if inode is None:
            check_name(name)
            await self.know((parent, name))
            inode = self._view.named(parent, name)
        if not inode:
            if len(name) > MAX_NAME_BYTES:
                raise errors.NameTooLong
            return None
        state = self._view.under_name(inode)
        self._view.seen_in(parent, state)
        return state

    def _existing(self, parent: InodeId, name: bytes) -> InodeState:
        inode = self._view.named(parent, name)
        if not inode:
            raise errors.NotFound
        return self._view.under_name(inode)

    async def create(self, new: NewInode, caller: Caller) -> InodeState:
        """Make an inode.

        Raises:
            Exists, NotFound, NotDirectory, NameTooLong, Unavailable.
        """
        check_name(new.name)
        if len(new.target) > MAX_TARGET_BYTES:
            raise errors.NameTooLong
        is_directory = new.kind is InodeKind.DIRECTORY
        while True:
            await self.know((new.parent, new.name))
            is_ignored = self._kept.ignoring.keeps(new.parent, new.name, is_directory=is_directory)
            if not await self._kept.ignoring.ready(new.parent, new.name):
                break
        directory = self._view.directory(new.parent)
        if self._view.named(new.parent, new.name):
            raise errors.Exists
        self._mutations.admit()
        return self._make(new, self._owner.of_new(directory, new.kind, new.mode, caller), is_ignored=is_ignored)

    def make_like(self, state: InodeState, parent: InodeId, name: bytes) -> InodeState:
        """Make an empty file with the mode and owners of another one, under a name of which all is known."""
        new = NewInode(parent=parent, name=name, kind=state.kind, mode=state.mode)
        is_ignored = self._kept.ignoring.keeps(parent, name, is_directory=False)
        return self._make(new, Owned(state.mode, state.uid, state.gid), is_ignored=is_ignored)

    def _make(self, new: NewInode, owned: Owned, *, is_ignored: bool) -> InodeState:
        is_directory = new.kind is InodeKind.DIRECTORY
        is_transient = not is_ignored and self._view.is_untouched(new.parent, new.name)
        with self._view.change():
            if not is_ignored:
                self._mutations.taking(new.parent, new.name)
            change = Create(
                n=self._next_op(),
                time_ns=self._now_ns(),
                inode=self._view.journal.allocate_inode(),
                parent=new.parent,
                name=new.name,
                kind=new.kind,
                mode=owned.mode,
                uid=owned.uid,
                gid=owned.gid,
                rdev=new.rdev,
                target=new.target,
            )
            self._mutations.append(change, is_ignored=is_ignored)
            state = initial(change)
            self._view.put_inode(state, change.n)
            self._view.put_name(new.parent, new.name, state.inode, change.n)
            self._touch_directory(new.parent, change, subdirectories=is_directory, is_ignored=is_ignored)
        if is_directory:
            self._view.begin_listing(state.inode)
        self._mutations.made(state.inode, is_transient=is_transient)
        self._view.seen_in(new.parent, state)
        self._publisher.changed()
        return state

    def _touch_directory(
        self, directory: InodeId, change: Mutation, subdirectories: int = 0, *, is_ignored: bool = False
    ) -> None:
        """Entries of a directory changed, among them so many subdirectories more or less."""
        if is_ignored:
            self._kept.touch(directory, change.time_ns, subdirectories)
            return
        state = self._view.draft_of(directory)
        state.mtime_ns = state.ctime_ns = change.time_ns
        state.nlink = links(state, subdirectories)
        self._view.put_inode(state, change.n)

    async def link(self, inode: InodeId, parent: InodeId, name: bytes) -> InodeState:
        """Give an inode one more name.

        Raises:
            NotPermitted: it is a directory.
            CrossDevice: it is in another share.
            Exists, NotFound, NotDirectory, NameTooLong, Unavailable.
        """
        check_name(name)
        await self.know((parent, name))
        while await self._kept.ready(self._view.inode(inode), (parent, name)):
            await self.know((parent, name))
        self._view.directory(parent)
        if self._view.named(parent, name):
            raise errors.Exists
        state = self._view.draft_of(inode)
        if state.kind is InodeKind.DIRECTORY:
            raise errors.NotPermitted
        self.borders.check_together(inode, parent)
        if not state.nlink:
            raise errors.NotFound
        self._kept.check(state, (parent, name))
        is_ignored = self._kept.keeps((parent, name), state)
        self._mutations.admit()
        with self._view.change():
            if not is_ignored:
                self._kept.release(inode)
                self._mutations.taking(parent, name)
            change = Link(n=self._next_op(), time_ns=self._now_ns(), inode=inode, parent=parent, name=name)
            self._mutations.append(change, is_ignored=is_ignored)
            state.nlink += 1
            state.ctime_ns = change.time_ns
            self._view.put_inode(state, change.n)
            self._view.put_name(parent, name, inode, change.n)
            self._touch_directory(parent, change, is_ignored=is_ignored)
        self._mutations.named_otherwise(inode)
        if not is_ignored:
            self._kept.released(state)
        self._publisher.changed()
        return state

    async def unlink(self, parent: InodeId, name: bytes) -> None:
        """Remove a name of anything but a directory.

        Raises:
            IsDirectory, NotFound, Unavailable.
        """
        check_name(name)
        await self.know((parent, name))
        if self._existing(parent, name).kind is InodeKind.DIRECTORY:
            raise errors.IsDirectory
        self.borders.check_goes(self._view.named(parent, name))
        self.remove(parent, name)

    async def rmdir(self, parent: InodeId, name: bytes) -> None:
        """Remove an empty directory.

        Raises:
            NotDirectory, NotEmpty, NotFound, Unavailable.
        """
        check_name(name)
        while True:
            await self.know((parent, name))
            state = self._existing(parent, name)
            if state.kind is not InodeKind.DIRECTORY:
                raise errors.NotDirectory
            if self._view.is_listed(state.inode):
                break
            await self.list(state.inode)
        if not self._view.is_empty(state.inode):
            raise errors.NotEmpty
        self.borders.check_goes(state.inode)
        self.remove(parent, name)

    def remove(self, parent: InodeId, name: bytes) -> None:
        """Take a name away, of which all is known that has to be checked before."""
        state = self._existing(parent, name)
        is_directory = state.kind is InodeKind.DIRECTORY
        change = Unlink(
            n=self._next_op(), time_ns=self._now_ns(), parent=parent, name=name, inode=state.inode, base=base_of(state)
        )
        if self._kept.has(state.inode):
            self._kept.remove(state, change)
            return
        with self._view.change():
            has_vanished = self._mutations.vanish(state, parent, name)
            saved = None if has_vanished else self._mutations.end_save(change)
            if has_vanished:
                self._mutations.tell(change)
                self._show_vanished(state, change)
            elif saved is not None:
                self._mutations.tell(change)
                self._show_saved(state, change, saved)
            else:
                self._mutations.append(change)
                self._view.put_name(parent, name, NO_INODE, change.n)
                self._drop_name(state, change)
                self._touch_directory(parent, change, subdirectories=-1 if is_directory else 0)
        if not has_vanished and saved is None:
            self._mutations.removed(change, is_directory=is_directory)
        self._publisher.changed()

    def _show_saved(self, state: InodeState, change: Unlink, saved: Rename | Unlink) -> None:
        """The removal belongs to the mutation that replaced a file; what was aside never had that name."""
        if isinstance(saved, Rename):
            self._view.put_name(change.parent, change.name, NO_INODE, saved.n)
        else:
            self._view.drop_name(change.parent, change.name)
        self._drop_name(state, saved)
        directory = self._view.draft_of(change.parent)
        directory.mtime_ns = directory.ctime_ns = change.time_ns
        self._view.put_inode(directory)

    def _show_vanished(self, state: InodeState, change: Unlink) -> None:
        """Nobody else ever hears of this inode: the databases have nothing of it, only what uses it here goes on.

        The directory's row goes with it when the transaction ends, unless other changes need it.
        """
        gone = self._view.draft_of(state.inode)
        gone.nlink, gone.ctime_ns = 0, change.time_ns
        directory = self._view.draft_of(change.parent)
        directory.mtime_ns = directory.ctime_ns = change.time_ns
        directory.nlink = links(directory, -1 if state.kind is InodeKind.DIRECTORY else 0)
        if self._contents.is_kept(state.inode):
            self._view.put_inode(gone)
        else:
            self._view.remember(gone)
        self._view.put_inode(directory)
        self._view.show_name(change.parent, change.name, NO_INODE)
        self._contents.nameless(state.inode, self._publisher)

    def _drop_name(self, state: InodeState, change: Unlink | Rename) -> None:
        """An inode loses a name; with the last one its unpublished content goes, unless it is open."""
        state = self._view.draft_of(state.inode)
        is_directory = state.kind is InodeKind.DIRECTORY
        left = 0 if is_directory else max(0, state.nlink - 1)
        if not left and self._view.has_name(state.inode):
            # A name that another device gave it meanwhile is not counted here.
            left = state.nlink if is_directory else 1
        elif left and self._view.has_no_name(state.inode):
            # Nor are those that another device took from a file that has unpublished content here.
            left = 0
        state.nlink = left
        state.ctime_ns = change.time_ns
        self._view.put_inode(state, change.n)
        self._mutations.named_otherwise(state.inode)
        if not state.nlink and state.kind is InodeKind.FILE:
            self._contents.nameless(state.inode, self._publisher)

    async def rename(self, source: Name, target: Name, *, replace: bool) -> None:
        """Move a name; what the target name led to loses it.

        Raises:
            Exists: the target exists, and `replace` is false or a full directory is in the way.
            IsDirectory, NotDirectory, NotEmpty: the target is of the other kind, or not empty.
            NotFound, NameTooLong, Unavailable.
        """
        check_name(source[1])
        check_name(target[1])
        while True:
            await self.know(source, target)
            moved = self._existing(*source)
            self._view.directory(target[0])
            if await self._kept.ready(moved, target):
                continue
            replaced = self._view.named(*target)
            if not replaced or moves.is_possible(self._view, moved, self._view.inode(replaced), replace=replace):
                break
            await self.list(replaced)
        if replaced == moved.inode:
            return
        self.borders.check_together(source[0], target[0])
        self.borders.check_goes(replaced)
        self._kept.check(moved, target, left=source)
        self.move(source, target, moved, self._view.inode(replaced) if replaced else None)

    def move(self, source: Name, target: Name, moved: InodeState, replaced: InodeState | None = None) -> None:
        """Move a name, of which all is known that has to be checked before."""
        if self._kept.keeps(target, moved) and (replaced is None or self._kept.has(replaced.inode)):
            self._kept.move(moves.rename(self._stamp(), source, target, moved.inode, replaced), moved, replaced)
            return
        is_aside = source[0] == target[0] and self._view.is_unknown(*target)
        was_ignored = self._kept.has(moved.inode)
        with self._view.change():
            source, replaced = self._kept.make_way(source, target, moved, replaced)
            self._mutations.taking(*target, replaced.inode if replaced else NO_INODE)
            change = moves.rename(self._stamp(), source, target, moved.inode, replaced)
            self._mutations.append(change)
            self._view.put_name(*source, NO_INODE, change.n)
            self._view.put_name(*target, moved.inode, change.n)
            if replaced is not None:
                self._drop_name(replaced, change)
            self._touch_moved(moved.inode, change)
            leaves = 1 if moved.kind is InodeKind.DIRECTORY else 0
            ends = 1 if replaced is not None and replaced.kind is InodeKind.DIRECTORY else 0
            if source[0] == target[0]:
                self._touch_directory(source[0], change, subdirectories=-ends)
            else:
                self._touch_directory(source[0], change, subdirectories=-leaves)
                self._touch_directory(target[0], change, subdirectories=leaves - ends)
        self._mutations.moved(change, is_aside=is_aside)
        self._view.seen_in(target[0], moved)
        if leaves:
            self._kept.ignoring.moved()
        if was_ignored:
            self._kept.released(moved)
        self._publisher.changed()

    def _stamp(self) -> moves.Stamp:
        return moves.Stamp(self._next_op(), self._now_ns())

    def _touch_moved(self, inode: InodeId, change: Rename | Exchange) -> None:
        state = self._view.draft_of(inode)
        state.ctime_ns = change.time_ns
        self._view.put_inode(state, change.n)

    async def exchange(self, first: Name, second: Name) -> None:
        """Swap what two names lead to.

        Raises:
            NotFound, NameTooLong, Unavailable.
        """
        check_name(first[1])
        check_name(second[1])
        await self.know(first, second)
        one, other = self._existing(*first), self._existing(*second)
        if one.inode == other.inode:
            return
        self.borders.check_together(first[0], second[0])
        self.borders.check_stay(one, other)
        if self._kept.keeps(second, one) and self._kept.keeps(first, other):
            self._kept.swap(moves.exchange(self._stamp(), first, one.inode, second, other.inode), one, other)
            return
        for state, old, new in ((one, first, second), (other, second, first)):
            self._kept.check(state, new, left=old)
        with self._view.change():
            ignored = [state for state in (one, other) if self._kept.has(state.inode)]
            for state in ignored:
                self._kept.release(state.inode)
            change = moves.exchange(self._stamp(), first, one.inode, second, other.inode)
            self._mutations.append(change)
            self._view.put_name(*first, other.inode, change.n)
            self._view.put_name(*second, one.inode, change.n)
            self._touch_moved(one.inode, change)
            self._touch_moved(other.inode, change)
            comes = (other.kind is InodeKind.DIRECTORY) - (one.kind is InodeKind.DIRECTORY)
            if first[0] == second[0]:
                self._touch_directory(first[0], change)
            else:
                self._touch_directory(first[0], change, subdirectories=comes)
                self._touch_directory(second[0], change, subdirectories=-comes)
        for state, (parent, _) in ((one, second), (other, first)):
            self._mutations.named_otherwise(state.inode)
            self._view.seen_in(parent, state)
        if InodeKind.DIRECTORY in (one.kind, other.kind):
            self._kept.ignoring.moved()
        for state in ignored:
            self._kept.released(state)
        self._publisher.changed()


def links(directory: InodeState, more: int) -> int:
    """The links of a directory that has so many subdirectories more: at least those of an empty one.

    Where own changes speak for it, those that another device made in it are not counted; they may be removed here.
    """
    return max(EMPTY_LINKS, directory.nlink + more)


def initial(new: Create) -> InodeState:
    """The state of an inode that was just made."""
    return InodeState(
        inode=new.inode,
        kind=new.kind,
        mode=new.mode,
        uid=new.uid,
        gid=new.gid,
        rdev=new.rdev,
        atime_ns=new.time_ns,
        mtime_ns=new.time_ns,
        ctime_ns=new.time_ns,
        nlink=EMPTY_LINKS if new.kind is InodeKind.DIRECTORY else 1,
        size=len(new.target),
        target=new.target,
    )
