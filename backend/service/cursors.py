"""Whether a place in the history of a workspace, as a device knows it, is one that the workspace has passed.

Owns the judgement, and the table of what was common before and after each restore. Invariant: a history goes on through
a restore up to the commit at which the workspace stood right after it; what a device knows beyond is lost here.
"""

from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, select

from backend.metadata import schema
from backend.service import workspaces
from backend.service.workspaces import Access
from drivefs.protocol.ids import Incarnation, Seq
from drivefs.protocol.messages import Cursor, FeedStatus


class Judgement(NamedTuple):
    """What can be said of a cursor; of one that has diverged, the last commit that is surely common (0: not known)."""

    status: FeedStatus
    shared: Seq = Seq(0)


SHARED = Judgement(FeedStatus.CHANGES)


def judge(connection: Connection, access: Access, incarnation: Incarnation, cursor: Cursor) -> Judgement:
    """Whether the feed can go on from a cursor, and if not, why."""
    last = access.head_seq
    if cursor.incarnation != incarnation:
        known = _shared_with(connection, access, cursor.incarnation)
        if known is None:
            return Judgement(FeedStatus.DIVERGED)
        last = min(last, known)
        if cursor.seq > last:
            return Judgement(FeedStatus.DIVERGED, last)
    elif cursor.seq > last:
        return Judgement(FeedStatus.DIVERGED)
    if cursor.seq < access.feed_floor:
        return Judgement(FeedStatus.EXPIRED)
    if cursor.seq < access.first_seq:
        return SHARED
    known_id = workspaces.stamp_at(connection, access, cursor.seq).commit_id
    return SHARED if known_id == cursor.commit else Judgement(FeedStatus.DIVERGED)


def judge_both(
    connection: Connection, access: Access, incarnation: Incarnation, cursor: Cursor, seen: Cursor | None
) -> Judgement:
    """The same of a cursor, and of a later commit that the device has seen besides: both must be in the history."""
    found = judge(connection, access, incarnation, cursor)
    if seen is None or found.status is FeedStatus.DIVERGED:
        return found
    later = judge(connection, access, incarnation, seen)
    if later.status is not FeedStatus.DIVERGED:
        return found
    # What the cursor names is common in any case, unless it is so old that nobody can say.
    passed = cursor.seq if found.status is FeedStatus.CHANGES else Seq(0)
    return Judgement(FeedStatus.DIVERGED, max(later.shared, passed))


_r = schema.restores
_ENDED = (
    select(_r.c.number)
    .where(_r.c.account == bindparam("account"), _r.c.workspace == bindparam("workspace"))
    .where(_r.c.ended == bindparam("ended"))
    .scalar_subquery()
)
_SHARED = select(func.min(_r.c.head_seq)).where(
    _r.c.account == bindparam("account"), _r.c.workspace == bindparam("workspace"), _r.c.number >= _ENDED
)


def _shared_with(connection: Connection, access: Access, ended: Incarnation) -> Seq | None:
    """The last commit that an earlier incarnation and this one have in common; None: nothing is known of it."""
    values = {"account": access.account, "workspace": access.workspace, "ended": ended}
    found = connection.execute(_SHARED, values).scalar_one()
    return None if found is None else Seq(found)
