"""Which workspace each mutation of a batch belongs to: the drive that it was sent to, or a share that hangs in it.

Owns the question, asked in a query for each account. Invariants: what a mutation names lies in one workspace, or it is
refused; what does not exist, or is not the user's to see, counts as part of the drive, which does not have it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, and_, bindparam, select

from backend.metadata import schema
from backend.metadata.queries import is_asked, select_in
from backend.metadata.schema import MemberState, Role
from backend.service import workspaces
from backend.service.commit import validity
from backend.service.workspaces import Access
from drivefs.protocol import changes
from drivefs.protocol.changes import Mutation
from drivefs.protocol.ids import AccountId, InodeId, Seq, WorkspaceId

ACROSS = None
"""The place of a mutation that names inodes of two workspaces."""

_i, _w, _m, _u = schema.inodes.c, schema.workspaces, schema.members, schema.user_workspaces
_PLACES = select(_i.inode, _i.workspace, _i.nlink, _i.from_seq).where(
    _i.account == bindparam("account"), is_asked(_i.inode)
)
_same = and_(_w.c.account == _u.c.account, _w.c.workspace == _u.c.workspace)
_member = and_(_m.c.account == _w.c.account, _m.c.workspace == _w.c.workspace, _m.c.user == _u.c.user)
_SHARES = (
    select(_w.c.account, _w.c.workspace, _w.c.first_seq, _m.c.role, _m.c.state)
    .select_from(_u.join(_w, _same).join(_m, _member))
    .where(_u.c.user == bindparam("user"), _w.c.kind == workspaces.SHARE)
    .where(_m.c.state != MemberState.INVITED)
)


@dataclass(frozen=True, slots=True)
class Ground:
    """A workspace on which mutations are judged, and whether the caller may change it.

    What lost its name before commit `seen_from` went along when a folder was shared, and is not the caller's to see.
    """

    account: AccountId
    workspace: WorkspaceId
    may_write: bool
    seen_from: Seq


def drive(home: Access) -> Ground:
    """The drive itself."""
    return Ground(home.account, home.workspace, home.role in workspaces.WRITERS, Seq(0))


Run = tuple[Ground | None, list[Mutation]]
"""Mutations that stand together and belong to one workspace; None: each names two."""


def runs(connection: Connection, home: Access, mutations: Sequence[Mutation]) -> list[Run]:
    """Cut a batch where the workspace changes; the order stays."""
    own = drive(home)
    if home.kind != workspaces.HOME:
        return [(own, list(mutations))]
    rows = connection.execute(_SHARES, {"user": home.user}).all()
    if not rows:
        return [(own, list(mutations))]
    shares = {row.workspace: _ground(row) for row in rows}
    places = _places(connection, home, shares, mutations)
    placed = [(_place(mutation, places, home.workspace), mutation) for mutation in mutations]
    grounds: dict[WorkspaceId | None, Ground | None] = {ACROSS: None, home.workspace: own, **shares}
    return [(grounds[key], [each for _, each in group]) for key, group in groupby(placed, key=lambda each: each[0])]


def _ground(row: Any) -> Ground:
    may_write = row.state == MemberState.ACTIVE and Role(row.role) in workspaces.WRITERS
    seen_from = Seq(0) if Role(row.role) is Role.OWNER else Seq(row.first_seq)
    return Ground(row.account, row.workspace, may_write, seen_from)


def _places(
    connection: Connection, home: Access, shares: dict[WorkspaceId, Ground], mutations: Sequence[Mutation]
) -> dict[InodeId, WorkspaceId]:
    """Where inodes are that are in a share, or will be once the batch has made them.

    One that is not the caller's to see is said to be in the drive, whatever the batch claims to make.
    """
    valid = [mutation for mutation in mutations if not validity.problem(mutation)]
    named = {inode for mutation in valid for inode in (*_parents(mutation), mutation.inode)}
    places: dict[InodeId, WorkspaceId] = {}
    for account in {home.account, *(each.account for each in shares.values())}:
        for inode, workspace, nlink, from_seq in select_in(connection, _PLACES, named, account=account):
            if workspace in shares:
                is_seen = nlink or from_seq >= shares[workspace].seen_from
                places[inode] = workspace if is_seen else home.workspace
    for mutation in valid:
        if isinstance(mutation, changes.Create) and mutation.inode not in places and mutation.parent in places:
            places[mutation.inode] = places[mutation.parent]
    return places


def _place(mutation: Mutation, places: dict[InodeId, WorkspaceId], home: WorkspaceId) -> WorkspaceId | None:
    parents = _parents(mutation)
    named: Sequence[InodeId] = parents or (mutation.inode,)
    if isinstance(mutation, changes.Link | changes.Restore):
        named = (*parents, mutation.inode)
    found = {places.get(inode, home) for inode in named}
    return found.pop() if len(found) == 1 else ACROSS


def _parents(mutation: Mutation) -> tuple[InodeId, ...]:
    match mutation:
        case changes.SetAttributes() | changes.SetXattr() | changes.Store():
            return ()
        case changes.Rename():
            return (mutation.parent, mutation.new_parent)
        case changes.Exchange():
            return (mutation.parent, mutation.other_parent)
        case _:
            return (mutation.parent,)
