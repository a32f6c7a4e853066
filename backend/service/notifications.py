"""Notifications: what each user is told of, in order, kept for devices that are away.

Owns the tables `notifications`, `notified` and `mutes`. What happens to files is told by the feed of the user's own
drive, which has the commits of all shares in it; it is read when somebody asks, and before it is forgotten, so commits
pay nothing for it. What no commit says (an invitation, a device, the quota) is added by whoever does it, with `add`.
Invariants: a number is used once; what was derived of a commit is durable together with how far that went.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, insert, select, update

from backend.metadata import notices, schema
from backend.metadata.queries import is_asked, select_in
from backend.service import following, gathering, workspaces
from backend.service.caller import Caller
from backend.service.gathering import NOWHERE, Happening, Spot, Told
from backend.service.ground import Ground
from backend.service.workspaces import Access
from drivefs.protocol.conflicts import CONFLICT_XATTR
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import NO_INODE, InodeId, UserId, WorkspaceId
from drivefs.protocol.notifications import (
    Kind,
    MutedReply,
    MuteRequest,
    NotificationInfo,
    NotificationsReply,
    NotificationsRequest,
)

KEPT = 1000
"""So many of the newest notifications of a user are kept."""
BURST_NS = 60 * 10**9
"""What goes on in one folder is one notification as long as it pauses for less than this."""
PART_CHANGES = 2000
MOST_PARTS = 100
"""So much is derived for one request; the rest for the next."""
MAX_DEPTH = 4096
FIRST_COMMITS = 10_000
"""Who was never told of anything is told of so many commits at most."""
ABOUT_MARKS = frozenset({"create", "link", "restore", "set_xattr"})
QUOTA_SHARE = 0.9
QUOTA_NS = 24 * 3600 * 10**9

_n, _k, _q = notices.notifications, notices.notified, notices.mutes


def add(
    connection: Connection, user: UserId, kind: Kind, *, now_ns: int, by: tuple[int, int] = (0, 0), **said: Any
) -> None:
    """Tell a user of something, in the caller's transaction; `by` are the user and device that did it.

    `said` are columns of the row: `path`, `text`, `inode`, `things`. Whoever calls wakes the user's own drive after it.
    """
    number = _newest(connection, user) + 1
    row = {"path": b"", "folder": b"", "text": "", "inode": NO_INODE, "things": 1, **said}
    connection.execute(
        insert(_n),
        {"user": user, "number": number, "time_ns": now_ns, "kind": kind, "by_user": by[0], "by_device": by[1], **row},
    )
    connection.execute(update(_k).where(_k.c.user == user).values(newest=number))


def _newest(connection: Connection, user: UserId) -> int:
    """The last number that was used; begins to tell a user who was told of nothing yet."""
    found = connection.execute(select(_k.c.newest).where(_k.c.user == user)).scalar_one_or_none()
    if found is None:
        home = workspaces.own_drive(connection, user)
        begin = max(home.feed_floor, home.head_seq - FIRST_COMMITS, 0)
        connection.execute(insert(_k), {"user": user, "newest": 0, "seq": begin})
        return 0
    return int(found)


def newest(connection: Connection, user: UserId) -> int:
    """The number of the newest notification that was written down."""
    found = connection.execute(select(_k.c.newest).where(_k.c.user == user)).scalar_one_or_none()
    return int(found or 0)


class Notifications:
    """What the API offers about notifications."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def list(self, caller: Caller, request: NotificationsRequest) -> NotificationsReply:
        """One page; what the drive's feed tells is derived first."""
        await self.derive(caller.user)
        return await self._ground.database.read(_list, caller, request)

    async def mute(self, caller: Caller, request: MuteRequest) -> None:
        """Mute a folder, or end it; durable on return. Twice is the same as once."""
        await self._ground.database.write(_mute, caller, request)

    async def muted(self, caller: Caller) -> MutedReply:
        """The folders that the caller has muted."""
        return await self._ground.database.read(_muted, caller)

    async def derive(self, user: UserId) -> None:
        """Write down what the feed of a user's own drive tells."""
        database = self._ground.database
        for _ in range(MOST_PARTS):
            if not await database.read(_is_behind, user):
                return
            if not await database.write(self._derive, user):
                return

    async def derive_all(self) -> None:
        """The same for all users, before feeds forget. Cancellation leaves the rest."""
        for user in await self._ground.database.read(_users):
            await self.derive(user)

    def _derive(self, connection: Connection, user: UserId) -> bool:
        """Take one part; whether there may be more."""
        _newest(connection, user)
        home = workspaces.own_drive(connection, user, lock=True)
        home = following.follow(connection, self._ground, home)
        since = connection.execute(select(_k.c.seq).where(_k.c.user == user)).scalar_one()
        rows = _changes(connection, home, since)
        places = Places(connection, home)
        muted = set(connection.execute(select(_q.c.inode).where(_q.c.user == user)).scalars())
        for part in bursts(rows):
            self._tell(connection, places, muted, part)
        end = rows[-1].at_seq if rows else home.head_seq
        connection.execute(update(_k).where(_k.c.user == user).values(seq=end))
        self._tell_of_quota(connection, home)
        _forget(connection, user)
        return bool(rows) and end < home.head_seq

    def _tell(self, connection: Connection, places: "Places", muted: set[int], part: Sequence["Change"]) -> None:
        by, told = (part[0].by_user, part[0].by_device), list[Told]()
        marked = marked_of(connection, {row.inode for row in part if row.kind in ABOUT_MARKS})
        for happened in gathering.happenings(part, marked):
            found = places.told(happened, muted)
            if found is not None:
                told.append(found)
        for each in gathering.gathered(told):
            _write(connection, places.user, each, by, part[-1].time_ns)

    def _tell_of_quota(self, connection: Connection, home: Access) -> None:
        """Say once a day that the room is nearly used up."""
        a = schema.accounts.c
        row = connection.execute(
            select(a.stored_bytes, a.pinned_bytes, a.quota_bytes).where(a.account == home.account)
        ).one()
        most = row.quota_bytes if row.quota_bytes is not None else self._ground.limits.quota_bytes
        used = row.stored_bytes + row.pinned_bytes
        now_ns = self._ground.now_ns()
        recent = (_n.c.user == home.user, _n.c.kind == Kind.QUOTA, _n.c.time_ns > now_ns - QUOTA_NS)
        if not most or used < most * QUOTA_SHARE or connection.execute(select(_n.c.number).where(*recent)).first():
            return
        add(connection, home.user, Kind.QUOTA, now_ns=now_ns, text=f"{used * 100 // most} % of the quota is used")


