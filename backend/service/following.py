"""How the commits of shares come into the order of a member's own drive.

Owns the table `followed`, and the commits that the server itself adds to a drive. Each commit of a share becomes one of
every member's drive, by the same author, when a request of that member first needs it: whoever commits to a share
writes nothing into the drives of others, and those who are away cost nothing. Invariants: a drive takes in the commits
of a share one by one and leaves none out; a seq of the drive says for each share up to which commit it is seen.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from backend.metadata import schema
from backend.metadata.schema import MemberState
from backend.service import workspaces
from backend.service.commit.batch import ChangeRow
from backend.service.ground import Ground
from backend.service.workspaces import HOME, Access
from drivefs.protocol.ids import COMMIT_ID_BYTES, Seq, WorkspaceId

FOLLOW = "follow"
"""Kind of the change by which a commit of a share is taken in: `inode` is the share, `other_inode` its commit."""
LINK, UNLINK, ROLE = "share_link", "share_unlink", "share_role"
"""Kinds of the changes that tell a member's drive of a share: it hangs here now, no more, or the role is another."""
ABOUT_SHARES = frozenset({LINK, UNLINK, ROLE})
MOST_AT_ONCE = 1000
"""So many commits are taken in at once: others wait for it."""


def _known() -> Any:
    f, w = schema.followed.c, schema.workspaces.c
    here = (f.account == bindparam("account"), f.workspace == bindparam("home"), f.share == w.workspace)
    return select(f.share_seq).where(*here).order_by(f.seq.desc()).limit(1).correlate(schema.workspaces)


def _behind() -> Any:
    w, m, u = schema.workspaces, schema.members, schema.user_workspaces
    same = (w.c.account == u.c.account) & (w.c.workspace == u.c.workspace)
    member = (m.c.account == w.c.account) & (m.c.workspace == w.c.workspace) & (m.c.user == u.c.user)
    known = _known().scalar_subquery()
    columns = select(w.c.account, w.c.workspace, w.c.head_seq, known.label("known"))
    mine = (u.c.user == bindparam("user"), m.c.state == MemberState.ACTIVE, w.c.kind == workspaces.SHARE)
    return columns.select_from(u.join(w, same).join(m, member)).where(*mine, w.c.head_seq > known)


_BEHIND = _behind()
_c = schema.commits.c
_COMMITS = (
    select(_c.seq, _c.user, _c.device)
    .where(_c.account == bindparam("account"), _c.workspace == bindparam("workspace"), _c.seq > bindparam("known"))
    .order_by(_c.seq)
    .limit(MOST_AT_ONCE)
)


def is_behind(connection: Connection, access: Access) -> bool:
    """Whether a share has commits that a user's own drive has not taken in; no other workspace ever is."""
    return access.kind == HOME and bool(_shares_ahead(connection, access))


def _shares_ahead(connection: Connection, home: Access) -> list[Any]:
    bound = {"user": home.user, "account": home.account, "home": home.workspace}
    return list(connection.execute(_BEHIND, bound))


def follow(connection: Connection, ground: Ground, home: Access) -> Access:
    """Take in what is new, a bounded part of it; the drive is locked by the caller. Gives where the drive stands."""
    for share in _shares_ahead(connection, home):
        bound = {"account": share.account, "workspace": share.workspace, "known": share.known}
        taken = list(connection.execute(_COMMITS, bound))
        home = _take_in(connection, ground, home, share.workspace, taken)
    return home


def _take_in(connection: Connection, ground: Ground, home: Access, share: WorkspaceId, taken: list[Any]) -> Access:
    own = {"account": home.account, "workspace": home.workspace}
    at = range(home.head_seq + 1, home.head_seq + 1 + len(taken))
    last_ns = workspaces.stamp_at(connection, home, home.head_seq).time_ns
    now_ns = max(ground.now_ns(), last_ns + 1)
    commits = [
        {
            **own,
            "seq": seq,
            "commit_id": ground.random_bytes(COMMIT_ID_BYTES),
            "time_ns": now_ns + n,
            "user": row.user,
            "device": row.device,
        }
        for n, (seq, row) in enumerate(zip(at, taken, strict=True))
    ]
    numbered = list(zip(at, taken, strict=True))
    changes = [{**own, "seq": s, "n": 0, "kind": FOLLOW, "inode": share, "other_inode": row.seq} for s, row in numbered]
    rows = [{**own, "share": share, "seq": seq, "share_seq": row.seq} for seq, row in numbered]
    connection.execute(insert(schema.commits), commits)
    connection.execute(insert(schema.changes), changes)
    connection.execute(insert(schema.followed), rows)
    return _move_head(connection, home, at[-1])


