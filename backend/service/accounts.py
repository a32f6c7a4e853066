"""Users, their devices and tokens: who comes in, and how often one may try.

Owns the tables of users, devices (but for presence) and login attempts. Invariants: a token is known here by its hash
only; login attempts are counted, durably, before a password is hashed, so that a flood of guesses costs the guesser and
not this machine; a revoked device is told so, and nothing else.
"""

import base64
from dataclasses import dataclass
from typing import Any

from blake3 import blake3
from sqlalchemy import Connection, Select, bindparam, func, insert, select, update

from backend.metadata.schema import accounts, devices, user_workspaces, users, workspaces
from backend.notify import hub
from backend.service import attempts, ids, notifications, passes
from backend.service import workspaces as births
from backend.service.caller import Caller
from backend.service.devices import revoked
from backend.service.ground import Ground, Limits
from backend.service.passwords import Passwords
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import MAX_ID, AccountId, DeviceId, UserId
from drivefs.protocol.messages import LoginReply, LoginRequest, PassReply
from drivefs.protocol.notifications import Kind

TOKEN_BYTES = 32
MAX_NAME_BYTES = 255
MAX_PASSWORD_LENGTH = 1024

MAX_ATTEMPTS_BY_NAME = 10
MAX_ATTEMPTS_BY_ADDRESS = 100
"""Failed logins within one window, after which even the right password has to wait for the next."""

WRONG_PASSWORD = "The user name or the password is wrong. Nothing was changed; try again."


@dataclass(frozen=True, slots=True)
class User:
    """A user as an administrator sees it."""

    user: UserId
    name: str
    created_ns: int
    device_count: int
    quota_bytes: int
    file_bytes: int
    stored_bytes: int
    removed_ns: int | None
    """When the user was removed; None: not at all."""


