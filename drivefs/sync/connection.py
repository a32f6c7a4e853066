"""Whether the backend can be reached, since when, and why not.

Owns the state "online or offline" and the retry rhythm; what is to be done on getting online is passed in. Nobody
waits for the network here but those who ask to. Invariant: `since_ns` is when the present state began.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from cache.errors import DiskFull
from drivefs.protocol.errors import Code
from drivefs.protocol.ground import NowNs
from drivefs.remote import errors

log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 15.0
LEAST_DELAY_SECONDS = 0.1
"""Between two attempts, however impatient those are who wait."""
GRACE_SECONDS = 1.0
"""How long after the backend was lost callers wait for it to come back: a server that is started again, a connection
that broke. After that it is known to be gone, and they are told at once."""
PROBE_SECONDS = 2.0
HOPE_SECONDS = 0.5
"""While it is gone, one caller in so many seconds waits a moment for the outcome of an attempt of its own."""
FIRST_SECONDS = 15.0
"""How long callers wait for the first attempt of a mount."""
SESSION_ENDING = frozenset({Code.UNAUTHENTICATED, Code.DEVICE_REVOKED, Code.STALE_EPOCH, Code.UNAVAILABLE})


class Reach(Protocol):
    """Whether the backend can be reached: what those ask who need it."""

    async def reachable(self) -> None:
        """Return if it can, as far as is known, after a moment perhaps; raise `errors.Offline` if not."""
        ...

    def lost(self, error: errors.RemoteError) -> None:
        """A call to it has failed."""
        ...


class Untracked:
    """The `Reach` of who makes a few calls and ends: each call finds out for itself."""

    async def reachable(self) -> None:
        """Try."""
        await trio.lowlevel.checkpoint()

    def lost(self, error: errors.RemoteError) -> None:
        """The caller is told by the call."""


@dataclass(frozen=True, slots=True)
class ReachState:
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
        self.refused: Callable[[errors.Refused], None] = lambda error: None
        """Hears of requests that were refused while all else goes on."""
        self._online = trio.Event()
        self._lost = trio.Event()
        self._retry = trio.Event()
        self._why: errors.RemoteError | None = None
        self._lost_at = -math.inf
        self._next_hope = -math.inf
        self._attempt_count = 0
        self.tried = trio.Event()
        """Set once it is known whether the backend can be reached."""
        self.reach = ReachState(online=False, since_ns=now_ns(), reason="not connected yet")

    async def run(self) -> None:
        """Keep a session open until cancelled."""
        while True:
            await self._connect()
            await self._lost.wait()
            # Every device loses a server at the same moment; they should not all be back at the same moment.
            with trio.move_on_after(FIRST_DELAY_SECONDS * self._jitter()):
                await self._retry.wait()

    async def _connect(self) -> None:
        delay = FIRST_DELAY_SECONDS
        while True:
            try:
                await self._open_session()
            except (errors.RemoteError, DiskFull) as error:
                self._set_offline(error)
                self._attempt_count += 1
                self.tried.set()
            else:
                self.tried.set()
                self._lost = trio.Event()
                self.reach = ReachState(online=True, since_ns=self._now_ns())
                self._online.set()
                return
            with trio.move_on_after(delay * (0.5 + self._jitter() / 2)):
                await trio.sleep(LEAST_DELAY_SECONDS)
                await self._retry.wait()
            self._retry = trio.Event()
            delay = min(delay * 2, LONGEST_DELAY_SECONDS)

    def lost(self, error: errors.RemoteError) -> None:
        """A call has failed. If it was for lack of the backend, or of the right to speak to it: offline until a session
        opens again; a refusal of the one request, or an answer that says that something is gone, changes nothing.
        """
        if isinstance(error, errors.BlockLost):
            return
        if isinstance(error, errors.Refused) and error.code not in SESSION_ENDING:
            self.refused(error)
            return
        if self._online.is_set():
            self._online = trio.Event()
            self._lost_at = trio.current_time()
            self._set_offline(error)
            self._lost.set()

    def end(self, error: BaseException) -> None:
        """The local disk has failed: no session is opened any more. Whoever needs the backend alone may still try."""
        log.error("synchronising has ended: %s", error)
        self._online = trio.Event()
        self._set_offline(error)
        self.tried.set()

    def begin_again(self) -> None:
        """What is known of the backend holds no longer: whether it can be reached is to be found out anew."""
        self.tried = trio.Event()

    def retry_now(self) -> None:
        """Someone waits: try again at once instead of at the end of the delay."""
        self._retry.set()

    async def wait_online(self) -> None:
        """Return when a session is open, at once if one is; cancellation changes nothing."""
        if not self._online.is_set():
            await self._online.wait()

    async def reachable(self) -> None:
        """Return if the backend can be reached, as far as is known; wait for it a moment if that promises anything.

        Cancellation changes nothing.

        Raises:
            errors.Offline: it cannot.
        """
        if not self.tried.is_set():
            with trio.move_on_after(FIRST_SECONDS):
                await self.tried.wait()
        now = trio.current_time()
        if not self._online.is_set() and now < self._lost_at + GRACE_SECONDS:
            await self._wait_until(self._lost_at + GRACE_SECONDS, attempt_count=None)
        elif not self._online.is_set() and now >= self._next_hope:
            self._next_hope = now + PROBE_SECONDS
            await self._wait_until(now + HOPE_SECONDS, attempt_count=self._attempt_count)
        if not self._online.is_set() and self._why is not None:
            raise errors.Offline(str(self._why)) from self._why

    async def probe(self) -> bool:
        """Someone waits, and the backend may be gone: try at once; whether a session is open after that.

        Cancellation changes nothing.
        """
        await self._wait_until(trio.current_time() + PROBE_SECONDS, attempt_count=self._attempt_count)
        return self._online.is_set()

    async def _wait_until(self, moment: float, *, attempt_count: int | None) -> None:
        """Wait for a session, at the latest until a moment or until an attempt after so many has failed."""
        while not self._online.is_set() and trio.current_time() < moment:
            self.retry_now()
            with trio.move_on_after(LEAST_DELAY_SECONDS):
                await self._online.wait()
            if attempt_count is not None and self._attempt_count > attempt_count:
                return

    def _set_offline(self, error: BaseException) -> None:
        """Not online, for lack of the backend or of room here: then whoever needs the backend alone may still try."""
        since = self._now_ns() if self.reach.online else self.reach.since_ns
        self.reach = ReachState(online=False, since_ns=since, reason=str(error))
        self._why = error if isinstance(error, errors.RemoteError) else None
