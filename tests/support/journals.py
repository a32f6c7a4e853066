"""What tests do to a journal in place of those who send from it. Owns nothing."""

from collections.abc import Iterable

from cache.journal import Journal
from drivefs.protocol.ids import OpNumber


def mark_sent(journal: Journal, numbers: Iterable[OpNumber]) -> None:
    """Freeze mutations as they stand, as if they went out now."""
    rows = [journal.get(n) for n in numbers]
    journal.mark_sent([row.mutation for row in rows if row is not None])
