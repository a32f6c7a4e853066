"""Whose an inode is: "mine" in the model, a number for the kernel.

Owns the translation, both ways, and what a new inode inherits from a set-group-ID directory.
"""

import stat
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from drivefs.protocol.model import InodeKind, InodeState


class Caller(Protocol):
    """Who makes a system call."""

    @property
    def uid(self) -> int:
        """The effective user."""
        ...

    @property
    def gid(self) -> int:
        """The effective group."""
        ...

    @property
    def pid(self) -> int:
        """The process, or the thread of one."""
        ...


class Owned(NamedTuple):
    """The permission bits of an inode, and its owner and group as they are stored."""

    mode: int
    uid: int | None
    gid: int | None


@dataclass(frozen=True, slots=True)
class Owner:
    """The user and group who mounted the drive: what is "mine" is shown as theirs."""

    uid: int
    gid: int

    def stored_uid(self, uid: int) -> int | None:
        """How a user is stored."""
        return None if uid == self.uid else uid

    def stored_gid(self, gid: int) -> int | None:
        """How a group is stored."""
        return None if gid == self.gid else gid

    def shown_uid(self, state: InodeState) -> int:
        """The user that the kernel sees."""
        return self.uid if state.uid is None else state.uid

    def shown_gid(self, state: InodeState) -> int:
        """The group that the kernel sees."""
        return self.gid if state.gid is None else state.gid

    def of_new(self, directory: InodeState, kind: InodeKind, mode: int, caller: Caller) -> Owned:
        """Whose a new inode is: a set-group-ID directory passes on its group."""
        mode, uid = mode & 0o7777, self.stored_uid(caller.uid)
        if not directory.mode & stat.S_ISGID:
            return Owned(mode, uid, self.stored_gid(caller.gid))
        return Owned(mode | (stat.S_ISGID if kind is InodeKind.DIRECTORY else 0), uid, directory.gid)
