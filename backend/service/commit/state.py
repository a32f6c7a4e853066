"""All that one batch knows while it is judged: the tree, contents, histories and attributes; pure.

Owns the sum of the parts and the two questions that several kinds of mutation ask: what a place may hold, and whether
a base still stands.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from backend.service.commit import refusals
from backend.service.commit.contents import Contents
from backend.service.commit.lineages import Lineages, Past
from backend.service.commit.tree import Tree
from backend.service.rows import DIRECTORY, InodeRow, Place
from drivefs.protocol.changes import FINAL, Base, OpResult, Status
from drivefs.protocol.ids import (
    ID_RANGE_LENGTH,
    NO_OP,
    DeviceId,
    Epoch,
    InodeId,
    OpNumber,
    Seq,
    UserId,
    WorkspaceId,
)


class XattrRow(NamedTuple):
    """The value of an extended attribute; `from_seq` 0: set in this batch."""

    value: bytes
    from_seq: Seq


@dataclass(frozen=True, slots=True)
class Author:
    """Who commits, where, and the seq that the batch gets if anything of it is applied."""

    workspace: WorkspaceId
    user: UserId
    device: DeviceId
    epoch: Epoch
    may_write: bool
    seq: Seq


@dataclass(slots=True)
class State:
    """What has been loaded for a batch, and what the batch has made of it so far.

    `ranges` are the starts of the id ranges handed to this epoch of the device; `foreign_ids` those of the ids that the
    batch names which belong to other workspaces. `pasts` are the histories of names that
    the device freed a short while ago. `outcomes` are the answers that are known: stored ones and this batch's.
    """

    author: Author
    tree: Tree
    contents: Contents
    lineages: Lineages
    loaded_xattrs: dict[InodeId, dict[bytes, XattrRow]]
    ranges: frozenset[InodeId]
    foreign_ids: frozenset[InodeId]
    pasts: dict[Place, Past]
    watermark: OpNumber = NO_OP
    xattrs: dict[InodeId, dict[bytes, XattrRow]] = field(init=False)
    outcomes: dict[OpNumber, OpResult] = field(default_factory=dict)
    freed: dict[Place, Past] = field(default_factory=dict)
    """Names that this batch freed: their histories are remembered."""
    restored: list[InodeId] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.xattrs = {inode: dict(values) for inode, values in self.loaded_xattrs.items()}

    def directory(self, inode: InodeId) -> InodeRow:
        """A directory that can take a name."""
        row = self.tree.living(inode)
        if row is None:
            raise refusals.conflict(refusals.NO_PARENT)
        if row.kind != DIRECTORY:
            raise refusals.conflict(refusals.NOT_DIRECTORY)
        return row

    def free_place(self, parent: InodeId, name: bytes) -> Place:
        """A place in a directory where nothing is."""
        self.directory(parent)
        place = Place(parent, name)
        if self.tree.at(place):
            raise refusals.conflict(refusals.EXISTS)
        return place

    def living(self, inode: InodeId) -> InodeRow:
        """An inode that has a name."""
        row = self.tree.living(inode)
        if row is None:
            raise refusals.conflict(refusals.ABSENT)
        return row

    def is_free_id(self, inode: InodeId) -> bool:
        """Whether an inode id was handed to this epoch of the device and is not in use."""
        is_own = inode - inode % ID_RANGE_LENGTH in self.ranges
        return is_own and inode not in self.tree.inodes and inode not in self.foreign_ids

    def require_settled(self, op: OpNumber) -> OpResult | None:
        """The answer to a predecessor; None if it was settled so long ago that it is forgotten.

        Raises:
            Refused: `conflict` when it was not applied, `blocked` when it has no final answer yet.
        """
        outcome = self.outcomes.get(op)
        if outcome is None:
            if op < self.watermark:
                return None
            raise refusals.Refused(Status.BLOCKED)
        if outcome.status is Status.OK:
            return outcome
        if outcome.status in FINAL:
            raise refusals.conflict(refusals.PREDECESSOR)
        raise refusals.Refused(Status.BLOCKED)

    def is_at(self, row: InodeRow, base: Base) -> bool:
        """Whether an inode's content is the one that a base names, be it under an earlier number."""
        number = base.revision
        if base.revision_op:
            outcome = self.require_settled(base.revision_op)
            if outcome is None:
                return self._was_made_by(row, base.revision_op)
            number = outcome.revision
        return row.content_since <= number <= row.revision

    def _was_made_by(self, row: InodeRow, op: OpNumber) -> bool:
        made = self.contents.current.get(row.inode) if row.revision else None
        return made is not None and (made.device, made.epoch, made.op) == (self.author.device, self.author.epoch, op)
