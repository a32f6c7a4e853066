"""The two ends that synchronisation joins.

Owns nothing; a value that the parts of `sync` share.
"""

from dataclasses import dataclass

from cache.workspace import LocalState
from drivefs.protocol.ground import RandomBytes
from drivefs.protocol.ids import WorkspaceId
from drivefs.protocol.messages import OPERATION_BYTES
from drivefs.remote.client import Remote


@dataclass(frozen=True, slots=True)
class Ends:
    """The state on this device, the backend, and the workspace that they have in common.

    `random_bytes` names what is asked of the backend to be done.
    """

    local: LocalState
    remote: Remote
    workspace: WorkspaceId
    random_bytes: RandomBytes

    def operation(self) -> bytes:
        """A name for one request that has something done, and for all its repetitions."""
        return self.random_bytes(OPERATION_BYTES)
