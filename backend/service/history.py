"""The tree of a workspace as of a seq: now, or at any time since its history floor.

Owns the SQL that reads current rows and versions together. A row is valid for from_seq <= seq < to_seq; current rows
have no end. All functions run inside a read transaction of the caller's, so that all they read is one moment.
"""

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, Table, select

from backend.metadata import schema
from backend.metadata.queries import select_in, select_in_pairs
from backend.service.rows import INODE_COLUMNS, InodeRow, Place, inode_state
from backend.service.workspaces import Access
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import InodeId, Seq
from drivefs.protocol.model import InodeState


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
    found = {row[0]: InodeRow(*row) for row in _inode_rows(connection, access, schema.inodes, ids, seq)}
    if len(found) < len(ids):
        rest = [inode for inode in ids if inode not in found]
        rows = _inode_rows(connection, access, schema.inode_versions, rest, seq)
        found.update((row[0], InodeRow(*row)) for row in rows)
    xattrs = _xattrs_at(connection, access, found.keys(), seq)
    return {inode: inode_state(row, xattrs.get(inode, {})) for inode, row in found.items()}


def _inode_rows(
    connection: Connection, access: Access, table: Table, ids: Collection[InodeId], seq: Seq
) -> Iterator[Any]:
    columns = select(*(table.c[name] for name in INODE_COLUMNS))
    statement = _valid_at(columns, table, access, seq).where(table.c.workspace == access.workspace)
    return select_in(connection, statement, table.c.inode, ids)


def _xattrs_at(
    connection: Connection, access: Access, ids: Collection[InodeId], seq: Seq
) -> dict[InodeId, dict[bytes, bytes]]:
    found: dict[InodeId, dict[bytes, bytes]] = {}
    for table in (schema.xattrs, schema.xattr_versions):
        statement = _valid_at(select(table.c.inode, table.c.name, table.c.value), table, access, seq)
        for inode, name, value in select_in(connection, statement, table.c.inode, ids):
            found.setdefault(inode, {})[name] = value
    return found


def names_at(
    connection: Connection, access: Access, places: Collection[Place], seq: Seq
) -> dict[Place, tuple[InodeId, Seq]]:
    """What these names led to, and since which seq; those that were free are left out."""
    c = schema.dentries.c
    statement = _valid_at(select(c.parent, c.name, c.inode, c.from_seq), schema.dentries, access, seq)
    rows = select_in_pairs(connection, statement, (c.parent, c.name), places)
    found = {Place(parent, name): (inode, since) for parent, name, inode, since in rows}
    rest = [place for place in places if place not in found]
    return {**found, **_names_of_the_past(connection, access, rest, seq)} if rest else found


def _names_of_the_past(
    connection: Connection, access: Access, places: Collection[Place], seq: Seq
) -> dict[Place, tuple[InodeId, Seq]]:
    """As `names_at`, of superseded names: their key leads to what a directory has lost since, not to single names."""
    c = schema.dentry_versions.c
    statement = _valid_at(select(c.parent, c.name, c.inode, c.from_seq), schema.dentry_versions, access, seq)
    rows = select_in(connection, statement, c.parent, {place.parent for place in places})
    wanted = set(places)
    found = ((Place(parent, name), (inode, since)) for parent, name, inode, since in rows)
    return {place: state for place, state in found if place in wanted}


def children_at(
    connection: Connection, access: Access, after: Place, limit: int, seq: Seq
) -> list[tuple[bytes, InodeId]]:
    """The first `limit` names, in byte order, of the directory `after.parent` that come after `after.name`."""
    found: list[tuple[bytes, InodeId]] = []
    for table in (schema.dentries, schema.dentry_versions):
        c = table.c
        statement = _valid_at(select(c.name, c.inode), table, access, seq)
        statement = statement.where(c.parent == after.parent, c.name > after.name).order_by(c.name).limit(limit)
        found += [(name, inode) for name, inode in connection.execute(statement)]
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
    for table in (schema.dentries, schema.dentry_versions):
        c = table.c
        statement = _valid_at(select(c.parent, c.name, c.inode), table, access, seq)
        statement = statement.where(c.parent.in_(directories)).order_by(c.parent, c.name).limit(limit)
        found += [Child(*row) for row in connection.execute(statement)]
    return sorted(found)[:limit]


def _valid_at(statement: Select[Any], table: Table, access: Access, seq: Seq) -> Select[Any]:
    statement = statement.where(table.c.account == access.account, table.c.from_seq <= seq)
    return statement.where(table.c.to_seq > seq) if "to_seq" in table.c else statement
