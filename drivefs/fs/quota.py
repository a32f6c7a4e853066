"""How much may still be written: the limit of file size, and the account's quota with what waits to be stored.

Owns the figures as this mount knows them. Bytes count as pending from the write that was accepted until they are
published or dropped; the rest is the server's own figure, told by whoever hears it. What is written into a share of
somebody else counts against the room in that account, and not against the quota. A quota of 0, and room that nobody
told of, is not known: no limit.
"""

from collections.abc import Callable, Sequence

from drivefs.fs import errors
from drivefs.fs.waiting import OWN, Waiting
from drivefs.protocol.ids import InodeId
from drivefs.protocol.messages import Limits, Room, Usage

BLOCK_BYTES = 4096
LEAST_ROOM_BYTES = 2**20
"""With so much room nobody needs to be told that there is none."""


class Quota:
    """What of the quota is used, and what is allowed."""

    def __init__(self, limits: Limits, usage: Usage, waiting: Waiting) -> None:
        self.limits = limits
        self.usage = usage
        self.pending_bytes = waiting.total_bytes
        self.payer = waiting.payer
        self._waiting = waiting
        self._rooms: dict[str, int] = {}
        self.refused: Callable[[], None] = lambda: None
        """Called when somebody is refused for want of room."""
        self.looked_at: Callable[[], None] = lambda: None
        """Called when a program is shown the figures."""
        self.short: set[str] = set()
        """In whose accounts (`OWN`, or owners of shares) there was no room, and none was made since."""

    @property
    def used_bytes(self) -> int:
        """What the account has stored, and what this device has yet to store there."""
        return self.usage.stored_bytes + self.usage.pinned_bytes + self._pending_in(OWN)

    def _pending_in(self, payer: str) -> int:
        of_others = self._waiting.of_others()
        if payer != OWN:
            return min(self.pending_bytes, of_others.get(payer, 0))
        return max(0, self.pending_bytes - self._waiting.ignored_bytes() - sum(of_others.values()))

    def told(self, limits: Limits, usage: Usage, rooms: Sequence[Room] = ()) -> None:
        """The server's figures have changed; no rooms: there is nothing new about them."""
        self.limits = limits
        self.usage = usage
        if rooms:
            self._rooms = {room.owner: room.room_bytes for room in rooms}
        self.short = {payer for payer in self.short if not self._has_room(payer, LEAST_ROOM_BYTES)}

    def _room_in(self, payer: str) -> int | None:
        """How much an account may have beside what it has stored; None: there is no saying."""
        if payer != OWN:
            return self._rooms.get(payer)
        most = self.limits.quota_bytes
        return most - self.usage.stored_bytes - self.usage.pinned_bytes if most else None

    def _has_room(self, payer: str, length: int) -> bool:
        room = self._room_in(payer)
        return room is None or self.pending_bytes + length <= room or self._pending_in(payer) + length <= room

    def check_size(self, size: int) -> None:
        """Refuse a file size.

        Raises:
            TooLarge: past the limit of file size.
        """
        if size > self.limits.file_bytes:
            raise errors.TooLarge

    def check_write(self, inode: InodeId, length: int) -> None:
        """Refuse to accept so many bytes more of an inode.

        Raises:
            OverQuota: no room for them.
        """
        payer = self.payer(inode)
        if not self._has_room(payer, length) and not self._waiting.is_ignored(inode):
            self.short.add(payer)
            self.refused()
            raise errors.OverQuota

    def pend(self, difference: int) -> None:
        """So many bytes more, or less, wait to be stored."""
        self.pending_bytes = max(0, self.pending_bytes + difference)
