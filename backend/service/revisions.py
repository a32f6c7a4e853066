"""Revisions: the contents that a file had, whichever inode they were under, and those that are kept for good.

Owns how the history of an inode is put together of lineages, the listing, and the marks; what is let go one day is not
decided here. Invariants: a number means one content in the history of an inode; a member sees the revisions of the
workspace only, and only who may write there marks any.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Integer, Select, and_, bindparam, delete, insert, or_, select

from backend.metadata import schema
from backend.metadata.schema import Role
from backend.service import history, sight
from backend.service.caller import Caller
from backend.service.ground import Ground
from backend.service.workspaces import SHARE, WRITERS, Access
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.history import KeepRequest, RevisionInfo, RevisionsReply, RevisionsRequest
from drivefs.protocol.ids import MAX_ID, InodeId, LineageId, RevisionNumber, WorkspaceId

MAX_FORKS = 1000
"""More lineages than any history goes through."""


class Stretch(NamedTuple):
    """The revisions of one lineage up to a number."""

    lineage: LineageId
    last: RevisionNumber


class Revisions:
    """Tells of the revisions of all workspaces."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def list(self, caller: Caller, workspace: WorkspaceId, request: RevisionsRequest) -> RevisionsReply:
        """One page of the history that an inode goes on with, by number.

        Raises:
            ProtocolError: `not_found`: no such drive, or no such file in it, now or ever.
        """
        return await self._ground.database.read(_list, caller, workspace, request)

    async def keep(self, caller: Caller, workspace: WorkspaceId, request: KeepRequest) -> None:
        """Mark a revision to be kept for good, or take the mark away; durable on return.

        Raises:
            ProtocolError: `not_found`; `forbidden`: this user may not write there.
        """
        await self._ground.database.write(self._keep, caller, workspace, request)

    def _keep(self, connection: Connection, caller: Caller, workspace: WorkspaceId, request: KeepRequest) -> None:
        access = sight.home_of(connection, caller, workspace, request.inode)
        if access.role not in WRITERS:
            raise ProtocolError(Code.FORBIDDEN, "This drive is shared with you to be read: nothing was marked.")
        k = schema.kept
        found = find(connection, access, request.inode, request.revision)
        if found is None:
            raise _no_such_revision(request.revision)
        key = {"account": access.account, "lineage": found.lineage, "number": request.revision}
        connection.execute(delete(k).where(*(k.c[name] == value for name, value in key.items())))
        if request.is_kept:
            connection.execute(insert(k).values(**key, user=caller.user, kept_ns=self._ground.now_ns()))


def _no_such_revision(number: int) -> ProtocolError:
    return ProtocolError(Code.NOT_FOUND, f"Revision {number} of the file is not kept any more, or never was.")


def are_seen() -> ColumnElement[bool]:
    """That a revision is one that a member sees; with the parameters that `seen_by` gives."""
    r = schema.revisions.c
    at_sharing = and_(r.lineage == bindparam("shared_lineage"), r.number == bindparam("shared_number"))
    is_all = bindparam("is_all", type_=Integer) == 1
    return or_(r.workspace == bindparam("workspace"), is_all, at_sharing)


def seen_by(connection: Connection, access: Access, inode: InodeId) -> dict[str, int]:
    """The parameters of `are_seen`, of the revisions of one inode of a workspace.

    The owner of a share sees what its files were before; other members what they have been since, and at that moment:
    of what had been removed by then nothing, unless it has come back.
    """
    bound = {"account": access.account, "workspace": access.workspace, "is_all": 0}
    if access.kind == SHARE and access.role is Role.OWNER:
        bound["is_all"] = 1
    elif access.kind == SHARE:
        row = history.inode_rows_at(connection, access, [inode], access.first_seq).get(inode)
        if row is not None and (row.nlink or _is_of_all(connection, access, inode)):
            return {**bound, "shared_lineage": row.lineage, "shared_number": row.revision}
    return {**bound, "shared_lineage": 0, "shared_number": 0}


def _is_of_all(connection: Connection, access: Access, inode: InodeId) -> bool:
    row = history.inode_rows_at(connection, access, [inode], access.head_seq).get(inode)
    return row is not None and sight.is_of_all(access, row.nlink, row.from_seq)


