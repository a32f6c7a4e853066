"""Workspaces: how they come to be, and who may see them.

Owns the birth of a user's own drive and the look-up of a workspace for a user; what happens inside is `commits`.
Invariants: a workspace that the user is no member of is answered like one that does not exist; every workspace has at
least one commit, its birth, so its head always has a commit id.
"""

import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, and_, bindparam, func, insert, select

from backend.metadata import schema
from backend.metadata.schema import MemberState, Role
from backend.service import ids
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ground import RandomBytes
from drivefs.protocol.ids import (
    COMMIT_ID_BYTES,
    AccountId,
    CommitId,
    Incarnation,
    InodeId,
    Seq,
    UserId,
    WorkspaceId,
)
from drivefs.protocol.messages import Cursor

ROOT_MODE = 0o755
HOME, SHARE = "home", "share"
"""Kinds of workspaces: a user's own drive, and a folder of one that others may be members of."""
FIRST_SEQ = Seq(1)


WRITERS = frozenset({Role.OWNER, Role.EDITOR})
"""Who may change a workspace."""


@dataclass(frozen=True, slots=True)
class Home:
    """A user's own drive, just made."""

    account: AccountId
    workspace: WorkspaceId
    root: InodeId


@dataclass(frozen=True, slots=True)
class Access:
    """A workspace as one of its members sees it, with where its history stands.

    `upload_stamp` names the state of what is being sent into it; 0: nobody sent anything large lately.
    """

    account: AccountId
    workspace: WorkspaceId
    kind: str
    root: InodeId
    role: Role
    first_seq: Seq
    head_seq: Seq
    feed_floor: Seq
    history_floor: Seq
    upload_stamp: int
    user: UserId
    """The member who looks."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What marks a commit beside its seq: a random id, and its time."""

    commit_id: CommitId
    time_ns: int


class Moment(NamedTuple):
    """A commit, and when it was made."""

    seq: Seq
    time_ns: int


def create_home(connection: Connection, user: UserId, *, now_ns: int, random_bytes: RandomBytes) -> Home:
    """Make the account and the own drive of a new user: an empty root directory, born by commit 1."""
    ids.establish_deployment(connection, now_ns=now_ns, random_bytes=random_bytes)
    account = AccountId(ids.random_id(random_bytes))
    workspace = WorkspaceId(ids.random_id(random_bytes))
    root = ids.take_inode(connection)
    owned = {"account": account, "workspace": workspace}
    connection.execute(
        insert(schema.accounts), {"account": account, "owner": user, "stored_bytes": 0, "pinned_bytes": 0}
    )
    seqs = {"first_seq": FIRST_SEQ, "head_seq": FIRST_SEQ, "feed_floor": 0, "history_floor": FIRST_SEQ}
    connection.execute(insert(schema.workspaces), {**owned, **seqs, "kind": HOME, "root": root, "id_scheme": "plain"})
    connection.execute(insert(schema.members), {**owned, "user": user, "role": Role.OWNER, "state": MemberState.ACTIVE})
    connection.execute(insert(schema.user_workspaces), {"user": user, "workspace": workspace, "account": account})
    connection.execute(insert(schema.inodes), {"account": account, **_root_inode(workspace, root, now_ns)})
    commit_id = random_bytes(COMMIT_ID_BYTES)
    by = {"user": user, "device": ids.BACKEND_DEVICE, "time_ns": now_ns, "commit_id": commit_id}
    connection.execute(insert(schema.commits), {**owned, "seq": FIRST_SEQ, **by})
    connection.execute(insert(schema.changes), {**owned, "seq": FIRST_SEQ, "n": 0, "kind": "create", "inode": root})
    return Home(account, workspace, root)


def _root_inode(workspace: WorkspaceId, root: InodeId, now_ns: int) -> dict[str, object]:
    numbers = ("rdev", "size", "revision", "content_since", "last_number", "lineage")
    return {
        "inode": root,
        "workspace": workspace,
        "kind": stat.S_IFDIR,
        "mode": ROOT_MODE,
        "nlink": 2,
        "blocks": b"",
        "target": b"",
        "from_seq": FIRST_SEQ,
        **dict.fromkeys(("atime_ns", "mtime_ns", "ctime_ns"), now_ns),
        **dict.fromkeys(numbers, 0),
    }


ASKED = (MemberState.INVITED, MemberState.INVITED_AGAIN)
"""States of who has not answered an invitation."""


def accesses(*states: MemberState) -> Select[Any]:
    """The columns of an `Access`, of all workspaces that the user of parameter `user` is a member of."""
    w, m, u = schema.workspaces, schema.members, schema.user_workspaces
    same = and_(w.c.account == u.c.account, w.c.workspace == u.c.workspace)
    member = and_(m.c.account == w.c.account, m.c.workspace == w.c.workspace, m.c.user == u.c.user)
    seqs = (w.c.first_seq, w.c.head_seq, w.c.feed_floor, w.c.history_floor)
    sent = schema.device_uploads
    sent_here = and_(sent.c.account == w.c.account, sent.c.workspace == w.c.workspace)
    stamp = select(func.coalesce(func.max(sent.c.stamp), 0)).where(sent_here).scalar_subquery()
    columns = select(w.c.account, w.c.workspace, w.c.kind, w.c.root, m.c.role, *seqs, stamp, m.c.user)
    joined = columns.select_from(u.join(w, same).join(m, member))
    return joined.where(u.c.user == bindparam("user"), m.c.state.in_(states or (MemberState.ACTIVE,)))


