"""How slow a reply may be before the link counts as dead: a pure count of bytes against time.

Owns the rule. A reply that gets on is waited for, however slow the link; one that trickles is not.
"""

from drivefs.remote import errors

LEAST_BYTES_PER_SECOND = 16 * 2**10
"""A transfer may take as long as it would at this rate, past which the link is as good as none."""
GRACE_SECONDS = 30.0
"""How much longer a transfer of blocks may take."""


def transfer_seconds(total_bytes: int, grace_seconds: float = GRACE_SECONDS) -> float:
    """How long sending or receiving so much may take at most."""
    return grace_seconds + total_bytes / LEAST_BYTES_PER_SECOND


class Pace:
    """Notices a reply that trickles: bytes keep coming, but slower than `LEAST_BYTES_PER_SECOND` over all."""

    def __init__(self, now: float, grace_seconds: float) -> None:
        self._since = now
        self._grace_seconds = grace_seconds
        self._waited_seconds = 0.0
        self._received_bytes = 0

    def check(self, received_bytes: int, now: float) -> None:
        """Count what has arrived by `now`.

        Raises:
            errors.Silent: it is too little for the time that was spent waiting for it.
        """
        self._waited_seconds += now - self._since
        self._since = now
        self._received_bytes += received_bytes
        if self._waited_seconds > transfer_seconds(self._received_bytes, self._grace_seconds):
            raise errors.Silent("the server's answer comes too slowly to go on")

    def resume(self, now: float) -> None:
        """Waiting begins again: what went before was not the network's doing."""
        self._since = now
