"""What the server tells of an account's space; as `messages` are.

Owns the shape.
"""

from drivefs.protocol.messages import Message


class QuotaReply(Message, kw_only=True):
    """What an account may use, and what it does use for what; all in bytes.

    `stored_bytes` are unique contents, each block once: those that files have now (`current_bytes`), those that only
    earlier revisions have, and those that only the trash has. `pinned_bytes` are uploaded and not yet part of anything;
    they count as used. `logical_bytes` are what all contents would be if each were stored whole, and `payload_bytes`
    what the stored ones take compressed.
    """

    quota_bytes: int
    file_bytes: int
    stored_bytes: int
    pinned_bytes: int
    current_bytes: int
    history_bytes: int
    trash_bytes: int
    logical_bytes: int
    payload_bytes: int