def bursts(rows: Sequence["Change"]) -> Iterator[list["Change"]]:
    """The changes of one device after the other, without a long pause."""
    part: list[Change] = []
    for row in rows:
        last = part[-1] if part else row
        is_other = (last.by_user, last.by_device) != (row.by_user, row.by_device)
        if is_other or row.time_ns - last.time_ns > BURST_NS:
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def _write(connection: Connection, user: UserId, told: Told, by: tuple[int, int], time_ns: int) -> None:
    """Write one down, together with what was told of the same folder just before."""
    same = (_n.c.user == user, _n.c.kind == told.kind, _n.c.folder == told.folder)
    author = (_n.c.by_user == by[0], _n.c.by_device == by[1], _n.c.time_ns > time_ns - BURST_NS)
    recent = connection.execute(select(_n.c.number, _n.c.things, _n.c.inode).where(*same, *author)).all()
    again = [row for row in recent if told.inode and row.inode == told.inode]
    is_one = bool(told.inode) and all(row.inode for row in recent)
    if is_one and len(recent) - len(again) < gathering.MOST_SINGLE:
        recent = again
    elif recent:
        count = told.count + sum(row.things for row in recent)
        told = Told(told.kind, told.folder, told.folder, NO_INODE, count)
    if recent:
        numbers = [row.number for row in recent]
        connection.execute(delete(_n).where(_n.c.user == user, _n.c.number.in_(numbers)))
    said = {"path": told.path, "folder": told.folder, "inode": told.inode, "things": told.count}
    add(connection, user, told.kind, now_ns=time_ns, by=by, **said)


