"""What the conflict rules ask of the two sides: of what this device has, and of what the backend has.

Owns the declarations only; `sides` answers them from the databases, and tests from dicts.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from drivefs.protocol.ids import InodeId, RevisionNumber
from drivefs.protocol.model import InodeState


class Place(NamedTuple):
    """Where a name stands."""

    parent: InodeId
    name: bytes


class Local(Protocol):
    """What this device has."""

    def inode(self, inode: InodeId) -> InodeState | None:
        """An inode that has a name here."""
        ...

    def at(self, place: Place) -> InodeId:
        """What own changes have put under a name; NO_INODE: nothing."""
        ...

    def is_removed(self, place: Place) -> bool:
        """Whether own changes have taken a name away from what the backend has under it."""
        ...

    def content(self, inode: InodeId) -> bytes | None:
        """The packed block list of what this device last sent, or is sending, of a file; None if there is none."""
        ...

    def is_edited(self, inode: InodeId) -> bool:
        """Whether a file has content here that no revision has."""
        ...

    def base(self, inode: InodeId) -> RevisionNumber | None:
        """The revision on which that content was made, if it has a number."""
        ...

    def children(self, directory: InodeId) -> Sequence[tuple[bytes, InodeId]]:
        """All names in a directory."""
        ...


class Remote(Protocol):
    """What the backend has, and what of this device is on its way there without being in doubt."""

    def inode(self, inode: InodeId) -> InodeState | None:
        """An inode that has a name."""
        ...

    def at(self, place: Place) -> InodeId:
        """What a name leads to; NO_INODE: to nothing."""
        ...

    def names(self, inode: InodeId) -> Sequence[Place]:
        """The names of an inode."""
        ...

    def content(self, state: InodeState) -> bytes:
        """The packed block list of a file's current revision."""
        ...

    def last_place(self, inode: InodeId) -> Place | None:
        """Where an inode without a name last was; None if nobody knows."""
        ...

    def was_rewritten(self, inode: InodeId, base: RevisionNumber | None) -> bool:
        """Whether a file got another content than that of a revision before it lost its name."""
        ...

    def is_emptied(self, inode: InodeId) -> bool:
        """Whether the backend has let the content of a file without a name go."""
        ...
