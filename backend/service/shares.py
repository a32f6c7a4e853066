"""Shares: making one of a folder, inviting others, and ending it.

Owns who is a member and in which role; what a folder becomes is `conversion`'s, how it hangs in the drives of others
`hanging`'s. Invariants: only the owner decides who sees a share; nobody sees any of it before accepting; whoever is not
a member gets the same answers as if there were no such share; a change of a role, or its end, holds for all that is
answered after it, and is told to the devices of that user by a commit of their own drive.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, and_, delete, insert, select, update

from backend.metadata import schema
from backend.metadata.schema import MemberState, Role
from backend.notify import hub
from backend.service import conversion, following, hanging, ids, notifications, workspaces
from backend.service.caller import Caller
from backend.service.commit.batch import ChangeRow
from backend.service.ground import Ground
from backend.service.hanging import Target
from backend.service.operations import Asked, once
from backend.service.paths import Paths
from backend.service.rows import Place
from backend.service.workspaces import SHARE, Access
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import UserId, WorkspaceId
from drivefs.protocol.messages import Doing
from drivefs.protocol.notifications import Kind
from drivefs.protocol.sharing import (
    AnswerRequest,
    InvitationInfo,
    InvitationsReply,
    MemberInfo,
    ShareInfo,
    ShareRequest,
    SharesReply,
    UnshareRequest,
)

MOST_LOOKS = 20
"""So often a folder that changes while it is looked at is looked at again."""

Woken = list[WorkspaceId]
"""The drives that have new commits."""
D = TypeVar("D", bound=Doing)

_m, _u, _w, _x = schema.members, schema.users, schema.workspaces, schema.user_workspaces


class Shares:
    """What the sync API offers about shares."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def share(self, caller: Caller, request: ShareRequest) -> ShareInfo:
        """Invite a user to a folder of the caller's drive, or give one who is there another role; durable on return.

        Raises:
            ProtocolError: `not_found`: no such folder, or user; `conflict`: it cannot be shared, the text says why.
        """
        database = self._ground.database
        await database.read(_invitee, caller, request.user)
        for _ in range(MOST_LOOKS):
            # Another one each time: what was in the folder when it was looked at before is not for its members.
            share = WorkspaceId(ids.random_id(self._ground.random_bytes))
            named = None if request.parent is None else Place(request.parent, request.name)
            planned = await database.read(conversion.plan, caller, request.inode, named)
            if planned is None:
                break
            await conversion.admit(self._ground, share, planned)
            if await database.write(self._convert, caller, planned, share):
                break
        else:
            raise ProtocolError(Code.CONFLICT, "It changes all the time: wait until that is over, then share it.")
        woken, info = await database.write(self._invite, caller, request)
        self._ground.hub.wake(*map(hub.of_workspace, woken))
        return info

    async def known(self, caller: Caller) -> SharesReply:
        """All shares that the caller owns or is a member of."""
        return SharesReply(shares=await self._ground.database.read(_list, caller))

    async def unshare(self, caller: Caller, request: UnshareRequest) -> None:
        """End the membership of one user, or of all but the owner; durable on return, and it holds at once.

        Raises:
            ProtocolError: `not_found`: no such share of the caller's, or no such member.
        """
        await self._once(self._unshare, caller, request)

    async def invitations(self, caller: Caller) -> InvitationsReply:
        """What the caller is invited to and has not answered."""
        return InvitationsReply(invitations=await self._ground.database.read(_invitations, caller))

    async def answer(self, caller: Caller, request: AnswerRequest) -> None:
        """Accept an invitation, which hangs the share into the caller's drive; or decline it, or leave.

        Accepting what is accepted, and leaving what was left, change nothing.

        Raises:
            ProtocolError: `not_found`: the caller is not invited; `conflict`: it is the caller's own.
        """
        await self._once(self._answer, caller, request)

    async def _once(self, change: Callable[[Connection, Caller, D], Woken], caller: Caller, request: D) -> None:
        def work(connection: Connection) -> Woken:
            asked = Asked(caller, request, self._ground.now_ns())
            return once(connection, asked, Woken, lambda: change(connection, caller, request))

        self._ground.hub.wake(*map(hub.of_workspace, await self._ground.database.write(work)))

    # -- the owner ---------------------------------------------------------------------------------------------------

    def _convert(self, connection: Connection, caller: Caller, planned: conversion.Plan, share: WorkspaceId) -> bool:
        home = workspaces.own_drive(connection, caller.user, lock=True)
        return conversion.convert(connection, self._ground, home, planned, share)

    def _invite(
        self, connection: Connection, caller: Caller, request: ShareRequest
    ) -> tuple[list[WorkspaceId], ShareInfo]:
        user = _invitee(connection, caller, request.user)
        share = _owned(connection, caller, request.inode)
        home = workspaces.own_drive(connection, user, lock=True)
        known = _membership(connection, share, user)
        key = {"account": share.account, "workspace": share.workspace, "user": user}
        if known is None:
            connection.execute(insert(_m), {**key, "role": request.role, "state": MemberState.INVITED})
            connection.execute(insert(_x), key)
            self._tell(connection, caller, user, share)
        else:
            state = MemberState.INVITED_AGAIN if known.state == MemberState.ENDED else known.state
            connection.execute(update(_m).where(*_same(share, user)).values(role=request.role, state=state))
            if known.state == MemberState.ACTIVE and known.role != request.role:
                self._say(connection, home, share, (Kind.ROLE, f": {request.role} now"), (caller.user, caller.device))
                following.tell(connection, self._ground, home, [ChangeRow(following.ROLE, share.root)])
        own = workspaces.own_drive(connection, caller.user)
        return [home.workspace, own.workspace], _info(connection, caller, share)

    def _tell(self, connection: Connection, caller: Caller, user: UserId, share: Access) -> None:
        by, now_ns = (caller.user, caller.device), self._ground.now_ns()
        text = _name(connection, share).decode(errors="replace")
        notifications.add(connection, user, Kind.SHARED, now_ns=now_ns, by=by, inode=share.root, text=text)

    def _unshare(self, connection: Connection, caller: Caller, request: UnshareRequest) -> list[WorkspaceId]:
        share = workspaces.find(connection, caller.user, request.share)
        if share is None or share.kind != SHARE or share.role is not Role.OWNER:
            raise ProtocolError(Code.NOT_FOUND, "This is no share of yours. Nothing was changed.")
        members = [row.user for row in _members(connection, share) if row.user != caller.user]
        if request.user is not None:
            user = _user_named(connection, request.user)
            if user not in members:
                raise ProtocolError(Code.NOT_FOUND, f"It is not shared with {request.user}. Nothing was changed.")
            members = [user]
        return [self.end(connection, share, user, by=(caller.user, caller.device)) for user in members]

    def _say(
        self, connection: Connection, home: Access, share: Access, what: tuple[Kind, str], by: tuple[int, int]
    ) -> None:
        """Tell a member what becomes of a share that hangs in his drive, after the path that it has there."""
        kind, more = what
        path = Paths(connection, home, share).of(share.root) or b""
        said = {"path": path, "inode": share.root, "text": path.decode(errors="replace") + more}
        notifications.add(connection, home.user, kind, now_ns=self._ground.now_ns(), by=by, **said)

    def end(
        self, connection: Connection, share: Access, user: UserId, by: tuple[int, int] | None = None
    ) -> WorkspaceId:
        """End a membership, or take back an invitation; gives the drive of that user, which is to be woken.

        The member is told of it if it is `by` somebody else (a user and a device; 0: none).
        """
        home = workspaces.own_drive(connection, user, lock=True)
        known = _membership(connection, share, user)
        if known is not None and known.state == MemberState.INVITED:
            connection.execute(delete(_m).where(*_same(share, user)))
            connection.execute(delete(_x).where(_x.c.user == user, _x.c.workspace == share.workspace))
        elif known is not None and known.state in (MemberState.ACTIVE, MemberState.INVITED_AGAIN):
            if known.state == MemberState.ACTIVE and by is not None:
                self._say(connection, home, share, (Kind.UNSHARED, ""), by)
            connection.execute(update(_m).where(*_same(share, user)).values(state=MemberState.ENDED))
            hanging.unhang(connection, self._ground, home, Target(share.account, share.workspace, share.root))
        return home.workspace

    # -- the others --------------------------------------------------------------------------------------------------

    def _answer(self, connection: Connection, caller: Caller, request: AnswerRequest) -> list[WorkspaceId]:
        home = workspaces.own_drive(connection, caller.user, lock=True)
        share = _invited_to(connection, caller, request.share)
        if share.role is Role.OWNER:
            raise ProtocolError(
                Code.CONFLICT, "It is your own: `drivefs unshare` ends sharing it. Nothing was changed."
            )
        if not request.accept:
            return [self.end(connection, share, caller.user)]
        known = _membership(connection, share, caller.user)
        if known.state == MemberState.ACTIVE:
            return []
        values = update(_m).where(*_same(share, caller.user)).values(state=MemberState.ACTIVE)
        connection.execute(values)
        hanging.hang(connection, self._ground, home, share, _name(connection, share))
        return [home.workspace]