def begin(connection: Connection, home: Access, share: Access) -> None:
    """Let a drive follow a share from where both stand; the drive's newest commit tells of it."""
    own = {"account": home.account, "workspace": home.workspace, "share": share.workspace}
    connection.execute(insert(schema.followed), {**own, "seq": home.head_seq, "share_seq": share.head_seq})


def tell(connection: Connection, ground: Ground, home: Access, changes: list[ChangeRow]) -> Access:
    """Add a commit of the server's own, with these changes; the drive is locked by the caller."""
    own = {"account": home.account, "workspace": home.workspace, "seq": home.head_seq + 1}
    last_ns = workspaces.stamp_at(connection, home, home.head_seq).time_ns
    by = {"user": home.user, "device": 0, "commit_id": ground.random_bytes(COMMIT_ID_BYTES)}
    connection.execute(insert(schema.commits), {**own, **by, "time_ns": max(ground.now_ns(), last_ns + 1)})
    rows = [{**own, "n": n, **change._asdict()} for n, change in enumerate(changes)]
    connection.execute(insert(schema.changes), rows)
    return _move_head(connection, home, own["seq"])


def _move_head(connection: Connection, home: Access, seq: int) -> Access:
    w = schema.workspaces
    same = (w.c.account == home.account, w.c.workspace == home.workspace)
    connection.execute(update(w).where(*same).values(head_seq=seq))
    return workspaces.at_head(home, Seq(seq))


def expanded(connection: Connection, access: Access, rows: Sequence[Any], limit: int) -> tuple[list[Any], Seq] | None:
    """The changes that a page tells, those of shares in the places of what took them in, and the last commit of it.

    As many whole commits as `limit` changes hold, but at least one. None: some changes are not kept any more.
    """
    found: list[Any] = []
    shares: dict[int, Access | None] = {}
    end = Seq(rows[0].seq)
    for row in rows:
        if row.seq != end and len(found) >= limit:
            break
        end = Seq(row.seq)
        if row.kind != FOLLOW:
            found.append(row)
            continue
        if row.inode not in shares:
            shares[row.inode] = workspaces.find(connection, access.user, WorkspaceId(row.inode))
        share = shares[row.inode]
        if share is not None:
            bound = {"account": share.account, "workspace": share.workspace, "of": row.other_inode}
            of_share = connection.execute(_CHANGES, bound).all()
            if not of_share:
                return None
            found += of_share
    return found, end


@dataclass(frozen=True, slots=True)
class Counting:
    """Which commits of a drive took in those of one workspace of it: itself, or a share.

    The owner of a share sees what was removed before it was one; those commits are the drive's own.
    """

    connection: Connection
    home: Access
    share: Access

    def of_drive(self, seqs: Collection[Seq]) -> dict[Seq, Seq]:
        """The drive's numbers of commits of the workspace."""
        if self.share.workspace == self.home.workspace:
            return dict(zip(seqs, seqs, strict=True))
        f = schema.followed.c
        asked = select(f.share_seq, f.seq).where(*self._here(), f.share_seq.in_(seqs))
        known = {row.share_seq: row.seq for row in self.connection.execute(asked)}
        first = self.connection.execute(select(func.min(f.seq)).where(*self._here())).scalar_one()
        return {seq: seq if seq < self.share.first_seq else known.get(seq, first) for seq in seqs}

    def of_share(self, seq: Seq) -> Seq:
        """The newest commit of the workspace that the drive had taken in by one of its own."""
        row = self._last(seq)
        return seq if row is None else Seq(row.share_seq)

    def before(self, seq: Seq) -> tuple[Seq, bool]:
        """The commit of the workspace that one of the drive took in; if it took in none, the next one, and False."""
        row = self._last(seq)
        if row is None:
            return seq, True
        return (Seq(row.share_seq), True) if row.seq == seq else (Seq(row.share_seq + 1), False)

    def _last(self, seq: Seq) -> Any:
        f = schema.followed.c
        here = select(f.seq, f.share_seq).where(*self._here(), f.seq <= seq).order_by(f.seq.desc()).limit(1)
        return self.connection.execute(here).one_or_none()

    def _here(self) -> list[Any]:
        f = schema.followed.c
        home = self.home
        return [f.account == home.account, f.workspace == home.workspace, f.share == self.share.workspace]


_h = schema.changes.c
_CHANGES = (
    select(_h.seq, _h.n, _h.kind, _h.inode, _h.parent, _h.name, _h.other_inode, _h.other_parent, _h.other_name)
    .where(_h.account == bindparam("account"), _h.workspace == bindparam("workspace"), _h.seq == bindparam("of"))
    .order_by(_h.n)
)
