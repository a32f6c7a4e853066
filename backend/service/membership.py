"""What a user is told of shares: which hang in his drive, whose they are, and the room in those of others.

Owns the questions. What is stored in a share counts against the account of its owner. Invariant: only who may write
into a share of somebody is told of the room in that account.
"""

from sqlalchemy import Connection, and_, bindparam, select

from backend.metadata import schema
from backend.metadata.schema import MemberState
from backend.service import workspaces
from backend.service.ground import Limits
from backend.service.workspaces import HOME, SHARE, WRITERS, Access
from drivefs.protocol.ids import UserId
from drivefs.protocol.messages import Room, Share

_x, _m, _w, _a, _u = schema.user_workspaces, schema.members, schema.workspaces, schema.accounts, schema.users
_member = and_(_m.c.account == _x.c.account, _m.c.workspace == _x.c.workspace, _m.c.user == _x.c.user)
_shared = and_(_w.c.account == _x.c.account, _w.c.workspace == _x.c.workspace, _w.c.kind == SHARE)
_JOINED = (
    _x.join(_m, _member).join(_w, _shared).join(_a, _a.c.account == _x.c.account).join(_u, _u.c.user == _a.c.owner)
)
_OF_OTHERS = (_x.c.user == bindparam("user"), _a.c.owner != _x.c.user, _m.c.state == MemberState.ACTIVE)
_ROOMS = (
    select(_u.c.name, _a.c.stored_bytes, _a.c.pinned_bytes, _a.c.quota_bytes)
    .select_from(_JOINED)
    .where(*_OF_OTHERS, _m.c.role.in_(WRITERS))
    .distinct()
    .order_by(_u.c.name)
)
_OWNERS = select(_x.c.workspace, _u.c.name).select_from(_JOINED).where(*_OF_OTHERS)


def rooms(connection: Connection, user: UserId, limits: Limits) -> list[Room]:
    """The room in the account of each other user into whose shares this one may write."""
    rows = connection.execute(_ROOMS, {"user": user})
    return [
        Room(
            owner=row.name,
            room_bytes=max(
                0,
                (limits.quota_bytes if row.quota_bytes is None else row.quota_bytes)
                - row.stored_bytes
                - row.pinned_bytes,
            ),
        )
        for row in rows
    ]


def shares_of(connection: Connection, access: Access) -> list[Share]:
    """The shares that hang in a user's own drive; none in another workspace."""
    if access.kind != HOME:
        return []
    seen = [each for each in workspaces.visible(connection, access.user) if each.kind == SHARE]
    owners: dict[int, str] = {}
    if any(each.account != access.account for each in seen):
        owners = {row.workspace: row.name for row in connection.execute(_OWNERS, {"user": access.user})}
    return [
        Share(workspace=each.workspace, root=each.root, role=each.role, owner=owners.get(each.workspace, ""))
        for each in seen
    ]