def _same(share: Access, user: UserId) -> list[Any]:
    return [_m.c.account == share.account, _m.c.workspace == share.workspace, _m.c.user == user]


def _user_named(connection: Connection, name: str) -> UserId:
    here = select(_u.c.user).where(_u.c.name == name, _u.c.removed_ns.is_(None))
    user = connection.execute(here).scalar_one_or_none()
    if user is None:
        raise ProtocolError(Code.NOT_FOUND, f"There is no user {name} on this server. Nothing was changed.")
    return UserId(user)


def _invitee(connection: Connection, caller: Caller, name: str) -> UserId:
    user = _user_named(connection, name)
    if user == caller.user:
        raise ProtocolError(Code.CONFLICT, "It is your own already. Nothing was changed.")
    return user


def _owned(connection: Connection, caller: Caller, inode: int) -> Access:
    """The share of the caller's own whose root an inode is."""
    shares = workspaces.visible(connection, caller.user)
    found = next((each for each in shares if each.kind == SHARE and each.root == inode), None)
    if found is None or found.role is not Role.OWNER:
        raise ProtocolError(Code.CONFLICT, "Only the owner of a share decides who sees it. Nothing was changed.")
    return found


def _invited_to(connection: Connection, caller: Caller, share: WorkspaceId) -> Access:
    """A share that the caller is a member of, or is invited to."""
    found = workspaces.find_invited(connection, caller.user, share)
    if found is None or found.kind != SHARE:
        raise ProtocolError(Code.NOT_FOUND, "There is no such invitation, or it was taken back. Nothing was changed.")
    return found


