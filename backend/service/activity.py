"""Activity: who did what to a file, or in a folder and all below it, from the drive's feed.

Owns the reading, back from now, a bounded part at a time. It says of past changes what notifications say of new ones,
and reaches back as far as the feed does; what a file was before is in its revisions. Invariant: a user is told of the
own drive and the shares in it, and of nothing else.
"""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, or_, select

from backend.metadata import schema
from backend.service import gathering, sight, workspaces
from backend.service.caller import Caller
from backend.service.gathering import Told
from backend.service.ground import Ground
from backend.service.notifications import ABOUT_MARKS, Change, Places, bursts, changes_before, marked_of
from backend.service.workspaces import Access
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import MAX_ID, InodeId
from drivefs.protocol.model import InodeKind
from drivefs.protocol.notifications import ActivityReply, ActivityRequest, NotificationInfo


class Activity:
    """What the API offers about activity."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def read(self, caller: Caller, request: ActivityRequest) -> ActivityReply:
        """A part of what was done, the latest first.

        Raises:
            ProtocolError: `not_found`: the drive has no such file or folder.
        """
        return await self._ground.database.read(_read, caller, request)


def _read(connection: Connection, caller: Caller, request: ActivityRequest) -> ActivityReply:
    home = workspaces.own_drive(connection, caller.user)
    access = sight.home_of(connection, caller, home.workspace, request.inode)
    state = sight.look(connection, home, home.head_seq).inodes([request.inode]).get(request.inode)
    if state is None:
        raise ProtocolError(Code.NOT_FOUND, "There is no such file or folder in your drive.")
    rows, before = changes_before(connection, home, request.before or MAX_ID)
    if state.kind is not InodeKind.DIRECTORY:
        inodes = _same_history(connection, access, request.inode)
        rows = [row for row in rows if row.inode in inodes or row.other_inode in inodes]
    places = Places(connection, home)
    found: list[NotificationInfo] = []
    for part in bursts(rows):
        told = _told(connection, places, part, request.inode, is_folder=state.kind is InodeKind.DIRECTORY)
        found += _entries(connection, told, part[-1])
    return ActivityReply(entries=found[::-1], before=before)


def _entries(connection: Connection, told: Sequence[Told], last: Change) -> Iterator[NotificationInfo]:
    if not told:
        return
    u, d = schema.users.c, schema.devices.c
    user = connection.execute(select(u.name).where(u.user == last.by_user)).scalar_one_or_none()
    device = connection.execute(select(d.name).where(d.device == last.by_device)).scalar_one_or_none()
    for each in told:
        yield NotificationInfo(
            number=last.at_seq,
            time_ns=last.time_ns,
            kind=each.kind,
            path=each.path,
            count=each.count,
            inode=each.inode,
            user=user or "",
            device=device or "",
        )


def _same_history(connection: Connection, access: Access, inode: InodeId) -> set[int]:
    """The inodes under which the history of a file goes through: a save by renaming makes a new one."""
    r, i = schema.revisions.c, schema.inodes.c
    lineage = select(i.lineage).where(i.account == access.account, i.inode == inode).scalar_subquery()
    statement = select(r.inode).where(r.account == access.account, or_(r.lineage == lineage, r.inode == inode))
    return {int(inode), *connection.execute(statement).scalars()}


def _told(
    connection: Connection, places: Places, part: Sequence[Change], inode: InodeId, *, is_folder: bool
) -> list[Told]:
    marked = marked_of(connection, {row.inode for row in part if row.kind in ABOUT_MARKS})
    found = []
    for happened in gathering.happenings(part, marked):
        told = places.told(happened, set())
        if told is not None and (not is_folder or places.is_below(happened, inode)):
            found.append(told)
    return gathering.gathered(found)
