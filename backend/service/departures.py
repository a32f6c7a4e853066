"""Removing users, bringing them back, and what becomes of all that was theirs.

Owns the steps. A removed user is nobody to devices, to others and to whoever has a link, at once; what is in the drive
stays as it is for the days of the trash, and can be had back as it was, but for the shares. After that the user goes in
one transaction, and the account, which has no user any more, is emptied in small ones; the collector takes its blocks,
and with the last of them its keys go. Invariants: nothing that others share with the user, or the user with them, is
seen by the other side after the removal; a name is free only when nothing that it had can be reached by it; an account
is emptied in an order in which each state in between is one that a check finds sound.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Table, delete, select, tuple_, update

from backend.metadata import notices, schema
from backend.metadata.schema import MemberState, Role
from backend.notify import hub
from backend.service import accounts, block_rows, devices, workspaces
from backend.service.caller import Caller
from backend.service.ground import Ground
from backend.service.paths import Paths
from backend.service.shares import Shares
from backend.service.workspaces import SHARE, Access
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import AccountId, DeviceId, UserId, WorkspaceId

BATCH_ROWS = 2000
"""So many go in one transaction: others wait for it."""

_u, _d, _a = schema.users, schema.devices, schema.accounts

_OF_USER = (
    notices.notifications,
    notices.notified,
    notices.mutes,
    schema.public_links,
    schema.members,
    schema.user_workspaces,
    _u,
)
"""What goes with the user, beside the devices."""
_OF_DEVICES = (schema.lives, schema.operations, schema.id_ranges)
_AT_ONCE = (schema.members, schema.user_workspaces, schema.workspaces, schema.snapshots, schema.device_uploads)
"""What of the account goes with the user: nobody finds a way to the rest after that."""
_OF_ACCOUNT = (
    schema.kept,
    schema.revisions,
    schema.lineages,
    schema.inodes,
    schema.inode_versions,
    schema.dentries,
    schema.dentry_versions,
    schema.xattrs,
    schema.xattr_versions,
    schema.changes,
    schema.followed,
    schema.commits,
    schema.op_results,
    schema.device_epochs,
    schema.share_blocks,
    schema.runs,
    schema.pins,
)
"""What goes after that, in this order: what names something goes before what it names."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal has ended; `shares` are the user's own, by path, each with who is not a member any more."""

    name: str
    until_ns: int
    """Up to when the user can be brought back."""
    device_count: int
    shares: list[tuple[bytes, list[str]]] = field(default_factory=list)
    left_count: int = 0
    """So many shares of others the user has left."""


class _Ended(NamedTuple):
    removed: Removed
    devices: Sequence[DeviceId]
    changed: set[WorkspaceId]


class Departures:
    """Removes users, brings them back, and clears away what they had."""

    def __init__(self, ground: Ground, shares: Shares) -> None:
        self._ground = ground
        self._shares = shares

    async def remove(self, name: str, *, ends_shares: bool = False) -> Removed:
        """Remove a user; durable on return, and from then on nothing that the user's devices ask is answered.

        Shares of others are left; the user's own are ended with `ends_shares`.

        Raises:
            ProtocolError: `not_found`: there is no such user; `conflict`: the user was removed already, or there are
                members of the user's shares.
        """
        ended = await self._ground.database.write(self._remove, name, ends_shares)
        topics = map(hub.of_workspace, ended.changed)
        self._ground.hub.wake(*topics, *map(hub.of_device, ended.devices))
        return ended.removed

    async def restore(self, name: str) -> None:
        """Have a user back with drive, links, password and devices; durable on return.

        Raises:
            ProtocolError: `not_found`: there is no such user (any more); `conflict`: the user was not removed.
        """
        await self._ground.database.write(_restore, name)

    async def finish(self, *, is_dry_run: bool = False) -> int:
        """Let all go that users had who were removed too long ago; gives how many. Cancellation leaves the rest.

        Blocks are left without references; accounts without blocks go, keys and all.
        """
        database, now_ns = self._ground.database, self._ground.now_ns()
        due = await database.read(_due, now_ns - self.until_ns(0))
        if is_dry_run:
            return len(due)
        for user in due:
            await database.write(_forget_user, user)
        for account in await database.read(_abandoned):
            for table in _OF_ACCOUNT:
                while await database.write(_forget_rows, table, account):
                    pass
            after: bytes | None = b""
            while after is not None:
                after = await database.write(_let_go_of_blocks, account, after, now_ns)
            await database.write(_forget_account, account)
        return len(due)

    def until_ns(self, removed_ns: int) -> int:
        """Up to when a user who was removed then can be brought back."""
        return removed_ns + self._ground.limits.trash_seconds * 10**9

    def _remove(self, connection: Connection, name: str, ends_shares: bool) -> _Ended:
        user, now_ns = accounts.user_called(connection, name), self._ground.now_ns()
        home = workspaces.own_drive(connection, user, lock=True)
        states = (MemberState.ACTIVE, *workspaces.ASKED)
        seen = connection.execute(workspaces.accesses(*states), {"user": user}).all()
        shares = [each for each in map(workspaces.access_of, seen) if each.kind == SHARE]
        own = [each for each in shares if each.role is Role.OWNER]
        told = _members(connection, home, own)
        if told and not ends_shares:
            raise ProtocolError(Code.CONFLICT, _refusal(name, told))
        changed = {home.workspace}
        # While the shares of others are seen still, in which they may be sending something.
        ended = _living(connection, user)
        for device in ended:
            changed |= set(devices.end(connection, Caller(home.account, user, device), device, now_ns))
        for share in own:
            for member in _asked_or_active(connection, share):
                changed.add(self._shares.end(connection, share, member, by=(user, 0)))
        for share in shares:
            if share.role is not Role.OWNER:
                self._shares.end(connection, share, user)
        connection.execute(update(_u).where(_u.c.user == user).values(removed_ns=now_ns))
        removed = Removed(name, self.until_ns(now_ns), len(ended), told, len(shares) - len(own))
        return _Ended(removed, ended, changed)


