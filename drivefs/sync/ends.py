"""The two ends that synchronisation joins.

Owns nothing; a value that the parts of `sync` share.
"""

from dataclasses import dataclass

from cache.workspace import LocalState
from drivefs.protocol.ids import WorkspaceId
from drivefs.remote.client import Remote


@dataclass(frozen=True, slots=True)
class Ends:
    """The state on this device, the backend, and the workspace that they have in common."""

    local: LocalState
    remote: Remote
    workspace: WorkspaceId
