"""Who asks, and whether they may: the one place that decides which account a request works on.

Invariant: a workspace that the caller may not see is answered exactly as one that does not exist.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, select

from backend.metadata.schema import MemberState, Role, members, workspaces
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import AccountId, DeviceId, UserId, WorkspaceId


@dataclass(frozen=True, slots=True)
class Caller:
    """The device that asks, its user, and that user's own account."""

    account: AccountId
    user: UserId
    device: DeviceId


@dataclass(frozen=True, slots=True)
class Access:
    """What a caller may do in one workspace: `account` is its owner's, which all its rows are keyed by."""

    account: AccountId
    role: Role


def access(connection: Connection, caller: Caller, workspace: WorkspaceId) -> Access:
    """Look up the caller's role in a workspace.

    Raises:
        ProtocolError: `not_found`: there is no such workspace, or the caller is no member of it.
    """
    row = connection.execute(
        select(workspaces.c.account, members.c.role)
        .join(
            members, (members.c.account == workspaces.c.account) & (members.c.workspace == workspaces.c.workspace)
        )
        .where(
            workspaces.c.workspace == workspace,
            members.c.user == caller.user,
            members.c.state == MemberState.ACTIVE,
        )
    ).one_or_none()
    if row is None:
        raise ProtocolError(Code.NOT_FOUND, "There is no such workspace, or it is not shared with you.")
    return Access(AccountId(row.account), Role(row.role))
