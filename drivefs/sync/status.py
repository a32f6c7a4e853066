"""What synchronisation is doing now, as plain values for the commands and the `.drivefs` tree.

Owns the shape and the gathering. Rates are over the last `WINDOW_SECONDS`, sampled once a second; nothing here waits
for the network.
"""

from collections import deque
from collections.abc import Callable, Sequence

import msgspec
import trio

from cache.errors import Corrupt
from cache.journal import Journal
from cache.workspace import LocalState
from drivefs.protocol.messages import Limits, Room, Usage
from drivefs.sync.connection import Connection
from drivefs.sync.standing import is_revoked

WINDOW_SECONDS = 5


class Transfer(msgspec.Struct, frozen=True):
    """One direction since the mount began."""

    bytes: int
    bytes_per_second: float


class SyncStatus(msgspec.Struct, frozen=True):
    """The state of one drive.

    `since_ns` is when the present state, online or offline, began; `is_revoked` that it is offline for good, until
    somebody logs in again; `reason` says why it is offline, or why nothing is accepted. `pending_mutations` counts
    changes that the backend has not acknowledged, and files with content that no revision has; `pending_bytes` is that
    content. The quota is None until the backend has been reached.
    """

    online: bool
    since_ns: int
    reason: str
    is_revoked: bool
    pending_mutations: int
    pending_bytes: int
    upload: Transfer
    download: Transfer
    quota_bytes: int | None
    used_bytes: int | None
    ignored_files: int
    """Files, directories and links that a rule keeps on this device, with `ignored_bytes` of content."""
    ignored_bytes: int
    unlisted_directories: int
    """Directories that are known of and will be listed in the background, or as soon as someone looks into them."""


def pending(journal: Journal) -> tuple[int, int]:
    """What the backend does not have: changes, with files that have unpublished content, and bytes of that content."""
    ignored_count, ignored_bytes = journal.ignored.drafts()
    return journal.pending_count + journal.drafts.count() - ignored_count, journal.pending_bytes - ignored_bytes


class Meter:
    """The rate of a counter that only grows."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read
        self._samples = deque([read()], maxlen=WINDOW_SECONDS + 1)

    def sample(self) -> None:
        """Called once a second."""
        self._samples.append(self._read())

    def transfer(self) -> Transfer:
        """The total and the rate."""
        seconds = max(len(self._samples) - 1, 1)
        return Transfer(bytes=self._read(), bytes_per_second=(self._samples[-1] - self._samples[0]) / seconds)


class Reporter:
    """Gathers the status of one drive."""

    def __init__(self, local: LocalState, connection: Connection, *, sent: Meter, received: Meter) -> None:
        self._local = local
        self._connection = connection
        self._sent = sent
        self._received = received
        self._limits: Limits | None = None
        self._usage: Usage | None = None
        self.looked_at: Callable[[], None] = lambda: None
        """Called when the figures are shown."""

    async def run(self) -> None:
        """Sample the rates until cancelled."""
        while True:
            await trio.sleep(1.0)
            self._sent.sample()
            self._received.sample()

    def told(self, limits: Limits, usage: Usage, rooms: Sequence[Room] = ()) -> None:
        """The backend has said what the account may use and does use."""
        self._limits, self._usage = limits, usage

    def status(self) -> SyncStatus:
        """The state now."""
        self.looked_at()
        reach = self._connection.reach
        mutations, size = pending(self._local.journal)
        used = None if self._usage is None else self._usage.stored_bytes + self._usage.pinned_bytes
        return SyncStatus(
            online=reach.online,
            since_ns=reach.since_ns,
            reason=reach.reason,
            is_revoked=is_revoked(self._local.journal),
            pending_mutations=mutations,
            pending_bytes=size,
            upload=self._sent.transfer(),
            download=self._received.transfer(),
            quota_bytes=None if self._limits is None else self._limits.quota_bytes,
            used_bytes=used,
            ignored_files=self._local.journal.ignored.count(),
            ignored_bytes=self._local.journal.ignored.drafts()[1],
            unlisted_directories=self._unlisted_count(),
        )

    def _unlisted_count(self) -> int:
        try:
            return self._local.replica.incomplete_count()
        except Corrupt:
            # It is fetched anew by the next mount; who asks may want to know what is pending, or to unmount.
            return 0
