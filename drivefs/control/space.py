"""What a mount answers to `drivefs quota`: what the account may use, and what takes it.

Owns the shape of the answer, and the sentences about an account, or a disk of this device, that is full.
"""

from collections.abc import Collection
from typing import Any

from cache.workspace import LocalState
from drivefs.control.errors import Refused
from drivefs.control.server import Handler, Report
from drivefs.fs.waiting import OWN
from drivefs.protocol.accounting import QuotaReply
from drivefs.remote.client import Remote
from drivefs.remote.errors import RemoteError
from drivefs.sync.asking import Asking
from drivefs.sync.connection import Reach
from drivefs.sync.status import pending

FULL = (
    "the account is full, so writing fails (EDQUOT); reading, renaming and removing work. drivefs quota shows what "
    "takes the room: drivefs trash empty and drivefs-server maintain free some, or ask for a larger quota"
)

DISK_FULL = (
    "the disk that holds {directory} is full, so writing and new names fail (ENOSPC), whatever df says of the drive; "
    "reading, renaming, removing and the upload go on, and nothing is lost. Free some space there"
)

DISK_BAD = (
    "the disk that holds {directory} failed, or gave back what was not written: reading what is damaged fails (EIO), "
    "and it is not sent. Check the disk, then unmount and mount again: everything is verified then, losses are named"
)

OTHERS_FULL = (
    "the account of {owner} is full, and what is in the shares of {owner} is kept there: writing in them fails "
    "(EDQUOT), and what was accepted waits on this device until there is room; reading, renaming and removing work. "
    "{owner} can make room, or ask for a larger quota"
)


class Space:
    """The handlers of one mount."""

    def __init__(self, remote: Remote, reach: Reach, local: LocalState) -> None:
        self._remote = remote
        self._asked = Asking(reach)
        self._local = local

    def table(self) -> dict[str, Handler]:
        """The commands."""
        return {"quota": self.quota}

    async def quota(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """The server's figures, and what this device has still to send."""
        try:
            found: QuotaReply = await self._asked(self._remote.quota)
        except RemoteError as error:
            raise Refused("unavailable", f"the server, which counts, cannot be asked now: {error}") from error
        names = (
            "quota_bytes", "file_bytes", "stored_bytes", "pinned_bytes", "current_bytes", "history_bytes",
            "trash_bytes", "logical_bytes", "payload_bytes",
        )  # fmt: skip
        return {**{name: getattr(found, name) for name in names}, "pending_bytes": pending(self._local.journal)[1]}


def notices(payers: Collection[str]) -> list[str]:
    """What people should know of room: in the accounts of these (`OWN`, or owners of shares) there is none."""
    others = sorted(payer for payer in payers if payer != OWN)
    return [*([FULL] if OWN in payers else []), *(OTHERS_FULL.format(owner=owner) for owner in others)]
