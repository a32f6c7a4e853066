"""Presence: which devices of a user are here, when they were last seen, what they have still to send; and revoking one.

Owns what this process knows of the devices that it serves, and the columns of `devices` that say so to other processes.
A device is here while it waits in a poll and for a moment after one; what is kept of that is written in batches
(`flush`), as a lease, so that a server that dies is not believed for long. What was uploaded for contents that a
device then gave up (the file was removed before it was committed) gives its room back when it has nothing left to send.
Invariants: no poll writes; a device that was revoked is not here; a user sees and revokes own devices only.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Connection, Select, Update, bindparam, case, func, null, select, update

from backend.metadata import schema
from backend.metadata.queries import is_asked, select_in
from backend.notify import hub
from backend.service import block_rows, uploads
from backend.service.caller import Caller
from backend.service.ground import Ground
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import AccountId, DeviceId, UserId, WorkspaceId
from drivefs.protocol.messages import DeviceInfo, DevicesReply, Pending

GRACE_NS = 10 * 10**9
"""So long after an answered poll a device is still taken to be here: it comes back for the next."""
LEASE_NS = 180 * 10**9
RENEW_NS = LEASE_NS // 2
FLUSH_SECONDS = 10.0
FLUSH_ROWS = 1000
MAX_LISTED = 1000


@dataclass(slots=True)
class _Sighting:
    """What this process knows of one device; `lease_ns` is when its lease was last written, 0 if that is due."""

    seen_ns: int
    here_until_ns: float = 0
    poll_count: int = 0
    pending: Pending | None = None
    lease_ns: int = 0
    idle_ns: int = 0
    """When it said last that it has nothing to send, if that is to be looked at still; else 0."""


class Devices:
    """The devices of all users, as far as this process is concerned."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._sightings: dict[DeviceId, _Sighting] = {}

    @contextmanager
    def polling(self, caller: Caller, pending: Pending | None) -> Iterator[None]:
        """A device waits for news; an exception (it went away) ends its presence at once."""
        sighting = self._saw(caller, pending)
        sighting.poll_count += 1
        sighting.here_until_ns = math.inf
        grace_ns = 0
        try:
            yield
            grace_ns = GRACE_NS
        finally:
            sighting.poll_count -= 1
            sighting.seen_ns = self._ground.now_ns()
            if not sighting.poll_count:
                sighting.here_until_ns = sighting.seen_ns + grace_ns

    def told(self, caller: Caller, pending: Pending) -> None:
        """A device has said what it has still to send."""
        self._saw(caller, pending)

    def _saw(self, caller: Caller, pending: Pending | None) -> _Sighting:
        now_ns = self._ground.now_ns()
        sighting = self._sightings.get(caller.device)
        if sighting is None:
            sighting = self._sightings[caller.device] = _Sighting(now_ns)
        sighting.seen_ns = now_ns
        if pending is not None:
            sighting.idle_ns = 0 if pending.mutation_count or pending.size_bytes else now_ns
            if pending != sighting.pending:
                sighting.pending = pending
                sighting.lease_ns = 0
        return sighting

    async def flush(self) -> None:
        """Write what other processes have to know, forget who is gone, and free what nobody is going to commit."""
        now_ns = self._ground.now_ns()
        rows: list[dict[str, Any]] = []
        idle: dict[DeviceId, int] = {}
        for device, sighting in list(self._sightings.items()):
            if sighting.idle_ns:
                idle[device], sighting.idle_ns = sighting.idle_ns, 0
            if sighting.here_until_ns <= now_ns:
                del self._sightings[device]
                rows.append(_row(device, sighting, sighting.seen_ns))
            elif now_ns - sighting.lease_ns >= RENEW_NS:
                sighting.lease_ns = now_ns
                rows.append(_row(device, sighting, now_ns + LEASE_NS))
        for start in range(0, len(rows), FLUSH_ROWS):
            await self._ground.database.write(_write, rows[start : start + FLUSH_ROWS])
        if idle:
            await self._free_uploads(idle)

    async def _free_uploads(self, idle: dict[DeviceId, int]) -> None:
        """Drop what these devices had pinned when they said that they have nothing to send."""
        database, pin_ns = self._ground.database, self._ground.limits.pin_seconds * 10**9
        for account, device in await database.read(_holding, idle):
            while await database.write(block_rows.drop_pins_of, account, device, idle[device] + pin_ns):
                pass

    async def of_user(self, user: UserId) -> list[DeviceInfo]:
        """The devices of a user: the living ones, then those that were revoked; newest first."""
        now_ns = self._ground.now_ns()
        rows = await self._ground.database.read(_list, user)
        return [self._info(row, now_ns) for row in rows]

    async def own(self, caller: Caller) -> DevicesReply:
        """The devices of the caller's user."""
        return DevicesReply(devices=await self.of_user(caller.user))

    def _info(self, row: Any, now_ns: int) -> DeviceInfo:
        known = row.pending_mutations is not None
        pending = Pending(mutation_count=row.pending_mutations, size_bytes=row.pending_bytes) if known else None
        seen_ns, until_ns = row.last_seen_ns or 0, row.online_until_ns or 0
        sighting = self._sightings.get(row.device)
        if sighting is not None:
            pending = sighting.pending or pending
            until_ns = sighting.here_until_ns
            seen_ns = max(seen_ns, sighting.seen_ns)
        is_online = until_ns > now_ns and row.revoked_ns is None
        return DeviceInfo(
            device=DeviceId(row.device),
            name=row.name,
            created_ns=row.created_ns,
            is_online=is_online,
            last_seen_ns=now_ns if is_online else seen_ns,
            revoked_ns=row.revoked_ns or 0,
            pending=pending,
        )

    async def revoke(self, caller: Caller, device: DeviceId) -> None:
        """End a device of the caller's own user: whatever it asks from now on is refused, and what it waits for ends.

        Raises:
            ProtocolError: `not_found`.
        """
        changed = await self._ground.database.write(end, caller, device, self._ground.now_ns())
        self._ground.hub.wake(hub.of_device(device), *(hub.of_workspace(workspace) for workspace in changed))

    async def everywhere(self, user_name: str) -> list[tuple[str, DeviceInfo]]:
        """The devices of all users, or of the one with this name; for administrators.

        Raises:
            ProtocolError: `not_found`: there is no such user.
        """
        owners = await self._ground.database.read(_owners, user_name)
        return [(owner.name, each) for owner in owners for each in await self.of_user(owner.user)]

    async def revoke_named(self, user_name: str, device: str) -> tuple[str, DeviceInfo]:
        """End the one living device of a user that has this name or this number; for administrators.

        Raises:
            ProtocolError: `not_found`; `conflict`: there are several of that name.
        """
        owner = (await self._ground.database.read(_owners, user_name))[0]
        listed = await self.of_user(owner.user)
        numbered = [each for each in listed if str(each.device) == device]
        found = numbered or [each for each in listed if each.name == device and not each.revoked_ns]
        if not found:
            raise ProtocolError(
                Code.NOT_FOUND, f"User {user_name} has no device {device} that is not revoked. Nothing was changed."
            )
        if len(found) > 1:
            numbers = ", ".join(str(each.device) for each in found)
            raise ProtocolError(
                Code.CONFLICT,
                f"User {user_name} has {len(found)} devices named {device}. Nothing was changed; "
                f"name one by its number: {numbers}.",
            )
        await self.revoke(Caller(owner.account, owner.user, found[0].device), found[0].device)
        return owner.name, found[0]


