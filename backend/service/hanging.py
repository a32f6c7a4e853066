"""How a share comes to hang in a member's drive, and how it goes.

Owns the names in users' own drives that lead into other workspaces: they are made and taken away here, and moved by
ordinary mutations. Invariants: a share hangs in a drive at most once; the name goes in the transaction that ends the
membership; whoever calls has locked the drive.
"""

from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select

from backend.metadata import schema
from backend.service import following, own_commits
from backend.service.commit.batch import ChangeRow
from backend.service.commit.state import State
from backend.service.commit.tree import Link
from backend.service.commit.wants import Wants
from backend.service.ground import Ground
from backend.service.rows import INODE_COLUMNS, InodeRow, Place
from backend.service.workspaces import Access
from drivefs.protocol.ids import AccountId, InodeId, WorkspaceId
from drivefs.protocol.names import MAX_NAME_BYTES, MEANT_OTHERWISE, cut_between_letters

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
    """Give a share a name at the root of a drive, which follows it from now on; another one if that is taken.

    And if it means something there: the share could not be reached, or would say what else of the drive is sent.
    """
    target = Target(share.account, share.workspace, share.root)
    places = [Place(home.root, each) for each in _names(name.lstrip(b".") if name in MEANT_OTHERWISE else name)]
    when = own_commits.stamp(connection, ground, home)
    state = own_commits.load(connection, ground, home, _wants(places), when.time_ns)
    root = _link(connection, state, target)
    place = next(each for each in places if not state.tree.at(each))
    state.tree.add_name(place, root, when.time_ns)
    change = ChangeRow(following.LINK, target.root, place.parent, place.name)
    home = own_commits.write(connection, home, state, [change], when)
    following.begin(connection, home, share)


def unhang(connection: Connection, ground: Ground, home: Access, target: Target) -> None:
    """Take the name of a share out of a drive."""
    place = place_of(connection, home.account, target)
    if place is None:
        return
    when = own_commits.stamp(connection, ground, home)
    state = own_commits.load(connection, ground, home, _wants([place]), when.time_ns)
    state.tree.remove_name(place, _link(connection, state, target), when.time_ns)
    change = ChangeRow(following.UNLINK, target.root, place.parent, place.name)
    own_commits.write(connection, home, state, [change], when)


def _names(name: bytes) -> list[bytes]:
    stem = cut_between_letters(name, MAX_NAME_BYTES - len(b" (1000)"))
    return [name, *(stem + b" (%d)" % number for number in range(2, MOST_NAMES))]


def _wants(places: list[Place]) -> Wants:
    parents = {place.parent for place in places}
    return Wants(inodes=set(parents), parents=parents, places=set(places))


def _link(connection: Connection, state: State, target: Target) -> InodeRow:
    """Add the root of the share to what is known of the drive."""
    root = inode_row(connection, target.account, target.root)
    assert root is not None, "the root of a share stays"
    state.tree.inodes[target.root] = state.tree.loaded_inodes[target.root] = root
    state.tree.links[target.root] = Link(target.account, target.share)
    return root
