"""Where things are in a drive, as a path from its root; what is in a share, by way of where that hangs.

Owns the climbing; changes nothing.
"""

from sqlalchemy import Connection, select

from backend.metadata import schema
from backend.service import hanging
from backend.service.hanging import Target
from backend.service.workspaces import Access
from drivefs.protocol.ids import InodeId

MAX_DEPTH = 4096
"""More directories than any path has."""


class Paths:
    """The paths of directories of a workspace as a drive has it, each found out once."""

    def __init__(self, connection: Connection, home: Access, access: Access) -> None:
        self._connection = connection
        self._access = access
        self._known: dict[InodeId, bytes | None] = {access.root: b""}
        if access.workspace != home.workspace:
            target = Target(access.account, access.workspace, access.root)
            place = hanging.place_of(connection, home.account, target)
            above = None if place is None else Paths(connection, home, home).of(place.parent)
            path = None if place is None or above is None else b"/".join(filter(None, (above, place.name)))
            self._known[access.root] = path

    def of(self, directory: InodeId) -> bytes | None:
        """The path of a directory, from the root on; None: it is in no directory that is there."""
        climbed: list[tuple[InodeId, bytes]] = []
        d = schema.dentries.c
        while directory not in self._known and len(climbed) < MAX_DEPTH:
            here = (d.account == self._access.account, d.inode == directory)
            row = self._connection.execute(select(d.parent, d.name).where(*here).limit(1)).one_or_none()
            if row is None:
                self._known[directory] = None
                break
            climbed.append((directory, row.name))
            directory = row.parent
        path = self._known.get(directory)
        for inode, name in reversed(climbed):
            path = None if path is None else path + b"/" + name if path else name
            self._known[inode] = path
        return path


def of_inode(connection: Connection, home: Access, access: Access, inode: InodeId) -> bytes | None:
    """One path of an inode of a workspace; None: it is in no directory that is there."""
    if inode == access.root:
        return Paths(connection, home, access).of(inode)
    d = schema.dentries.c
    here = (d.account == access.account, d.inode == inode)
    row = connection.execute(select(d.parent, d.name).where(*here).limit(1)).one_or_none()
    above = None if row is None else Paths(connection, home, access).of(row.parent)
    return None if row is None or above is None else b"/".join(filter(None, (above, row.name)))
