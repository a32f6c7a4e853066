"""Which large contents are on their way into a workspace: what devices report, and what the others are told.

Owns the table `device_uploads`, so that any server may be asked; it is written at most once a second for each device
that sends something large, and not at all for others. Nothing here is a promise: a content exists when it is committed.
Invariants: only members of a workspace report and are told; a device is told of the others only; each change of a
workspace's rows gives it a new stamp, the highest of them.
"""

from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from backend.metadata import schema
from backend.metadata.schema import Role
from backend.notify import hub
from backend.service import workspaces
from backend.service.caller import Caller
from backend.service.ground import Ground
from backend.service.workspaces import Access
from drivefs.protocol import wire
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import DeviceId, WorkspaceId
from drivefs.protocol.messages import (
    DeviceUploads,
    PresenceReply,
    PresenceRequest,
    Upload,
    WorkspaceUploads,
)

LEAST_NS = 700_000_000
"""A report that comes sooner after the one before is not taken: nobody is woken more often by one device."""
LIFE_NS = 3600 * 10**9
"""A device that was silent for so long is not believed to go on."""
MAX_DEVICES = 64
"""Of so many devices, those that reported last, the others are told."""

NOTHING = wire.encode([])


class Uploads:
    """Takes the reports of devices."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def report(self, caller: Caller, request: PresenceRequest) -> PresenceReply:
        """Take what a device is sending now in place of what it said before, and wake those who may be told.

        Raises:
            ProtocolError: `not_found`, `forbidden`.
        """
        is_taken = await self._ground.database.write(_take, caller, request, self._ground.now_ns())
        if is_taken is None:
            return PresenceReply(retry_seconds=LEAST_NS / 1e9)
        if is_taken:
            self._ground.hub.wake(hub.of_workspace(request.workspace))
        return PresenceReply()


def _take(connection: Connection, caller: Caller, request: PresenceRequest, now_ns: int) -> bool | None:
    """Whether anything has changed; None: it came too soon."""
    access = workspaces.require(connection, caller.user, request.workspace)
    if access.role is Role.VIEWER:
        raise ProtocolError(Code.FORBIDDEN, "This user may not change anything in this drive.")
    u = schema.device_uploads
    here = (u.c.account == access.account) & (u.c.workspace == access.workspace)
    known = connection.execute(select(u).where(here, u.c.device == caller.device)).one_or_none()
    uploads = wire.encode(request.uploads)
    if known is None:
        if not request.uploads:
            return False
    elif known.uploads == uploads == NOTHING:
        return False
    elif request.uploads and now_ns - known.reported_ns < LEAST_NS:
        return None
    _put(connection, access, caller.device, uploads, now_ns)
    connection.execute(delete(u).where(here, u.c.reported_ns < now_ns - LIFE_NS))
    return True


def _put(connection: Connection, access: Access, device: DeviceId, uploads: bytes, now_ns: int) -> None:
    u = schema.device_uploads
    here = (u.c.account == access.account) & (u.c.workspace == access.workspace)
    values = {"stamp": max(access.upload_stamp + 1, now_ns), "reported_ns": now_ns, "uploads": uploads}
    changed = connection.execute(update(u).where(here, u.c.device == device).values(values))
    if not changed.rowcount:
        row = {"account": access.account, "workspace": access.workspace, "device": device}
        connection.execute(insert(u), {**row, **values})


def withdraw(connection: Connection, caller: Caller, device: DeviceId, now_ns: int) -> list[WorkspaceId]:
    """Say that a device of the caller's user sends nothing any more; gives the workspaces where it did."""
    u = schema.device_uploads
    changed: list[WorkspaceId] = []
    for access in workspaces.visible(connection, caller.user):
        here = (u.c.account == access.account) & (u.c.workspace == access.workspace) & (u.c.device == device)
        if connection.execute(select(u.c.device).where(here, u.c.uploads != NOTHING)).one_or_none() is not None:
            _put(connection, access, device, NOTHING, now_ns)
            changed.append(access.workspace)
    return changed


def news(
    connection: Connection, access: Access, caller: Caller, known_stamp: int, now_ns: int
) -> WorkspaceUploads | None:
    """What the others are sending, if that is not what the device knows; costs nothing where nobody sends anything."""
    if access.upload_stamp in (0, known_stamp):
        return None
    u = schema.device_uploads
    others: ColumnElement[bool] = (u.c.account == access.account) & (u.c.workspace == access.workspace)
    others &= u.c.device != caller.device
    stamp = connection.execute(select(func.max(u.c.stamp)).where(others)).scalar_one() or 0
    if stamp == known_stamp:
        return None
    columns = select(u.c.device, u.c.reported_ns, u.c.uploads, schema.devices.c.name)
    joined = columns.select_from(u.join(schema.devices, schema.devices.c.device == u.c.device))
    recent = joined.where(others, u.c.uploads != NOTHING, u.c.reported_ns > now_ns - LIFE_NS)
    rows = connection.execute(recent.order_by(u.c.reported_ns.desc()).limit(MAX_DEVICES))
    return WorkspaceUploads(
        workspace=access.workspace, stamp=stamp, devices=[_device_uploads(row, now_ns) for row in rows]
    )


def _device_uploads(row: Any, now_ns: int) -> DeviceUploads:
    return DeviceUploads(
        device=DeviceId(row.device),
        device_name=row.name,
        silent_seconds=max(now_ns - row.reported_ns, 0) / 1e9,
        uploads=wire.decode(row.uploads, list[Upload]),
    )
