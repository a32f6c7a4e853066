"""Sessions: how a mount begins, and the ids that a device may use.

Owns the epochs and nonces of devices and the requests for id ranges. Invariant: a device commits under one epoch at a
time; who cannot name the nonce of the last mount (a copy of the device's disk, or the disk rolled back), or knows of
fewer batches than have come (rolled back to an earlier moment of that mount) gets a new one.
"""

from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, select, update

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
            ProtocolError: `stale_epoch`.
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
        d, u = schema.devices, schema.users
        columns = select(d.c.epoch, d.c.nonce, d.c.name.label("device_name"), u.c.name.label("user_name"))
        joined = columns.select_from(d.join(u, u.c.user == d.c.user))
        known = connection.execute(joined.where(d.c.device == caller.device).with_for_update()).one()
        epoch = Epoch(known.epoch)
        if not _goes_on(known, request) or _heard(connection, caller, epoch) > request.sent:
            epoch = Epoch(ids.random_id(self._ground.random_bytes))
        values = {
            "epoch": epoch,
            "nonce": request.next_nonce,
            "based_ns": func.coalesce(d.c.based_ns, d.c.last_seen_ns),
            "last_seen_ns": self._ground.now_ns(),
        }
        connection.execute(update(d).where(d.c.device == caller.device).values(values))
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

    def _figures(self, connection: Connection, caller: Caller) -> tuple[Usage, Limits]:
        a, given = schema.accounts, self._ground.limits
        columns = select(a.c.stored_bytes, a.c.pinned_bytes, a.c.quota_bytes, a.c.file_bytes)
        row = connection.execute(columns.where(a.c.account == caller.account)).one()
        limits = Limits(
            file_bytes=given.file_bytes if row.file_bytes is None else row.file_bytes,
            quota_bytes=given.quota_bytes if row.quota_bytes is None else row.quota_bytes,
        )
        return Usage(stored_bytes=row.stored_bytes, pinned_bytes=row.pinned_bytes), limits


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


def _goes_on(known: Any, request: SessionRequest) -> bool:
    """Whether this is the journal that mounted last: it names the last nonce, or the swap was done and not heard of."""
    if not known.epoch:
        return False
    if known.nonce == request.next_nonce or known.nonce in request.asked:
        return bool(request.epoch in (0, known.epoch))
    return bool(request.epoch == known.epoch and request.last_nonce == known.nonce)


_PRESENT = select(schema.devices.c.epoch, schema.devices.c.nonce).where(schema.devices.c.device == bindparam("device"))


def require_epoch(connection: Connection, caller: Caller, epoch: Epoch, nonce: bytes = b"") -> None:
    """See that a device speaks for its present epoch, and in its last session if it says which it speaks in.

    Raises:
        ProtocolError: `stale_epoch`.
    """
    present = connection.execute(_PRESENT, {"device": caller.device}).one_or_none()
    if not epoch or present is None or present.epoch != epoch or nonce not in (b"", present.nonce):
        raise ProtocolError(
            Code.STALE_EPOCH,
            "Another copy of this device's state has been mounted since. Nothing was changed; mount again.",
        )


def _id_ranges(connection: Connection, caller: Caller, request: IdRangesRequest) -> IdRangesReply:
    require_epoch(connection, caller, request.epoch)
    return IdRangesReply(starts=ids.take_ranges(connection, caller.device, request.epoch, count=request.count))