# Made once: every request looks its workspace up, and making the statement took longer than executing it.
_VISIBLE = accesses().order_by(schema.workspaces.c.workspace)
_ONE = accesses().where(schema.workspaces.c.workspace == bindparam("workspace"))
_INVITED = accesses(*ASKED).where(schema.workspaces.c.workspace == bindparam("workspace"))
_OWN_DRIVE = accesses().where(schema.workspaces.c.kind == HOME)
_LOCK = (
    select(schema.workspaces.c.workspace)
    .where(schema.workspaces.c.workspace == bindparam("workspace"))
    .with_for_update()
)
_w = schema.workspaces.c
_HEAD = (
    select(_w.head_seq)
    .where(_w.account == bindparam("account"), _w.workspace == bindparam("workspace"))
    .with_for_update()
)
_c = schema.commits.c
_STAMP = select(_c.commit_id, _c.time_ns).where(
    _c.account == bindparam("account"), _c.workspace == bindparam("workspace"), _c.seq == bindparam("seq")
)


def access_of(row: Sequence[Any]) -> Access:
    """An access of the columns of `accesses`."""
    account, workspace, kind, root, role, *seqs = tuple(row)
    return Access(account, workspace, kind, root, Role(role), *seqs)


def visible(connection: Connection, user: UserId) -> list[Access]:
    """All workspaces that a user is a member of."""
    return [access_of(row) for row in connection.execute(_VISIBLE, {"user": user})]


def find(connection: Connection, user: UserId, workspace: WorkspaceId) -> Access | None:
    """One workspace as a user sees it; None if there is none, or not for this user."""
    row = connection.execute(_ONE, {"user": user, "workspace": workspace}).one_or_none()
    return access_of(row) if row is not None else None


def find_invited(connection: Connection, user: UserId, workspace: WorkspaceId) -> Access | None:
    """The same where the user is invited too; such an access is good for telling of the workspace, and no more."""
    row = connection.execute(_INVITED, {"user": user, "workspace": workspace}).one_or_none()
    return access_of(row) if row is not None else find(connection, user, workspace)


def own_drive(connection: Connection, user: UserId, *, lock: bool = False) -> Access:
    """A user's own drive; with `lock` its row is held until the transaction ends."""
    own = access_of(connection.execute(_OWN_DRIVE, {"user": user}).one())
    return require(connection, user, own.workspace, lock=True) if lock else own


def require(connection: Connection, user: UserId, workspace: WorkspaceId, *, lock: bool = False) -> Access:
    """One workspace as a user sees it; with `lock` its row is held until the transaction ends.

    Raises:
        ProtocolError: `not_found`.
    """
    if lock:
        connection.execute(_LOCK, {"workspace": workspace})
    access = find(connection, user, workspace)
    if access is None:
        raise ProtocolError(Code.NOT_FOUND, "There is no such drive, or it is not shared with this user.")
    return access


def at_head(access: Access, seq: Seq) -> Access:
    """The same workspace with a newer commit."""
    return replace(access, head_seq=seq)


def lock_head(connection: Connection, account: AccountId, workspace: WorkspaceId) -> Seq:
    """Hold a workspace until the transaction ends; gives its newest commit."""
    return Seq(connection.execute(_HEAD, {"account": account, "workspace": workspace}).scalar_one())


def head_cursor(connection: Connection, access: Access, incarnation: Incarnation) -> Cursor:
    """Where the workspace stands."""
    return cursor_at(connection, access, incarnation, access.head_seq)


def cursor_at(connection: Connection, access: Access, incarnation: Incarnation, seq: Seq) -> Cursor:
    """The cursor of a commit that the workspace has."""
    return Cursor(incarnation=incarnation, seq=seq, commit=stamp_at(connection, access, seq).commit_id)


def stamp_at(connection: Connection, access: Access, seq: Seq) -> Stamp:
    """The id and time of a commit that the workspace has."""
    return stamp(connection, access.account, access.workspace, seq)


def stamp(connection: Connection, account: AccountId, workspace: WorkspaceId, seq: Seq) -> Stamp:
    """The same of a workspace of which no more is known."""
    row = connection.execute(_STAMP, {"account": account, "workspace": workspace, "seq": seq}).one()
    return Stamp(CommitId(row.commit_id), row.time_ns)


def newest_at(connection: Connection, access: Access, time_ns: int) -> Moment | None:
    """The newest commit at or before a time that a member may see; None: there was no drive yet."""
    here = (_c.account == access.account, _c.workspace == access.workspace, _c.seq >= access.first_seq)
    newest = select(_c.seq, _c.time_ns).where(*here, _c.time_ns <= time_ns).order_by(_c.time_ns.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    return None if row is None else Moment(*row)
