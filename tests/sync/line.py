"""The way of one device to the server, which tests cut, slow down, and open step by step.

Owns what becomes of each request. Invariant: with gates, nothing that the background sends or is answered goes on by
itself, so a test decides what happens meanwhile.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field

import httpx
import trio

IN_THE_BACKGROUND = ContextVar("in the background", default=False)
"""Whether a task's requests wait at the gates of a line."""


@dataclass
class Line:
    """The way to the server; `drops_replies` loses answers to commits that the server has taken, `loses` the next
    answer to what is asked at addresses that end so.

    With `has_gates`, each request of the background waits until `let_pass`, and so does each answer.
    """

    inner: httpx.AsyncBaseTransport
    is_cut: bool = False
    cut_after: int | None = None
    """So many requests still pass."""
    loses_last: bool = False
    """Whether the answer to the last of them is lost."""
    drops_replies: int = 0
    loses: set[str] = field(default_factory=set)
    has_gates: bool = False
    waiting: list[trio.Event] = field(default_factory=list)

    async def _gate(self) -> None:
        if self.has_gates and IN_THE_BACKGROUND.get():
            gate = trio.Event()
            self.waiting.append(gate)
            await gate.wait()

    def let_pass(self, number: int) -> None:
        """Let one of those that wait go on."""
        self.waiting.pop(number).set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self._gate()
        if self.cut_after is not None:
            self.cut_after -= 1
        if self.is_cut or (self.cut_after is not None and self.cut_after < 0):
            raise httpx.ConnectError("cut")
        response = await self.inner.handle_async_request(request)
        await self._gate()
        if self.cut_after == 0 and self.loses_last:
            raise httpx.ReadError("lost")
        if self.drops_replies and request.url.path.endswith("/commit"):
            self.drops_replies -= 1
            raise httpx.ReadError("lost")
        for end in [each for each in self.loses if request.url.path.endswith(each)]:
            self.loses.remove(end)
            raise httpx.ReadError("lost")
        return response

    @property
    def is_down(self) -> bool:
        """Whether nothing passes any more."""
        return self.is_cut or (self.cut_after is not None and self.cut_after <= 0)

    def cut(self, *, after: int, loses_last: bool) -> None:
        """Let so many requests pass, and no more until it is mended."""
        self.cut_after, self.loses_last = after, loses_last

    def mend(self) -> None:
        """Let all requests pass, and all answers."""
        self.is_cut, self.cut_after, self.loses_last, self.drops_replies = False, None, False, 0

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def __aenter__(self) -> "Line":
        return self

    async def __aexit__(self, *error: object) -> None:
        pass
