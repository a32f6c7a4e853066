"""Writing what a batch has become: the difference between what was loaded and what the state is now.

Owns the writing half of a commit's SQL; one statement for each table, with as many rows as there are. Invariant: what
a row was before moves to the versions table under the seq of this commit, so every earlier seq can still be read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import Connection, Delete, Insert, Table, Update, bindparam, delete, insert, update

from backend.metadata import queries, schema
from backend.metadata.schema import Trash
from backend.service.commit.batch import ChangeRow, Standing, StoredResult, Verdict
from backend.service.commit.lineages import LineageRow
from backend.service.commit.state import Author, State
from backend.service.commit.tree import NOWHERE
from backend.service.rows import DentryRow, InodeRow, Place
from backend.service.workspaces import Stamp
from drivefs.protocol.ids import NO_INODE, AccountId, InodeId, LineageId

asdict = msgspec.structs.asdict
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes one batch of one account."""

    connection: Connection
    account: AccountId
    state: State

    def write_commit(self, verdict: Verdict, stamp: Stamp) -> None:
        """Write everything that an applied batch changes but for the answers."""
        self._inodes()
        self._restored()
        self._names()
        self._xattrs()
        self._contents()
        self._lineages(self.state.lineages.changed)
        author = self.state.author
        scope = {"account": self.account, "workspace": author.workspace, "seq": author.seq}
        by = {"commit_id": stamp.commit_id, "time_ns": stamp.time_ns, "user": author.user, "device": author.device}
        self._insert(schema.commits, [{**scope, **by}])
        columns = ChangeRow._fields
        numbered = enumerate(verdict.changes)
        self._insert(schema.changes, [{**scope, "n": n, **dict(zip(columns, row, strict=True))} for n, row in numbered])
        self._update(schema.workspaces, ("workspace",), [{"workspace": author.workspace, "head_seq": author.seq}])

    def _inodes(self) -> None:
        tree, seq = self.state.tree, self.state.author.seq
        new: list[InodeRow] = []
        changed: list[InodeRow] = []
        for inode, row in tree.edited.items():
            if row.workspace != self.state.author.workspace:
                continue  # the root of a share, of which only the name is written here
            row.from_seq = seq
            (changed if inode in tree.loaded_inodes else new).append(row)
        before = [tree.loaded_inodes[row.inode] for row in changed]
        own = {"account": self.account}
        self._insert(schema.inode_versions, [{**own, **asdict(row), "to_seq": seq} for row in before])
        self._insert(schema.inodes, [{**own, **asdict(row)} for row in new])
        self._update(schema.inodes, ("inode",), map(asdict, changed))

    def _names(self) -> None:
        tree, seq = self.state.tree, self.state.author.seq
        closed: list[DentryRow] = []
        added: Rows = []
        moved: Rows = []
        for place, inode in tree.names.items():
            before = tree.loaded_names.get(place)
            if before is not None and before.inode == inode:
                continue
            if before is not None:
                closed.append(before)
            if inode != NO_INODE:
                row = DentryRow(place.parent, place.name, inode, *tree.links.get(inode, NOWHERE), seq)
                (added if before is None else moved).append(asdict(row))
        gone = [row for row in closed if not tree.names[Place(row.parent, row.name)]]
        own = {"account": self.account}
        self._insert(schema.dentry_versions, [{**own, **self._closed(row)} for row in closed])
        self._delete(schema.dentries, ("parent", "name"), ({"parent": r.parent, "name": r.name} for r in gone))
        self._update(schema.dentries, ("parent", "name"), moved)
        self._insert(schema.dentries, [{**own, **row} for row in added])

    def _closed(self, row: DentryRow) -> dict[str, Any]:
        """A superseded dentry, with what its closing means for trash and history."""
        state, place = self.state, Place(row.parent, row.name)
        inode = state.tree.inodes.get(row.inode)
        is_last = inode is not None and inode.nlink == 0 and state.tree.last_places.get(row.inode) == place
        # What another inode replaced and goes on from is in that one's history, and not in the trash.
        is_history = inode is not None and bool(state.tree.names[place]) and state.lineages.is_taken(inode)
        past = state.freed.get(place)
        if past is not None and past.inode != row.inode:
            past = None  # that of another inode, which came to this name and left it within the batch
        return {
            **asdict(row),
            "to_seq": state.author.seq,
            "trash": Trash.HELD if is_last and not is_history else Trash.NONE,
            "lineage": past.lineage if past is not None else 0,
            "last_number": past.last_number if past is not None else 0,
        }

    def _xattrs(self) -> None:
        seq, own = self.state.author.seq, {"account": self.account}
        closed: Rows = []
        added: Rows = []
        for inode, present in self.state.xattrs.items():
            before = self.state.loaded_xattrs.get(inode, {})
            for name, row in before.items():
                if present.get(name) != row:
                    closed.append({"inode": inode, "name": name, **row._asdict()})
            for name, row in present.items():
                if row.from_seq == 0:
                    added.append({**own, "inode": inode, "name": name, "value": row.value, "from_seq": seq})
        self._insert(schema.xattr_versions, [{**own, **row, "to_seq": seq} for row in closed])
        self._delete(schema.xattrs, ("inode", "name"), ({"inode": r["inode"], "name": r["name"]} for r in closed))
        self._insert(schema.xattrs, added)

    def _contents(self) -> None:
        contents, own = self.state.contents, {"account": self.account}
        self._insert(schema.revisions, [{**own, **asdict(row)} for row in contents.revisions])
        new = {run: count for run, count in contents.run_refs.items() if run not in contents.runs}
        packed = contents.new_runs
        self._insert(schema.runs, [{**own, "run": r, "packed": packed[r], "refs": n} for r, n in new.items()])
        known = ((run, contents.runs[run].refs + n) for run, n in contents.run_refs.items() if run not in new)
        self._update(schema.runs, ("run",), ({"run": run, "refs": refs} for run, refs in known))
        counted = ((block, contents.blocks[block].refs + n) for block, n in contents.block_refs.items())
        self._update(
            schema.blocks,
            ("block",),
            ({"block": block, "refs": refs, "unreferenced_ns": None} for block, refs in counted),
        )
        if contents.block_refs:
            figures = contents.account
            sums = {"stored_bytes": figures.stored_bytes, "pinned_bytes": figures.pinned_bytes}
            self._update(schema.accounts, (), [sums])

    def _lineages(self, changed: Mapping[LineageId, LineageRow]) -> None:
        known = self.state.lineages.rows
        new = [row._asdict() for row in changed.values() if row.lineage not in known]
        self._insert(schema.lineages, [{"account": self.account, **row} for row in new])
        moved = [{"lineage": r.lineage, "inode": r.inode} for r in changed.values() if r.lineage in known]
        self._update(schema.lineages, ("lineage",), moved)

    def _restored(self) -> None:
        """What has a name again is in the trash no more."""
        inodes: Sequence[InodeId] = self.state.restored
        if not inodes:
            return
        v = schema.dentry_versions
        here = (v.c.account == self.account, v.c.inode.in_(inodes), v.c.trash == Trash.HELD)
        self.connection.execute(update(v).where(*here).values(trash=Trash.LEFT))

    def _insert(self, table: Table, rows: Rows) -> None:
        queries.write_rows(self.connection, _inserting(table), rows)

    def _update(self, table: Table, key: tuple[str, ...], rows: Iterable[Mapping[str, Any]]) -> None:
        """Set all columns but the key's; the account is part of every key."""
        self._change(_updating(table, key), key, [(row, _without(row, ("account", *key))) for row in rows])

    def _delete(self, table: Table, key: tuple[str, ...], rows: Iterable[Mapping[str, Any]]) -> None:
        self._change(_deleting(table, key), key, [(row, {}) for row in rows])

    def _change(
        self, statement: Update | Delete, key: tuple[str, ...], rows: list[tuple[Mapping[str, Any], dict[str, Any]]]
    ) -> None:
        own = {"key_account": self.account}
        bound = [{**own, **{f"key_{name}": row[name] for name in key}, **values} for row, values in rows]
        queries.write_rows(self.connection, statement, bound)


