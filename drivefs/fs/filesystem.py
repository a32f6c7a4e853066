"""The file system: one method for each thing that a program can ask, over the parts that do it.

Owns how the parts are put together, and what is virtual. The kernel's side is `drivefs.fuse`, the network's
`drivefs.sync`; this knows neither. All methods run on the event loop; those that may have to wait for the backend are
asynchronous and have a deadline. Every change is in the journal when its method returns.

Cancellation of a method leaves either nothing or the whole change behind.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from cache.workspace import LocalState
from drivefs.fs import errors, past_tree, revision_tree, rewinding, trash_tree, virtual
from drivefs.fs.attributes import Attributes, Wanted
from drivefs.fs.borders import Borders
from drivefs.fs.bringing_back import BringingBack
from drivefs.fs.conflicts import ENTRIES, Conflicts, Entries, mark_of
from drivefs.fs.contents import Contents
from drivefs.fs.directories import Directories
from drivefs.fs.drive import Drive, Services
from drivefs.fs.files import Files
from drivefs.fs.history import History
from drivefs.fs.ignoring import Ignoring
from drivefs.fs.interfaces import Deletions
from drivefs.fs.kept_here import KeptHere
from drivefs.fs.mutations import Mutations
from drivefs.fs.namespace import Namespace, NewInode
from drivefs.fs.offering import Offering
from drivefs.fs.ownership import Caller
from drivefs.fs.past import Past
from drivefs.fs.past_tree import PastTree
from drivefs.fs.publishing import Publishing
from drivefs.fs.quota import Quota
from drivefs.fs.reading import Reader
from drivefs.fs.reconsidering import Reconsidering
from drivefs.fs.revision_tree import RevisionTree
from drivefs.fs.revisions import Revisions
from drivefs.fs.rewinding import Rewinding
from drivefs.fs.saving import Saving
from drivefs.fs.told import Told
from drivefs.fs.trash_tree import TrashTree
from drivefs.fs.undeleting import Undeleting
from drivefs.fs.view import Name, View
from drivefs.fs.waiting import Waiting
from drivefs.fs.xattrs import Xattrs, revision_of
from drivefs.protocol.changes import Mutation
from drivefs.protocol.conflicts import CONFLICT_XATTR
from drivefs.protocol.ground import NowNs
from drivefs.protocol.ids import NO_INODE, InodeId
from drivefs.protocol.model import InodeKind, InodeState


@dataclass(frozen=True, slots=True)
class Space:
    """What `statfs` tells, in bytes."""

    size_bytes: int
    free_bytes: int


class FileSystem:
    """One mounted workspace."""

    def __init__(self, local: LocalState, services: Services, drive: Drive, now_ns: NowNs) -> None:
        self.root = drive.root
        self.owner = drive.owner
        self.quota = Quota(drive.limits, drive.usage, Waiting(local))
        self._local = local
        self._publisher = services.publisher
        self.acting = services.publisher.acting
        """Called with the process (or thread) that makes the changes to come."""
        self._view = view = View(local.journal, local.replica)
        view.see_to_root(drive.root)
        self.borders = Borders(local.shares, drive.root)
        self._mutations = mutations = Mutations(local.journal, view)
        self.reader = Reader(
            local,
            services.fetcher,
            services.lister,
            workspace=drive.workspace,
            deadline_seconds=drive.deadline_seconds,
        )
        self._contents = Contents(local, view, self.reader, self.quota, now_ns)
        self._contents.offer = services.publisher.closed
        self.contents = Publishing(local, view, self._contents, self.quota, mutations=mutations)
        self.ignoring = Ignoring(view, self._contents, root=drive.root, temporary=drive.temporary)
        self.kept = KeptHere(view, mutations, self._contents, self.ignoring)
        self._names = Namespace(view, mutations, self.kept, owner=drive.owner, now_ns=now_ns)
        self._names.borders = self.borders
        self.reconsidering = Reconsidering(view, self._names, self.kept, root=drive.root, publisher=services.publisher)
        self._names.connect(services.lister, services.publisher, drive.deadline_seconds)
        self._attributes = Attributes(view, mutations, self._contents, owner=drive.owner, now_ns=now_ns)
        self._files = Files(view, self._contents, self._attributes, services.publisher)
        self._saving = Saving(view, self._names, self._files, self._contents, now_ns)
        self._directories = Directories(view, self._names)
        self.offering = Offering(local, view, self._contents, services.publisher)
        self.told = Told(drive.root)
        past = Past(services.past, drive.deadline_seconds)
        revisions = Revisions(view, self.reader, services.past, drive.deadline_seconds)
        self.conflicts = Conflicts(view, drive.root)
        self.conflict_entries = Entries(self.conflicts, view, revisions)
        bringing_back = BringingBack(local, view, self._contents, self.quota, now_ns)
        self.history = History(view, past, revisions, bringing_back, services.publisher)
        self.undeleting = Undeleting(view, mutations, past, services.publisher, now_ns)
        self.undeleting.moved = self.ignoring.moved
        now = RevisionTree(view, self._names, self._directories, past=past, revisions=revisions)
        tree: dict[bytes, virtual.Item] = {name: virtual.json_text(name, what) for name, what in drive.files.items()}
        tree[ENTRIES] = self.conflict_entries.directory
        tree[revision_tree.NAME] = now.directory(drive.root)
        self.past_tree = PastTree(past, revisions, drive.root, now_ns)
        tree[past_tree.NAME] = self.past_tree.directory
        tree[trash_tree.NAME] = TrashTree(past, revisions, now_ns).directory
        self._virtual = virtual.Virtual(virtual.fixed(virtual.NAME, tree), revisions, self._files.open, now_ns())
        self._status_of = drive.status_of
        computed = {
            b"user.drivefs.status": self._status,
            b"user.drivefs.revision": revision_of,
            b"user.drivefs.conflict": self.conflicts.text,
            b"user.drivefs.pinned": drive.pinned,
        }
        self._xattrs = Xattrs(view, mutations, now_ns, computed)
        self.rewinding = self._rewinding(past)

    def _rewinding(self, past: Past) -> Rewinding:
        parts = rewinding.Parts(
            names=self._names,
            directories=self._directories,
            attributes=self._attributes,
            xattrs=self._xattrs,
            history=self.history,
            undeleting=self.undeleting,
            past=past,
            owner=self.owner,
            borders=self.borders,
            names_of=self.names_of,
            is_ignored=self.kept.has,
        )
        return Rewinding(parts)

    # -- names -------------------------------------------------------------------------------------------------------

    async def lookup(self, parent: InodeId, name: bytes) -> InodeState | None:
        """What a name leads to, or None.

        Raises:
            NotDirectory, NameTooLong, Unavailable.
            NotFound: below `.drivefs`, where an answer is good for the moment only.
        """
        if parent >= virtual.FIRST:
            return await self._virtual.lookup(parent, name)
        if name == virtual.NAME and parent == self.root:
            return self._virtual.inode(virtual.DIRECTORY)
        self.told.add(parent)
        return await self._names.lookup(parent, name)

    async def create(self, new: NewInode, caller: Caller) -> InodeState:
        """Make an inode of any kind.

        Raises:
            Exists, NotFound, NotDirectory, NameTooLong, Unavailable.
        """
        self._check_real(new.parent, new.name)
        return await self._names.create(new, caller)

    async def create_file(self, new: NewInode, flags: int, caller: Caller) -> tuple[InodeState, int]:
        """Make a file and open it; without O_EXCL, open what is there already. Gives state and descriptor.

        Raises:
            Exists, IsDirectory, NotFound, NotDirectory, NameTooLong, Unavailable.
            AccessDenied: a shared file that may only be read was moved aside from that name.
        """
        self._check_real(new.parent, new.name)
        return await self._saving.create_file(new, flags, caller)

    async def link(self, inode: InodeId, parent: InodeId, name: bytes) -> InodeState:
        """Give an inode one more name.

        Raises:
            NotPermitted, Exists, NotFound, NotDirectory, NameTooLong, Unavailable.
        """
        self._check_real(inode)
        self._check_real(parent, name)
        return await self._names.link(inode, parent, name)

    async def unlink(self, parent: InodeId, name: bytes) -> None:
        """Remove a name of anything but a directory.

        Raises:
            IsDirectory, NotFound, Unavailable.
        """
        self._check_real(parent, name)
        await self._saving.unlink(parent, name)

    async def rmdir(self, parent: InodeId, name: bytes) -> None:
        """Remove an empty directory.

        Raises:
            NotDirectory, NotEmpty, NotFound, Unavailable.
        """
        self._check_real(parent, name)
        await self._names.rmdir(parent, name)

    async def rename(self, source: Name, target: Name, *, replace: bool = True) -> None:
        """Move a name, over what the target leads to if `replace`.

        Raises:
            Exists, IsDirectory, NotDirectory, NotEmpty, NotFound, NameTooLong, Unavailable.
        """
        self._check_real(*source)
        self._check_real(*target)
        await self._saving.rename(source, target, replace=replace)
        moved = self._view.named(*target)
        if moved and (mark := mark_of(self._view.inode(moved))) is not None and (mark.parent, mark.name) == target:
            self.settle(moved)  # a conflict copy is one no longer where it would have been

    async def exchange(self, first: Name, second: Name) -> None:
        """Swap what two names lead to.

        Raises:
            NotFound, NameTooLong, Unavailable.
        """
        self._check_real(*first)
        self._check_real(*second)
        await self._names.exchange(first, second)

    def _check_real(self, inode: InodeId, name: bytes = b"") -> None:
        """Refuse to change what is virtual."""
        if inode >= virtual.FIRST or (name == virtual.NAME and inode == self.root):
            raise errors.NotPermitted
        self.borders.check_writable(inode)

    # -- inodes ------------------------------------------------------------------------------------------------------

    def inode(self, inode: InodeId) -> InodeState:
        """The present state of an inode; not to be changed.

        Raises:
            NotFound.
        """
        if inode >= virtual.FIRST:
            return self._virtual.inode(inode)
        return self._view.inode(inode)

    def known(self, inode: InodeId) -> InodeState | None:
        """The present state of an inode; None: nothing is known of it here."""
        try:
            return self.inode(inode)
        except errors.NotFound:
            return None

    def shown(self, parent: InodeId, name: bytes) -> InodeState | None:
        """What a name leads to, as far as it is known here; None: to nothing, or there is no saying. Never waits."""
        inode = NO_INODE if parent >= virtual.FIRST else self._view.named(parent, name)
        return self._view.inode(inode) if inode else None

    def set_attributes(self, inode: InodeId, wanted: Wanted, number: int | None = None) -> InodeState:
        """Change attributes, through the descriptor of that number if there is one; gives the new state.

        Raises:
            IsDirectory, Invalid, TooLarge, NotFound.
        """
        self._check_real(inode)
        handle = None if number is None else self._files.handles.get(number)
        return self._attributes.set(inode, wanted, self._publisher, handle)

    def target_of(self, inode: InodeId) -> bytes:
        """Where a symbolic link leads.

        Raises:
            Invalid: it is none.
            NotFound.
        """
        state = self.inode(inode)
        if state.kind is not InodeKind.SYMLINK:
            raise errors.Invalid
        return state.target

    def xattr(self, inode: InodeId, name: bytes) -> bytes:
        """The value of an extended attribute.

        Raises:
            NoAttribute, NotSupported, NotFound.
        """
        if inode >= virtual.FIRST:
            raise errors.NoAttribute
        return self._xattrs.get(inode, name)

    def xattr_names(self, inode: InodeId) -> list[bytes]:
        """The names of the extended attributes that are stored.

        Raises:
            NotFound.
        """
        return [] if inode >= virtual.FIRST else self._xattrs.list(inode)

    def set_xattr(self, inode: InodeId, name: bytes, value: bytes) -> None:
        """Set an extended attribute.

        Raises:
            NotSupported, NotPermitted, OutOfRange, NoSpace, NotFound.
        """
        self._check_real(inode)
        self._xattrs.set(inode, name, value, self._publisher)

    def remove_xattr(self, inode: InodeId, name: bytes) -> None:
        """Remove an extended attribute.

        Raises:
            NoAttribute, NotSupported, NotPermitted, NotFound.
        """
        self._check_real(inode)
        self._xattrs.remove(inode, name, self._publisher)

    def settle(self, inode: InodeId) -> None:
        """A conflict copy is an ordinary file from now on.

        Raises:
            NoAttribute, NotFound.
        """
        self._xattrs.drop(inode, CONFLICT_XATTR, self._publisher)

    def _status(self, state: InodeState) -> bytes | None:
        return self._status_of(state.inode).encode() if self._status_of is not None else None

    # -- open files --------------------------------------------------------------------------------------------------

    def open(self, inode: InodeId, flags: int, caller: Caller) -> int:
        """Open a file; gives the descriptor's number, `virtual.UNSIZED` or more for one whose size only reading tells.

        Raises:
            IsDirectory, Invalid, NotFound.
        """
        if inode >= virtual.FIRST:
            return self._virtual.open(inode, flags, caller)
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self.borders.check_writable(inode)
        return self._files.open(inode, flags, caller)

    async def read(self, number: int, offset: int, length: int) -> bytes | bytearray:
        """Up to `length` bytes from `offset` on.

        Raises:
            BadHandle, Unavailable.
        """
        if number >= virtual.FIRST:
            return await self._virtual.read(number, offset, length)
        return await self._files.read(number, offset, length)

    def write(self, number: int, offset: int, data: bytes) -> int:
        """Write bytes; gives how many: all.

        Raises:
            BadHandle, TooLarge, OverQuota: nothing was written.
        """
        self.borders.check_writable(self._files.handles.get(number).content.inode)
        return self._files.write(number, offset, data)

    async def sync(self, number: int) -> None:
        """Durable on return: all that was changed before the call, by this descriptor and every other.

        Raises:
            BadHandle; cache.errors.Poisoned: the disk failed; DiskFull: no room, nothing that was accepted is lost.
        """
        if number < virtual.FIRST:
            await self._local.barrier()
            self._files.synced(number)

    def release(self, number: int) -> None:
        """Close a descriptor.

        Raises:
            BadHandle.
        """
        if number >= virtual.FIRST:
            self._virtual.release(number)
        else:
            self._files.release(number)

    # -- open directories --------------------------------------------------------------------------------------------

    def open_directory(self, inode: InodeId) -> int:
        """Open a directory; gives the descriptor's number.

        Raises:
            NotDirectory, NotFound.
        """
        if inode >= virtual.FIRST:
            return self._virtual.open_directory(inode)
        self.told.add(inode)
        return self._directories.open(inode)

    async def read_directory(self, number: int, place: int) -> Iterator[tuple[bytes, InodeState, int]]:
        """The entries from a place on: name, state, and the place behind it.

        Raises:
            BadHandle, Unavailable.
        """
        if number >= virtual.FIRST:
            return iter(await self._virtual.read_directory(number, place))
        return await self._directories.read(number, place)

    async def sync_directory(self) -> None:
        """Durable on return: all names as they were at the call.

        Raises:
            cache.errors.Poisoned: the disk failed; DiskFull: no room, nothing that was accepted is lost.
        """
        await self._local.barrier()

    def release_directory(self, number: int) -> None:
        """Close a descriptor of a directory.

        Raises:
            BadHandle.
        """
        if number >= virtual.FIRST:
            self._virtual.release_directory(number)
        else:
            self._directories.release(number)

    # -- the whole ---------------------------------------------------------------------------------------------------

    def space(self) -> Space:
        """The quota, and what is left of it."""
        self.quota.looked_at()
        size = self.quota.limits.quota_bytes
        return Space(size, max(0, size - self.quota.used_bytes))

    def forget_cached(self, inodes: Iterable[InodeId], names: Iterable[Name]) -> None:
        """Drop what is cached of these: the databases have something newer."""
        inodes, names = list(inodes), list(names)
        before = self._view.forget(inodes, names)
        if names:
            self.ignoring.came(names)
        for inode in inodes:
            self._contents.forget(inode, before.get(inode))

    def cached(self, inode: InodeId) -> InodeState | None:
        """The state that programs are shown, if it is in memory."""
        return self._view.cached(inode)

    def leads_to(self, parent: InodeId, name: bytes) -> InodeId | None:
        """What programs are told that a name leads to, `NO_INODE` if to nothing; None: that is not known here."""
        return self._view.named(parent, name)

    def hear_of_followers(self, followed: Callable[[InodeId, InodeId], None]) -> None:
        """Let `followed` hear when what is open as one inode goes on as another, in a journal transaction."""
        self._contents.followed = followed

    def names_of(self, inode: InodeId) -> list[Name]:
        """The names that are known to lead to an inode, in the databases."""
        return [*self._local.journal.overlay.names_of(inode), *self._local.replica.names_of(inode)]

    def guard_with(self, deletions: Deletions) -> None:
        """Let this one hear of all removals, and of names that come."""
        self._mutations.deletions = deletions

    def replaced(self, states: Iterable[InodeState]) -> None:
        """These states are newer than what is cached and look the same to programs: cache them instead."""
        self._view.replace_cached(states)

    def hear(self, hear: Callable[[Mutation], None] | None) -> None:
        """Tell each change that programs make, just before the overlay has it; None: nobody listens any more."""
        self._mutations.hear = hear

    def begin_again(self) -> None:
        """Drop all that is cached of names and inodes: the replica is empty, and is filled from the backend."""
        self._view.begin_again(self.root)
        self._contents.begin_again()

    def open_inodes(self) -> list[InodeId]:
        """The files that somebody has open."""
        return self._contents.open_inodes()

    def remember_open(self) -> list[InodeId]:
        """Have the states of all open files in memory, as they are known now; gives those files."""
        found = self._contents.open_inodes()
        for inode in found:
            self.known(inode)
        return found

    def refuse_changes(self, are_refused: bool) -> None:
        """Whether everything that would change anything is refused from now on."""
        self._view.is_read_only = are_refused

    def renumbered(self, fresh: Mapping[InodeId, InodeId]) -> None:
        """Inodes have new ids (by the old ones) in the databases: all that is in memory follows, open files too."""
        self._view.renumber(fresh)
        self._contents.renumber(fresh)
        self.contents.renumber(fresh)
        self._mutations.renumber()
        self._directories.renumber(fresh)
        self.told.renumber(fresh)
