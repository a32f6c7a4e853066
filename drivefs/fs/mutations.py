"""Appends mutations, and takes unsent ones together where that is cheap and safe.

Owns the coalescing done at the moment of a change: attribute changes merge into an unsent one of the same inode, or
into its unsent creation, when nothing about the inode was appended after that; what was created and removed again
before it was sent leaves nothing; the steps of a save by exchange, or by moving the old file aside, are what they are
meant as. Everything else is the planner's.

Invariant: only the last mutation about an inode is ever changed, and only one that was not sent.
"""

from collections.abc import Callable
from itertools import islice

import msgspec

from cache.effects import entries, subjects
from cache.journal import Journal, RowState
from cache.overlay import MISSING
from drivefs.fs.interfaces import Deletions
from drivefs.fs.moves import exchange_without
from drivefs.fs.view import View
from drivefs.protocol.changes import Create, Exchange, Mutation, Rename, SetAttributes, SetXattr, Unlink
from drivefs.protocol.ids import NO_INODE, InodeId, OpNumber
from drivefs.protocol.model import InodeKind, InodeState

MAX_TRANSIENT = 10_000
MAX_RECENT = 4096
ROW_BYTES = 1024
"""About what a mutation with its rows takes: what the journal has to have room for."""


class Mutations:
    """The journal as the file system writes it; every method is called inside `View.change`."""

    def __init__(self, journal: Journal, view: View) -> None:
        self._journal = journal
        self._view = view
        view.undone = self._forget_recent
        self._recent: dict[InodeId, Mutation] = {}
        """The last mutation about an inode that was appended here; whether it was sent, the journal knows."""
        self.hear: Callable[[Mutation], None] | None = None
        """Called with each change just before the overlay has it, while somebody listens."""
        self.deletions: Deletions | None = None
        self._transient: dict[InodeId, None] = {}
        """Inodes made under a name of which nothing else is known, and that still have this one name only."""
        self._aside: dict[InodeId, OpNumber] = {}
        """Inodes that were moved to such a name in the same directory, and the mutations that did it."""

    def admit(self) -> None:
        """Refuse a change that there is no room for, before anything is accepted.

        Raises:
            cache.errors.DiskFull: no room.
        """
        self._journal.admit(ROW_BYTES)

    def append(self, mutation: Mutation, *, is_ignored: bool = False) -> OpNumber:
        """Append a mutation; one of the names or attributes of an ignored file is not to be sent."""
        if isinstance(mutation, SetAttributes | SetXattr) and self._journal.ignored.has(mutation.inode):
            is_ignored = True
            if isinstance(mutation, SetXattr):
                self._drop_earlier(mutation)
        self._journal.append(mutation, RowState.IGNORED if is_ignored else RowState.PENDING)
        if isinstance(mutation, Rename) and mutation.replaced:
            self._journal.content_goes()
        for inode in subjects(mutation):
            self._recent.pop(inode, None)
        self._recent[mutation.inode] = mutation
        if len(self._recent) > MAX_RECENT:
            self._recent = dict(islice(self._recent.items(), MAX_RECENT // 2, None))
        self.tell(mutation)
        return mutation.n

    def _drop_earlier(self, mutation: SetXattr) -> None:
        """What is never sent would otherwise grow with each time that an attribute is set."""
        for row in self._journal.touching(mutation.inode):
            if isinstance(row.mutation, SetXattr) and row.mutation.name == mutation.name:
                self._journal.remove(row.n)

    def forget(self, inode: InodeId) -> None:
        """The mutations about an inode have other numbers now, or are gone."""
        self._recent.pop(inode, None)

    def tell(self, mutation: Mutation) -> None:
        """A change is made, in the journal or without it."""
        if self.hear is not None:
            self.hear(mutation)

    def renumber(self) -> None:
        """Inodes have new ids: nothing that comes now merges into what came before."""
        self._recent.clear()
        self._transient.clear()
        self._aside.clear()

    def removed(self, change: Unlink, *, is_directory: bool) -> None:
        """A removal is in the journal; called when its transaction is over."""
        if self.deletions is not None:
            self.deletions.removed(change, is_directory=is_directory)

    def taking(self, parent: InodeId, name: bytes, replaced: InodeId = NO_INODE) -> None:
        """A name is about to lead to something new; `replaced` is what it leads to yet."""
        if self.deletions is not None:
            self.deletions.taking(parent, name, replaced)

    def _forget_recent(self) -> None:
        self._recent.clear()

    def storing(self, inode: InodeId, *, is_first: bool) -> None:
        """A store of an inode goes into the journal: nothing that comes now may merge into what came before it.

        A file's first one is sent with its creation, ahead of what was set in between, and carries the time itself.
        """
        last = self._recent.pop(inode, None)
        if not is_first or isinstance(last, Create):
            return
        for row in self._journal.touching(inode):
            if isinstance(row.mutation, SetAttributes) and row.mutation.mtime_ns is not None:
                self._journal.replace_unsent(msgspec.structs.replace(row.mutation, mtime_ns=None))

    def next_op(self) -> OpNumber:
        """A number for a mutation."""
        return self._journal.next_op()

    def made(self, inode: InodeId, *, is_transient: bool) -> None:
        """A new inode got its first name; `is_transient`: nothing else is known of that name."""
        if self.deletions is not None:
            self.deletions.made(inode)
        if is_transient:
            self._transient[inode] = None
            if len(self._transient) > MAX_TRANSIENT:
                self._transient = dict.fromkeys(islice(self._transient, MAX_TRANSIENT // 2, None))

    def named_otherwise(self, inode: InodeId) -> None:
        """An inode got another name: it is no longer one that can vanish."""
        self._transient.pop(inode, None)

    def vanish(self, state: InodeState, parent: InodeId, name: bytes) -> bool:
        """Take back all mutations of an inode that loses its only name, if none was sent and nothing needs them."""
        if state.inode not in self._transient:
            return False
        del self._transient[state.inode]
        if self._view.replica.dentry(parent, name) not in (None, MISSING):
            # Meanwhile another device put something there: the name would lead to that, as if this one had come back.
            return False
        if state.kind is InodeKind.DIRECTORY and self._view.has_own_names(state.inode):
            return False
        rows = self._journal.touching(state.inode)
        if not any(isinstance(row.mutation, Create) for row in rows) or state.revision:
            return False
        if not all(row.state is RowState.PENDING and _is_own_affair(row.mutation) for row in rows):
            return False
        for row in rows:
            self._journal.remove(row.n)
        return True

    def moved(self, change: Rename, *, is_aside: bool) -> None:
        """A name was moved; `is_aside`: within its directory, to one of which nothing else is known."""
        self.named_otherwise(change.inode)
        self._aside.pop(change.inode, None)
        if is_aside and not change.replaced:
            self._aside[change.inode] = change.n
            if len(self._aside) > MAX_TRANSIENT:
                self._aside = dict(islice(self._aside.items(), MAX_TRANSIENT // 2, None))

    def end_save(self, change: Unlink) -> Rename | Unlink | None:
        """Take a removal together with the unsent move before it, if a program saved a file by the two.

        What was exchanged with a new file was replaced by it; what was moved aside for one was removed. As one
        mutation, with the number of the move, it is made on the content that was replaced: what another device has
        written to it meanwhile is noticed. None: the removal is a change of its own.
        """
        recent = self._recent.get(change.inode)
        if recent is not None and not isinstance(recent, Rename | Exchange):
            # The journal need not be asked: of a file with many names it has much to tell, for each name that goes.
            return None
        last = self._journal.touching(change.inode)[-1:]
        if not last or last[0].state is not RowState.PENDING:
            return None
        merged = self._without_step(last[0].mutation, change)
        if merged is None or not self._journal.replace_unsent(merged):
            return None
        self._journal.content_goes()
        return merged

    def _without_step(self, move: Mutation, change: Unlink) -> Rename | Unlink | None:
        place = (change.parent, change.name)
        if isinstance(move, Exchange):
            if InodeKind.DIRECTORY in {self._view.inode(inode).kind for inode in subjects(move)}:
                return None
            return _as_rename(move, change) if place in entries(move) else None
        if not isinstance(move, Rename) or self._aside.get(change.inode) != move.n:
            return None
        if place != (move.new_parent, move.new_name):
            # Another name of it goes, and what is aside stays.
            return None
        if self._view.inode(change.inode).kind is InodeKind.DIRECTORY:
            return None
        if not self._view.named(move.parent, move.name) or self._view.replica.dentry(*place) not in (None, MISSING):
            return None
        return msgspec.structs.replace(change, n=move.n, name=move.name)

    def set_attributes(self, change: SetAttributes) -> OpNumber:
        """Append a change of attributes, or merge it into the last mutation about its inode."""
        last = self._recent.get(change.inode)
        if self._journal.ignored.has(change.inode):
            last = self._last_of_ignored(change.inode)
        merged = None if last is None or self._is_time_of_directory(change) else _merged(last, change)
        if merged is None or not self._journal.replace_unsent(merged):
            return self.append(change)
        self._recent[change.inode] = merged
        self.tell(change)
        return merged.n

    def _last_of_ignored(self, inode: InodeId) -> Mutation | None:
        """What an attribute of an ignored inode merges into, whatever came after it: nobody waits for its turn."""
        rows = [row.mutation for row in self._journal.touching(inode)]
        return next((each for each in reversed(rows) if isinstance(each, Create | SetAttributes)), None)

    def _is_time_of_directory(self, change: SetAttributes) -> bool:
        """Whether the change belongs behind what happened in a directory since the last mutation about it."""
        return change.mtime_ns is not None and self._view.inode(change.inode).kind is InodeKind.DIRECTORY


def _is_own_affair(mutation: Mutation) -> bool:
    """Whether a mutation concerns nothing but one inode and its first name."""
    return isinstance(mutation, Create | SetAttributes | SetXattr)


def _as_rename(exchange: Exchange, removal: Unlink) -> Rename:
    """An exchange of which one side is removed: the other one takes its name."""
    gone = {"replaced": removal.inode, "base": removal.base}
    return msgspec.structs.replace(exchange_without(exchange, removal.inode), time_ns=removal.time_ns, **gone)


def _merged(last: Mutation, change: SetAttributes) -> Mutation | None:
    """One mutation that does what both do, with the number of the earlier one; None if there is none."""
    if isinstance(last, SetAttributes):
        fields = {"time_ns": change.time_ns}
        for name in ("mode", "atime_ns", "mtime_ns"):
            if (value := getattr(change, name)) is not None:
                fields[name] = value
        merged = msgspec.structs.replace(last, **fields)
        if change.uid is not None or change.own_uid:
            merged.uid, merged.own_uid = change.uid, change.own_uid
        if change.gid is not None or change.own_gid:
            merged.gid, merged.own_gid = change.gid, change.own_gid
        return merged
    if isinstance(last, Create) and change.atime_ns is None and change.mtime_ns is None:
        merged_create = msgspec.structs.replace(last)
        if change.mode is not None:
            merged_create.mode = change.mode
        if change.uid is not None or change.own_uid:
            merged_create.uid = change.uid
        if change.gid is not None or change.own_gid:
            merged_create.gid = change.gid
        return merged_create
    return None