class Accounts:
    """Makes users, logs devices in and out, and recognises them."""

    def __init__(self, ground: Ground, pass_key: bytes) -> None:
        self._ground = ground
        self._pass_key = pass_key
        self._passwords = Passwords(ground.offload, ground.random_bytes)

    async def add_user(self, name: str, password: str) -> UserId:
        """Make a user with an account and an empty drive; all of it durable on return.

        Raises:
            ProtocolError: `malformed`: no name or password that can be used; `conflict`: the name is taken.
        """
        _check_name(name)
        _check_password(password)
        await self._ground.database.read(_refuse_taken, name)
        hashed = await self._passwords.hash(password)
        return await self._ground.database.write(self._insert_user, name, hashed)

    async def set_password(self, name: str, password: str) -> None:
        """Have a user log in with another password from now on; durable on return. Devices stay logged in.

        Raises:
            ProtocolError: `malformed`: no password that can be used; `not_found`: there is no such user.
        """
        _check_password(password)
        hashed = await self._passwords.hash(password)
        await self._ground.database.write(_set_password, name, hashed)

    async def list_users(self) -> list[User]:
        """All users, by name."""
        return await self._ground.database.read(_list_users, self._ground.limits)

    async def set_limits(self, name: str, values: dict[str, int | None]) -> User:
        """Set `quota_bytes` or `file_bytes` of a user's account; None: what the deployment gives. Gives the user.

        Devices hear of it when they begin a session, or when they are refused something and ask.

        Raises:
            ProtocolError: `not_found`: there is no such user.
        """
        await self._ground.database.write(_set_limits, name, values)
        return next(each for each in await self.list_users() if each.name == name)

    async def login(self, request: LoginRequest, address: str) -> LoginReply:
        """Exchange a password for a new device with a token of its own.

        Raises:
            ProtocolError: `malformed`: the device's name has control characters, which commands would print;
                `wrong_password`, for an unknown user too; `too_many_attempts`.
        """
        if not request.device.isprintable():
            raise ProtocolError(Code.MALFORMED, "A device's name has printable characters only.")
        subjects = {f"name:{request.user}": MAX_ATTEMPTS_BY_NAME, f"address:{address}": MAX_ATTEMPTS_BY_ADDRESS}
        known = await self._ground.database.write(self._begin_attempt, request.user, subjects)
        if not await self._passwords.matches(request.password, known[1] if known else None) or known is None:
            raise ProtocolError(Code.WRONG_PASSWORD, WRONG_PASSWORD)
        token = base64.urlsafe_b64encode(self._ground.random_bytes(TOKEN_BYTES)).rstrip(b"=").decode()
        device = await self._ground.database.write(self._admit, known[0], request.device, token, subjects)
        home = await self._ground.database.read(births.own_drive, known[0])
        self._ground.hub.wake(hub.of_workspace(home.workspace))
        return LoginReply(token=token, user=known[0], device=device)

    async def authenticate(self, token: str) -> Caller:
        """Recognise a device by its pass, or by its token where passes are not asked for.

        Raises:
            ProtocolError: `unauthenticated`; `device_revoked`; `pass_expired`: it has to ask for a pass.
        """
        if passes.is_pass(token):
            device = passes.holder(self._pass_key, token, self._ground.now_ns())
            return await self._ground.database.read(_recognise, _BY_DEVICE, device)
        caller = await self._ground.database.read(_recognise, _BY_TOKEN, hash_token(token))
        if self._ground.limits.pass_seconds:
            raise passes.required()
        return caller

    async def give_pass(self, token: str) -> PassReply:
        """A pass for a device's own token; a pass gets none, or whoever saw one could go on for ever.

        Raises:
            ProtocolError: `unauthenticated`; `device_revoked`.
        """
        caller = await self._ground.database.read(_recognise, _BY_TOKEN, hash_token(token))
        expires_ns = min(self._ground.now_ns() + self._ground.limits.pass_seconds * 10**9, MAX_ID)
        return PassReply(token=passes.issue(self._pass_key, caller.device, expires_ns))

    def _insert_user(self, connection: Connection, name: str, hashed: str) -> UserId:
        _refuse_taken(connection, name)
        now_ns = self._ground.now_ns()
        user = UserId(ids.random_id(self._ground.random_bytes))
        row = {"user": user, "name": name, "password_hash": hashed, "created_ns": now_ns}
        connection.execute(insert(users), row)
        births.create_home(connection, user, now_ns=now_ns, random_bytes=self._ground.random_bytes)
        return user

    def _begin_attempt(self, connection: Connection, name: str, subjects: dict[str, int]) -> tuple[UserId, str] | None:
        """Count an attempt against all subjects, or refuse; gives the user and the password hash, if there is one."""
        attempts.begin(connection, subjects, self._ground.now_ns())
        row = connection.execute(select(users.c.user, users.c.password_hash).where(users.c.name == name)).one_or_none()
        return (UserId(row.user), row.password_hash) if row is not None else None

    def _admit(self, connection: Connection, user: UserId, name: str, token: str, subjects: dict[str, int]) -> DeviceId:
        attempts.take_back(connection, subjects, self._ground.now_ns())
        if connection.execute(select(users.c.removed_ns).where(users.c.user == user)).scalar_one() is not None:
            raise ProtocolError(Code.WRONG_PASSWORD, "This user was removed from this server. Nothing was changed.")
        device = DeviceId(ids.random_id(self._ground.random_bytes))
        row = {
            "device": device,
            "user": user,
            "name": name,
            "token_hash": hash_token(token),
            "created_ns": self._ground.now_ns(),
        }
        connection.execute(insert(devices), row)
        now_ns = self._ground.now_ns()
        notifications.add(connection, user, Kind.DEVICE, now_ns=now_ns, by=(user, device), text=name)
        return device


def hash_token(token: str) -> bytes:
    """What the database keeps of a token; tokens are random, so a plain hash does."""
    return blake3(token.encode(), derive_key_context="drivefs device token v1").digest()


