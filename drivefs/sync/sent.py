"""How many batches of mutations this device has sent, as its journal knows it.

Owns that one fact. It is noted in the transaction that marks a batch as sent, and so is durable before the batch goes
out: a backend that has heard of more than a journal knows of tells by it that the journal is an older copy.
"""

from cache.journal import Journal

SENT = "sent"
"""The fact under which the count is kept: eight bytes, the highest first."""


def count(journal: Journal) -> int:
    """How many there were."""
    return int.from_bytes(journal.meta(SENT) or b"", "big")


def note(journal: Journal) -> None:
    """Note, in the caller's transaction, that one more is about to be sent."""
    journal.set_meta(SENT, (count(journal) + 1).to_bytes(8, "big"))
