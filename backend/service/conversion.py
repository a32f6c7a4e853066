"""How a folder becomes a share: a workspace of its own, at its old place, with its inodes as they are.

Owns the steps. It is looked at (`plan`), and what its members may fetch is noted (`admit`), in portions, before others
have to wait; then one transaction moves all inodes at once (`convert`): the column that says in which workspace an
inode is, and nothing else. Invariants: all that is below the folder goes with it, what lies in its trash too, and
nothing that is not; a seq of the drive from before says what it said; the share's first commit has the number of the
drive's that made it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, text, update

from backend.metadata import schema
from backend.metadata.queries import is_asked, select_in, write_rows
from backend.metadata.schema import MemberState, Role
from backend.service import batches, following, hanging, parting, workspaces
from backend.service.caller import Caller
from backend.service.commit.batch import ChangeRow
from backend.service.commit.contents import split_runs
from backend.service.ground import Ground
from backend.service.hanging import Target
from backend.service.parting import Outside
from backend.service.rows import DIRECTORY, FILE, Place
from backend.service.workspaces import SHARE, Access
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import COMMIT_ID_BYTES, AccountId, BlockId, InodeId, RunId, Seq, WorkspaceId
from drivefs.protocol.model import unpack_blocks

PORTION = 2000
"""So many blocks are noted in one transaction."""

TREE = """WITH RECURSIVE tree(inode) AS (
    SELECT CAST(:root AS BIGINT)
    UNION SELECT d.inode FROM tree CROSS JOIN dentries d WHERE d.account = :account AND d.parent = tree.inode
    UNION SELECT v.inode FROM tree CROSS JOIN dentry_versions v
        WHERE v.account = :account AND v.parent = tree.inode AND v.trash = 1
)"""
"""All that is below a directory, or was removed from there and lies in the trash. CROSS JOIN: from the directories to
their names; SQLite, left to itself, went through all names for each directory."""

_IN_TREE = text(
    TREE + " SELECT i.inode, i.kind, i.nlink, i.blocks, i.lineage, i.revision, i.workspace, i.from_seq"
    " FROM tree CROSS JOIN inodes i WHERE i.account = :account AND i.inode = tree.inode"
)
_r, _n, _d = schema.revisions.c, schema.runs.c, schema.dentries.c
_REVISION = select(_r.runs).where(
    _r.account == bindparam("account"), _r.lineage == bindparam("lineage"), _r.number == bindparam("number")
)
_RUNS = select(_n.packed).where(_n.account == bindparam("account"), is_asked(_n.run))
_NAMES = select(_d.inode, _d.parent, _d.name).where(_d.account == bindparam("account"), is_asked(_d.inode))
_SINCE_SEQ = select(_d.from_seq).where(
    _d.account == bindparam("account"), _d.parent == bindparam("parent"), _d.name == bindparam("name")
)


_i = schema.inodes.c
_MOVE = (
    update(schema.inodes)
    .where(_i.account == bindparam("of_account"), _i.inode.between(bindparam("first"), bindparam("last")))
    .values(workspace=bindparam("share"))
)
_h = schema.changes.c
_SINCE = select(_h.inode, _h.parent, _h.other_inode, _h.other_parent).where(
    _h.account == bindparam("account"), _h.workspace == bindparam("workspace"), _h.seq > bindparam("seq")
)


@dataclass(frozen=True, slots=True)
class Plan:
    """A folder that can be shared: what went with it as of a commit, and the blocks that it had then.

    `outside` are other names of files that go with it, which do not. `stretches` are the inodes again, as the first
    and last of each run of ids without a gap: what was made together is moved by few statements.
    """

    account: AccountId
    root: InodeId
    place: Place
    seq: Seq
    inodes: frozenset[InodeId]
    stretches: list[tuple[InodeId, InodeId]]
    outside: list[Outside]
    blocks: list[BlockId]


def plan(connection: Connection, caller: Caller, inode: InodeId, named: Place | None = None) -> Plan | None:
    """See that a folder of the caller's drive can be shared; None: it is a share already.

    A file that has several names is shared under the one that is `named`.

    Raises:
        ProtocolError: `not_found`, `conflict`.
    """
    home = workspaces.own_drive(connection, caller.user)
    if any(each.kind == SHARE and each.root == inode for each in workspaces.visible(connection, caller.user)):
        return None
    rows = _look(connection, home, inode)
    inodes = frozenset(row.inode for row in rows)
    place, outside = _placed(connection, home, inode, rows, named)
    blocks = sorted(_blocks(connection, home.account, rows))
    return Plan(home.account, inode, place, home.head_seq, inodes, stretches(inodes), outside, blocks)


def stretches(inodes: Iterable[InodeId]) -> list[tuple[InodeId, InodeId]]:
    """The first and last of each run of ids that has no gap, in order."""
    found = list[tuple[InodeId, InodeId]]()
    for inode in sorted(inodes):
        if found and found[-1][1] == inode - 1:
            found[-1] = (found[-1][0], inode)
        else:
            found.append((inode, inode))
    return found


async def admit(ground: Ground, share: WorkspaceId, planned: Plan) -> None:
    """Note what members may fetch. Cancellation leaves rows of a share that does not exist, which do no harm."""
    for start in range(0, len(planned.blocks), PORTION):
        some = set(planned.blocks[start : start + PORTION])
        await ground.database.write(batches.admit_blocks, planned.account, share, some)


def convert(connection: Connection, ground: Ground, home: Access, planned: Plan, share: WorkspaceId) -> bool:
    """Make a workspace of what was planned; the drive is locked by the caller. False: it has changed since.

    What was changed beside it meanwhile does no harm, so nothing has to be looked at again while others wait.
    """
    bound = {"account": home.account, "workspace": home.workspace, "seq": planned.seq}
    touched = {inode for row in connection.execute(_SINCE, bound) for inode in row}
    if touched & planned.inodes:
        return False
    moved = [{"of_account": home.account, "first": a, "last": z, "share": share} for a, z in planned.stretches]
    change = ChangeRow(following.LINK, planned.root, planned.place.parent, planned.place.name)
    seq = Seq(home.head_seq + 1)
    if planned.outside:
        after = parting.part(connection, ground, home, planned.outside, change)
    else:
        after = following.tell(connection, ground, home, [change])
    write_rows(connection, _MOVE, moved)
    _link(connection, home, planned, share, seq)
    made = _make(connection, ground, home, Target(home.account, share, planned.root), seq)
    following.begin(connection, after, made)
    return True


def _look(connection: Connection, home: Access, inode: InodeId) -> list[Any]:
    """All that would go with a folder.

    Raises:
        ProtocolError: it is no folder of this drive, or cannot be shared.
    """
    root = hanging.inode_row(connection, home.account, inode)
    if root is None or not root.nlink or root.workspace != home.workspace:
        other = root is not None and root.nlink and root.workspace != home.workspace
        if other:
            raise ProtocolError(Code.CONFLICT, "It lies in a folder that is shared: share that one with more people.")
        raise ProtocolError(Code.NOT_FOUND, "There is no such folder or file in your own drive.")
    if inode == home.root:
        raise ProtocolError(Code.CONFLICT, "A whole drive cannot be shared: share the folders in it.")
    if root.kind not in (DIRECTORY, FILE):
        raise ProtocolError(Code.CONFLICT, "Only folders and files can be shared.")
    rows = list(connection.execute(_IN_TREE, {"account": home.account, "root": inode}))
    inside = {row.inode for row in rows}
    if any(row.workspace != home.workspace for row in rows) or _has_links(connection, home, inside):
        raise ProtocolError(Code.CONFLICT, "A share hangs in it: move that out of the folder first.")
    return rows


def _has_links(connection: Connection, home: Access, inodes: set[InodeId]) -> bool:
    links = select(_d.parent).where(_d.account == home.account, _d.target_workspace.is_not(None))
    return any(parent in inodes for (parent,) in connection.execute(links))


def _placed(
    connection: Connection, home: Access, root: InodeId, rows: list[Any], named: Place | None
) -> tuple[Place, list[Outside]]:
    """The name under which a folder or file is shared, and the names outside of what goes with it.

    Raises:
        ProtocolError: it is a file with several names, and none of them was named.
    """
    inside = {row.inode for row in rows}
    named_twice = [row.inode for row in rows if row.kind != DIRECTORY and row.nlink > 1]
    found = [
        Outside(inode, Place(parent, name))
        for inode, parent, name in select_in(connection, _NAMES, {root, *named_twice}, account=home.account)
        if parent not in inside
    ]
    places = [each.place for each in found if each.inode == root]
    place = places[0] if len(places) == 1 else named
    if place not in places:
        raise ProtocolError(Code.CONFLICT, "The file has several names (hard links): say which one is to be shared.")
    return place, [each for each in found if each != Outside(root, place)]


def _blocks(connection: Connection, account: AccountId, rows: list[Any]) -> set[BlockId]:
    """What members may fetch: what has a name. What lies in the trash goes along for the owner to restore."""
    rows = [row for row in rows if row.nlink]
    found = {ref.block for row in rows if row.blocks for ref in unpack_blocks(row.blocks)}
    for row in rows:
        if row.blocks is None:
            found.update(ref.block for packed in _packed(connection, account, row) for ref in unpack_blocks(packed))
    return found


def _packed(connection: Connection, account: AccountId, row: Any) -> Iterator[bytes]:
    bound = {"account": account, "lineage": row.lineage, "number": row.revision}
    named: set[RunId] = set(split_runs(connection.execute(_REVISION, bound).scalar_one()))
    yield from (packed for (packed,) in select_in(connection, _RUNS, named, account=account))


def _link(connection: Connection, home: Access, planned: Plan, share: WorkspaceId, seq: Seq) -> None:
    """Let the folder's name lead into the share."""
    parent, name = planned.place
    at = {"account": home.account, "parent": parent, "name": name}
    since = connection.execute(_SINCE_SEQ, at).scalar_one()
    closed = {
        **at,
        "inode": planned.root,
        "from_seq": since,
        "to_seq": seq,
        "trash": schema.Trash.NONE,
        "lineage": 0,
        "last_number": 0,
    }
    connection.execute(insert(schema.dentry_versions), closed)
    same = (_d.account == home.account, _d.parent == parent, _d.name == name)
    values = {"target_account": home.account, "target_workspace": share, "from_seq": seq}
    connection.execute(update(schema.dentries).where(*same).values(values))


def _make(connection: Connection, ground: Ground, home: Access, target: Target, seq: Seq) -> Access:
    """The rows of the workspace itself."""
    own = {"account": target.account, "workspace": target.share}
    seqs = {"first_seq": seq, "head_seq": seq, "feed_floor": seq, "history_floor": seq}
    connection.execute(
        insert(schema.workspaces), {**own, **seqs, "kind": SHARE, "root": target.root, "id_scheme": "plain"}
    )
    connection.execute(
        insert(schema.members), {**own, "user": home.user, "role": Role.OWNER, "state": MemberState.ACTIVE}
    )
    connection.execute(insert(schema.user_workspaces), {**own, "user": home.user})
    last_ns = workspaces.stamp_at(connection, home, home.head_seq).time_ns
    by = {"user": home.user, "device": 0, "commit_id": ground.random_bytes(COMMIT_ID_BYTES)}
    connection.execute(insert(schema.commits), {**own, **by, "seq": seq, "time_ns": max(ground.now_ns(), last_ns + 1)})
    change = {**own, "seq": seq, "n": 0, "kind": "create", "inode": target.root}
    connection.execute(insert(schema.changes), change)
    made = workspaces.find(connection, home.user, target.share)
    assert made is not None, "it was made just now"
    return made
