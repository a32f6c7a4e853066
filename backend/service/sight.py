"""What a member sees of a drive as of one of its commits: its own tree, and those of the shares that hang in it.

Owns which workspace speaks for an inode, and as of which of its commits. A user's own drive is the order of all that
the user sees: each commit of a share is taken in by one of the drive's (`following`), and this reads that table.
Invariants: an inode of a share in which the user is no active member is not seen, nor is any of it as it was before it
was shared, but by its owner; what a name leads to may therefore be unseen, and the name is left out.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Select, bindparam, select

from backend.metadata import schema
from backend.metadata.schema import Role
from backend.service import history, workspaces
from backend.service.caller import Caller
from backend.service.history import Child
from backend.service.rows import Place
from backend.service.workspaces import HOME, Access
from drivefs.protocol.ids import InodeId, Seq, WorkspaceId
from drivefs.protocol.model import InodeState

OF_SHARE = Seq(1)
"""The `seq` of states of a share: they are numbered by its own commits, which devices do not count by."""


PAGE_BYTES = 8 * 2**20
"""So many bytes of extended attributes one page has at most, and those of one inode more: devices take 64 MiB."""
PORTION_INODES = 1000


class Slice(NamedTuple):
    """One workspace, as of one of its commits."""

    access: Access
    seq: Seq


@dataclass(slots=True)
class Sight:
    """Reads for one request, in its transaction; the slice of the drive itself is the first."""

    connection: Connection
    slices: list[Slice]
    _found: dict[InodeId, Slice] = field(default_factory=dict)

    def inodes(self, ids: Collection[InodeId]) -> dict[InodeId, InodeState]:
        """The states of these inodes; those that are not seen are left out."""
        found: dict[InodeId, InodeState] = {}
        for part in self.slices:
            rest = [inode for inode in ids if inode not in found]
            if not rest:
                break
            states = _shown(part.access, history.inodes_at(self.connection, part.access, rest, part.seq))
            self._found.update(dict.fromkeys(states, part))
            if part is not self.slices[0]:
                states = {each: msgspec.structs.replace(state, seq=OF_SHARE) for each, state in states.items()}
            found.update(states)
        return found

    def first_inodes(self, ids: Sequence[InodeId]) -> tuple[dict[InodeId, InodeState], int]:
        """The states of the first of these, as many as a page holds, but at least one; and how many were looked at."""
        found: dict[InodeId, InodeState] = {}
        room_bytes = PAGE_BYTES
        for start in range(0, len(ids), PORTION_INODES):
            portion = ids[start : start + PORTION_INODES]
            states = self.inodes(set(portion))
            for position, inode in enumerate(portion, start):
                if inode in states:
                    room_bytes -= sum(len(name) + len(value) for name, value in states[inode].xattrs.items())
                    if room_bytes < 0 and found:
                        return found, position
                    found[inode] = states[inode]
        return found, len(ids)

    def slice_of(self, inode: InodeId) -> Slice:
        """Where an inode is; what is not seen counts as part of the drive itself, which does not have it."""
        if len(self.slices) > 1 and inode not in self._found:
            self.inodes([inode])
        return self._found.get(inode, self.slices[0])

    def names(self, places: Collection[Place]) -> dict[Place, tuple[InodeId, Seq]]:
        """What these names led to, and since which seq; those that were free are left out."""
        by_slice: dict[Slice, list[Place]] = {}
        for place in places:
            by_slice.setdefault(self.slice_of(place.parent), []).append(place)
        found: dict[Place, tuple[InodeId, Seq]] = {}
        for part, some in by_slice.items():
            found.update(history.names_at(self.connection, part.access, some, part.seq))
        return found

    def children(self, after: Place, limit: int) -> list[tuple[bytes, InodeId]]:
        """The first `limit` names, in byte order, of the directory `after.parent` that come after `after.name`."""
        part = self.slice_of(after.parent)
        return history.children_at(self.connection, part.access, after, limit, part.seq)

    def children_of_many(self, directories: Collection[InodeId], limit: int) -> list[Child]:
        """The first `limit` names in these directories, by directory and in byte order."""
        by_slice: dict[Slice, list[InodeId]] = {}
        for directory in directories:
            by_slice.setdefault(self.slice_of(directory), []).append(directory)
        found: list[Child] = []
        for part, some in by_slice.items():
            found += history.children_of_many_at(self.connection, part.access, some, limit, part.seq)
        return sorted(found)[:limit]


def _shown(access: Access, states: dict[InodeId, InodeState]) -> dict[InodeId, InodeState]:
    if access.role is Role.OWNER:
        return states
    return {inode: state for inode, state in states.items() if is_of_all(access, state.nlink, state.seq)}


def is_of_all(access: Access, nlink: int, since: Seq) -> bool:
    """Whether an inode that is so since a commit was not removed before it was shared.

    What was removed then went along, and is its owner's to see; unless it has come back.
    """
    return nlink > 0 or since >= access.first_seq


def look(connection: Connection, access: Access, seq: Seq) -> Sight:
    """What a member sees of a workspace as of one of its commits."""
    return Sight(connection, [Slice(access, seq), *_shares(connection, access, seq)])


def home_of(connection: Connection, caller: Caller, workspace: WorkspaceId, inode: InodeId) -> Access:
    """The workspace of an inode, or what may have been one, as the caller sees it: the one asked, or a share in it.

    Raises:
        ProtocolError: `not_found`: there is no such drive.
    """
    access = workspaces.require(connection, caller.user, workspace)
    return look(connection, access, access.head_seq).slice_of(inode).access


def _shares(connection: Connection, access: Access, seq: Seq) -> list[Slice]:
    if access.kind != HOME:
        return []
    bound = {"user": access.user, "drive_account": access.account, "drive": access.workspace, "seq": seq}
    rows = connection.execute(_SHARES, bound)
    return [Slice(workspaces.access_of(row[:-1]), Seq(row[-1])) for row in rows if row[-1] is not None]


def _followed() -> Select[Any]:
    f, w = schema.followed.c, schema.workspaces.c
    here = (f.account == bindparam("drive_account"), f.workspace == bindparam("drive"), f.share == w.workspace)
    latest = select(f.share_seq).where(*here, f.seq <= bindparam("seq")).order_by(f.seq.desc()).limit(1)
    shares = workspaces.accesses().where(w.kind == workspaces.SHARE)
    return shares.add_columns(latest.correlate(schema.workspaces).scalar_subquery())


_SHARES = _followed()
