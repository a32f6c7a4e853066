"""Snapshots: moments of a workspace that have a name, and which revisions they keep.

Owns the names and the rule of what a snapshot needs: each content that a file with a name had then. Nothing is copied
for one; whoever lets revisions go asks here first. Invariants: a name means one moment until it is deleted, and is no
time; only the owner of a workspace makes or deletes its snapshots.
"""

from collections.abc import Collection
from types import NoneType
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, select

from backend.metadata import schema
from backend.metadata.queries import is_asked, select_in
from backend.metadata.schema import MemberState, Role
from backend.service import history, workspaces
from backend.service.caller import Caller
from backend.service.ground import Ground
from backend.service.operations import Asked, once
from backend.service.workspaces import Access
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.history import (
    MAX_SNAPSHOTS,
    CreateSnapshotRequest,
    DeleteSnapshotRequest,
    SnapshotInfo,
    SnapshotsReply,
)
from drivefs.protocol.ids import MAX_ID, AccountId, InodeId, RevisionNumber, Seq, WorkspaceId
from drivefs.protocol.names import is_valid_name
from drivefs.protocol.times import parse_time


class Snapshots:
    """The named moments of all workspaces."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def list(self, caller: Caller, workspace: WorkspaceId) -> SnapshotsReply:
        """All snapshots of a workspace, in the order of their moments.

        Raises:
            ProtocolError: `not_found`: no such drive.
        """
        return await self._ground.database.read(_list, caller, workspace)

    async def create(self, caller: Caller, workspace: WorkspaceId, request: CreateSnapshotRequest) -> SnapshotInfo:
        """Give a moment a name; durable on return.

        Raises:
            ProtocolError: `conflict`: the name is taken; `malformed`: it cannot be one; `forbidden`; `not_found`:
                there was no drive then; `too_large`: there are too many.
        """
        return await self._ground.database.write(self._create, caller, workspace, request)

    async def delete(self, caller: Caller, workspace: WorkspaceId, request: DeleteSnapshotRequest) -> None:
        """Take a name away; what it kept goes when its time comes.

        Raises:
            ProtocolError: `not_found`; `forbidden`.
        """
        await self._ground.database.write(self._delete, caller, workspace, request)

    def _create(
        self, connection: Connection, caller: Caller, workspace: WorkspaceId, request: CreateSnapshotRequest
    ) -> SnapshotInfo:
        asked = Asked(caller, request, self._ground.now_ns())
        return once(connection, asked, SnapshotInfo, lambda: self._name(connection, caller, workspace, request))

    def _name(
        self, connection: Connection, caller: Caller, workspace: WorkspaceId, request: CreateSnapshotRequest
    ) -> SnapshotInfo:
        access = _owned(connection, caller, workspace)
        _check_name(request.name)
        s = schema.snapshots.c
        here = (s.account == access.account, s.workspace == workspace)
        count = connection.execute(select(func.count()).where(*here)).scalar_one()
        if count >= MAX_SNAPSHOTS:
            raise ProtocolError(
                Code.TOO_LARGE, f"The drive has {count} snapshots, and no more are kept. Delete some. Nothing was made."
            )
        if find(connection, access, request.name) is not None:
            raise ProtocolError(
                Code.CONFLICT, f"There is a snapshot called {request.name!r} already. It is as it was: choose another."
            )
        # Not by the clock: it may have been set back, and commits never go back.
        moment = workspaces.newest_at(connection, access, request.time_ns or MAX_ID)
        if moment is None:
            raise ProtocolError(Code.NOT_FOUND, "There was no drive yet at that time. Nothing was made.")
        history.readable_seq(access, moment.seq)
        row = {"name": request.name, "seq": moment.seq, "time_ns": moment.time_ns, "created_ns": self._ground.now_ns()}
        by = {"user": caller.user, "device": caller.device}
        connection.execute(insert(schema.snapshots), {"account": access.account, "workspace": workspace, **row, **by})
        return next(each for each in _all(connection, access) if each.name == request.name)

    def _delete(
        self, connection: Connection, caller: Caller, workspace: WorkspaceId, request: DeleteSnapshotRequest
    ) -> None:
        asked = Asked(caller, request, self._ground.now_ns())
        once(connection, asked, NoneType, lambda: _delete(connection, caller, workspace, request.name))


def _check_name(name: str) -> None:
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not is_valid_name(encoded) or not name.isprintable() or parse_time(name) is not None:
        raise ProtocolError(
            Code.MALFORMED,
            "That cannot be the name of a snapshot: it has to be printable, without a slash, of at most 255 bytes, and "
            "not a time. Nothing was made.",
        )


def _owned(connection: Connection, caller: Caller, workspace: WorkspaceId) -> Access:
    access = workspaces.require(connection, caller.user, workspace, lock=True)
    if access.role is not Role.OWNER:
        raise ProtocolError(Code.FORBIDDEN, "Its owner alone names moments of what is shared: they take his room.")
    return access


def _list(connection: Connection, caller: Caller, workspace: WorkspaceId) -> SnapshotsReply:
    return SnapshotsReply(snapshots=_all(connection, workspaces.require(connection, caller.user, workspace)))


def _all(connection: Connection, access: Access) -> list[SnapshotInfo]:
    s, d, u = schema.snapshots, schema.devices, schema.users
    names = (d.c.name.label("device_name"), u.c.name.label("user_name"))
    columns = select(s.c.name, s.c.seq, s.c.time_ns, s.c.created_ns, *names)
    joined = columns.select_from(s.outerjoin(d, d.c.device == s.c.device).outerjoin(u, u.c.user == s.c.user))
    here = joined.where(s.c.account == access.account, s.c.workspace == access.workspace, s.c.seq >= access.first_seq)
    return [
        SnapshotInfo(
            name=row.name,
            seq=row.seq,
            time_ns=row.time_ns,
            created_ns=row.created_ns,
            device=row.device_name or "",
            user=row.user_name or "",
        )
        for row in connection.execute(here.order_by(s.c.seq, s.c.name))
    ]


def _delete(connection: Connection, caller: Caller, workspace: WorkspaceId, name: str) -> None:
    access, s = _owned(connection, caller, workspace), schema.snapshots.c
    same = (s.account == access.account, s.workspace == workspace, s.name == name)
    if not connection.execute(delete(schema.snapshots).where(*same)).rowcount:
        raise _no_such(name)


def find(connection: Connection, access: Access, name: str) -> Any:
    """The moment of that name (`seq`, `time_ns`); None: there is none."""
    s = schema.snapshots.c
    same = (s.account == access.account, s.workspace == access.workspace, s.name == name, s.seq >= access.first_seq)
    return connection.execute(select(s.seq, s.time_ns).where(*same)).one_or_none()


def moment(connection: Connection, access: Access, name: str) -> tuple[Seq, int]:
    """The commit and the time that a name means.

    Raises:
        ProtocolError: `not_found`.
    """
    found = find(connection, access, name)
    if found is None:
        raise _no_such(name)
    return found.seq, found.time_ns


def _no_such(name: str) -> ProtocolError:
    return ProtocolError(Code.NOT_FOUND, f"There is no snapshot called {name!r}.")


class Shown(NamedTuple):
    """A moment of one workspace that some member has given a name: its time, and the workspace's commit then."""

    workspace: WorkspaceId
    time_ns: int
    seq: Seq


