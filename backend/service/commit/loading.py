"""Loading all that a batch touches, in a constant number of queries.

Owns the reading half of a commit's SQL. What belongs to another workspace of the account is left out, as if it did not
exist; only its inode ids are known as taken.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam, func, select
from sqlalchemy.sql import Select

from backend.metadata import schema
from backend.metadata.queries import are_asked, is_asked, select_in, select_in_pairs
from backend.metadata.schema import BlockState, CopyState
from backend.service.commit import wants as wanted
from backend.service.commit.batch import Standing, StoredResult
from backend.service.commit.contents import Account, Contents, KnownBlock, KnownRun, split_runs
from backend.service.commit.lineages import LineageRow, Lineages, Past
from backend.service.commit.state import Author, State, XattrRow
from backend.service.commit.tree import Link, Tree, is_link
from backend.service.commit.wants import Wants
from backend.service.rows import (
    DENTRY_COLUMNS,
    INODE_COLUMNS,
    REVISION_COLUMNS,
    DentryRow,
    InodeRow,
    Place,
    RevisionRow,
)
from drivefs.protocol.changes import OpResult, Status
from drivefs.protocol.ids import AccountId, BlockId, InodeId, LineageId, OpNumber, RevisionNumber, RunId

ASIDE_NS = 60 * 10**9
"""How long a freed name keeps its history for what the same device creates there (save by rename-aside)."""


# -- statements, each made once --------------------------------------------------------------------------------------


def _own(table: Table, columns: Iterable[str]) -> Select[Any]:
    """Columns of an account's rows; parameter `account`."""
    return select(*(table.c[column] for column in columns)).where(table.c.account == bindparam("account"))


def _of_epoch(table: Table, columns: Iterable[str]) -> Select[Any]:
    """The same of one device's epoch in a workspace; parameters as `Loader._op_scope` gives them."""
    names = ("workspace", "device", "epoch")
    return _own(table, columns).where(*(table.c[name] == bindparam(name) for name in names))


def _grouped(statement: Select[Any], column: ColumnElement[Any]) -> Select[Any]:
    return statement.where(is_asked(column)).group_by(column)


def _above() -> Select[Any]:
    """Not filtered by kind: what is asked for are directories, and a directory has one name."""
    c = schema.dentries.c
    named = select(c.inode, c.parent).where(c.account == bindparam("account"))
    above = named.where(is_asked(c.inode)).cte("above", recursive=True)
    above = above.union(named.where(c.inode == above.c.parent))
    return select(above.c.inode, above.c.parent)


def _stored_blocks() -> Select[Any]:
    b, c, p = schema.blocks, schema.block_copies, schema.pins
    copied = and_(c.c.account == b.c.account, c.c.block == b.c.block, c.c.generation == b.c.generation)
    mine = and_(p.c.account == b.c.account, p.c.block == b.c.block, p.c.device == bindparam("device"))
    columns = select(b.c.block, b.c.state, b.c.size_bytes, b.c.refs, p.c.expires_ns)
    statement = columns.select_from(b.join(c, copied).outerjoin(p, mine))
    return statement.where(b.c.account == bindparam("account"), c.c.state == CopyState.STORED, is_asked(b.c.block))


def _freed_names() -> Select[Any]:
    v, c = schema.dentry_versions, schema.commits
    by_commit = and_(c.c.account == v.c.account, c.c.seq == v.c.to_seq, c.c.workspace == bindparam("workspace"))
    return (
        select(v.c.parent, v.c.name, v.c.inode, v.c.lineage, v.c.last_number)
        .select_from(v.join(c, by_commit))
        .where(v.c.account == bindparam("account"), v.c.to_seq >= bindparam("since"), v.c.last_number > 0)
        .where(c.c.device == bindparam("device"), v.c.name.in_(bindparam("names", expanding=True)))
        .where(is_asked(v.c.parent))
        .order_by(v.c.to_seq)
    )