@dataclass(frozen=True, slots=True)
class Answers:
    """Keeps the final answers to a device, with the drive that it commits to."""

    connection: Connection
    account: AccountId
    author: Author

    def write(self, results: Sequence[StoredResult], standing: Standing, before: Standing | None) -> None:
        """Keep these, and forget those that the device has had; `before` is None for a first commit."""
        author = self.author
        scope = {
            "account": self.account,
            "workspace": author.workspace,
            "device": author.device,
            "epoch": author.epoch,
        }
        rows = [
            {
                **scope,
                "n": result.n,
                "hash": hashed,
                "status": result.status.value,
                "reason": result.reason,
                "seq": result.seq,
                "revision": result.revision,
            }
            for hashed, result in results
        ]
        queries.write_rows(self.connection, _inserting(schema.op_results), rows)
        if before is None:
            self.connection.execute(_inserting(schema.device_epochs), {**scope, **standing._asdict()})
        elif standing != before:
            key = ("account", "workspace", "device", "epoch")
            bound = {**{f"key_{name}": scope[name] for name in key}, **standing._asdict()}
            self.connection.execute(_updating(schema.device_epochs, key[1:]), bound)
            if standing.watermark > before.watermark:
                self.connection.execute(_SETTLED, {**scope, "watermark": standing.watermark})


# Each made once: that took longer than executing it.


@cache
def _inserting(table: Table) -> Insert:
    return insert(table)


@cache
def _updating(table: Table, key: tuple[str, ...]) -> Update:
    return update(table).where(*_by_key(table, key))


@cache
def _deleting(table: Table, key: tuple[str, ...]) -> Delete:
    return delete(table).where(*_by_key(table, key))


def _by_key(table: Table, key: tuple[str, ...]) -> list[Any]:
    return [table.c[name] == bindparam(f"key_{name}") for name in ("account", *key)]


_r = schema.op_results.c
_SETTLED = delete(schema.op_results).where(
    *(_r[name] == bindparam(name) for name in ("account", "workspace", "device", "epoch")),
    _r.n < bindparam("watermark"),
)


def _without(row: Mapping[str, Any], key: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in key}
