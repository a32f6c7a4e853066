"""Where inodes without a name last were: what a device needs to bring them back.

Owns the queries; nothing is judged or changed here. The place of a file whose history another file continues is that
file's: whoever edits a file that was replaced by rename means the name.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, select

from backend.metadata import schema
from backend.metadata.queries import is_asked, select_in
from backend.service.commit import refusals, territory
from backend.service.rows import FILE
from drivefs.protocol.changes import Exchange, Mutation, OpResult, Rename, SetAttributes, SetXattr, Status, Store
from drivefs.protocol.ids import NO_REVISION, InodeId
from drivefs.protocol.model import DentryState

MAX_DEPTH = 64
"""So many directories above what is gone are named; a device learns of those above them when it asks again."""

_i, _v, _l, _d = schema.inodes.c, schema.dentry_versions.c, schema.lineages.c, schema.dentries.c


def _own(column: ColumnElement[Any]) -> ColumnElement[bool]:
    return column == bindparam("account")


_HERE = (_own(_i.account), _i.workspace == bindparam("workspace"), is_asked(_i.inode))
_SEEN = (*_HERE, _i.nlink == 0, _i.from_seq >= bindparam("seen_from"))
_NAMELESS = select(_i.inode).where(*_SEEN)
_CONTENTS = select(_i.inode, _i.content_since, _i.content_since > _i.revision).where(*_SEEN)
_FILES = select(_i.lineage, _i.inode).where(*_HERE, _i.kind == FILE)
_LEFT = select(_v.inode, _v.parent, _v.name, _v.to_seq).where(_own(_v.account), is_asked(_v.inode)).order_by(_v.to_seq)
_OWNERS = select(_l.inode, _l.lineage).where(_own(_l.account), is_asked(_l.lineage))
_NAMED = select(_d.inode, _d.parent, _d.name, _d.from_seq).where(_own(_d.account), is_asked(_d.inode))


@dataclass(frozen=True, slots=True)
class Gone:
    """Reads for one reply, of what the caller may see."""

    connection: Connection
    ground: territory.Ground

    def tell(self, mutations: Sequence[Mutation], results: Sequence[OpResult]) -> None:
        """Add to refused results where what they lack last was; each inode is named once in a reply.

        Of a file, each is told too since which revision it had its last content, and if that is there no more.
        """
        asked: dict[InodeId, OpResult] = {}
        for mutation, result in zip(mutations, results, strict=True):
            for inode in _lacking(mutation, result):
                asked.setdefault(inode, result)
        frontier = set(asked)
        self._tell_contents(mutations, results)
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

    def _tell_contents(self, mutations: Sequence[Mutation], results: Sequence[OpResult]) -> None:
        lacking = [(m.inode, result) for m, result in zip(mutations, results, strict=True) if _is_absent(result)]
        known = {inode: told for inode, *told in self._seen(_CONTENTS, {inode for inode, _result in lacking})}
        for inode, result in lacking:
            result.content_since, result.is_emptied = known.get(inode, (NO_REVISION, False))

    def _nameless(self, inodes: set[InodeId]) -> set[InodeId]:
        return {inode for (inode,) in self._seen(_NAMELESS, inodes)}

    def _own(self, statement: Select[Any], values: Collection[Any]) -> Iterator[Any]:
        return select_in(self.connection, statement, values, account=self.ground.account)

    def _here(self, statement: Select[Any], inodes: Collection[InodeId], **bound: int) -> Iterator[Any]:
        here = {"account": self.ground.account, "workspace": self.ground.workspace, **bound}
        return select_in(self.connection, statement, inodes, **here)

    def _seen(self, statement: Select[Any], inodes: Collection[InodeId]) -> Iterator[Any]:
        return self._here(statement, inodes, seen_from=self.ground.seen_from)

    def _last_places(self, inodes: set[InodeId]) -> Iterable[DentryState]:
        places = {inode: DentryState(parent, name, inode, seq) for inode, parent, name, seq in self._own(_LEFT, inodes)}
        places.update(self._places_of_heirs(inodes))
        return places.values()

    def _places_of_heirs(self, inodes: set[InodeId]) -> dict[InodeId, DentryState]:
        """The places of those files that continue the histories of these."""
        by_lineage = dict(self._here(_FILES, inodes))
        heirs = {heir: by_lineage[line] for heir, line in self._own(_OWNERS, by_lineage)}
        return {
            heirs[heir]: DentryState(parent, name, heirs[heir], seq)
            for heir, parent, name, seq in self._own(_NAMED, set(heirs))
            if heirs[heir] != heir
        }


def _is_absent(result: OpResult) -> bool:
    """Whether a mutation was refused for lack of the inode that it is about."""
    return result.status is Status.CONFLICT and result.reason == refusals.ABSENT


def _lacking(mutation: Mutation, result: OpResult) -> list[InodeId]:
    """The inodes for lack of which a mutation was refused."""
    if result.status is not Status.CONFLICT:
        return []
    if _is_absent(result):
        return [mutation.inode]
    if result.reason != refusals.NO_PARENT or isinstance(mutation, SetAttributes | SetXattr | Store):
        return []
    if isinstance(mutation, Rename):
        return [mutation.new_parent]
    return [mutation.parent, mutation.other_parent] if isinstance(mutation, Exchange) else [mutation.parent]
