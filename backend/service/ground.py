"""What every service stands on: the stores, the wake-ups, and the clock, randomness and threads that are passed in."""

from dataclasses import dataclass, field

from backend.blockstore.store import ObjectStore
from backend.metadata.sqlite import Database
from backend.notify.hub import Hub
from backend.service.retention import Rules
from drivefs.protocol.ground import NowNs, Offload, RandomBytes


@dataclass(frozen=True, slots=True)
class Limits:
    """What the deployment allows each account that has no limits of its own, and how long what may go is kept."""

    quota_bytes: int = 10 * 2**30
    file_bytes: int = 10 * 10**9
    pin_seconds: int = 72 * 3600
    pass_seconds: int = 0
    """How long a pass is good; 0: devices show their own tokens instead."""
    feed_seconds: int = 180 * 86400
    """For how long a device may be away and still hear what changed, and not look at all anew."""
    trash_seconds: int = 30 * 24 * 3600
    cold_days: int = 30
    """What nobody has read for so long rests in the cold place, where there is one."""
    retention: Rules = field(default_factory=Rules)


@dataclass(frozen=True, slots=True)
class Ground:
    """Made once by the composition root and handed to all services."""

    database: Database
    store: ObjectStore
    hub: Hub
    offload: Offload
    now_ns: NowNs
    random_bytes: RandomBytes
    limits: Limits = Limits()