def _stretches(connection: Connection, access: Access, inode: InodeId) -> list[Stretch]:
    """The lineages that an inode's history goes through, the newest first; none: there is no such file."""
    bound = {"account": access.account, "workspace": access.workspace, "inode": inode}
    lineage = connection.execute(_LINEAGE, bound).scalar_one_or_none()
    found, last = list[Stretch](), MAX_ID
    while lineage and len(found) < MAX_FORKS:
        found.append(Stretch(lineage, RevisionNumber(last)))
        row = connection.execute(_ORIGIN, {"account": access.account, "lineage": lineage}).one_or_none()
        if row is None or row.parent_lineage is None:
            break
        lineage, last = row.parent_lineage, min(last, row.parent_number)
    return found


def find(connection: Connection, access: Access, inode: InodeId, number: RevisionNumber) -> Any:
    """The revision of that number in the history that an inode goes on with: size, runs and lineage; None: none is."""
    bound = {**seen_by(connection, access, inode), "number": number}
    for lineage, last in _stretches(connection, access, inode):
        if number <= last:
            found = connection.execute(_FOUND, {**bound, "lineage": lineage}).one_or_none()
            if found is not None:
                return found
    return None


def _list(connection: Connection, caller: Caller, workspace: WorkspaceId, request: RevisionsRequest) -> RevisionsReply:
    access = sight.home_of(connection, caller, workspace, request.inode)
    stretches = _stretches(connection, access, request.inode)
    if not stretches:
        raise ProtocolError(Code.NOT_FOUND, "There is no such file in this drive.")
    found: dict[int, RevisionInfo] = {}
    # What a fork took along stands in both lineages: it came to be where it was first.
    for stretch in stretches:
        found.update((each.number, each) for each in _page(connection, access, stretch, request))
    numbers = sorted(found)
    page = numbers[: request.limit]
    return RevisionsReply(revisions=[found[number] for number in page], more=len(numbers) > len(page))


def _page(
    connection: Connection, access: Access, stretch: Stretch, request: RevisionsRequest
) -> Sequence[RevisionInfo]:
    r = schema.revisions.c
    here = (r.account == access.account, are_seen(), r.lineage == stretch.lineage)
    wanted = (r.number > request.after, r.number <= stretch.last)
    statement = _ROWS.where(*here, *wanted).order_by(r.number).limit(request.limit + 1)
    return [
        RevisionInfo(
            number=row.number,
            size=row.size,
            time_ns=row.published_ns if row.published_ns is not None else row.time_ns,
            mtime_ns=row.time_ns,
            device=row.device_name or "",
            user=row.user_name or "",
            is_kept=row.kept_ns is not None,
        )
        for row in connection.execute(statement, seen_by(connection, access, request.inode))
    ]


def _rows() -> Select[Any]:
    """Revisions with the commit that gave them their number, and the names of who made it."""
    r, c, k, d, u = schema.revisions, schema.commits, schema.kept, schema.devices, schema.users
    commit = and_(c.c.account == r.c.account, c.c.workspace == r.c.workspace, c.c.seq == r.c.seq)
    mark = and_(k.c.account == r.c.account, k.c.lineage == r.c.lineage, k.c.number == r.c.number)
    joined = r.outerjoin(c, commit).outerjoin(k, mark)
    joined = joined.outerjoin(d, d.c.device == c.c.device).outerjoin(u, u.c.user == c.c.user)
    named = (d.c.name.label("device_name"), u.c.name.label("user_name"))
    published = c.c.time_ns.label("published_ns")
    return select(r.c.number, r.c.size, r.c.time_ns, published, k.c.kept_ns, *named).select_from(joined)


_ROWS = _rows()
_i, _l, _r = schema.inodes.c, schema.lineages.c, schema.revisions.c
_LINEAGE = select(_i.lineage).where(
    _i.account == bindparam("account"), _i.inode == bindparam("inode"), _i.workspace == bindparam("workspace")
)
_ORIGIN = select(_l.parent_lineage, _l.parent_number).where(
    _l.account == bindparam("account"), _l.lineage == bindparam("lineage")
)
_FOUND = select(_r.size, _r.runs, _r.lineage).where(
    _r.account == bindparam("account"),
    are_seen(),
    _r.lineage == bindparam("lineage"),
    _r.number == bindparam("number"),
)