_STANDING = _of_epoch(schema.device_epochs, ("watermark", "sent"))
_RESULTS = _of_epoch(schema.op_results, ("n", "hash", "status", "seq", "revision", "reason")).where(
    is_asked(schema.op_results.c.n)
)
_INODES = _own(schema.inodes, INODE_COLUMNS).where(is_asked(schema.inodes.c.inode))
_d, _r, _i, _c = schema.dentries.c, schema.revisions.c, schema.id_ranges.c, schema.commits.c
_NAMES = _own(schema.dentries, DENTRY_COLUMNS).where(are_asked(_d.parent, _d.name))
_CHILD_COUNTS = _grouped(_own(schema.dentries, ("parent",)).add_columns(func.count()), _d.parent)
_ABOVE = _above()
_REVISIONS = _own(schema.revisions, REVISION_COLUMNS).where(are_asked(_r.lineage, _r.number))
_LAST_NUMBERS = _grouped(_own(schema.revisions, ("lineage",)).add_columns(func.max(_r.number)), _r.lineage)
_RUNS = _own(schema.runs, ("run", "packed", "refs")).where(is_asked(schema.runs.c.run))
_BLOCKS = _stored_blocks()
_XATTRS = _own(schema.xattrs, ("inode", "name", "value", "from_seq")).where(is_asked(schema.xattrs.c.inode))
_RANGES = select(_i.start).where(_i.device == bindparam("device"), _i.epoch == bindparam("epoch"))
_LINEAGES = _own(schema.lineages, LineageRow._fields).where(is_asked(schema.lineages.c.lineage))
_FIRST_SINCE = select(func.min(_c.seq)).where(
    _c.account == bindparam("account"), _c.workspace == bindparam("workspace"), _c.time_ns >= bindparam("since")
)
_FREED_NAMES = _freed_names()


