"""Why a mutation is not applied: raised by whoever finds it, turned into an answer in one place."""

from collections.abc import Iterable

from drivefs.protocol.changes import Status
from drivefs.protocol.ids import BlockId

EXISTS = "exists"
ABSENT = "absent"
CHANGED = "changed"
NOT_EMPTY = "not_empty"
CYCLE = "cycle"
NO_PARENT = "no_parent"
GONE = "gone"
"""The content of what is to be brought back was let go for good."""
NOT_DIRECTORY = "not_directory"
IS_DIRECTORY = "is_directory"
ROLE = "role"
LIMIT = "limit"
MALFORMED = "malformed"
PREDECESSOR = "predecessor"
SHARE = "share"
"""What hangs in a drive as a share is not removed there by what removes a directory."""
WORKSPACE = "workspace"
"""The mutation names inodes of two workspaces."""
INODE = "inode"
"""Of `id_taken`: the id of the new inode is taken or not the device's, not the number of the op."""


class Refused(Exception):
    """One mutation is refused; nothing of it has been applied."""

    def __init__(self, status: Status, reason: str = "", blocks: Iterable[BlockId] = ()) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason
        self.blocks = list(blocks)


def conflict(reason: str) -> Refused:
    """What the mutation expects is not so (any more)."""
    return Refused(Status.CONFLICT, reason)


def rejected(reason: str) -> Refused:
    """The mutation can never be applied, whatever the state."""
    return Refused(Status.REJECTED, reason)