def _check_name(name: str) -> None:
    if not name or not name.isprintable() or name != name.strip() or len(name.encode()) > MAX_NAME_BYTES:
        raise ProtocolError(
            Code.MALFORMED,
            f"A user name has 1 to {MAX_NAME_BYTES} bytes of printable UTF-8, without spaces around it.",
        )


def _refuse_taken(connection: Connection, name: str) -> None:
    row = connection.execute(select(users.c.removed_ns).where(users.c.name == name)).one_or_none()
    if row is not None and row.removed_ns is None:
        raise ProtocolError(Code.CONFLICT, f"There is a user {name} already. Nothing was changed.")
    if row is not None:
        raise ProtocolError(
            Code.CONFLICT,
            f"A user {name} was removed, and is kept for a time: `user restore` brings it back; the name is free when "
            "`user list` does not show it any more. Nothing was changed.",
        )


def _list_users(connection: Connection, given: Limits) -> list[User]:
    living = select(func.count()).where(devices.c.user == users.c.user, devices.c.revoked_ns.is_(None))
    a = accounts.c
    allowed = (func.coalesce(a.quota_bytes, given.quota_bytes), func.coalesce(a.file_bytes, given.file_bytes))
    u = users.c
    figures = (living.scalar_subquery(), *allowed, a.stored_bytes)
    columns: Select[Any] = select(u.user, u.name, u.created_ns, *figures, u.removed_ns)
    statement = columns.select_from(users.join(accounts, a.owner == users.c.user)).order_by(users.c.name)
    return [User(*row) for row in connection.execute(statement)]


def _check_password(password: str) -> None:
    if not 0 < len(password) <= MAX_PASSWORD_LENGTH:
        raise ProtocolError(Code.MALFORMED, f"A password has 1 to {MAX_PASSWORD_LENGTH} characters.")


def _set_password(connection: Connection, name: str, hashed: str) -> None:
    connection.execute(update(users).where(users.c.user == user_called(connection, name)).values(password_hash=hashed))


def _set_limits(connection: Connection, name: str, values: dict[str, int | None]) -> None:
    owner = user_called(connection, name)
    if values:
        connection.execute(update(accounts).where(accounts.c.owner == owner).values(values))


def user_called(connection: Connection, name: str) -> UserId:
    """The user of a name.

    Raises:
        ProtocolError: `not_found`: there is none; `conflict`: it was removed.
    """
    row = connection.execute(select(users.c.user, users.c.removed_ns).where(users.c.name == name)).one_or_none()
    if row is None:
        raise ProtocolError(Code.NOT_FOUND, f"There is no user {name!r}. Nothing was changed.")
    if row.removed_ns is not None:
        raise ProtocolError(Code.CONFLICT, f"{name} was removed; `user restore` brings it back. Nothing was changed.")
    return UserId(row.user)


def _recognising(known_by: Any) -> Select[Any]:
    home = workspaces.c.kind == "home"
    return (
        select(devices.c.device, devices.c.user, devices.c.revoked_ns, workspaces.c.account)
        .join(user_workspaces, user_workspaces.c.user == devices.c.user)
        .join(
            workspaces,
            (workspaces.c.account == user_workspaces.c.account)
            & (workspaces.c.workspace == user_workspaces.c.workspace)
            & home,
        )
        .where(known_by == bindparam("known"))
    )


_BY_TOKEN, _BY_DEVICE = _recognising(devices.c.token_hash), _recognising(devices.c.device)
"""Made once: every request begins with one of them."""


def _recognise(connection: Connection, statement: Select[Any], known: bytes | DeviceId) -> Caller:
    row = connection.execute(statement, {"known": known}).one_or_none()
    if row is None:
        raise ProtocolError(Code.UNAUTHENTICATED, "This device is not logged in here. Log in again.")
    if row.revoked_ns is not None:
        raise revoked(connection, row.device)
    return Caller(AccountId(row.account), UserId(row.user), DeviceId(row.device))
