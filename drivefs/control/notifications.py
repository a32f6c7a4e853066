"""What a mount answers to `drivefs notifications`: what the user is told of, and which folders are muted.

Owns the shape of the answers. Invariant: a client that follows is told something every `BEAT_SECONDS`, so that each end
knows that the other is there.
"""

import math
from collections.abc import Awaitable
from typing import Any, TypeVar

import trio

from drivefs.control.errors import Refused
from drivefs.control.server import Handler, Report
from drivefs.protocol.ids import InodeId
from drivefs.protocol.notifications import ActivityRequest, MuteRequest, NotificationInfo
from drivefs.remote import errors
from drivefs.remote.client import Remote
from drivefs.sync.notices import Notices

BEAT_SECONDS = 2.0
MOST_PARTS = 500
"""So many parts of the drive's feed are looked through for one answer."""
T = TypeVar("T")


class Notifying:
    """The handlers of one mount."""

    def __init__(self, notices: Notices, remote: Remote) -> None:
        self._notices = notices
        self._remote = remote

    def table(self) -> dict[str, Handler]:
        """The commands."""
        return {
            "notifications": self.show,
            "notifications_follow": self.follow,
            "notifications_mute": self.mute,
            "notifications_muted": self.muted,
            "activity": self.activity,
        }

    async def show(self, arguments: dict[str, Any], report: Report) -> list[dict[str, Any]]:
        """All behind the number `since`; with `own` those too of what this device did itself."""
        return [fields(each) for each in await _asked(self._notices.all(arguments["since"], own=arguments["own"]))]

    async def follow(self, arguments: dict[str, Any], report: Report) -> None:
        """Report them as they come, in lists; empty ones say that it goes on.

        Never returns: the client, or the mount, breaks off.
        """
        since = arguments["since"]
        with self._notices.wanted():
            while True:
                try:
                    found = await self._notices.all(since, own=arguments["own"])
                except errors.RemoteError:
                    # Without a network there is nothing to tell: what is missed comes when there is one again.
                    found = []
                since = found[-1].number if found else since
                await report([fields(each) for each in found], math.inf)
                with trio.move_on_after(BEAT_SECONDS) as waiting:
                    await self._notices.wait()
                while waiting.cancelled_caught:
                    await report([])
                    with trio.move_on_after(BEAT_SECONDS) as waiting:
                        await self._notices.wait()

    async def mute(self, arguments: dict[str, Any], report: Report) -> None:
        """Mute the folder `inode`, or end it."""
        request = MuteRequest(inode=InodeId(arguments["inode"]), is_muted=arguments["is_muted"])
        await _asked(self._remote.mute(request))

    async def activity(self, arguments: dict[str, Any], report: Report) -> list[dict[str, Any]]:
        """What was done to `inode`, and below it, the latest first, at least `limit` entries if there are so many."""
        found: list[dict[str, Any]] = []
        before = 0
        for _ in range(MOST_PARTS):
            request = ActivityRequest(inode=InodeId(arguments["inode"]), before=before)
            reply = await _asked(self._remote.activity(request))
            found += [fields(each) for each in reply.entries]
            before = reply.before
            if not before or len(found) >= arguments["limit"]:
                break
            await report(len(found))
        return found[: arguments["limit"]]

    async def muted(self, arguments: dict[str, Any], report: Report) -> list[bytes]:
        """The paths of the muted folders."""
        return (await _asked(self._remote.muted())).paths


def fields(each: NotificationInfo) -> dict[str, Any]:
    """A notification for commands."""
    return {
        "number": each.number,
        "time_ns": each.time_ns,
        "kind": each.kind,
        "path": None if each.text else each.path,
        "count": each.count,
        "user": each.user or None,
        "device": each.device or None,
        "text": each.text or None,
    }


async def _asked(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except errors.Refused as error:
        raise Refused("not_found", str(error)) from error
    except errors.RemoteError as error:
        raise Refused("unavailable", f"the server keeps the notifications and cannot be asked now: {error}") from error