def _row(device: DeviceId, sighting: _Sighting, until_ns: int) -> dict[str, Any]:
    pending = sighting.pending
    return {
        "this": device,
        "seen": sighting.seen_ns,
        "until": until_ns,
        "mutations": None if pending is None else pending.mutation_count,
        "bytes": None if pending is None else pending.size_bytes,
    }


def _write(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    connection.execute(_SIGHTED, list(rows))


def _sighted() -> Update:
    d, waiting = schema.devices, bindparam("mutations", type_=BigInteger)
    values: dict[str, Any] = {
        "last_seen_ns": bindparam("seen"),
        "online_until_ns": bindparam("until"),
        "pending_mutations": func.coalesce(bindparam("mutations"), d.c.pending_mutations),
        "pending_bytes": func.coalesce(bindparam("bytes"), d.c.pending_bytes),
        # Who begins to have something has based it on what it saw by then, however long it stays without sending it.
        "based_ns": case(
            (waiting == 0, null()), (waiting > 0, func.coalesce(d.c.based_ns, d.c.last_seen_ns)), else_=d.c.based_ns
        ),
    }
    return update(d).where(d.c.device == bindparam("this")).values(values)


_SIGHTED = _sighted()


def _holding(connection: Connection, devices: Collection[DeviceId]) -> list[tuple[AccountId, DeviceId]]:
    """The accounts that may be fuller for what these devices have sent, each with the device."""
    return [(AccountId(row.account), DeviceId(row.device)) for row in select_in(connection, _HOLDING, devices)]


def _holding_statement() -> Select[Any]:
    d, u, a, p, lives = (
        each.c for each in (schema.devices, schema.user_workspaces, schema.accounts, schema.pins, schema.lives)
    )
    pinned = select(p.block).where(p.account == a.account, p.device == d.device)
    # Of a device whose state exists twice, one copy may be sending what the other knows nothing of.
    life_count = select(func.count()).where(lives.device == d.device).scalar_subquery()
    of_user = schema.devices.join(schema.user_workspaces, u.user == d.user)
    statement = select(a.account, d.device).distinct()
    statement = statement.select_from(of_user.join(schema.accounts, a.account == u.account))
    return statement.where(is_asked(d.device), a.pinned_bytes > 0, life_count == 1, pinned.exists())


_HOLDING = _holding_statement()


def _list(connection: Connection, user: UserId) -> Sequence[Any]:
    d = schema.devices.c
    newest = (d.revoked_ns.is_not(None), d.created_ns.desc(), d.device)
    columns = (d.device, d.name, d.created_ns, d.last_seen_ns, d.online_until_ns, d.revoked_ns)
    pending = (d.pending_mutations, d.pending_bytes)
    return connection.execute(
        select(*columns, *pending).where(d.user == user).order_by(*newest).limit(MAX_LISTED)
    ).all()


def end(connection: Connection, caller: Caller, device: DeviceId, now_ns: int) -> list[WorkspaceId]:
    """Revoke a device of the caller's user; gives the workspaces where it was sending something.

    Raises:
        ProtocolError: `not_found`.
    """
    d = schema.devices
    own = (d.c.device == device) & (d.c.user == caller.user)
    if connection.execute(select(d.c.device).where(own)).one_or_none() is None:
        raise ProtocolError(Code.NOT_FOUND, "This user has no such device. Nothing was changed.")
    living = update(d).where(own, d.c.revoked_ns.is_(None))
    connection.execute(living.values(revoked_ns=now_ns, online_until_ns=now_ns))
    return uploads.withdraw(connection, caller, device, now_ns)


def _owners(connection: Connection, name: str) -> Sequence[Any]:
    """All users with their accounts, by name; or the one with this name.

    Raises:
        ProtocolError: `not_found`: there is no such user.
    """
    u, a = schema.users, schema.accounts
    statement = select(u.c.name, u.c.user, a.c.account).select_from(u.join(a, a.c.owner == u.c.user))
    if name:
        statement = statement.where(u.c.name == name)
    rows = connection.execute(statement.order_by(u.c.name)).all()
    if name and not rows:
        raise ProtocolError(Code.NOT_FOUND, f"There is no user {name}. Nothing was changed.")
    return rows


# Made once: each answer of a poll asks it.
_REVOKED = select(schema.devices.c.revoked_ns).where(schema.devices.c.device == bindparam("device"))


def refuse_revoked(connection: Connection, device: DeviceId) -> None:
    """See that a device that was let in before may still be served.

    Raises:
        ProtocolError: `device_revoked`.
    """
    found = connection.execute(_REVOKED, {"device": device}).one_or_none()
    if found is None or found.revoked_ns is not None:
        raise revoked(connection, device)


def revoked(connection: Connection, device: DeviceId) -> ProtocolError:
    """What a device is told that was logged out or revoked, or whose user was removed."""
    u, d = schema.users, schema.devices
    joined = select(u.c.name).select_from(u.join(d, d.c.user == u.c.user))
    name = connection.execute(joined.where(d.c.device == device, u.c.removed_ns.is_not(None))).scalar_one_or_none()
    if name is None:
        said = "This device was logged out or revoked. What it has not sent yet stays on it; log in again to send it."
    else:
        said = f"The user {name} was removed from this server. What this device has not sent yet stays on it."
    return ProtocolError(Code.DEVICE_REVOKED, said)
