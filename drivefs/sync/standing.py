"""Whether the backend still knows this device, or has revoked it.

Owns that one durable fact: it holds after a remount, and without a network. A revoked device takes no changes any more,
since nobody would ever get them; what it has can be read, exported, and sent after a new login.
"""

import logging
from collections.abc import Awaitable, Callable

from cache.journal import Journal
from drivefs.protocol.errors import Code
from drivefs.remote import errors

log = logging.getLogger(__name__)

REVOKED = "revoked"
"""The fact under which it is remembered."""


def is_revoked(journal: Journal) -> bool:
    """Whether the last word of the backend was that the device is revoked."""
    return journal.meta(REVOKED) is not None


def forget(journal: Journal) -> None:
    """The state is that of another device from now on, which has just logged in."""
    journal.set_meta(REVOKED, None)


class Standing:
    """Opens sessions, and remembers when one is refused for good; `changed` hears whether the device is revoked."""

    def __init__(
        self, journal: Journal, open_session: Callable[[], Awaitable[None]], changed: Callable[[bool], None]
    ) -> None:
        self._journal = journal
        self._open_session = open_session
        self._changed = changed
        self._is_revoked = is_revoked(journal)

    async def open(self) -> None:
        """Open a session.

        Raises:
            RemoteError: there is none; DiskFull.
        """
        try:
            await self._open_session()
        except errors.Refused as error:
            if error.code is Code.DEVICE_REVOKED and not self._is_revoked:
                log.error("%s The drive is read-only until then; `drivefs export` copies what was not sent", error)
                self._note(True)
                self._journal.set_meta(REVOKED, b"1")
            raise
        if self._is_revoked:
            self._note(False)
            self._journal.set_meta(REVOKED, None)

    def _note(self, is_revoked: bool) -> None:
        self._is_revoked = is_revoked
        self._changed(is_revoked)
