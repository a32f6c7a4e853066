"""Changes of attributes: mode, owner, times, and size as far as it is one.

Owns which attributes move which: a change of anything moves ctime, a change of size moves mtime too, a change of owner
or content clears set-user-ID, and set-group-ID where it means that. Who may change what the kernel has decided before
it asks (`default_permissions`); a kernel that clears these bits itself sends the resulting mode first.
"""

import stat
from dataclasses import dataclass

from drivefs.fs import errors
from drivefs.fs.contents import Contents
from drivefs.fs.handles import FileHandle
from drivefs.fs.interfaces import Publisher
from drivefs.fs.mutations import Mutations
from drivefs.fs.ownership import Owner
from drivefs.fs.view import View
from drivefs.protocol.changes import SetAttributes
from drivefs.protocol.ground import NowNs
from drivefs.protocol.ids import NO_OP, InodeId
from drivefs.protocol.model import InodeKind, InodeState

SET_ID = stat.S_ISUID | stat.S_ISGID


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be changed; None stays. Times are in nanoseconds, `uid` and `gid` as the kernel knows them.

    `is_unprivileged`: by a user whose changes of content clear set-user-ID.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    is_unprivileged: bool = False

    @property
    def is_size_only(self) -> bool:
        """Whether nothing but the size is to be changed."""
        return (self.mode, self.uid, self.gid, self.atime_ns, self.mtime_ns) == (None,) * 5


class Attributes:
    """Sets attributes of inodes."""

    def __init__(self, view: View, mutations: Mutations, contents: Contents, *, owner: Owner, now_ns: NowNs) -> None:
        self._view = view
        self._mutations = mutations
        self._contents = contents
        self._owner = owner
        self._now_ns = now_ns

    def set(self, inode: InodeId, wanted: Wanted, publisher: Publisher, handle: FileHandle | None = None) -> InodeState:
        """Change attributes, through a descriptor if one is given; gives the new state.

        Raises:
            IsDirectory, Invalid: a size is set of what has none.
            TooLarge, NotFound.
        """
        if wanted.size is not None:
            self.resize(inode, wanted.size, publisher, handle)
            if wanted.is_unprivileged:
                self.clear_privileges(inode, publisher)
        if not wanted.is_size_only:
            self._set(inode, wanted)
            publisher.changed()
        return self._view.inode(inode)

    def resize(self, inode: InodeId, size: int, publisher: Publisher, handle: FileHandle | None = None) -> None:
        """Cut or extend a file; mtime moves even if its size does not.

        Raises:
            IsDirectory, Invalid: it is no file.
            TooLarge, NotFound.
        """
        state = self._view.inode(inode)
        if state.kind is InodeKind.DIRECTORY:
            raise errors.IsDirectory
        if state.kind is not InodeKind.FILE:
            raise errors.Invalid
        content = self._contents.load(inode)
        if size == state.size and not content.layers and (handle is None or handle.older is None):
            self._set(inode, Wanted(mtime_ns=self._now_ns()))
            publisher.changed()
            return
        self._contents.truncate(content, size, handle)
        if content.writers:
            content.fresh = True
            publisher.dropped(inode)
        else:
            publisher.closed(inode)

    def clear_privileges(self, inode: InodeId, publisher: Publisher) -> None:
        """Clear what a change of content by a user without privilege clears."""
        mode = self._view.inode(inode).mode
        if mode & SET_ID and (cleared := without_privileges(mode)) != mode:
            self.set(inode, Wanted(mode=cleared), publisher)

    def _set(self, inode: InodeId, wanted: Wanted) -> None:
        state = self._view.draft_of(inode)
        mode = wanted.mode
        is_given_away = wanted.uid is not None or wanted.gid is not None
        if mode is None and is_given_away and state.mode & SET_ID and state.kind is not InodeKind.DIRECTORY:
            mode = without_privileges(state.mode)
        change = SetAttributes(
            n=self._mutations.next_op(),
            time_ns=self._now_ns(),
            inode=inode,
            mode=None if mode is None else mode & 0o7777,
            atime_ns=wanted.atime_ns,
            mtime_ns=wanted.mtime_ns,
        )
        if wanted.uid is not None:
            change.uid = self._owner.stored_uid(wanted.uid)
            change.own_uid = change.uid is None
        if wanted.gid is not None:
            change.gid = self._owner.stored_gid(wanted.gid)
            change.own_gid = change.gid is None
        apply(change, state)
        self._mutations.admit()
        with self._view.change():
            op = self._mutations.set_attributes(change) if state.nlink else NO_OP
            self._view.put_inode(state, op)


def without_privileges(mode: int) -> int:
    """A mode without set-user-ID, and without set-group-ID where that gives a right to who executes the file."""
    return mode & ~(SET_ID if mode & stat.S_IXGRP else stat.S_ISUID)


def apply(change: SetAttributes, state: InodeState) -> None:
    """Make a state what a change makes of it."""
    if change.mode is not None:
        state.mode = change.mode
    if change.uid is not None or change.own_uid:
        state.uid = change.uid
    if change.gid is not None or change.own_gid:
        state.gid = change.gid
    if change.atime_ns is not None:
        state.atime_ns = change.atime_ns
    if change.mtime_ns is not None:
        state.mtime_ns = change.mtime_ns
    state.ctime_ns = change.time_ns
