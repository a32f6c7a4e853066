"""Notifications as they come: who waits for them hears of them by the poll that waits for all changes.

Owns when the server is asked. Nobody asks on a timer: a page of the feed, or the number that a poll brings, says that
there may be something. Invariant: while nobody wants any, nothing is asked and the poll says nothing of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from drivefs.protocol.notifications import NotificationInfo, NotificationsReply, NotificationsRequest
from drivefs.remote.client import Remote

PAUSE_SECONDS = 0.5
"""After something was told, what comes in this time is asked for together."""


class Notices:
    """The notifications of one user, for those on this device who want them."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._waiting = 0
        self._known = 0
        self._moved = trio.Event()
        self.begun: Callable[[], None] = lambda: None
        """Called when somebody wants them and nobody did before: the poll under way does not ask for them."""

    @property
    def heard(self) -> int | None:
        """The number of the last one that was heard of; None: nobody wants any."""
        return self._known if self._waiting else None

    def moved(self, newest: int) -> None:
        """There may be new ones; `newest` is the number that a poll has brought, or 0."""
        self._known = max(self._known, newest)
        self._moved.set()

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """Somebody wants to hear of them for as long as this is entered."""
        self._waiting += 1
        if self._waiting == 1:
            self.begun()
        try:
            yield
        finally:
            self._waiting -= 1

    async def page(self, since: int, *, own: bool = False) -> NotificationsReply:
        """Those behind a number, a part of them.

        Raises:
            RemoteError: they cannot be had now.
        """
        reply = await self._remote.notified(NotificationsRequest(since=since, own=own))
        self._known = max(self._known, reply.newest)
        return reply

    async def all(self, since: int, *, own: bool = False) -> list[NotificationInfo]:
        """All of them behind a number.

        Raises:
            RemoteError: they cannot be had now.
        """
        found: list[NotificationInfo] = []
        while True:
            reply = await self.page(since, own=own)
            found += reply.notifications
            if not reply.more:
                return found
            since = reply.notifications[-1].number

    async def wait(self) -> None:
        """Return when there may be new ones; inside `wanted`. Cancellation forgets nothing."""
        moved = self._moved
        await moved.wait()
        await trio.sleep(PAUSE_SECONDS)
        if self._moved is moved:
            self._moved = trio.Event()
