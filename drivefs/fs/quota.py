"""How much may still be written: the limit of file size, and the account's quota with what waits to be stored.

Owns the figures as this mount knows them. Bytes count as pending from the write that was accepted until they are
published or dropped; the rest is the server's own figure, told by whoever hears it. A quota of 0 is not known: no
limit.
"""

from collections.abc import Callable

from drivefs.fs import errors
from drivefs.protocol.messages import Limits, Usage

BLOCK_BYTES = 4096
LEAST_ROOM_BYTES = 2**20
"""With so much room nobody needs to be told that there is none."""


class Quota:
    """What of the quota is used, and what is allowed."""

    def __init__(self, limits: Limits, usage: Usage, pending_bytes: int) -> None:
        self.limits = limits
        self.usage = usage
        self.pending_bytes = pending_bytes
        self.ignored_bytes: Callable[[], int] = lambda: 0
        """How many of the pending bytes are those of ignored files, which will never be stored."""
        self.refused: Callable[[], None] = lambda: None
        """Called when somebody is refused for want of room."""
        self.is_short = False
        """Whether somebody was, and no room was made since."""

    @property
    def used_bytes(self) -> int:
        """What the account has stored, and what this device has yet to store."""
        pending = max(0, self.pending_bytes - self.ignored_bytes())
        return self.usage.stored_bytes + self.usage.pinned_bytes + pending

    def told(self, limits: Limits, usage: Usage) -> None:
        """The server's figures have changed."""
        self.limits = limits
        self.usage = usage
        self.is_short = self.is_short and not self._has_room(LEAST_ROOM_BYTES)

    def _has_room(self, length: int) -> bool:
        return not self.limits.quota_bytes or self.used_bytes + length <= self.limits.quota_bytes

    def check_size(self, size: int) -> None:
        """Refuse a file size.

        Raises:
            TooLarge: past the limit of file size.
        """
        if size > self.limits.file_bytes:
            raise errors.TooLarge

    def check_write(self, length: int, *, is_stored: Callable[[], bool] = lambda: True) -> None:
        """Refuse to accept so many bytes more; `is_stored` says whether they are to be stored at all.

        Raises:
            OverQuota: no room for them.
        """
        most = self.limits.quota_bytes
        if not most or self.usage.stored_bytes + self.usage.pinned_bytes + self.pending_bytes + length <= most:
            return
        if self.used_bytes + length > most and is_stored():
            self.is_short = True
            self.refused()
            raise errors.OverQuota

    def pend(self, difference: int) -> None:
        """So many bytes more, or less, wait to be stored."""
        self.pending_bytes = max(0, self.pending_bytes + difference)
