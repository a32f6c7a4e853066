"""The orders of commits, one for each drive and each share, and how the trees of one sequence belong to them.

Owns which commit of which workspace made which step of the sequence, and up to which commit of a share a drive has
taken it in. All drives and shares are one sequence of trees: whatever a commit changes lies in its own workspace, so
the order in which those of different workspaces are told does not matter. What a device has to show as of a commit of
its drive is put together of the trees as of that commit, and as of those of shares that were taken in by then. With one
user and no share a commit is a step.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select

from backend.metadata import schema
from backend.service import following, parting
from backend.service.workspaces import SHARE
from drivefs.protocol.changes import Mutation, OpResult
from drivefs.protocol.ids import InodeId, Seq, WorkspaceId
from tests.simulation.sequence import Sequence, Tree


class At(NamedTuple):
    """A commit."""

    workspace: WorkspaceId
    seq: Seq


OWN = {following.FOLLOW, following.LINK, following.UNLINK, following.ROLE, parting.PART, "create"}
"""What commits of the server's own do; a share is begun by one that creates its root."""


@dataclass
class Attempt:
    """A batch, or a part of it for one workspace, that was judged; whether it counts shows in the tables."""

    commit_id: bytes
    by: tuple[int, int]
    steps: list[tuple[Mutation, OpResult]]


class OutOfOrder(AssertionError):
    """A commit that nobody asked for, or one that is missing."""


