"""Commits that the backend makes itself in a user's drive, as when a share comes to hang there or a file is parted.

Owns who they are by, when, and how they are written; what they change is said by whoever makes one. Invariants: the
drive is locked by the caller; a commit is later than the one before it.
"""

from collections.abc import Sequence

from sqlalchemy import Connection

from backend.service import batches, ids, workspaces
from backend.service.commit.batch import ChangeRow, Verdict
from backend.service.commit.loading import Loader
from backend.service.commit.state import Author, State
from backend.service.commit.wants import Wants
from backend.service.commit.writing import Writer
from backend.service.ground import Ground
from backend.service.workspaces import Access, Stamp
from drivefs.protocol.ids import COMMIT_ID_BYTES, CommitId, Epoch, LineageId, Seq


def stamp(connection: Connection, ground: Ground, home: Access) -> Stamp:
    """An id and the time of the next commit."""
    last_ns = workspaces.stamp_at(connection, home, home.head_seq).time_ns
    return Stamp(CommitId(ground.random_bytes(COMMIT_ID_BYTES)), max(ground.now_ns(), last_ns + 1))


def load(connection: Connection, ground: Ground, home: Access, wants: Wants, now_ns: int) -> State:
    """What the next commit needs of the drive."""
    author = Author(
        workspace=home.workspace,
        user=home.user,
        device=ids.BACKEND_DEVICE,
        epoch=Epoch(0),
        may_write=True,
        seq=Seq(home.head_seq + 1),
    )
    figures = batches.figures_of(connection, home.account, ground)
    loader = Loader(connection, home.account, author, now_ns, ground.now_ns())
    return loader.load(wants, figures, lambda: LineageId(ids.random_id(ground.random_bytes)))


def write(connection: Connection, home: Access, state: State, changes: Sequence[ChangeRow], when: Stamp) -> Access:
    """Write it; gives the drive as it is then."""
    Writer(connection, home.account, state).write_commit(Verdict(changes=list(changes)), when)
    return workspaces.at_head(home, state.author.seq)
