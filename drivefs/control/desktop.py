"""Shows notifications on the desktop, where there is one: through the program that speaks to the session's bus.

Owns what people read there, and how much: what came while the device was away is one notification. Without a session
bus, or a program for it, nothing happens; what a desktop shows or does not show is nobody's failure.
"""

import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence

import trio

from cache.errors import CacheError
from cache.journal import Journal
from drivefs.protocol.notifications import Kind, NotificationInfo
from drivefs.remote.errors import RemoteError
from drivefs.sync.notices import Notices

log = logging.getLogger(__name__)

META = "shown_on_desktop"
MOST_AT_ONCE = 3
SHOW_SECONDS = 10.0
RETRY_SECONDS = 60.0
NAME = "org.freedesktop.Notifications"
PLACE = "/org/freedesktop/Notifications"

Show = Callable[[str, str], list[str]]
"""The command that shows a title and a text."""


def shower(environ: Mapping[str, str]) -> Show | None:
    """How to show something on the desktop of this session; None: there is none, or no program for it."""
    bus = os.path.join(environ.get("XDG_RUNTIME_DIR") or "/nonexistent", "bus")
    address = environ.get("DBUS_SESSION_BUS_ADDRESS") or (f"unix:path={bus}" if os.path.exists(bus) else "")
    search = environ.get("PATH")
    if not address:
        return None
    if notify := shutil.which("notify-send", path=search):
        send = [notify, "--app-name=drivefs", "--"]
        return lambda title, text: [*send, title, _escaped(text)]
    if busctl := shutil.which("busctl", path=search):
        call = [busctl, f"--address={address}", "call", NAME, PLACE, NAME, "Notify", "susssasa{sv}i"]
        return lambda title, text: [*call, "--", "drivefs", "0", "", title, _escaped(text), "0", "0", "-1"]
    return None


def _escaped(text: str) -> str:
    """Names of files are no markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class Desktop:
    """The desktop of the user who mounts."""

    def __init__(self, notices: Notices, journal: Journal, show: Show) -> None:
        self._notices = notices
        self._journal = journal
        self._show = show

    async def run(self) -> None:
        """Show what comes until cancelled; what was shown once is not shown again by the next mount."""
        with self._notices.wanted():
            while True:
                try:
                    await self._show_new()
                except RemoteError:
                    await trio.sleep(RETRY_SECONDS)
                    continue
                await self._notices.wait()

    async def _show_new(self) -> None:
        since = self._journal.meta(META)
        if since is None:
            # The first mount: what there was before is no news.
            await self._remember((await self._notices.page(2**62)).newest)
            return
        found = await self._notices.all(int.from_bytes(since, "big"))
        if found:
            await self._remember(found[-1].number)
        for title, text in sentences(found):
            await self._present(title, text)

    async def _remember(self, number: int) -> None:
        try:
            self._journal.set_meta(META, number.to_bytes(8, "big"))
        except CacheError as error:
            log.warning("which notifications were shown cannot be noted: %s", error)

    async def _present(self, title: str, text: str) -> None:
        try:
            with trio.move_on_after(SHOW_SECONDS):
                await trio.run_process(
                    self._show(title, text), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
                )
        except OSError as error:
            log.info("nothing is shown on the desktop: %s", error)


def sentences(found: Sequence[NotificationInfo]) -> list[tuple[str, str]]:
    """Titles and texts: of each notification, or of many one."""
    if len(found) > MOST_AT_ONCE:
        return [(f"{len(found)} notifications", "drivefs notifications shows them")]
    return [(title(each), "\n".join(filter(None, (where(each), by(each))))) for each in found]


def title(each: NotificationInfo) -> str:
    """What happened."""
    things = "" if each.count == 1 else f"{each.count} files "
    match each.kind:
        case Kind.SHARED:
            return "A folder is shared with you"
        case Kind.ROLE:
            return "You have another role in what is shared with you"
        case Kind.UNSHARED:
            return "No longer shared with you"
        case Kind.DEVICE:
            return "A device was added"
        case Kind.QUOTA:
            return "Little room is left"
        case Kind.CONFLICT:
            return "Two devices changed the same file" if each.count == 1 else f"{each.count} conflict copies"
        case _:
            return f"{things}{each.kind}".capitalize()


def where(each: NotificationInfo) -> str:
    """With what."""
    path = each.path.decode(errors="replace")
    return each.text or (path if each.count == 1 else f"in {path or 'the drive'}")


def by(each: NotificationInfo) -> str:
    """By whom."""
    return f"{each.user} on {each.device}" if each.user and each.device else each.user
