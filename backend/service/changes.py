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
from backend.notify import hub
from backend.service import cursors, following, ids, membership, notifications, sight, uploads, workspaces
from backend.service.caller import Caller
from backend.service.devices import refuse_revoked
from backend.service.ground import Ground
from backend.service.rows import Place
from backend.service.workspaces import SHARE, Access
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import NO_INODE, Incarnation, InodeId, Seq, WorkspaceId
from drivefs.protocol.messages import (
    ChangesReply,
    ChangesRequest,
    Cursor,
    FeedPage,
    FeedStatus,
    Share,
    WorkspaceCursor,
    WorkspaceUploads,
)
from drivefs.protocol.model import DentryState, InodeKind, InodeState

log = logging.getLogger(__name__)

FEWER = 8
"""By so much a page is made shorter that would have too many bytes."""


class Changes:
    """Reads the feeds of all workspaces that a device follows."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def read(self, caller: Caller, request: ChangesRequest) -> ChangesReply:
        """News of those workspaces that are not as the device knows them; does not wait.

        Raises:
            ProtocolError: `device_revoked`, also where that has happened since the caller was let in; `malformed`: a
                workspace is asked for twice, and each page may be long.
        """
        if len({each.workspace for each in request.cursors}) < len(request.cursors):
            raise ProtocolError(Code.MALFORMED, "A workspace is asked for twice.")
        if not request.cursors:
            await self._ground.database.read(refuse_revoked, caller.device)
        reply = ChangesReply(pages=[])
        if request.notified is not None:
            number = await self._ground.database.read(notifications.newest, caller.user)
            reply.notified = number if number > request.notified else 0
        for followed in request.cursors:
            # One short transaction for each: a device may follow many.
            page, sent = await self._news_of(caller, followed, request.limit)
            if page is not None:
                reply.pages.append(page)
            if sent is not None:
                reply.uploads.append(sent)
        return reply

    async def _news_of(
        self, caller: Caller, followed: WorkspaceCursor, limit: int
    ) -> tuple[FeedPage | None, WorkspaceUploads | None]:
        database = self._ground.database
        page, sent, is_behind = await database.read(self._news, caller, followed, limit)
        if is_behind and page is None:
            await database.write(self._follow, caller, followed.workspace)
            page, sent, _ = await database.read(self._news, caller, followed, limit)
        return page, sent

    def _follow(self, connection: Connection, caller: Caller, workspace: WorkspaceId) -> None:
        access = workspaces.require(connection, caller.user, workspace, lock=True)
        following.follow(connection, self._ground, access)

    async def topics(self, caller: Caller, request: ChangesRequest) -> list[hub.Topic]:
        """What may bring news: the commits of all workspaces that are asked for, and of the shares in them."""
        asked = {each.workspace for each in request.cursors}
        seen = await self._ground.database.read(workspaces.visible, caller.user)
        return [hub.of_workspace(each.workspace) for each in seen if each.kind == SHARE or each.workspace in asked]

    def _news(
        self, connection: Connection, caller: Caller, followed: WorkspaceCursor, limit: int
    ) -> tuple[FeedPage | None, WorkspaceUploads | None, bool]:
        refuse_revoked(connection, caller.device)
        incarnation = ids.incarnation(connection)
        access = workspaces.find(connection, caller.user, followed.workspace)
        if access is None:
            start = Cursor(incarnation=incarnation, seq=Seq(0))
            return FeedPage(workspace=followed.workspace, status=FeedStatus.GONE, cursor=start), None, False
        sent = uploads.news(connection, access, caller, followed.uploads, self._ground.now_ns())
        page = _page(connection, access, incarnation, followed, limit)
        return page, sent, following.is_behind(connection, access)


def _page(
    connection: Connection, access: Access, incarnation: Incarnation, followed: WorkspaceCursor, limit: int
) -> FeedPage | None:
    cursor = followed.cursor
    found = cursors.judge_both(connection, access, incarnation, cursor, followed.seen)
    is_here = msgspec.structs.replace(cursor, incarnation=incarnation)
    if found.status is FeedStatus.CHANGES and cursor.seq < access.head_seq:
        rows = _up_to_an_end(_whole_commits(connection, access, cursor.seq, limit))
        is_whole = _are_contiguous(rows, max(cursor.seq + 1, access.first_seq))
        expanded = following.expanded(connection, access, rows, limit) if is_whole else None
        if expanded is not None:
            end = expanded[1]
            page = _changes(connection, access, is_here, expanded, is_least=limit == 1)
            if page is None:
                return _page(connection, access, incarnation, followed, max(1, limit // FEWER))
            if any(row.kind in following.ABOUT_SHARES for row in rows if row.seq <= end):
                page.shares = _hanging(membership.shares_of(connection, access), rows, end)
            return page
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


def _up_to_an_end(rows: Sequence[Any]) -> Sequence[Any]:
    """The changes up to the first commit that takes a share out of the drive: it may be back by the next page.

    Nothing tells the drive what happened in the share between the two, so its devices have to hear of both.
    """
    end = next((row.seq for row in rows if row.kind == following.UNLINK), None)
    return rows if end is None else [row for row in rows if row.seq <= end]


def _hanging(shares: list[Share], rows: Sequence[Any], end: Seq) -> list[Share]:
    """The shares that hang in a drive, without what the end of the page takes out."""
    ended = {row.inode for row in rows if row.kind == following.UNLINK and row.seq <= end}
    return [each for each in shares if each.root not in ended]


def _are_contiguous(rows: Sequence[Any], first: int) -> bool:
    """Whether changes are those of one commit after the other, each from its first change on."""
    expected = {(first, 0)}
    for row in rows:
        if (row.seq, row.n) not in expected:
            return False
        expected = {(row.seq, row.n + 1), (row.seq + 1, 0)}
    return bool(rows)


def _changes(
    connection: Connection, access: Access, cursor: Cursor, expanded: tuple[Sequence[Any], Seq], *, is_least: bool
) -> FeedPage | None:
    """What these changes up to a commit made; None: that is too long for one page, and not the least there can be."""
    told, end = expanded
    inodes = {inode for row in told for inode in (row.inode, row.parent, row.other_inode, row.other_parent) if inode}
    named = [(row.parent, row.name) for row in told] + [(row.other_parent, row.other_name) for row in told]
    places = dict.fromkeys(Place(parent, name) for parent, name in named if parent)
    seen = sight.look(connection, access, end)
    states, fitting = seen.first_inodes(list(inodes))
    if fitting < len(inodes):
        if not is_least:
            return None
        states = seen.inodes(inodes)
    names = seen.names(places)
    return FeedPage(
        workspace=access.workspace,
        status=FeedStatus.CHANGES,
        cursor=workspaces.cursor_at(connection, access, cursor.incarnation, end),
        since=cursor.seq,
        inodes=list(states.values()),
        dentries=[_dentry(place, *names.get(place, (NO_INODE, end))) for place in places],
        made=[row.inode for row in told if row.kind == "create" and _is_directory(states.get(row.inode))],
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