@dataclass(frozen=True, slots=True)
class Loader:
    """Reads for one batch of one account; `now_ns` is the time of the commit to be.

    `clock_ns` is what the clock says, by which pins end. It may be years before the commit, which comes after the last
    one, whatever the clock said then.
    """

    connection: Connection
    account: AccountId
    author: Author
    now_ns: int
    clock_ns: int

    def load(self, wants: Wants, figures: Account, new_lineage: Callable[[], LineageId]) -> State:
        """Load the state on which the batch is judged."""
        pasts = self._pasts(wants.new_files)
        inodes = self._inodes(wants.inodes | {past.inode for past in pasts.values()})
        own = {inode: row for inode, row in inodes.items() if row.workspace == self.author.workspace}
        names = self._names(place for place in wants.places if place.parent in own)
        shared = self._shared(names.values())
        tree = Tree(
            loaded_inodes={**own, **shared},
            loaded_names=names,
            child_counts=self._child_counts(wanted.removed_directories(wants, own)),
            parents=self._ancestors(wants.parents & own.keys()) if wanted.moves_directories(wants, own) else {},
            links={row.inode: Link(row.target_account, row.target_workspace) for row in names.values() if is_link(row)},
        )
        with_content = wants.with_content | {past.inode for past in pasts.values()}
        current = self._current_revisions(own[inode] for inode in with_content if inode in own)
        contents = Contents(
            account=figures,
            current=current,
            runs=self._runs(wants.runs.union(*(split_runs(each.runs) for each in current.values()))),
            blocks=self._blocks(wants.blocks),
            last_numbers=self._last_numbers({past.lineage for past in pasts.values()}),
        )
        histories = {past.lineage for past in pasts.values()} | {row.lineage for row in own.values() if row.lineage}
        return State(
            author=self.author,
            tree=tree,
            contents=contents,
            lineages=Lineages(contents, self._lineages(histories), new_lineage, self.author.seq),
            loaded_xattrs=self._xattrs(wants.with_xattrs & own.keys()),
            ranges=self._ranges() if wants.creates else frozenset(),
            foreign_ids=frozenset(inodes.keys() - own.keys() - shared.keys()),
            pasts=pasts,
        )

    def standing(self) -> Standing | None:
        """How far this epoch has come; None if nothing of it was ever committed."""
        row = self.connection.execute(_STANDING, self._op_scope()).one_or_none()
        return None if row is None else Standing(*row)

    def results(self, ops: set[OpNumber]) -> dict[OpNumber, StoredResult]:
        """The stored answers to these ops."""
        rows = select_in(self.connection, _RESULTS, ops, **self._op_scope())
        return {
            n: StoredResult(hashed, OpResult(n, Status(status), seq=seq, revision=revision, reason=reason))
            for n, hashed, status, seq, revision, reason in rows
        }

    def _op_scope(self) -> dict[str, int]:
        author = self.author
        return {
            "account": self.account, "workspace": author.workspace, "device": author.device, "epoch": author.epoch
        }  # fmt: skip

    def _select_in(self, statement: Select[Any], values: Collection[Any], **bound: object) -> Iterator[Any]:
        return select_in(self.connection, statement, values, account=self.account, **bound)

    def _select_in_pairs(self, statement: Select[Any], pairs: Collection[tuple[Any, Any]]) -> Iterator[Any]:
        return select_in_pairs(self.connection, statement, pairs, account=self.account)

    def _inodes(self, ids: set[InodeId]) -> dict[InodeId, InodeRow]:
        return {row[0]: InodeRow(*row) for row in self._select_in(_INODES, ids)}

    def _shared(self, names: Iterable[DentryRow]) -> dict[InodeId, InodeRow]:
        """The roots of the shares to which these names lead: names may be moved, the roots are not changed here."""
        links = [row for row in names if is_link(row)]
        found: dict[InodeId, InodeRow] = {}
        for row in links:
            asked = select_in(self.connection, _INODES, [row.inode], account=row.target_account)
            found.update((each[0], InodeRow(*each)) for each in asked)
        return found

    def _names(self, places: Iterable[Place]) -> dict[Place, DentryRow]:
        return {Place(row[0], row[1]): DentryRow(*row) for row in self._select_in_pairs(_NAMES, list(places))}

    def _child_counts(self, directories: set[InodeId]) -> dict[InodeId, int]:
        return dict(self._select_in(_CHILD_COUNTS, directories))

    def _ancestors(self, directories: set[InodeId]) -> dict[InodeId, InodeId]:
        """The parent of each of these directories and of all above them."""
        return {row.inode: row.parent for row in self._select_in(_ABOVE, directories)}

    def _current_revisions(self, rows: Iterable[InodeRow]) -> dict[InodeId, RevisionRow]:
        keys = [(row.lineage, row.revision) for row in rows if row.revision]
        revisions = [RevisionRow(*row) for row in self._select_in_pairs(_REVISIONS, keys)]
        return {revision.inode: revision for revision in revisions}

    def _last_numbers(self, lineages: set[LineageId]) -> dict[LineageId, RevisionNumber]:
        return dict(self._select_in(_LAST_NUMBERS, lineages))

    def _runs(self, ids: set[RunId]) -> dict[RunId, KnownRun]:
        return {run: KnownRun(packed, refs) for run, packed, refs in self._select_in(_RUNS, ids)}

    def _blocks(self, ids: set[BlockId]) -> dict[BlockId, KnownBlock]:
        """The blocks that can be served; one whose copies are all lost counts as not stored."""
        return {
            block: KnownBlock(size, refs, state == BlockState.STORED, expires is not None and expires > self.clock_ns)
            for block, state, size, refs, expires in self._select_in(_BLOCKS, ids, device=self.author.device)
        }

    def _xattrs(self, ids: set[InodeId]) -> dict[InodeId, dict[bytes, XattrRow]]:
        found: dict[InodeId, dict[bytes, XattrRow]] = {}
        for inode, name, value, from_seq in self._select_in(_XATTRS, ids):
            found.setdefault(inode, {})[name] = XattrRow(value, from_seq)
        return found

    def _ranges(self) -> frozenset[InodeId]:
        bound = {"device": self.author.device, "epoch": self.author.epoch}
        return frozenset(self.connection.execute(_RANGES, bound).scalars())

    def _lineages(self, ids: set[LineageId]) -> dict[LineageId, LineageRow]:
        return {row[0]: LineageRow(*row) for row in self._select_in(_LINEAGES, ids)}

    def _pasts(self, places: set[Place]) -> dict[Place, Past]:
        """The histories of those names that this device freed a short while ago; the latest of each."""
        if not places:
            return {}
        here = {"account": self.account, "workspace": self.author.workspace}
        recent = self.connection.execute(_FIRST_SINCE, {**here, "since": self.now_ns - ASIDE_NS}).scalar_one()
        if recent is None:
            return {}
        here |= {"device": self.author.device, "since": recent}
        names = list({place.name for place in places})
        rows = select_in(self.connection, _FREED_NAMES, {place.parent for place in places}, names=names, **here)
        pasts = {Place(parent, name): Past(inode, lineage, last) for parent, name, inode, lineage, last in rows}
        return {place: past for place, past in pasts.items() if place in places}
