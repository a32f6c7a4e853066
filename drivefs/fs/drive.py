"""What a file system is made for: the drive that is mounted, and who serves it.

Owns the two values; decides nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from drivefs.fs import interfaces
from drivefs.fs.ownership import Owner
from drivefs.protocol.ids import InodeId, WorkspaceId
from drivefs.protocol.messages import Limits, Usage
from drivefs.protocol.model import InodeState

DEADLINE_SECONDS = 300.0
"""How long a call may wait for the backend in all, as long as something comes. Where nothing comes, those who ask the
backend give up much sooner (`remote.client.ANSWER_SECONDS`)."""

Provider = Callable[[], Mapping[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Who brings here what is not here, who hears of changes, and who knows what was."""

    fetcher: interfaces.BlockFetcher
    lister: interfaces.Lister
    publisher: interfaces.Publisher
    past: interfaces.Past


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """What is mounted: the workspace and its root, as whom, and within which limits.

    `files` are those in `.drivefs` that are one JSON object each, by name; `status_of` the value of
    `user.drivefs.status` of an inode; `pinned` that of its `user.drivefs.pinned`. `temporary` are patterns of
    files that stay on this device.
    """

    workspace: WorkspaceId
    root: InodeId
    owner: Owner
    limits: Limits
    usage: Usage
    deadline_seconds: float = DEADLINE_SECONDS
    files: Mapping[bytes, Provider] = field(default_factory=dict)
    status_of: Callable[[InodeId], str] | None = None
    pinned: Callable[[InodeState], bytes | None] = lambda state: None
    temporary: Sequence[str] = ()
