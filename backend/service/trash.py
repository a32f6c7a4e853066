"""The trash: what was removed and is kept for a time, where it was, and who removed it.

Owns the listing, and emptying it: what becomes of the contents then is `releasing`'s. What lies in the trash is a
closed dentry that is marked so by the commit that removed it (`writing`); bringing it back is an ordinary `restore` of
its inode, which takes the mark away. Invariant: a member sees what was removed from the workspace, and nothing of
others in the same account; only who may write there empties it.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, func, select, tuple_, update

from backend.metadata import schema
from backend.metadata.schema import Role
from backend.metadata.schema import Trash as Mark
from backend.service import block_rows, following, history, sight, workspaces
from backend.service.caller import Caller
from backend.service.ground import Ground
from backend.service.paths import Paths
from backend.service.releasing import Freed, Releasing
from backend.service.rows import FILE
from backend.service.sight import Slice
from backend.service.workspaces import HOME, SHARE, Access
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.history import (
    EmptyTrashReply,
    EmptyTrashRequest,
    TrashEntry,
    TrashPlace,
    TrashReply,
    TrashRequest,
)
from drivefs.protocol.ids import AccountId, InodeId, Seq, WorkspaceId

NS_PER_SECOND = 10**9
BATCH_ENTRIES = 200
"""So much goes in one transaction: others wait for it."""


@dataclass(slots=True)
class Expired:
    """How many things left the trash for good, and what that freed."""

    count: int = 0
    freed: Freed = field(default_factory=Freed)


class Trash:
    """Tells what lies in the trash of all workspaces."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def list(self, caller: Caller, workspace: WorkspaceId, request: TrashRequest) -> TrashReply:
        """One page of what was removed, the latest first.

        Raises:
            ProtocolError: `not_found`: no such drive.
        """
        return await self._ground.database.read(self._list, caller, workspace, request)

    async def empty(self, caller: Caller, workspace: WorkspaceId, request: EmptyTrashRequest) -> EmptyTrashReply:
        """Let a part of what was removed up to a commit go for good; durable on return.

        Raises:
            ProtocolError: `not_found`; `forbidden`: this user may not write there.
        """
        gone = await self._ground.database.write(self._empty, caller, workspace, request.until)
        return EmptyTrashReply(count=gone.count, more=gone.count >= BATCH_ENTRIES)

    async def expire(self, *, is_dry_run: bool = False) -> Expired:
        """Let go of what was removed too long ago, in all workspaces. Cancellation leaves the rest."""
        database, total = self._ground.database, Expired()
        for access in await database.read(_all_workspaces):
            until = await database.read(self._expired_until, *access)
            if is_dry_run:
                total.count += await database.read(_count_held, *access, until)
                continue
            while (gone := await database.write(self._let_go, *access, until)).count:
                total.count += gone.count
                total.freed = total.freed.plus(gone.freed)
        return total

    def _expired_until(self, connection: Connection, account: AccountId, workspace: WorkspaceId) -> Seq:
        c = schema.commits.c
        before = self._ground.now_ns() - self._ground.limits.trash_seconds * NS_PER_SECOND
        here = (c.account == account, c.workspace == workspace, c.time_ns <= before)
        newest = select(c.seq).where(*here).order_by(c.time_ns.desc()).limit(1)
        return Seq(connection.execute(newest).scalar_one_or_none() or 0)

    def _empty(self, connection: Connection, caller: Caller, workspace: WorkspaceId, until: Seq) -> "Expired":
        """Let go of the drive's, and of that of the caller's own shares; of what others share nothing goes."""
        access = workspaces.require(connection, caller.user, workspace, lock=True)
        if access.role is not Role.OWNER:
            raise ProtocolError(Code.FORBIDDEN, "Its owner alone empties the trash of what is shared.")
        total = Expired()
        for part in sight.look(connection, access, access.head_seq).slices:
            if part.access.role is Role.OWNER:
                counting = following.Counting(connection, access, part.access)
                own = until if part.access is access else counting.of_share(until)
                gone = self._let_go(connection, part.access.account, part.access.workspace, own)
                total = Expired(total.count + gone.count, total.freed.plus(gone.freed))
        return total

    def _let_go(self, connection: Connection, account: AccountId, workspace: WorkspaceId, until: Seq) -> "Expired":
        found = connection.execute(
            _held_until(account, workspace, until).order_by(_v.to_seq).limit(BATCH_ENTRIES)
        ).all()
        freed = Freed()
        if found:
            block_rows.lock_account(connection, account)
            keys = [{"key": account, "within": row.parent, "seq": row.to_seq, "called": row.name} for row in found]
            connection.execute(_LEAVE, keys)
            files = {row.inode for row in found if row.kind == FILE}
            # The devices that sent it pin it for days more, and the account would stay as full.
            freed = Releasing(connection, account, self._ground.now_ns(), gives_up_pins=True).release(files)
        return Expired(len(found), freed)

    def _list(
        self, connection: Connection, caller: Caller, workspace: WorkspaceId, request: TrashRequest
    ) -> TrashReply:
        access = workspaces.require(connection, caller.user, workspace)
        keep_seconds = self._ground.limits.trash_seconds
        oldest_ns = self._ground.now_ns() - keep_seconds * NS_PER_SECOND
        seen = sight.look(connection, access, access.head_seq)
        parts = [seen.slice_of(request.parent)] if request.parent else seen.slices
        found: list[TrashEntry] = []
        for part in parts:
            found += _entries(connection, access, part, request, oldest_ns)
        found.sort(key=lambda each: (each.place.seq, each.place.parent, each.place.name), reverse=True)
        page = found[: request.limit]
        return TrashReply(entries=page, keep_seconds=keep_seconds, more=len(found) > len(page))


