"""The tree of a workspace as of a seq: now, or at any time since its history floor.

Owns the SQL that reads current rows and versions together. A row is valid for from_seq <= seq < to_seq; current rows
have no end. All functions run inside a read transaction of the caller's, so that all they read is one moment.
"""

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, Table, bindparam, select

from backend.metadata import schema
from backend.metadata.queries import are_asked, is_asked, select_in, select_in_pairs
from backend.service.rows import INODE_COLUMNS, InodeRow, Place, inode_state
from backend.service.workspaces import HOME, Access
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import InodeId, Seq
from drivefs.protocol.model import InodeState


def _valid(table: Table, *columns: str) -> Select[Any]:
    """Rows of an account as of a seq; parameters `account` and `seq`."""
    c = table.c
    statement = select(*(c[name] for name in columns))
    statement = statement.where(c.account == bindparam("account"), c.from_seq <= bindparam("seq"))
    return statement.where(c.to_seq > bindparam("seq")) if "to_seq" in c else statement


def _inodes(table: Table, *, before_shared: bool = False) -> Select[Any]:
    own: ColumnElement[bool] = table.c.workspace == bindparam("workspace")
    if before_shared:
        # What was shared later was part of the drive then, and its rows say so by their times only.
        w = schema.workspaces.c
        later = select(w.workspace).where(w.account == bindparam("account"), w.first_seq > bindparam("seq"))
        own |= table.c.workspace.in_(later)
    return _valid(table, *INODE_COLUMNS).where(own, is_asked(table.c.inode))


def _children(table: Table) -> Select[Any]:
    c = table.c
    statement = _valid(table, "name", "inode").where(c.parent == bindparam("parent"), c.name > bindparam("after"))
    return statement.order_by(c.name).limit(bindparam("most"))


def _children_of_many(table: Table) -> Select[Any]:
    c = table.c
    statement = _valid(table, "parent", "name", "inode").where(is_asked(c.parent))
    return statement.order_by(c.parent, c.name).limit(bindparam("most"))


_INODES = [_inodes(table) for table in (schema.inodes, schema.inode_versions)]
_INODES_OF_HOME = [_inodes(table, before_shared=True) for table in (schema.inodes, schema.inode_versions)]
_XATTRS = [
    _valid(table, "inode", "name", "value").where(is_asked(table.c.inode))
    for table in (schema.xattrs, schema.xattr_versions)
]
_d = schema.dentries.c
_PLACED = ("parent", "name", "inode", "from_seq")
_NAMES = _valid(schema.dentries, *_PLACED).where(are_asked(_d.parent, _d.name))
_PAST_NAMES = _valid(schema.dentry_versions, *_PLACED).where(is_asked(schema.dentry_versions.c.parent))
_DENTRIES = (schema.dentries, schema.dentry_versions)
_CHILDREN = [_children(table) for table in _DENTRIES]
_CHILDREN_OF_MANY = [_children_of_many(table) for table in _DENTRIES]


def readable_seq(access: Access, as_of: Seq) -> Seq:
    """The seq to read at; 0 asks for the head.

    Raises:
        ProtocolError: `conflict`: the workspace has not come so far; `not_found`: what was then is not kept any more.
    """
    if as_of == 0:
        return access.head_seq
    if as_of > access.head_seq:
        raise ProtocolError(
            Code.CONFLICT, f"The drive is at commit {access.head_seq} and has no commit {as_of}: read its state anew."
        )
    if as_of < max(access.history_floor, access.first_seq):
        raise ProtocolError(Code.NOT_FOUND, f"What the drive was at commit {as_of} is not kept any more.")
    return as_of


def inodes_at(connection: Connection, access: Access, ids: Collection[InodeId], seq: Seq) -> dict[InodeId, InodeState]:
    """The states of these inodes; those that the workspace did not have are left out."""
    found = inode_rows_at(connection, access, ids, seq)
    xattrs = _xattrs_at(connection, access, found.keys(), seq)
    return {inode: inode_state(row, xattrs.get(inode, {})) for inode, row in found.items()}


def inode_rows_at(
    connection: Connection, access: Access, ids: Collection[InodeId], seq: Seq
) -> dict[InodeId, InodeRow]:
    """The rows of these inodes; those that the workspace did not have are left out."""
    found: dict[InodeId, InodeRow] = {}
    for statement in _INODES_OF_HOME if access.kind == HOME and seq < access.head_seq else _INODES:
        rest = [inode for inode in ids if inode not in found]
        if rest:
            rows = _inode_rows(connection, access, statement, rest, seq)
            found.update((row[0], InodeRow(*row)) for row in rows)
    return found


def _inode_rows(
    connection: Connection, access: Access, statement: Select[Any], ids: Collection[InodeId], seq: Seq
) -> Iterator[Any]:
    return select_in(connection, statement, ids, account=access.account, workspace=access.workspace, seq=seq)


def _xattrs_at(
    connection: Connection, access: Access, ids: Collection[InodeId], seq: Seq
) -> dict[InodeId, dict[bytes, bytes]]:
    found: dict[InodeId, dict[bytes, bytes]] = {}
    for statement in _XATTRS:
        for inode, name, value in select_in(connection, statement, ids, account=access.account, seq=seq):
            found.setdefault(inode, {})[name] = value
    return found


def names_at(
    connection: Connection, access: Access, places: Collection[Place], seq: Seq
) -> dict[Place, tuple[InodeId, Seq]]:
    """What these names led to, and since which seq; those that were free are left out."""
    rows = select_in_pairs(connection, _NAMES, places, account=access.account, seq=seq)
    found = {Place(parent, name): (inode, since) for parent, name, inode, since in rows}
    rest = [place for place in places if place not in found]
    return {**found, **_names_of_the_past(connection, access, rest, seq)} if rest else found


def _names_of_the_past(
    connection: Connection, access: Access, places: Collection[Place], seq: Seq
) -> dict[Place, tuple[InodeId, Seq]]:
    """As `names_at`, of superseded names: their key leads to what a directory has lost since, not to single names."""
    parents = {place.parent for place in places}
    rows = select_in(connection, _PAST_NAMES, parents, account=access.account, seq=seq)
    wanted = set(places)
    found = ((Place(parent, name), (inode, since)) for parent, name, inode, since in rows)
    return {place: state for place, state in found if place in wanted}


def children_at(
    connection: Connection, access: Access, after: Place, limit: int, seq: Seq
) -> list[tuple[bytes, InodeId]]:
    """The first `limit` names, in byte order, of the directory `after.parent` that come after `after.name`."""
    found: list[tuple[bytes, InodeId]] = []
    bound = {"account": access.account, "seq": seq, "parent": after.parent, "after": after.name, "most": limit}
    for statement in _CHILDREN:
        found += [(name, inode) for name, inode in connection.execute(statement, bound)]
    return sorted(found)[:limit]


class Child(NamedTuple):
    """A name in one of several directories."""

    parent: InodeId
    name: bytes
    inode: InodeId


def children_of_many_at(
    connection: Connection, access: Access, directories: Collection[InodeId], limit: int, seq: Seq
) -> list[Child]:
    """The first `limit` names in these directories, by directory and in byte order."""
    found: list[Child] = []
    for statement in _CHILDREN_OF_MANY:
        rows = select_in(connection, statement, directories, account=access.account, seq=seq, most=limit)
        found += [Child(*row) for row in rows]
    return sorted(found)[:limit]