class Places:
    """Paths in a user's own drive, as it is now, and which folders lead to them; each part is found out once."""

    def __init__(self, connection: Connection, home: Access) -> None:
        self._connection = connection
        self._home = home
        self.user = home.user
        self._roots = {each.root for each in workspaces.visible(connection, home.user)} - {home.root}
        self._known: dict[int, tuple[bytes, frozenset[int]] | None] = {home.root: (b"", frozenset({int(home.root)}))}

    def told(self, happened: Happening, muted: set[int]) -> Told | None:
        """What to say of something; None: it is nowhere, or in a muted folder."""
        spot = happened.spot if happened.spot != NOWHERE else self._spot(happened.inode)
        found = None if spot is None else self.way_to(spot.parent)
        if spot is None or found is None or not muted.isdisjoint(found[1]):
            return None
        folder = found[0]
        path = folder + b"/" + spot.name if folder else spot.name
        return Told(happened.kind, path, folder, happened.inode)

    def is_below(self, happened: Happening, directory: InodeId) -> bool:
        """Whether something happened in a directory or below it, or to it."""
        spot = happened.spot if happened.spot != NOWHERE else self._spot(happened.inode)
        found = None if spot is None else self.way_to(spot.parent)
        return happened.inode == directory or (found is not None and directory in found[1])

    def way_to(self, directory: int) -> tuple[bytes, frozenset[int]] | None:
        """The path of a directory, and all directories on the way."""
        climbed: list[tuple[int, bytes]] = []
        while directory not in self._known and len(climbed) < MAX_DEPTH:
            spot = self._spot(InodeId(directory))
            if spot is None:
                self._known[directory] = None
                break
            climbed.append((directory, spot.name))
            directory = spot.parent
        found = self._known.get(directory)
        for inode, name in reversed(climbed):
            if found is not None:
                found = (found[0] + b"/" + name if found[0] else name, found[1] | {inode})
            self._known[inode] = found
        return found

    def _spot(self, inode: InodeId) -> Spot | None:
        """A name of an inode: of the root of a share, the one in the user's own drive."""
        d = schema.dentries.c
        own = d.account == self._home.account
        here = own if inode in self._roots else d.account.in_(self._accounts)
        row = self._connection.execute(select(d.parent, d.name).where(here, d.inode == inode).limit(1)).one_or_none()
        return None if row is None else Spot(InodeId(row.parent), row.name)

    @property
    def _accounts(self) -> list[int]:
        seen = workspaces.visible(self._connection, self._home.user)
        return list({int(each.account) for each in seen})


def _users(connection: Connection) -> list[UserId]:
    return [UserId(user) for user in connection.execute(select(schema.users.c.user)).scalars()]


def _is_behind(connection: Connection, user: UserId) -> bool:
    seq = connection.execute(select(_k.c.seq).where(_k.c.user == user)).scalar_one_or_none()
    home = workspaces.own_drive(connection, user)
    return seq is None or seq < home.head_seq or following.is_behind(connection, home)


class Change(NamedTuple):
    """A change, and who made it by which commit of the user's own drive."""

    kind: str
    inode: int
    parent: int | None
    name: bytes | None
    other_inode: int | None
    other_parent: int | None
    other_name: bytes | None
    by_user: int
    by_device: int
    time_ns: int
    at_seq: int


_h = schema.changes.c
_WHAT = (_h.kind, _h.inode, _h.parent, _h.name, _h.other_inode, _h.other_parent, _h.other_name)


def _changes(connection: Connection, home: Access, since: int) -> list[Change]:
    """The changes after a commit, whole commits if they are not too long; those of shares in their places."""
    rows = _read(connection, home, _h.seq > since, (_h.seq, _h.n))
    if len(rows) == PART_CHANGES and rows[0].at_seq < rows[-1].at_seq:
        rows = [row for row in rows if row.at_seq < rows[-1].at_seq]
    found: list[Change] = []
    for told in _with_shares(connection, home, rows):
        found += told
        if len(found) >= PART_CHANGES and told[-1].kind == following.FOLLOW:
            break
    return found


def changes_before(connection: Connection, home: Access, seq: int) -> tuple[list[Change], int]:
    """The last changes before a commit, in their order, and where those before them end; 0: there are none."""
    rows = _read(connection, home, _h.seq < seq, (_h.seq.desc(), _h.n.desc()))
    is_last = len(rows) < PART_CHANGES
    if not is_last and rows[0].at_seq > rows[-1].at_seq:
        rows = [row for row in rows if row.at_seq > rows[-1].at_seq]
    before = 0 if is_last or not rows else rows[-1].at_seq
    found: list[Change] = []
    for told in _with_shares(connection, home, rows):
        found += told[::-1]
        if len(found) >= PART_CHANGES and told[-1].kind == following.FOLLOW:
            before = 0 if is_last and told[-1] == rows[-1] else told[-1].at_seq
            break
    return found[::-1], before


