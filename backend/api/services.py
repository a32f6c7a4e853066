"""All services that the API calls, in one value, and the sign that the server is about to stop."""

from dataclasses import dataclass, field

import anyio

from backend.metadata.sqlite import Database
from backend.notify.hub import Hub
from backend.service.accounting import Accounting
from backend.service.accounts import Accounts
from backend.service.activity import Activity
from backend.service.backups import Backups
from backend.service.blocks import Blocks
from backend.service.changes import Changes
from backend.service.checks import Checks
from backend.service.commits import Commits
from backend.service.departures import Departures
from backend.service.devices import Devices
from backend.service.garbage import Garbage
from backend.service.ground import Ground
from backend.service.links import Links
from backend.service.listing import Listing
from backend.service.maintenance import Maintenance
from backend.service.notifications import Notifications
from backend.service.pruning import Pruning
from backend.service.revisions import Revisions
from backend.service.sessions import Sessions
from backend.service.shares import Shares
from backend.service.snapshots import Snapshots
from backend.service.tiering import Tiering
from backend.service.trash import Trash
from backend.service.uploads import Uploads


@dataclass(slots=True)
class Lifecycle:
    """Whether the server is stopping: open polls are answered at once then, and new ones do not wait."""

    hub: Hub
    stopping: anyio.Event = field(default_factory=anyio.Event)

    def stop(self) -> None:
        """Begin to stop."""
        self.stopping.set()
        self.hub.wake_all()


@dataclass(frozen=True, slots=True)
class Services:
    """Made once by the composition root."""

    ground: Ground
    database: Database
    lifecycle: Lifecycle
    accounts: Accounts
    accounting: Accounting
    departures: Departures
    devices: Devices
    uploads: Uploads
    sessions: Sessions
    shares: Shares
    links: Links
    notifications: Notifications
    activity: Activity
    listing: Listing
    revisions: Revisions
    snapshots: Snapshots
    trash: Trash
    commits: Commits
    changes: Changes
    blocks: Blocks
    garbage: Garbage
    pruning: Pruning
    maintenance: Maintenance
    tiering: Tiering
    checks: Checks
    backups: Backups
