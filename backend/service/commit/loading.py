"""Loading all that a batch touches, in a constant number of queries.

Owns the reading half of a commit's SQL. What belongs to another workspace of the account is left out, as if it did not
exist; only its inode ids are known as taken.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Table, and_, func, select
from sqlalchemy.sql import Select

from backend.metadata import schema
from backend.metadata.queries import select_in, select_in_pairs
from backend.metadata.schema import BlockState, CopyState
from backend.service.commit import wants as wanted
from backend.service.commit.batch import StoredResult
from backend.service.commit.contents import Account, Contents, KnownBlock, KnownRun, split_runs
from backend.service.commit.lineages import LineageRow, Lineages, Past
from backend.service.commit.state import Author, State, XattrRow
from backend.service.commit.tree import Tree
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


@dataclass(frozen=True, slots=True)
class Loader:
    """Reads for one batch of one account; `now_ns` is the time of the commit to be."""

    connection: Connection
    account: AccountId
    author: Author
    now_ns: int

    def load(self, wants: Wants, figures: Account, new_lineage: Callable[[], LineageId]) -> State:
        """Load the state on which the batch is judged."""
        pasts = self._pasts(wants.new_files)
        inodes = self._inodes(wants.inodes | {past.inode for past in pasts.values()})
        own = {inode: row for inode, row in inodes.items() if row.workspace == self.author.workspace}
        tree = Tree(
            loaded_inodes=own,
            loaded_names=self._names(place for place in wants.places if place.parent in own),
            child_counts=self._child_counts(wanted.removed_directories(wants, own)),
            parents=self._ancestors(wants.parents & own.keys()) if wanted.moves_directories(wants, own) else {},
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
            lineages=Lineages(contents, self._lineages(histories), new_lineage),
            loaded_xattrs=self._xattrs(wants.with_xattrs & own.keys()),
            ranges=self._ranges() if wants.creates else frozenset(),
            foreign_ids=frozenset(inodes.keys() - own.keys()),
            pasts=pasts,
        )

    def watermark(self) -> OpNumber | None:
        """Below which op number everything of this epoch is settled; None if nothing of it was ever committed."""
        epochs = schema.device_epochs
        statement = select(epochs.c.watermark).where(*self._op_scope(epochs))
        return self.connection.execute(statement).scalar_one_or_none()

    def results(self, ops: set[OpNumber]) -> dict[OpNumber, StoredResult]:
        """The stored answers to these ops."""
        t = schema.op_results
        statement = select(t.c.n, t.c.hash, t.c.status, t.c.seq, t.c.revision, t.c.reason).where(*self._op_scope(t))
        return {
            n: StoredResult(hashed, OpResult(n, Status(status), seq=seq, revision=revision, reason=reason))
            for n, hashed, status, seq, revision, reason in select_in(self.connection, statement, t.c.n, ops)
        }

    def _op_scope(self, table: Table) -> tuple[ColumnElement[bool], ...]:
        c, author = table.c, self.author
        mine = (c.device == author.device, c.epoch == author.epoch)
        return (c.account == self.account, c.workspace == author.workspace, *mine)

    def _select(self, table: Table, columns: Iterable[str]) -> Select[tuple[object, ...]]:
        return select(*(table.c[column] for column in columns)).where(table.c.account == self.account)

    def _inodes(self, ids: set[InodeId]) -> dict[InodeId, InodeRow]:
        statement = self._select(schema.inodes, INODE_COLUMNS)
        rows = select_in(self.connection, statement, schema.inodes.c.inode, ids)
        return {row[0]: InodeRow(*row) for row in rows}

    def _names(self, places: Iterable[Place]) -> dict[Place, DentryRow]:
        t = schema.dentries
        rows = select_in_pairs(self.connection, self._select(t, DENTRY_COLUMNS), (t.c.parent, t.c.name), list(places))
        return {Place(row[0], row[1]): DentryRow(*row) for row in rows}

    def _child_counts(self, directories: set[InodeId]) -> dict[InodeId, int]:
        if not directories:
            return {}
        t = schema.dentries
        statement = select(t.c.parent, func.count()).where(t.c.account == self.account).group_by(t.c.parent)
        return dict(select_in(self.connection, statement, t.c.parent, directories))

    def _ancestors(self, directories: set[InodeId]) -> dict[InodeId, InodeId]:
        """The parent of each of these directories and of all above them."""
        t = schema.dentries
        own = t.c.account == self.account
        # Not filtered by kind: what is asked for are directories, and a directory has one name.
        start = select(t.c.inode, t.c.parent).where(own, t.c.inode.in_(list(directories)))
        above = start.cte("above", recursive=True)
        above = above.union(select(t.c.inode, t.c.parent).where(own, t.c.inode == above.c.parent))
        rows = self.connection.execute(select(above.c.inode, above.c.parent))
        return {row.inode: row.parent for row in rows}

    def _current_revisions(self, rows: Iterable[InodeRow]) -> dict[InodeId, RevisionRow]:
        t = schema.revisions
        keys = [(row.lineage, row.revision) for row in rows if row.revision]
        if not keys:
            return {}
        found = select_in_pairs(self.connection, self._select(t, REVISION_COLUMNS), (t.c.lineage, t.c.number), keys)
        revisions = [RevisionRow(*row) for row in found]
        return {revision.inode: revision for revision in revisions}

    def _last_numbers(self, lineages: set[LineageId]) -> dict[LineageId, RevisionNumber]:
        if not lineages:
            return {}
        t = schema.revisions
        statement = select(t.c.lineage, func.max(t.c.number)).where(t.c.account == self.account).group_by(t.c.lineage)
        return dict(select_in(self.connection, statement, t.c.lineage, lineages))

    def _runs(self, ids: set[RunId]) -> dict[RunId, KnownRun]:
        if not ids:
            return {}
        statement = self._select(schema.runs, ("run", "packed", "refs"))
        rows = select_in(self.connection, statement, schema.runs.c.run, ids)
        return {run: KnownRun(packed, refs) for run, packed, refs in rows}

    def _blocks(self, ids: set[BlockId]) -> dict[BlockId, KnownBlock]:
        """The blocks that can be served; one whose copies are all lost counts as not stored."""
        if not ids:
            return {}
        b, c, p = schema.blocks, schema.block_copies, schema.pins
        copied = and_(c.c.account == b.c.account, c.c.block == b.c.block, c.c.generation == b.c.generation)
        mine = and_(p.c.account == b.c.account, p.c.block == b.c.block, p.c.device == self.author.device)
        columns = select(b.c.block, b.c.state, b.c.size_bytes, b.c.refs, p.c.expires_ns)
        statement = columns.select_from(b.join(c, copied).outerjoin(p, mine))
        statement = statement.where(b.c.account == self.account, c.c.state == CopyState.STORED)
        return {
            block: KnownBlock(size, refs, state == BlockState.STORED, expires is not None and expires > self.now_ns)
            for block, state, size, refs, expires in select_in(self.connection, statement, b.c.block, ids)
        }

    def _xattrs(self, ids: set[InodeId]) -> dict[InodeId, dict[bytes, XattrRow]]:
        if not ids:
            return {}
        t = schema.xattrs
        found: dict[InodeId, dict[bytes, XattrRow]] = {}
        statement = self._select(t, ("inode", "name", "value", "from_seq"))
        for inode, name, value, from_seq in select_in(self.connection, statement, t.c.inode, ids):
            found.setdefault(inode, {})[name] = XattrRow(value, from_seq)
        return found

    def _ranges(self) -> frozenset[InodeId]:
        t = schema.id_ranges
        statement = select(t.c.start).where(t.c.device == self.author.device, t.c.epoch == self.author.epoch)
        return frozenset(self.connection.execute(statement).scalars())

    def _lineages(self, ids: set[LineageId]) -> dict[LineageId, LineageRow]:
        if not ids:
            return {}
        t = schema.lineages
        statement = self._select(t, LineageRow._fields)
        return {row[0]: LineageRow(*row) for row in select_in(self.connection, statement, t.c.lineage, ids)}

    def _pasts(self, places: set[Place]) -> dict[Place, Past]:
        """The histories of those names that this device freed a short while ago; the latest of each."""
        if not places:
            return {}
        v, c = schema.dentry_versions, schema.commits
        here = (c.c.account == self.account, c.c.workspace == self.author.workspace)
        oldest = select(func.min(c.c.seq)).where(*here, c.c.time_ns >= self.now_ns - ASIDE_NS)
        recent = self.connection.execute(oldest).scalar_one()
        if recent is None:
            return {}
        by_commit = and_(c.c.account == v.c.account, c.c.seq == v.c.to_seq, c.c.workspace == self.author.workspace)
        statement = (
            select(v.c.parent, v.c.name, v.c.inode, v.c.lineage, v.c.last_number)
            .select_from(v.join(c, by_commit))
            .where(v.c.account == self.account, v.c.to_seq >= recent, v.c.last_number > 0)
            .where(c.c.device == self.author.device, v.c.name.in_({place.name for place in places}))
            .order_by(v.c.to_seq)
        )
        rows = select_in(self.connection, statement, v.c.parent, {place.parent for place in places})
        pasts = {Place(parent, name): Past(inode, lineage, last) for parent, name, inode, lineage, last in rows}
        return {place: past for place, past in pasts.items() if place in places}
