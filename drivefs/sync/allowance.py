"""What the backend allows the account and what that uses, as this mount knows it, and whoever has to hear of it.

Owns the latest figures. They come with each session and each commit; where a program, or an upload, is refused for
want of room, nothing is committed, so they are asked for then: more or less may be allowed by now, or another device
has made room. A device that only reads does not commit: where somebody looks at old figures, they are asked for too;
they are old after a while, and at once when others have changed something.
"""

import math
from collections.abc import Callable, Sequence

import trio

from cache.workspace import LocalState
from drivefs.protocol.errors import Code
from drivefs.protocol.messages import Limits, Room, SessionReply, Usage
from drivefs.remote.client import Remote
from drivefs.remote.errors import Refused, RemoteError
from drivefs.sync.session import known_limits
from drivefs.sync.signal import Signal

LEAST_SECONDS = 2.0
"""Between two questions, however often programs are refused."""
LOOK_SECONDS = 10.0
"""Between two looks at whether content waits for room."""
OLD_SECONDS = 60.0
"""Figures that were told or asked for so long ago are asked for when somebody looks at them."""


class Allowance:
    """The figures of one account; `hear` are told of them."""

    def __init__(self, local: LocalState, remote: Remote) -> None:
        self.limits = known_limits(local.journal)
        self.usage = Usage()
        self.hear: list[Callable[[Limits, Usage, Sequence[Room]], None]] = []
        self._remote = remote
        self.waits: Callable[[], bool] = lambda: False
        """Whether content waits for room that the backend did not have."""
        self._is_asked = False
        self._refused = Signal()
        self._known_at = -math.inf

    def told(self, reply: SessionReply) -> None:
        """A session has begun."""
        self.limits = reply.limits
        self.used(reply.usage, reply.rooms)

    def used(self, usage: Usage, rooms: Sequence[Room] = ()) -> None:
        """The backend has said what the account uses now, and what room there is in shares of others."""
        self.usage = usage
        self._known_at = trio.current_time()
        for each in self.hear:
            each(self.limits, usage, rooms)

    def refused(self) -> None:
        """A program was refused for want of room, or there are shares of which the room is not known."""
        self._is_asked = True
        self._refused.raise_()

    def moved(self) -> None:
        """Something was changed; if it was not this device, which would have been told, the figures are old."""
        if trio.current_time() - self._known_at >= LEAST_SECONDS:
            self._known_at = -math.inf

    def looked_at(self) -> None:
        """Somebody is shown the figures: what is asked for, if they are old, shows the next time."""
        if trio.current_time() - self._known_at >= OLD_SECONDS:
            self._known_at = trio.current_time()
            self.refused()

    def refused_by(self, error: Refused) -> None:
        """The backend has refused a request."""
        if error.code is Code.OVER_QUOTA:
            self.refused()

    async def run(self) -> None:
        """Ask anew after each refusal, until cancelled."""
        while True:
            await self._refused.wait(LOOK_SECONDS)
            if not self._is_asked and not self.waits():
                continue
            self._is_asked = False
            try:
                reply = await self._remote.usage()
            except RemoteError:
                pass  # it stays as it is known
            else:
                self.limits = reply.limits
                self.used(reply.usage, reply.rooms)
            await trio.sleep(LEAST_SECONDS)