def _read(connection: Connection, home: Access, wanted: Any, order: tuple[Any, Any]) -> list[Change]:
    c = schema.commits
    commit = and_(c.c.account == _h.account, c.c.workspace == _h.workspace, c.c.seq == _h.seq)
    statement = select(*_WHAT, c.c.user, c.c.device, c.c.time_ns, _h.seq).select_from(schema.changes.join(c, commit))
    statement = statement.where(_h.account == home.account, _h.workspace == home.workspace, wanted)
    return [Change(*row) for row in connection.execute(statement.order_by(*order).limit(PART_CHANGES))]


def _with_shares(connection: Connection, home: Access, rows: list[Change]) -> Iterator[list[Change]]:
    """What each of these stands for, in turn: whoever takes them says when they are enough, since a share's are many.

    What takes in a commit of a share is a commit of the drive by itself, and stands behind what that changed.
    """
    shares = {each.workspace: each for each in workspaces.visible(connection, home.user)}
    for row in rows:
        share = shares.get(WorkspaceId(row.inode)) if row.kind == following.FOLLOW else None
        yield [row] if share is None else [*_of_share(connection, share, row), row]


def _of_share(connection: Connection, share: Access, row: Change) -> Iterator[Change]:
    here = (_h.account == share.account, _h.workspace == share.workspace, _h.seq == row.other_inode)
    for told in connection.execute(select(*_WHAT).where(*here).order_by(_h.n)):
        yield Change(*told, row.by_user, row.by_device, row.time_ns, row.at_seq)


def marked_of(connection: Connection, inodes: Collection[int]) -> frozenset[InodeId]:
    """Those of these inodes that are conflict copies."""
    x = schema.xattrs.c
    statement = select(x.inode).where(x.name == CONFLICT_XATTR, is_asked(x.inode))
    return frozenset(InodeId(inode) for (inode,) in select_in(connection, statement, inodes))


def _forget(connection: Connection, user: UserId) -> None:
    mine = select(_n.c.number).where(_n.c.user == user).order_by(_n.c.number.desc())
    oldest = connection.execute(mine.offset(KEPT).limit(1)).scalar_one_or_none()
    if oldest is not None:
        connection.execute(delete(_n).where(_n.c.user == user, _n.c.number <= oldest))


def _list(connection: Connection, caller: Caller, request: NotificationsRequest) -> NotificationsReply:
    u, d = schema.users, schema.devices
    joined = _n.outerjoin(u, u.c.user == _n.c.by_user).outerjoin(d, d.c.device == _n.c.by_device)
    columns = (_n, u.c.name.label("user_name"), d.c.name.label("device_name"))
    statement = select(*columns).select_from(joined).where(_n.c.user == caller.user, _n.c.number > request.since)
    if not request.own:
        statement = statement.where(_n.c.by_device != caller.device)
    rows = connection.execute(statement.order_by(_n.c.number).limit(request.limit + 1)).all()
    found = [
        NotificationInfo(
            number=row.number,
            time_ns=row.time_ns,
            kind=row.kind,
            path=row.path,
            count=row.things,
            inode=row.inode,
            user=row.user_name or "",
            device=row.device_name or "",
            text=row.text,
        )
        for row in rows[: request.limit]
    ]
    return NotificationsReply(
        notifications=found, newest=newest(connection, caller.user), more=len(rows) > request.limit
    )


def _mute(connection: Connection, caller: Caller, request: MuteRequest) -> None:
    home = workspaces.own_drive(connection, caller.user)
    if Places(connection, home).way_to(request.inode) is None:
        raise ProtocolError(Code.NOT_FOUND, "There is no such folder in your drive. Nothing was changed.")
    key = {"user": caller.user, "inode": request.inode}
    connection.execute(delete(_q).where(_q.c.user == caller.user, _q.c.inode == request.inode))
    if request.is_muted:
        connection.execute(insert(_q), key)


def _muted(connection: Connection, caller: Caller) -> MutedReply:
    places = Places(connection, workspaces.own_drive(connection, caller.user))
    inodes = connection.execute(select(_q.c.inode).where(_q.c.user == caller.user)).scalars().all()
    found = (places.way_to(inode) for inode in inodes)
    return MutedReply(paths=sorted(way[0] for way in found if way is not None))
