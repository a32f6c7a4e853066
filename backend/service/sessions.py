"""Sessions: how a mount begins, and the ids that a device may use.

Owns the lives of devices (epochs, and the nonce of the last mount in each) and the requests for id ranges. Invariants:
in each epoch one journal commits; who cannot name the nonce of the last mount in its epoch (a copy of the device's
disk, or the disk rolled back), or knows of fewer batches than have come (rolled back to an earlier moment of that
mount) gets a new one. Lives of one device go on beside each other: copies take nothing from each other.
"""

from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, select, update

from backend.metadata import schema
from backend.service import ids, membership, workspaces
from backend.service.caller import Caller
from backend.service.ground import Ground
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import Epoch
from drivefs.protocol.messages import (
    IdRangesReply,
    IdRangesRequest,
    Limits,
    SessionReply,
    SessionRequest,
    Usage,
    UsageReply,
    WorkspaceInfo,
)

MAX_LIVES = 64
"""So many lives of a device are known; the journal of one that was forgotten begins another."""


class Sessions:
    """Begins sessions and hands out ids."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def begin(self, caller: Caller, request: SessionRequest) -> SessionReply:
        """Swap the nonce and tell the device who it is and what it sees; asking again with the same nonces is fine."""
        return await self._ground.database.write(self._begin, caller, request)

    async def id_ranges(self, caller: Caller, request: IdRangesRequest) -> IdRangesReply:
        """Hand out new ranges of inode ids.

        Raises:
            ProtocolError: `stale_epoch`; `forbidden`: this user has had too many.
        """
        return await self._ground.database.write(_id_ranges, caller, request)

    async def usage(self, caller: Caller) -> UsageReply:
        """The figures of the caller's own account, and the room in those of others."""
        return await self._ground.database.read(self._usage, caller)

    def _usage(self, connection: Connection, caller: Caller) -> UsageReply:
        usage, limits = self._figures(connection, caller)
        return UsageReply(
            usage=usage, limits=limits, rooms=membership.rooms(connection, caller.user, self._ground.limits)
        )

    def _begin(self, connection: Connection, caller: Caller, request: SessionRequest) -> SessionReply:
        known = connection.execute(_KNOWN, {"known": caller.device}).one()
        epoch = self._begin_life(connection, caller, request)
        connection.execute(_SEEN, {"known": caller.device, "now_ns": self._ground.now_ns()})
        incarnation = ids.incarnation(connection)
        usage, limits = self._figures(connection, caller)
        seen = workspaces.visible(connection, caller.user)
        return SessionReply(
            epoch=epoch,
            incarnation=incarnation,
            user=caller.user,
            user_name=known.user_name,
            device=caller.device,
            device_name=known.device_name,
            workspaces=[
                WorkspaceInfo(
                    workspace=access.workspace,
                    account=access.account,
                    kind=access.kind,
                    root=access.root,
                    role=access.role,
                    head=workspaces.head_cursor(connection, access, incarnation),
                )
                for access in seen
            ],
            shares=[share for access in seen for share in membership.shares_of(connection, access)],
            limits=limits,
            usage=usage,
            rooms=membership.rooms(connection, caller.user, self._ground.limits),
        )

    def _begin_life(self, connection: Connection, caller: Caller, request: SessionRequest) -> Epoch:
        """Swap the nonce of the life that goes on, or begin one; the caller has locked the device."""
        own = _l.c.device == caller.device
        lives = connection.execute(_LIVES, {"known": caller.device}).all()
        values = {"nonce": request.next_nonce, "begun_ns": self._ground.now_ns()}
        for life in lives:
            epoch = Epoch(life.epoch)
            if _goes_on(life, request) and _heard(connection, caller, epoch) <= request.sent:
                connection.execute(update(_l).where(own, _l.c.epoch == epoch).values(values))
                return epoch
        epoch = Epoch(ids.random_id(self._ground.random_bytes))
        connection.execute(insert(_l).values(device=caller.device, epoch=epoch, **values))
        forgotten = [life.epoch for life in lives[MAX_LIVES - 1 :]]
        if forgotten:
            connection.execute(delete(_l).where(own, _l.c.epoch.in_(forgotten)))
        return epoch

    def _figures(self, connection: Connection, caller: Caller) -> tuple[Usage, Limits]:
        given = self._ground.limits
        row = connection.execute(_FIGURES, {"of": caller.account}).one()
        limits = Limits(
            file_bytes=given.file_bytes if row.file_bytes is None else row.file_bytes,
            quota_bytes=given.quota_bytes if row.quota_bytes is None else row.quota_bytes,
        )
        return Usage(stored_bytes=row.stored_bytes, pinned_bytes=row.pinned_bytes), limits


