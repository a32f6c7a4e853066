"""What synchronising needs of the file system: frozen contents to publish, and word of what became of them.

Owns the declarations only; `fs` satisfies them, and `mount` brings the two together.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from drivefs.protocol.changes import Base
from drivefs.protocol.ids import InodeId, OpNumber, RevisionNumber
from drivefs.protocol.model import InodeState
from drivefs.sync import uploader
from drivefs.sync.happenings import NameChange

Announce = Callable[[Sequence[NameChange], Sequence[tuple[InodeState, InodeState]]], None]


class Snapshot(uploader.Snapshot, Protocol):
    """The frozen content of one file, with what its `Store` has to say."""

    base: Base
    mtime_ns: int
    ctime_ns: int


class Contents(Protocol):
    """The contents of files with changes that are not published."""

    @property
    def notes(self) -> list[str]:
        """What people should know of content here."""
        ...

    def unpublished_bytes(self, inode: InodeId) -> int | None:
        """The size of the file if it has content that no `Store` carries yet, or is open for writing; else None."""
        ...

    async def snapshot(self, inode: InodeId) -> Snapshot | None:
        """Freeze what has been written so far; None if there is nothing to publish or the inode has no name left.

        Writes go on meanwhile, behind what is frozen. Nothing durable happens; a snapshot may simply be dropped.

        Raises:
            `remote.errors.RemoteError`: the base block list is not here and cannot be had.
        """
        ...

    def storing(self, snapshot: Any, op: OpNumber, blocks: bytes) -> bool:
        """Note, in the caller's journal transaction, that `op` is the `Store` of what `snapshot` gave.

        `blocks` is the packed block list of the whole content. The snapshot gets the time that was set of the file
        since it was frozen, if it was not written since. False if the inode has lost its last name, or the snapshot
        its meaning, in the meantime: append nothing then.
        """
        ...

    def frozen(self, inode: InodeId) -> tuple[Snapshot, bytes] | None:
        """The content and packed block list of the store on its way, as given to `storing`; after a crash too."""
        ...

    def published(self, inode: InodeId, op: OpNumber, revision: RevisionNumber) -> None:
        """Note, in the caller's journal transaction, that the store is committed: the content's new base.

        Records that the snapshot covered are dropped; later ones lie over the new base, and the inode is offered for
        publication again.
        """
        ...

    def remember(self, inodes: Iterable[InodeId]) -> Callable[[], None]:
        """Give what puts the contents of these back, in memory, when a transaction fails in which they went elsewhere.

        What came to be open in that transaction is not open any more then.
        """
        ...

    def moved(self, inode: InodeId, copy: InodeId, op: OpNumber) -> None:
        """Note, in the caller's journal transaction, that unpublished content now belongs to the inode `copy`.

        `op` is the `Store` of the copy that has what was frozen. The whole draft, and the descriptors that wrote it,
        follow; `inode` shows again what the backend has.
        """
        ...

    def merged(self, inode: InodeId, into: InodeState, op: OpNumber) -> None:
        """Note, in the caller's journal transaction, that a file is another one, which has the same content.

        `op` is the `Store` of the same content that is not needed any more, or `NO_OP`. What was written since lies
        over the revision of `into`; all descriptors follow.
        """
        ...

    def is_open(self, inode: InodeId) -> bool:
        """Whether somebody has the file open."""
        ...

    def is_written(self, inode: InodeId) -> bool:
        """Whether somebody may write to the file."""
        ...

    async def base_bytes(self, inode: InodeId, start: int, end: int) -> bytes:
        """Bytes of the revision on which the unpublished content of a file was made.

        Raises:
            `remote.errors.RemoteError`: they are not here and cannot be had.
        """
        ...

    def given_up(self, inode: InodeId) -> None:
        """Note, in the caller's journal transaction, that unpublished content is dropped: no revision will have it.

        Who has the file open for reading goes on with what the databases have.
        """
        ...


class Views(Protocol):
    """The caches in front of the local databases, and the kernel's behind them."""

    def forget_cached(self, inodes: Iterable[InodeId], names: Iterable[tuple[InodeId, bytes]]) -> None:
        """Drop what is cached of these inodes and (parent, name) pairs: the databases have something newer."""
        ...

    def cached(self, inode: InodeId) -> InodeState | None:
        """The state that programs are shown, if it is in memory."""
        ...

    def leads_to(self, parent: InodeId, name: bytes) -> InodeId | None:
        """What programs are told that a name leads to, `NO_INODE` if to nothing; None: that is not known here."""
        ...

    def open_inodes(self) -> list[InodeId]:
        """The files that somebody has open."""
        ...

    def replaced(self, states: Iterable[InodeState]) -> None:
        """These states are newer than what is cached and look the same to programs: cache them instead."""
        ...


class Invalidator(Protocol):
    """Makes the kernel forget; never blocks and never called while a lock is held."""

    def inode(self, inode: InodeId, *, content: bool) -> None:
        """The attributes of an inode have changed, and its content if `content`."""
        ...

    def entry(self, parent: InodeId, name: bytes) -> None:
        """What a name leads to has changed."""
        ...

    def merged(self, inode: InodeId, into: InodeId, *, is_new: bool) -> None:
        """Whoever has one inode open, or works in it, has the other one from now on.

        `is_new`: programs have not seen that one yet, so what they know of the first goes on being right for it.
        """
        ...

    def parted(self, inode: InodeId) -> None:
        """An inode that was found to be another one, and merged, is itself again."""
        ...


@dataclass(frozen=True, slots=True)
class Shown:
    """What programs are shown comes from these caches: all that has to hear of a change."""

    views: Views
    invalidator: Invalidator
    announce: Announce = lambda names, states: None
    """Who watches hears of names and states that are others now, though nothing came from elsewhere just then."""

    def attributes_changed(self, inode: InodeId) -> None:
        """The databases have other attributes of an inode than those that are cached."""
        self.views.forget_cached([inode], [])
        self.invalidator.inode(inode, content=False)
