"""Where inodes without a name last were: what a device needs to bring them back.

Owns the queries; nothing is judged or changed here. The place of a file whose history another file continues is that
file's: whoever edits a file that was replaced by rename means the name.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, select

from backend.metadata import schema
from backend.metadata.queries import select_in
from backend.service.commit import refusals
from backend.service.rows import FILE
from drivefs.protocol.changes import Exchange, Mutation, OpResult, Rename, SetAttributes, SetXattr, Status, Store
from drivefs.protocol.ids import AccountId, InodeId, WorkspaceId
from drivefs.protocol.model import DentryState

MAX_DEPTH = 64
"""So many directories above what is gone are named; a device learns of those above them when it asks again."""


@dataclass(frozen=True, slots=True)
class Gone:
    """Reads for one reply."""

    connection: Connection
    account: AccountId
    workspace: WorkspaceId

    def tell(self, mutations: Sequence[Mutation], results: Iterable[OpResult]) -> None:
        """Add to refused results where what they lack last was; each inode is named once in a reply."""
        asked: dict[InodeId, OpResult] = {}
        for mutation, result in zip(mutations, results, strict=True):
            for inode in _lacking(mutation, result):
                asked.setdefault(inode, result)
        frontier = set(asked)
        for _ in range(MAX_DEPTH):
            if not (frontier := self._nameless(frontier)):
                return
            following: set[InodeId] = set()
            for place in self._last_places(frontier):
                result = asked[place.inode]
                result.gone.append(place)
                if place.parent not in asked:
                    asked[place.parent] = result
                    following.add(place.parent)
            frontier = following

    def _nameless(self, inodes: set[InodeId]) -> set[InodeId]:
        c = schema.inodes.c
        rows = select_in(self.connection, select(c.inode).where(*self._mine(), c.nlink == 0), c.inode, inodes)
        return {inode for (inode,) in rows}

    def _mine(self) -> tuple[ColumnElement[bool], ...]:
        c = schema.inodes.c
        return (c.account == self.account, c.workspace == self.workspace)

    def _last_places(self, inodes: set[InodeId]) -> Iterable[DentryState]:
        v = schema.dentry_versions.c
        statement = select(v.inode, v.parent, v.name, v.to_seq).where(v.account == self.account).order_by(v.to_seq)
        places = {
            inode: DentryState(parent, name, inode, seq)
            for inode, parent, name, seq in select_in(self.connection, statement, v.inode, inodes)
        }
        places.update(self._places_of_heirs(inodes))
        return places.values()

    def _places_of_heirs(self, inodes: set[InodeId]) -> dict[InodeId, DentryState]:
        """The places of those files that continue the histories of these."""
        i, own, d = schema.inodes.c, schema.lineages.c, schema.dentries.c
        files = select(i.lineage, i.inode).where(*self._mine(), i.kind == FILE)
        by_lineage = dict(select_in(self.connection, files, i.inode, inodes))
        owners = select(own.inode, own.lineage).where(own.account == self.account)
        heirs = {heir: by_lineage[line] for heir, line in select_in(self.connection, owners, own.lineage, by_lineage)}
        named = select(d.inode, d.parent, d.name, d.from_seq).where(d.account == self.account)
        return {
            heirs[heir]: DentryState(parent, name, heirs[heir], seq)
            for heir, parent, name, seq in select_in(self.connection, named, d.inode, set(heirs))
            if heirs[heir] != heir
        }


def _lacking(mutation: Mutation, result: OpResult) -> list[InodeId]:
    """The inodes for lack of which a mutation was refused."""
    if result.status is not Status.CONFLICT:
        return []
    if result.reason == refusals.ABSENT:
        return [mutation.inode]
    if result.reason != refusals.NO_PARENT or isinstance(mutation, SetAttributes | SetXattr | Store):
        return []
    if isinstance(mutation, Rename):
        return [mutation.new_parent]
    return [mutation.parent, mutation.other_parent] if isinstance(mutation, Exchange) else [mutation.parent]