def _membership(connection: Connection, share: Access, user: UserId) -> Any:
    return connection.execute(select(_m.c.role, _m.c.state).where(*_same(share, user))).one_or_none()


def _members(connection: Connection, share: Access) -> list[Any]:
    here = (_m.c.account == share.account, _m.c.workspace == share.workspace, _m.c.state != MemberState.ENDED)
    columns = select(_m.c.user, _m.c.role, _m.c.state, _u.c.name).select_from(_m.join(_u, _u.c.user == _m.c.user))
    return list(connection.execute(columns.where(*here).order_by(_u.c.name)))


def _info(connection: Connection, caller: Caller, share: Access) -> ShareInfo:
    members = _members(connection, share)
    home = workspaces.own_drive(connection, caller.user)
    is_owner = share.role is Role.OWNER
    return ShareInfo(
        share=share.workspace,
        root=share.root,
        role=share.role,
        owner=next((row.name for row in members if row.role == Role.OWNER), ""),
        path=Paths(connection, home, share).of(share.root) or b"",
        members=tuple(
            MemberInfo(user=row.name, role=row.role, is_invited=row.state in workspaces.ASKED)
            for row in members
            if row.role != Role.OWNER and (is_owner or row.user == caller.user)
        ),
    )


def _list(connection: Connection, caller: Caller) -> list[ShareInfo]:
    seen = workspaces.visible(connection, caller.user)
    return [_info(connection, caller, each) for each in seen if each.kind == SHARE]


def _name(connection: Connection, share: Access) -> bytes:
    """What the owner of a share calls it."""
    place = hanging.place_of(connection, share.account, Target(share.account, share.workspace, share.root))
    return b"shared" if place is None else place.name


def _invitations(connection: Connection, caller: Caller) -> list[InvitationInfo]:
    member = and_(_m.c.account == _x.c.account, _m.c.workspace == _x.c.workspace, _m.c.user == _x.c.user)
    columns = select(_x.c.workspace, _m.c.role).select_from(_x.join(_m, member))
    rows = connection.execute(columns.where(_x.c.user == caller.user, _m.c.state.in_(workspaces.ASKED))).all()
    found = []
    for row in rows:
        share = _invited_to(connection, caller, row.workspace)
        owner = next((each.name for each in _members(connection, share) if each.role == Role.OWNER), "")
        name = _name(connection, share)
        found.append(InvitationInfo(share=share.workspace, name=name, owner=owner, role=row.role))
    return found
