"""Which history a file goes on with: it follows the name through save by rename and save by rename-aside; pure.

Owns the lineages that change hands in a batch. A lineage begins with its first inode, whose id it bears, and needs no
row of its own until another inode takes it over. Invariants: at any time at most one inode with a name continues a
lineage; numbers within it only grow, and so do the numbers of each inode.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from backend.service.commit.contents import Contents
from backend.service.rows import InodeRow
from drivefs.protocol.ids import NO_REVISION, InodeId, LineageId, RevisionNumber, Seq


class Past(NamedTuple):
    """The history that a name had, and the highest number used in it."""

    inode: InodeId
    lineage: LineageId
    last_number: RevisionNumber


class LineageRow(NamedTuple):
    """A row of `lineages`, without its account."""

    lineage: LineageId
    inode: InodeId
    parent_lineage: LineageId | None
    parent_number: RevisionNumber | None


def past_of(row: InodeRow) -> Past:
    """The history that an inode continues."""
    return Past(row.inode, row.lineage, row.last_number)


@dataclass(slots=True)
class Lineages:
    """`rows` are those that exist; `changed` those to be written; `new_lineage` draws an id for a fork.

    `seq` is that of the batch: what a heir brings became the content of the name by it.
    """

    contents: Contents
    rows: dict[LineageId, LineageRow]
    new_lineage: Callable[[], LineageId]
    seq: Seq
    changed: dict[LineageId, LineageRow] = field(default_factory=dict)

    def take_over(self, heir: InodeRow, past: Past) -> None:
        """Let an inode go on with the history of a name; what content it has becomes that history's next revision.

        Not if another inode has done so since the name was freed. The inode that bore the name may have gone on under
        another one: the numbers it has used since are taken.
        """
        holder = self._holder(past.lineage)
        is_gone_on = holder is not None and holder.inode != past.inode
        if not past.last_number or past.lineage == heir.lineage or is_gone_on:
            return
        heir.lineage = past.lineage
        used = self.contents.last_numbers.get(past.lineage, NO_REVISION)
        heir.last_number = max(past.last_number, used, heir.last_number)
        if heir.revision:
            heir.last_number = heir.revision = RevisionNumber(heir.last_number + 1)
            self.contents.copy(heir, self.seq)
        self._give(heir.inode, past.lineage)

    def fork(self, row: InodeRow) -> None:
        """Give an inode, whose lineage another one has taken over, one of its own that records where it came from."""
        parent = row.lineage
        row.lineage = self.new_lineage()
        self.changed[row.lineage] = LineageRow(row.lineage, row.inode, parent, row.last_number)
        if row.revision:
            self.contents.copy(row)

    def is_taken(self, row: InodeRow) -> bool:
        """Whether another inode continues this one's lineage."""
        holder = self._holder(row.lineage)
        return holder is not None and holder.inode != row.inode

    def _holder(self, lineage: LineageId) -> LineageRow | None:
        """Who continues a lineage; None if that is still its first inode."""
        return self.changed.get(lineage) or self.rows.get(lineage)

    def _give(self, inode: InodeId, lineage: LineageId) -> None:
        known = self._holder(lineage)
        origin = (known.parent_lineage, known.parent_number) if known is not None else (None, None)
        self.changed[lineage] = LineageRow(lineage, inode, *origin)