def _members(connection: Connection, home: Access, own: list[Access]) -> list[tuple[bytes, list[str]]]:
    """The user's shares that others see, by path, each with their names."""
    m, found = schema.members, []
    for share in own:
        here = (m.c.account == share.account, m.c.workspace == share.workspace, m.c.state == MemberState.ACTIVE)
        joined = select(_u.c.name).select_from(m.join(_u, _u.c.user == m.c.user)).where(*here, m.c.user != home.user)
        if names := list(connection.execute(joined.order_by(_u.c.name)).scalars()):
            found.append((Paths(connection, home, share).of(share.root) or b"", names))
    return sorted(found)


def _refusal(name: str, told: list[tuple[bytes, list[str]]]) -> str:
    shares = "; ".join(f"{path.decode(errors='replace')!r} with {', '.join(names)}" for path, names in told)
    return (
        f"{name} shares {shares}. Nothing was changed. --end-shares ends that: it goes from their drives, and what "
        "their devices have not sent of it by then stays with them, in lost+found."
    )


def _asked_or_active(connection: Connection, share: Access) -> list[UserId]:
    m = schema.members
    here = (m.c.account == share.account, m.c.workspace == share.workspace, m.c.user != share.user)
    found = connection.execute(select(m.c.user).where(*here, m.c.state != MemberState.ENDED)).scalars()
    return [UserId(user) for user in found]


def _living(connection: Connection, user: UserId) -> list[DeviceId]:
    found = connection.execute(select(_d.c.device).where(_d.c.user == user, _d.c.revoked_ns.is_(None))).scalars()
    return [DeviceId(device) for device in found]


def _restore(connection: Connection, name: str) -> None:
    row = connection.execute(select(_u.c.user, _u.c.removed_ns).where(_u.c.name == name)).one_or_none()
    if row is None:
        raise ProtocolError(
            Code.NOT_FOUND, f"There is no user {name!r}, or what that user had is gone. Nothing was changed."
        )
    if row.removed_ns is None:
        raise ProtocolError(Code.CONFLICT, f"{name} was not removed. Nothing was changed.")
    connection.execute(update(_u).where(_u.c.user == row.user).values(removed_ns=None))
    # Those that were revoked before have another time.
    ended_with = (_d.c.user == row.user, _d.c.revoked_ns == row.removed_ns)
    connection.execute(update(_d).where(*ended_with).values(revoked_ns=None))


def _due(connection: Connection, before_ns: int) -> list[UserId]:
    found = connection.execute(select(_u.c.user).where(_u.c.removed_ns <= before_ns)).scalars()
    return [UserId(user) for user in found]


def _forget_user(connection: Connection, user: UserId) -> None:
    """The user, the devices, and every way to the account."""
    own = [AccountId(each) for each in connection.execute(select(_a.c.account).where(_a.c.owner == user)).scalars()]
    for table in _AT_ONCE:
        connection.execute(delete(table).where(table.c.account.in_(own)))
    mine = select(_d.c.device).where(_d.c.user == user)
    for table in _OF_DEVICES:
        connection.execute(delete(table).where(table.c.device.in_(mine)))
    connection.execute(delete(_d).where(_d.c.user == user))
    for table in _OF_USER:
        connection.execute(delete(table).where(table.c.user == user))


def _abandoned(connection: Connection) -> list[AccountId]:
    """Accounts whose user is gone."""
    found = connection.execute(select(_a.c.account).where(_a.c.owner.not_in(select(_u.c.user)))).scalars()
    return [AccountId(account) for account in found]


def _forget_rows(connection: Connection, table: Table, account: AccountId) -> int:
    """Some of an account's rows; gives how many there were."""
    key: list[Column[Any]] = [column for column in table.primary_key if column.name != "account"]
    own = table.c.account == account
    some = select(*key).where(own).limit(BATCH_ROWS)
    return connection.execute(delete(table).where(own, tuple_(*key).in_(some))).rowcount


def _let_go_of_blocks(connection: Connection, account: AccountId, after: bytes, now_ns: int) -> bytes | None:
    """No revision names them any more; gives up to which block it is done, None: all."""
    block_rows.lock_account(connection, account)
    b = schema.blocks
    own = b.c.account == account
    named = (own, b.c.block > after, b.c.refs > 0)
    page = connection.execute(select(b.c.block).where(*named).order_by(b.c.block).limit(BATCH_ROWS)).scalars().all()
    if not page:
        return None
    connection.execute(update(b).where(*named, b.c.block <= page[-1]).values(refs=0, unreferenced_ns=now_ns))
    return bytes(page[-1])


def _forget_account(connection: Connection, account: AccountId) -> None:
    """Once the collector has had its last block."""
    b = schema.blocks
    connection.execute(update(_a).where(_a.c.account == account).values(stored_bytes=0, pinned_bytes=0))
    if connection.execute(select(b.c.block).where(b.c.account == account).limit(1)).first() is None:
        for table in (schema.account_keys, _a):
            connection.execute(delete(table).where(table.c.account == account))
