"""I2 to the last attribute: the server's tables, the tree that the commits make, and what each device shows are one.

Owns the comparison at rest. A device hears of changes by the feed, and the server lists what its tables have: one that
comes later would see those, so they are compared with the sequential tree too. Times and owners are in no tree; there
the devices are to show what the server has. Times of access are each device's own, and so are those of a directory in
which something was made and is gone again; of lineages devices know nothing. What was moved to a name goes on with the
history of that name, and its content gets a number there. The answer to the move tells a device of it, and it shows the
number that it stored the content under until it lets go of the move; the server takes either for that content.
"""

from collections.abc import Mapping

import msgspec
from sqlalchemy import Connection, select

from backend.metadata import schema
from backend.service.rows import INODE_COLUMNS, InodeRow, inode_state
from cache.journal import Journal
from drivefs.protocol.changes import Rename
from drivefs.protocol.ids import InodeId, RevisionNumber
from drivefs.protocol.model import InodeKind, InodeState
from tests.simulation.sequence import Tree, shown


def states(connection: Connection) -> dict[InodeId, InodeState]:
    """What the server would tell of each inode that has a name."""
    i, x = schema.inodes.c, schema.xattrs.c
    xattrs: dict[int, dict[bytes, bytes]] = {}
    for row in connection.execute(select(x.inode, x.name, x.value)):
        xattrs.setdefault(row.inode, {})[row.name] = row.value
    rows = connection.execute(select(*(i[name] for name in INODE_COLUMNS)).where(i.nlink > 0))
    return {row.inode: inode_state(InodeRow(*row), xattrs.get(row.inode, {})) for row in rows}


def tables_differ(connection: Connection, tree: Tree) -> str:
    """Where the tables are not what the commits make; empty: nowhere."""
    d = schema.dentries.c
    names = {(row.parent, row.name): row.inode for row in connection.execute(select(d.parent, d.name, d.inode))}
    for place in names.keys() | tree.names.keys():
        if names.get(place) != tree.names.get(place):
            return f"the server lists {place} as {names.get(place)}, and the commits make it {tree.names.get(place)}"
    for inode, state in states(connection).items():
        if shown(state) != tree.looks(inode):
            return f"the server has {shown(state)} of {inode}, and the commits make it {tree.looks(inode)}"
    return ""


def numbered(journal: Journal) -> dict[InodeId, RevisionNumber]:
    """The numbers that contents were given by moves which a device has not let go of."""
    rows = journal.acknowledged()
    return {row.mutation.inode: row.revision for row in rows if isinstance(row.mutation, Rename) and row.revision}


def views_differ(
    name: str,
    view: Mapping[str, InodeState],
    told: Mapping[InodeId, InodeState],
    given: Mapping[InodeId, RevisionNumber],
) -> str:
    """Where a device shows something else than the server has; empty: nowhere. `given` is what `numbered` says."""
    for path, state in view.items():
        server = told.get(state.inode)
        if server is None:
            return f"{name} shows inode {state.inode} as {path!r}, which the server does not have"
        if given.get(state.inode) == server.revision:
            state = msgspec.structs.replace(state, revision=server.revision)
        if (here := _lasting(state)) != (there := _lasting(server)):
            return f"{name} shows {path!r} as {here}, and the server has {there}"
    return ""


def _lasting(state: InodeState) -> dict[str, object]:
    own = {"atime_ns", "seq", "blocks", "lineage"} | (
        {"mtime_ns", "ctime_ns"} if state.kind is InodeKind.DIRECTORY else set()
    )
    return {field: value for field, value in msgspec.structs.asdict(state).items() if field not in own}
