"""Who asks: the one value that every service call of a request carries."""

from dataclasses import dataclass

from drivefs.protocol.ids import AccountId, DeviceId, UserId


@dataclass(frozen=True, slots=True)
class Caller:
    """The device that asks, its user, and that user's own account."""

    account: AccountId
    user: UserId
    device: DeviceId
