"""What synchronisation is doing now, as plain values for the commands and the `.drivefs` tree.

Owns the shape; gathering it is the engine's.
"""

import msgspec


class Transfer(msgspec.Struct, frozen=True):
    """One file on its way; rates are the average since it began."""

    inode: int
    direction: str
    size_bytes: int
    done_bytes: int


class SyncStatus(msgspec.Struct, frozen=True):
    """The state of one drive.

    `since_ns` is when the present state, online or offline, began; `reason` says why it is offline. `pending_mutations`
    counts changes that the backend has not acknowledged, `pending_bytes` the unpublished content. Rates are bytes per
    second over the last seconds.
    """

    online: bool
    since_ns: int
    reason: str
    pending_mutations: int
    pending_bytes: int
    unpublished_files: int
    over_quota: bool
    uploads: list[Transfer]
    sent_bytes: int
    received_bytes: int
    upload_rate: float
    download_rate: float
    quota_bytes: int
    used_bytes: int
    cursor: int
