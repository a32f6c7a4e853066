"""The change feed: what became of a workspace since a device's cursor.

Owns pages; how cursors are judged is `cursors`, waiting is the API's. Invariants: a page holds whole commits only; its
states are those as of its end, so applying it twice does no harm, and applying all pages in turn gives the workspace's
head. A page that would leave out a commit is not given: what became of the feed there cannot be told any more.
"""

import logging
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, bindparam, select

from backend.metadata import schema
from backend.service import cursors, history, ids, uploads, workspaces
from backend.service.caller import Caller
from backend.service.devices import refuse_revoked
from backend.service.ground import Ground
from backend.service.rows import Place
from backend.service.workspaces import Access
from drivefs.protocol.ids import NO_INODE, Incarnation, InodeId, Seq
from drivefs.protocol.messages import (
    ChangesReply,
    ChangesRequest,
    Cursor,
    FeedPage,
    FeedStatus,
    WorkspaceCursor,
    WorkspaceUploads,
)
from drivefs.protocol.model import DentryState, InodeKind, InodeState

log = logging.getLogger(__name__)


class Changes:
    """Reads the feeds of all workspaces that a device follows."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def read(self, caller: Caller, request: ChangesRequest) -> ChangesReply:
        """News of those workspaces that are not as the device knows them; does not wait.

        Raises:
            ProtocolError: `device_revoked`, also where that has happened since the caller was let in.
        """
        if not request.cursors:
            await self._ground.database.read(refuse_revoked, caller.device)
        reply = ChangesReply(pages=[])
        for followed in request.cursors:
            # One short transaction for each: a device may follow many.
            page, sent = await self._ground.database.read(self._news, caller, followed, request.limit)
            if page is not None:
                reply.pages.append(page)
            if sent is not None:
                reply.uploads.append(sent)
        return reply

    def _news(
        self, connection: Connection, caller: Caller, followed: WorkspaceCursor, limit: int
    ) -> tuple[FeedPage | None, WorkspaceUploads | None]:
        refuse_revoked(connection, caller.device)
        incarnation = ids.incarnation(connection)
        access = workspaces.find(connection, caller.user, followed.workspace)
        if access is None:
            start = Cursor(incarnation=incarnation, seq=Seq(0))
            return FeedPage(workspace=followed.workspace, status=FeedStatus.GONE, cursor=start), None
        sent = uploads.news(connection, access, caller, followed.uploads, self._ground.now_ns())
        return _page(connection, access, incarnation, followed, limit), sent


def _page(
    connection: Connection, access: Access, incarnation: Incarnation, followed: WorkspaceCursor, limit: int
) -> FeedPage | None:
    cursor = followed.cursor
    found = cursors.judge_both(connection, access, incarnation, cursor, followed.seen)
    is_here = msgspec.structs.replace(cursor, incarnation=incarnation)
    if found.status is FeedStatus.CHANGES and cursor.seq < access.head_seq:
        rows = _whole_commits(connection, access, cursor.seq, limit)
        if _are_contiguous(rows, max(cursor.seq + 1, access.first_seq)):
            return _changes(connection, access, is_here, rows)
        log.error(
            "the feed of workspace %d lacks changes behind commit %d: its devices look at the whole drive anew."
            " No file is lost by it; drivefs-server check tells what else is wrong",
            access.workspace,
            cursor.seq,
        )
        found = cursors.Judgement(FeedStatus.EXPIRED)
    if found.status is not FeedStatus.CHANGES:
        head = workspaces.head_cursor(connection, access, incarnation)
        return FeedPage(workspace=access.workspace, status=found.status, cursor=head, shared=found.shared)
    if is_here != cursor:
        # The same history goes on after a restore: there is nothing to tell but its new name.
        return FeedPage(workspace=access.workspace, status=found.status, cursor=is_here, since=cursor.seq)
    return None


def _are_contiguous(rows: Sequence[Any], first: int) -> bool:
    """Whether changes are those of one commit after the other, each from its first change on."""
    expected = {(first, 0)}
    for row in rows:
        if (row.seq, row.n) not in expected:
            return False
        expected = {(row.seq, row.n + 1), (row.seq + 1, 0)}
    return bool(rows)


def _changes(connection: Connection, access: Access, cursor: Cursor, rows: Sequence[Any]) -> FeedPage:
    end = Seq(rows[-1].seq)
    inodes = {inode for row in rows for inode in (row.inode, row.parent, row.other_inode, row.other_parent) if inode}
    named = [(row.parent, row.name) for row in rows] + [(row.other_parent, row.other_name) for row in rows]
    places = dict.fromkeys(Place(parent, name) for parent, name in named if parent)
    states = history.inodes_at(connection, access, inodes, end)
    names = history.names_at(connection, access, places, end)
    return FeedPage(
        workspace=access.workspace,
        status=FeedStatus.CHANGES,
        cursor=workspaces.cursor_at(connection, access, cursor.incarnation, end),
        since=cursor.seq,
        inodes=list(states.values()),
        dentries=[_dentry(place, *names.get(place, (NO_INODE, end))) for place in places],
        made=[row.inode for row in rows if row.kind == "create" and _is_directory(states.get(row.inode))],
        more=end < access.head_seq,
    )


def _is_directory(state: InodeState | None) -> bool:
    return state is not None and state.kind is InodeKind.DIRECTORY and state.nlink > 0


def _dentry(place: Place, inode: InodeId, seq: Seq) -> DentryState:
    return DentryState(place.parent, place.name, inode, seq)


def _whole_commits(connection: Connection, access: Access, after: Seq, limit: int) -> Sequence[Any]:
    """The changes of the commits after a seq: as many whole commits as `limit` rows hold, but at least one."""
    here = {"account": access.account, "workspace": access.workspace}
    found = connection.execute(_CHANGES_AFTER, {**here, "after": after, "most": limit + 1}).all()
    if len(found) <= limit:
        return found
    last = found[-1].seq
    whole = [row for row in found if row.seq < last]
    return whole or connection.execute(_CHANGES_OF, {**here, "of": last}).all()


def _changes_where(wanted: ColumnElement[bool]) -> Select[Any]:
    c = schema.changes.c
    names = ("seq", "n", "kind", "inode", "parent", "name", "other_inode", "other_parent", "other_name")
    statement = select(*(c[name] for name in names)).where(c.account == bindparam("account"))
    return statement.where(c.workspace == bindparam("workspace"), wanted).order_by(c.seq, c.n)


_seq = schema.changes.c.seq
_CHANGES_AFTER = _changes_where(_seq > bindparam("after")).limit(bindparam("most"))
_CHANGES_OF = _changes_where(_seq == bindparam("of"))