_d, _l, _a = schema.devices, schema.lives, schema.accounts
_KNOWN = (
    select(_d.c.name.label("device_name"), schema.users.c.name.label("user_name"))
    .select_from(_d.join(schema.users, schema.users.c.user == _d.c.user))
    .where(_d.c.device == bindparam("known"))
    .with_for_update()
)
_SEEN = (
    update(_d)
    .where(_d.c.device == bindparam("known"))
    .values(based_ns=func.coalesce(_d.c.based_ns, _d.c.last_seen_ns), last_seen_ns=bindparam("now_ns"))
)
_LIVES = select(_l.c.epoch, _l.c.nonce).where(_l.c.device == bindparam("known")).order_by(_l.c.begun_ns.desc())
_FIGURES = select(_a.c.stored_bytes, _a.c.pinned_bytes, _a.c.quota_bytes, _a.c.file_bytes).where(
    _a.c.account == bindparam("of")
)
_u, _e = schema.user_workspaces, schema.device_epochs
_HEARD = (
    select(func.coalesce(func.max(_e.c.sent), 0))
    .select_from(_u.join(_e, and_(_e.c.account == _u.c.account, _e.c.workspace == _u.c.workspace)))
    .where(_u.c.user == bindparam("user"), _e.c.device == bindparam("device"), _e.c.epoch == bindparam("epoch"))
)


def _heard(connection: Connection, caller: Caller, epoch: Epoch) -> int:
    """How many batches of an epoch have come; a journal that knows of fewer is an older copy of the one that sent."""
    bound = {"user": caller.user, "device": caller.device, "epoch": epoch}
    return int(connection.execute(_HEARD, bound).scalar_one())


def _goes_on(life: Any, request: SessionRequest) -> bool:
    """Whether this is the journal that lives it: it names the last nonce, or the swap was done and not heard of."""
    if life.nonce == request.next_nonce:
        return True  # no other process drew that nonce: it has not heard of the epoch that it was given
    if life.nonce in request.asked:
        return bool(request.epoch in (0, life.epoch))
    return bool(request.epoch == life.epoch and request.last_nonce == life.nonce)


_NONCE = select(_l.c.nonce).where(_l.c.device == bindparam("device"), _l.c.epoch == bindparam("epoch"))


def require_epoch(connection: Connection, caller: Caller, epoch: Epoch, nonce: bytes = b"") -> None:
    """See that a device speaks for one of its lives, and in the last session of it if it says which it speaks in.

    Raises:
        ProtocolError: `stale_epoch`.
    """
    known = connection.execute(_NONCE, {"device": caller.device, "epoch": epoch}).scalar_one_or_none()
    if known is None or nonce not in (b"", known):
        raise ProtocolError(
            Code.STALE_EPOCH,
            "Another copy of this device's state has been mounted since. Nothing was changed; mount again.",
        )


def _id_ranges(connection: Connection, caller: Caller, request: IdRangesRequest) -> IdRangesReply:
    require_epoch(connection, caller, request.epoch)
    ids.check_share(connection, caller.user, more=request.count)
    return IdRangesReply(starts=ids.take_ranges(connection, caller.device, request.epoch, count=request.count))
