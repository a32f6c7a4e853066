"""All services that the API calls, in one value, and the sign that the server is about to stop."""

from dataclasses import dataclass, field

import anyio

from backend.metadata.sqlite import Database
from backend.notify.hub import Hub
from backend.service.accounts import Accounts
from backend.service.blocks import Blocks
from backend.service.checks import Checks


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

    database: Database
    lifecycle: Lifecycle
    accounts: Accounts
    blocks: Blocks
    checks: Checks
