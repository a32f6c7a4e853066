"""Whether the backend can be reached, since when, and why not.

Owns the state "online or offline" and the retry rhythm; what is to be done on getting online is passed in. Nobody
waits for the network here but those who ask to. Invariant: `since_ns` is when the present state began.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from cache.errors import DiskFull
from drivefs.protocol.errors import Code
from drivefs.protocol.ground import NowNs
from drivefs.remote import errors

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
SESSION_ENDING = frozenset({Code.UNAUTHENTICATED, Code.DEVICE_REVOKED, Code.STALE_EPOCH, Code.UNAVAILABLE})


@dataclass(frozen=True, slots=True)
class Reach:
    """The state of the connection; `reason` says why it is offline, or refused, in a sentence for people."""

    online: bool
    since_ns: int
    reason: str = ""


class Connection:
    """Opens a session with the backend whenever there is none, with growing, jittered delays.

    `open_session` is called to get online and raises `errors.RemoteError` or `DiskFull` when that fails. `jitter` gives
    numbers from 0 to 1.
    """

    def __init__(self, open_session: Callable[[], Awaitable[None]], now_ns: NowNs, jitter: Callable[[], float]) -> None:
        self._open_session = open_session
        self._now_ns = now_ns
        self._jitter = jitter
        self._online = trio.Event()
        self._lost = trio.Event()
        self._retry = trio.Event()
        self.tried = trio.Event()
        """Set once it is known whether the backend can be reached."""
        self.reach = Reach(online=False, since_ns=now_ns(), reason="not connected yet")

    async def run(self) -> None:
        """Keep a session open until cancelled."""
        while True:
            await self._connect()
            await self._lost.wait()

    async def _connect(self) -> None:
        delay = FIRST_DELAY_SECONDS
        while True:
            try:
                await self._open_session()
            except (errors.RemoteError, DiskFull) as error:
                self._set_offline(str(error))
                self.tried.set()
            else:
                self.tried.set()
                self._lost = trio.Event()
                self.reach = Reach(online=True, since_ns=self._now_ns())
                self._online.set()
                return
            with trio.move_on_after(delay * (0.5 + self._jitter() / 2)):
                await self._retry.wait()
            self._retry = trio.Event()
            delay = min(delay * 2, LONGEST_DELAY_SECONDS)

    def lost(self, error: errors.RemoteError) -> None:
        """A call has failed. If it was for lack of the backend, or of the right to speak to it: offline until a session
        opens again; a refusal of the one request changes nothing.
        """
        if isinstance(error, errors.Refused) and error.code not in SESSION_ENDING:
            return
        if self._online.is_set():
            self._online = trio.Event()
            self._set_offline(str(error))
            self._lost.set()

    def begin_again(self) -> None:
        """What is known of the backend holds no longer: whether it can be reached is to be found out anew."""
        self.tried = trio.Event()

    def retry_now(self) -> None:
        """Someone waits: try again at once instead of at the end of the delay."""
        self._retry.set()

    async def wait_online(self) -> None:
        """Return when a session is open; cancellation changes nothing."""
        await self._online.wait()

    def _set_offline(self, reason: str) -> None:
        since = self._now_ns() if self.reach.online else self.reach.since_ns
        self.reach = Reach(online=False, since_ns=since, reason=reason)
