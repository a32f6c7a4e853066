"""How a share comes to hang in a member's drive, and how it goes.

Owns the names in users' own drives that lead into other workspaces: they are made and taken away here, and moved by
ordinary mutations. Invariants: a share hangs in a drive at most once; the name goes in the transaction that ends the
membership; whoever calls has locked the drive.
"""

from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select

from backend.metadata import schema
from backend.service import batches, following, ids, workspaces
from backend.service.commit.batch import ChangeRow, Verdict
from backend.service.commit.loading import Loader
from backend.service.commit.state import Author, State
from backend.service.commit.tree import Link
from backend.service.commit.wants import Wants
from backend.service.commit.writing import Writer
from backend.service.ground import Ground
from backend.service.rows import INODE_COLUMNS, InodeRow, Place
from backend.service.workspaces import Access, Stamp
from drivefs.protocol.ids import COMMIT_ID_BYTES, AccountId, CommitId, Epoch, InodeId, LineageId, Seq, WorkspaceId
from drivefs.protocol.names import MAX_NAME_BYTES

MOST_NAMES = 1000
"""So many names are tried for a share whose name is taken."""

_i, _d = schema.inodes.c, schema.dentries.c
_INODE = select(*(_i[name] for name in INODE_COLUMNS)).where(
    _i.account == bindparam("account"), _i.inode == bindparam("inode")
)
_PLACE = select(_d.parent, _d.name).where(
    _d.account == bindparam("account"), _d.inode == bindparam("inode"), _d.target_workspace == bindparam("share")
)


class Target(NamedTuple):
    """A share, as what leads to it names it."""

    account: AccountId
    share: WorkspaceId
    root: InodeId


def inode_row(connection: Connection, account: AccountId, inode: InodeId) -> InodeRow | None:
    """The present row of an inode."""
    row = connection.execute(_INODE, {"account": account, "inode": inode}).one_or_none()
    return None if row is None else InodeRow(*row)


def place_of(connection: Connection, account: AccountId, target: Target) -> Place | None:
    """Where a share hangs in the drive of an account."""
    bound = {"account": account, "inode": target.root, "share": target.share}
    row = connection.execute(_PLACE, bound).one_or_none()
    return None if row is None else Place(row.parent, row.name)


def hang(connection: Connection, ground: Ground, home: Access, share: Access, name: bytes) -> None:
    """Give a share a name at the root of a drive, which follows it from now on; another name if that is taken."""
    target = Target(share.account, share.workspace, share.root)
    places = [Place(home.root, each) for each in _names(name)]
    state = _load(connection, ground, home, target, places)
    place = next(each for each in places if not state.tree.at(each))
    state.tree.add_name(place, state.tree.inodes[target.root], _time_ns(connection, ground, home))
    change = ChangeRow(following.LINK, target.root, place.parent, place.name)
    home = _write(connection, ground, home, state, change)
    following.begin(connection, home, share)


def unhang(connection: Connection, ground: Ground, home: Access, target: Target) -> None:
    """Take the name of a share out of a drive."""
    place = place_of(connection, home.account, target)
    if place is None:
        return
    state = _load(connection, ground, home, target, [place])
    state.tree.remove_name(place, state.tree.inodes[target.root], _time_ns(connection, ground, home))
    change = ChangeRow(following.UNLINK, target.root, place.parent, place.name)
    _write(connection, ground, home, state, change)


def _names(name: bytes) -> list[bytes]:
    stem = name[: MAX_NAME_BYTES - len(b" (1000)")]
    return [name, *(stem + b" (%d)" % number for number in range(2, MOST_NAMES))]


def _time_ns(connection: Connection, ground: Ground, home: Access) -> int:
    return max(ground.now_ns(), workspaces.stamp_at(connection, home, home.head_seq).time_ns + 1)


def _load(connection: Connection, ground: Ground, home: Access, target: Target, places: list[Place]) -> State:
    author = Author(
        workspace=home.workspace,
        user=home.user,
        device=ids.BACKEND_DEVICE,
        epoch=Epoch(0),
        may_write=True,
        seq=Seq(home.head_seq + 1),
    )
    loader = Loader(connection, home.account, author, _time_ns(connection, ground, home))
    parents = {place.parent for place in places}
    wants = Wants(inodes=set(parents), parents=parents, places=set(places))
    figures = batches.figures_of(connection, home.account, ground)
    state = loader.load(wants, figures, lambda: LineageId(ids.random_id(ground.random_bytes)))
    root = inode_row(connection, target.account, target.root)
    assert root is not None, "the root of a share stays"
    state.tree.inodes[target.root] = state.tree.loaded_inodes[target.root] = root
    state.tree.links[target.root] = Link(target.account, target.share)
    return state


def _write(connection: Connection, ground: Ground, home: Access, state: State, change: ChangeRow) -> Access:
    stamp = Stamp(CommitId(ground.random_bytes(COMMIT_ID_BYTES)), _time_ns(connection, ground, home))
    Writer(connection, home.account, state).write_commit(Verdict(changes=[change]), stamp)
    return workspaces.at_head(home, state.author.seq)