def _entries(
    connection: Connection, home: Access, part: Slice, request: TrashRequest, oldest_ns: int
) -> list[TrashEntry]:
    """What one workspace has, with the numbers of the drive's commits; one more than is asked for, if there is."""
    access, counting = part.access, following.Counting(connection, home, part.access)
    after = request.after
    if after is not None and access is not home:
        seq, is_exact = counting.before(after.seq)
        place = TrashPlace(seq=seq, parent=after.parent if is_exact else InodeId(0), name=after.name)
        request = msgspec.structs.replace(request, after=place)
    # The sum keeps the database from going through all commits since then: what was removed leads to its commit.
    statement = _held(access, request).where(schema.commits.c.time_ns + 0 > oldest_ns)
    rows = connection.execute(statement.limit(request.limit + 1)).all()
    states = history.inodes_at(connection, access, {row.inode for row in rows}, part.seq)
    paths = Paths(connection, home, access)
    seqs = counting.of_drive([row.to_seq for row in rows])
    return [
        TrashEntry(
            inode=states[row.inode],
            place=TrashPlace(seq=seqs[row.to_seq], parent=row.parent, name=row.name),
            time_ns=row.time_ns,
            path=paths.of(row.parent),
            device=row.device_name or "",
            user=row.user_name or "",
        )
        for row in rows
        if row.inode in states
    ]


def _removed_by(access: Access) -> ColumnElement[bool]:
    """The commits by which a member may know that something was removed from a workspace."""
    v, c, w = schema.dentry_versions.c, schema.commits.c, schema.workspaces.c
    by = and_(c.workspace == access.workspace, v.to_seq >= access.first_seq)
    if access.kind == SHARE and access.role is Role.OWNER:
        drive = select(w.workspace).where(w.account == access.account, w.kind == HOME).scalar_subquery()
        by |= and_(c.workspace == drive, v.to_seq < access.first_seq)
    return and_(c.account == v.account, c.seq == v.to_seq, by)


def _held(access: Access, request: TrashRequest) -> Select[Any]:
    v, i, c, d, u = schema.dentry_versions, schema.inodes, schema.commits, schema.devices, schema.users
    commit = _removed_by(access)
    # By way of the directory, so that what another workspace of the account has lost is not seen.
    directory = and_(i.c.account == v.c.account, i.c.inode == v.c.parent, i.c.workspace == access.workspace)
    joined = v.join(i, directory).join(c, commit)
    joined = joined.outerjoin(d, d.c.device == c.c.device).outerjoin(u, u.c.user == c.c.user)
    names = (d.c.name.label("device_name"), u.c.name.label("user_name"))
    statement = select(v.c.parent, v.c.name, v.c.inode, v.c.to_seq, c.c.time_ns, *names).select_from(joined)
    statement = statement.where(v.c.account == access.account, v.c.trash == Mark.HELD)
    statement = statement.where(v.c.parent == request.parent if request.parent else i.c.nlink > 0)
    if request.name:
        statement = statement.where(v.c.name == request.name)
    # Of one directory in the order of the table's own key, of all in that of the index: nothing is sorted.
    key = (v.c.to_seq, v.c.name) if request.parent else (v.c.to_seq, v.c.parent, v.c.name)
    if (after := request.after) is not None:
        place = (after.seq, after.name) if request.parent else (after.seq, after.parent, after.name)
        statement = statement.where(tuple_(*key) < place)
    return statement.order_by(*(column.desc() for column in key))


def _all_workspaces(connection: Connection) -> list[tuple[AccountId, WorkspaceId]]:
    w = schema.workspaces.c
    return [(row.account, row.workspace) for row in connection.execute(select(w.account, w.workspace))]


_v = schema.dentry_versions.c


def _held_until(account: AccountId, workspace: WorkspaceId, until: Seq) -> Select[Any]:
    """What was removed from a workspace up to a commit and is in the trash."""
    v, i = schema.dentry_versions, schema.inodes
    own = and_(i.c.account == v.c.account, i.c.inode == v.c.inode, i.c.workspace == workspace)
    held = (v.c.account == account, v.c.trash == Mark.HELD, v.c.to_seq <= until)
    return select(v.c.parent, v.c.to_seq, v.c.name, v.c.inode, i.c.kind).select_from(v.join(i, own)).where(*held)


def _count_held(connection: Connection, account: AccountId, workspace: WorkspaceId, until: Seq) -> int:
    held = _held_until(account, workspace, until).subquery()
    return int(connection.execute(select(func.count()).select_from(held)).scalar_one())


_LEAVE = (
    update(schema.dentry_versions)
    .where(
        _v.account == bindparam("key"),
        _v.parent == bindparam("within"),
        _v.to_seq == bindparam("seq"),
        _v.name == bindparam("called"),
    )
    .values(trash=Mark.LEFT)
)
