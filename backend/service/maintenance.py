"""What the server does to its data now and then: the trash ends, revisions age, blocks are collected, feeds forget.

Owns the order, so that what one step frees the next one sees, and the report; the steps are those of their services.
Each is made of short transactions and goes on where it was cut off, so to run it at any time, or twice, is no harm.
"""

from dataclasses import dataclass, field

import anyio

from backend.service.departures import Departures
from backend.service.garbage import Collected, Garbage
from backend.service.ground import Ground
from backend.service.notifications import Notifications
from backend.service.pruning import Pruning
from backend.service.shares import Shares
from backend.service.thinning import Thinned, Thinning
from backend.service.tiering import Cooled, Tiering
from backend.service.trash import Expired, Trash
from drivefs.protocol.errors import Code, ProtocolError


@dataclass(slots=True)
class Maintained:
    """What was done, or, of a dry run, what would be done now.

    What is freed of content is free for its account at once; the room on the disk comes when blocks are deleted, days
    later. A dry run cannot know what would be freed with the trash, and counts it without.
    """

    is_dry_run: bool
    expired: Expired = field(default_factory=Expired)
    thinned: Thinned = field(default_factory=Thinned)
    collected: Collected = field(default_factory=Collected)
    cooled: Cooled = field(default_factory=Cooled)
    change_count: int = 0
    user_count: int = 0
    """Of removed users, whose time to be brought back is over."""

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to do."""
        return self == Maintained(self.is_dry_run)


class Maintenance:
    """The steps; one run at a time."""

    def __init__(self, ground: Ground, trash: Trash, garbage: Garbage, pruning: Pruning, tiering: Tiering) -> None:
        self._ground = ground
        self._departures = Departures(ground, Shares(ground))
        self._thinning = Thinning(ground)
        self._trash = trash
        self._garbage = garbage
        self._pruning = pruning
        self._tiering = tiering
        self._notifications = Notifications(ground)
        self._running = anyio.Lock()

    async def run(self, *, is_dry_run: bool = False) -> Maintained:
        """Do all that is due. Cancellation leaves the rest for the next time.

        Raises:
            ProtocolError: `conflict`: the database is damaged; nothing was done.
            OSError: the store does not delete now; all other steps are done.
        """
        async with self._running:
            await self._require_sound()
            done = Maintained(is_dry_run)
            done.user_count = await self._departures.finish(is_dry_run=is_dry_run)
            done.expired = await self._trash.expire(is_dry_run=is_dry_run)
            done.thinned = await self._thinning.thin(is_dry_run=is_dry_run)
            if not is_dry_run:
                await self._notifications.derive_all()
            done.change_count = await self._pruning.prune(is_dry_run=is_dry_run)
            done.cooled = await self._tiering.cool(is_dry_run=is_dry_run)
            done.collected = await (self._garbage.due() if is_dry_run else self._garbage.collect())
            return done

    async def _require_sound(self) -> None:
        """What a damaged database does not lead to any more looks as if nothing needed it."""
        if problems := await self._ground.database.problems():
            raise ProtocolError(
                Code.CONFLICT,
                f"The database is damaged ({problems[0]}). Nothing was let go or collected, since what it does not say "
                "may be needed. drivefs-server check --repair mends it where its tables are whole; else put a backup "
                "back with drivefs-server restore.",
            )
