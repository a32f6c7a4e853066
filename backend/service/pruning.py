"""Forgetting the oldest part of each feed: devices that were away for longer look at the whole drive anew.

Owns how far feeds reach back. Commits, revisions and past states stay: only the rows that tell devices what to look at
go. Invariant: the floor rises before any change below it goes, so that no page is made of what is left of a commit.
"""

from typing import NamedTuple

from sqlalchemy import Connection, delete, func, select, update

from backend.metadata.schema import changes, commits, workspaces
from backend.service.ground import Ground
from drivefs.protocol.ids import AccountId, Seq, WorkspaceId

BATCH_ROWS = 1000


class _Feed(NamedTuple):
    account: AccountId
    workspace: WorkspaceId
    floor: Seq


class Pruning:
    """Forgets changes that are older than `Limits.feed_seconds`, a batch at a time."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def prune(self, *, is_dry_run: bool = False) -> int:
        """Go once through all workspaces; gives how many changes are gone. Cancellation leaves the rest for later."""
        database, count = self._ground.database, 0
        before_ns = self._ground.now_ns() - self._ground.limits.feed_seconds * 10**9
        for feed in await database.read(_feeds):
            if is_dry_run:
                count += await database.read(_count_old, feed, before_ns)
                continue
            floor = await database.write(_raise_floor, feed, before_ns)
            while gone := await database.write(_forget, feed._replace(floor=floor)):
                count += gone
        return count


def _feeds(connection: Connection) -> list[_Feed]:
    columns = select(workspaces.c.account, workspaces.c.workspace, workspaces.c.feed_floor)
    return [_Feed(AccountId(row[0]), WorkspaceId(row[1]), Seq(row[2])) for row in connection.execute(columns)]


def _raise_floor(connection: Connection, feed: _Feed, before_ns: int) -> Seq:
    """Let cursors below the last commit before a time be expired from now on; gives where the floor is."""
    c = commits.c
    old = (c.account == feed.account, c.workspace == feed.workspace, c.time_ns < before_ns)
    last = connection.execute(select(func.max(c.seq)).where(*old)).scalar_one()
    if last is None or last <= feed.floor:
        return feed.floor
    same = (workspaces.c.account == feed.account) & (workspaces.c.workspace == feed.workspace)
    connection.execute(update(workspaces).where(same, workspaces.c.feed_floor < last).values(feed_floor=last))
    return Seq(last)


def _count_old(connection: Connection, feed: _Feed, before_ns: int) -> int:
    c, old = changes.c, commits.c
    here = (old.account == feed.account, old.workspace == feed.workspace, old.time_ns < before_ns)
    last = select(func.max(old.seq)).where(*here).scalar_subquery()
    below = (c.account == feed.account, c.workspace == feed.workspace, c.seq <= last)
    return int(connection.execute(select(func.count()).select_from(changes).where(*below)).scalar_one())


def _forget(connection: Connection, feed: _Feed) -> int:
    """Forget the oldest commits' changes below the floor; gives how many there were."""
    c = changes.c
    below = (c.account == feed.account, c.workspace == feed.workspace, c.seq <= feed.floor)
    oldest = connection.execute(select(c.seq).where(*below).order_by(c.seq).limit(BATCH_ROWS)).scalars().all()
    if not oldest:
        return 0
    return connection.execute(delete(changes).where(*below, c.seq <= oldest[-1])).rowcount