@dataclass
class Orders:
    """Those of one run; `homes` are the roots of the drives of all users."""

    homes: dict[WorkspaceId, InodeId]
    sequence: Sequence = field(init=False)
    heads: dict[WorkspaceId, Seq] = field(init=False)
    times: dict[int, int] = field(default_factory=dict)
    """When each step was made, in nanoseconds."""
    commits: dict[At, bytes] = field(default_factory=dict)
    """The ids of all commits but the first ones."""
    _steps: dict[At, int] = field(init=False)
    _shares: dict[InodeId, WorkspaceId] = field(default_factory=dict)
    """By their roots."""
    _followed: dict[WorkspaceId, list[tuple[Seq, WorkspaceId, Seq]]] = field(default_factory=dict)
    """What each drive has taken in by which of its commits."""
    _taken_in: set[At] = field(default_factory=set)
    """The commits of drives that took one of a share in."""
    _put_together: dict[At, Tree] = field(default_factory=dict)

    def __post_init__(self) -> None:
        first, *others = self.homes.values()
        self.sequence = Sequence(first, 1, others)
        self.heads = dict.fromkeys(self.homes, Seq(1))
        self._steps = {At(home, Seq(1)): 1 for home in self.homes}

    # -- what is made ------------------------------------------------------------------------------------------------

    def catch_up(self, connection: Connection, attempts: list[Attempt]) -> None:
        """Take over the commits that were made since.

        Raises:
            Refused: a mutation was taken that must not have been. OutOfOrder: a commit came of nothing.
        """
        tried = {attempt.commit_id: attempt for attempt in attempts}
        shares = list(connection.execute(_SHARES))
        for home in self.homes:
            self._catch_up(connection, home, tried)
        for share in shares:
            if share.workspace not in self.heads:
                # Its first commit is told by the one of the drive that it was a part of, and changes nothing.
                self._shares[share.root] = share.workspace
                self.heads[share.workspace] = Seq(share.first_seq - 1)
            self._catch_up(connection, share.workspace, tried)
        if shares:
            self._take_in(connection)

    def _catch_up(self, connection: Connection, workspace: WorkspaceId, tried: dict[bytes, Attempt]) -> None:
        for row in connection.execute(_COMMITS_AFTER, {"of": workspace, "after": self.heads[workspace]}).all():
            if row.seq != self.heads[workspace] + 1:
                raise OutOfOrder(f"commit {row.seq} of {workspace} follows {self.heads[workspace]}")
            attempt = tried.pop(row.commit_id, None)
            if attempt is not None:
                self.sequence.append(self.sequence.seq + 1, attempt.by, attempt.steps)
            else:
                self._tell(connection, At(workspace, row.seq))
            self.heads[workspace] = row.seq
            self.times[self.sequence.seq] = row.time_ns
            self.commits[At(workspace, row.seq)] = row.commit_id
            self._steps[At(workspace, row.seq)] = self.sequence.seq

    def _tell(self, connection: Connection, made: At) -> None:
        """A commit of the server's own: how shares come and go, and what a drive takes in of them."""
        rows = connection.execute(_CHANGES_OF, {"of": made.workspace, "at": made.seq}).all()
        if not {row.kind for row in rows} <= OWN or not rows:
            raise OutOfOrder(f"nobody asked for commit {made.seq} of {made.workspace}, which does {rows}")
        self.sequence.pause()
        for row in rows:
            place = (row.parent, row.name)
            if row.kind == following.LINK:
                self.sequence.hang(row.inode, place)
            elif row.kind == following.UNLINK:
                self.sequence.unhang(row.inode, place)
            elif row.kind == following.FOLLOW:
                self._taken_in.add(made)
            elif row.kind == parting.PART:
                self.sequence.part(row.inode, place, row.other_inode)

    def _take_in(self, connection: Connection) -> None:
        for home in self.homes:
            known = connection.execute(_FOLLOWED, {"of": home})
            self._followed[home] = [(row.seq, row.share, row.share_seq) for row in known]
            last: dict[WorkspaceId, Seq] = {}
            for seq, share, of_share in self._followed[home]:
                if At(home, seq) in self._taken_in and of_share != last[share] + 1:
                    raise OutOfOrder(f"drive {home} took in commit {of_share} of {share} after {last[share]}")
                last[share] = of_share

    # -- what is to be seen ------------------------------------------------------------------------------------------

    def step(self, home: WorkspaceId, seq: Seq) -> int:
        """The step that a commit was."""
        return self._steps[At(home, seq)]

    def last(self, home: WorkspaceId) -> Tree:
        """All that a user sees now."""
        return self.tree(home, self.heads[home])

    def lags(self, home: WorkspaceId) -> bool:
        """Whether a share that hangs in a drive has commits that the drive has not taken in."""
        seen = self._seen(home, self.heads[home])
        hanging = [share for root, share in self._shares.items() if root in self.last(home).inodes]
        return any(self.heads[share] > seen.get(share, 0) for share in hanging)

    def tree(self, home: WorkspaceId, seq: Seq) -> Tree:
        """All that a user sees as of a commit of the drive."""
        if len(self.homes) == 1 and not self._shares:
            return self.sequence.trees[self._steps[At(home, seq)]]
        if At(home, seq) not in self._put_together:
            self._put_together[At(home, seq)] = self._tree(home, seq)
        return self._put_together[At(home, seq)]

    def read_by(self, home: WorkspaceId) -> dict[WorkspaceId, int]:
        """The drive and the shares that hang in it now, by their top directories."""
        hanging = self.last(home).inodes
        return {home: self.homes[home], **{share: top for top, share in self._shares.items() if top in hanging}}

    def ever_in(self, home: WorkspaceId) -> set[int]:
        """All inodes that are, or were, in a drive itself or in a share that hangs in it now."""
        tops = self.read_by(home)
        at = [(tops[each], step) for (each, _), step in self._steps.items() if each in tops]
        found = {inode for top, step in at for inode in _below(self.sequence.trees[step], top)}
        # What was removed in the commit that made it had no name in any tree.
        found.update(inode for inode, parent in self.sequence.made_in.items() if parent in found)
        return found

    def untold(self, home: WorkspaceId, seq: Seq, told: Collection[int]) -> set[int]:
        """What is in a drive as of a commit, in shares of others of which only those with these roots are told of."""
        tree = self.tree(home, seq)
        return {below for top in self._hanging(home, seq) - set(told) for below in _below(tree, top)}

    def ever_left(self, home: WorkspaceId) -> set[int]:
        """All that was in shares of others when they went from a drive, which may have come back since."""
        found = set[int]()
        for seq in range(1, self.heads[home]):
            for top in self._hanging(home, Seq(seq)) - self._hanging(home, Seq(seq + 1)):
                found |= _below(self.tree(home, Seq(seq)), top)
        return found

    def _hanging(self, home: WorkspaceId, seq: Seq) -> set[int]:
        """The roots of shares of others that are in a drive as of a commit."""
        tree, of_drive = self.tree(home, seq), self.sequence.trees[self._steps[At(home, seq)]]
        return {inode for place, inode in tree.names.items() if place in of_drive.hung}

    def _seen(self, home: WorkspaceId, seq: Seq) -> dict[WorkspaceId, Seq]:
        return {share: of_share for at, share, of_share in self._followed.get(home, []) if at <= seq}

    def _tree(self, home: WorkspaceId, seq: Seq) -> Tree:
        of_drive = self.sequence.trees[self._steps[At(home, seq)]]
        seen = {each: self.sequence.trees[self._steps[At(each, at)]] for each, at in self._seen(home, seq).items()}
        root = self.homes[home]
        found = Tree(root, {root: of_drive.inodes[root]})
        waiting = [(root, of_drive)]
        while waiting:
            directory, tree = waiting.pop()
            for name, inode in tree.listed(directory).items():
                below = seen.get(self._shares[inode], tree) if inode in self._shares else tree
                found.names[directory, name], found.inodes[inode] = inode, below.inodes[inode]
                if below.is_directory(inode):
                    waiting.append((inode, below))
        return found


_w, _c, _h, _f = schema.workspaces.c, schema.commits.c, schema.changes.c, schema.followed.c
_SHARES = select(_w.workspace, _w.root, _w.first_seq).where(_w.kind == SHARE)
_COMMITS_AFTER = (
    select(_c.seq, _c.commit_id, _c.time_ns)
    .where(_c.workspace == bindparam("of"), _c.seq > bindparam("after"))
    .order_by(_c.seq)
)
_CHANGES_OF = select(schema.changes).where(_h.workspace == bindparam("of"), _h.seq == bindparam("at")).order_by(_h.n)
_FOLLOWED = select(_f.seq, _f.share, _f.share_seq).where(_f.workspace == bindparam("of")).order_by(_f.seq)


def _below(tree: Tree, top: int) -> set[int]:
    """A directory or file, and all that is in it; what hangs there as a share of somebody else is not."""
    children: dict[int, list[int]] = {}
    for place, inode in tree.names.items():
        if place not in tree.hung:
            children.setdefault(place[0], []).append(inode)
    found, waiting = set[int](), [top]
    while waiting:
        inode = waiting.pop()
        found.add(inode)
        waiting += children.get(inode, [])
    return found