def shown(connection: Connection, account: AccountId) -> list[Shown]:
    """All moments of an account's workspaces that snapshots show: its owner's, and those of who else is a member.

    A snapshot is of the whole drive of its user; what hangs in it from elsewhere is as it was at the same time.
    """
    found: list[Shown] = []
    for workspace, named, time_ns, seq in connection.execute(_SHOWN, {"account": account}):
        here = {"account": account, "workspace": workspace, "time_ns": time_ns}
        at = seq if named == workspace else connection.execute(_NEWEST, here).scalar_one()
        if at:
            found.append(Shown(workspace, time_ns, at))
    return found


def needed(
    connection: Connection, account: AccountId, files: Collection[InodeId]
) -> set[tuple[InodeId, RevisionNumber]]:
    """The contents of these files that snapshots show, each by the number that the file itself gave it then."""
    found: set[tuple[InodeId, RevisionNumber]] = set()
    for workspace, _, seq in shown(connection, account):
        bound = {"account": account, "workspace": workspace, "seq": seq}
        for statement in _NEEDED:
            found.update((inode, number) for inode, number in select_in(connection, statement, files, **bound))
    return found


def _needed(table: Any) -> Any:
    c = table.c
    here = (c.account == bindparam("account"), c.workspace == bindparam("workspace"), is_asked(c.inode))
    statement = select(c.inode, c.revision).where(*here, c.nlink > 0, c.from_seq <= bindparam("seq"))
    return statement.where(c.to_seq > bindparam("seq")) if "to_seq" in c else statement


_NEEDED = [_needed(table) for table in (schema.inodes, schema.inode_versions)]
_s, _u, _m, _c = schema.snapshots, schema.user_workspaces, schema.members, schema.commits.c
_whose = and_(_u.c.account == _s.c.account, _u.c.workspace == _s.c.workspace)
_member = and_(_m.c.user == _u.c.user, _m.c.state == MemberState.ACTIVE)
_SHOWN = (
    select(_m.c.workspace, _s.c.workspace, _s.c.time_ns, _s.c.seq)
    .select_from(_s.join(_u, _whose).join(_m, _member))
    .where(_m.c.account == bindparam("account"))
)
_NEWEST = select(func.max(_c.seq)).where(
    _c.account == bindparam("account"), _c.workspace == bindparam("workspace"), _c.time_ns <= bindparam("time_ns")
)
