"""A shorter way from the kernel's request to its handler, for pyfuse3's loop.

pyfuse3 takes a lock and waits for its descriptor through trio before each request: two passes of the scheduler, with
two `epoll_wait` and an `epoll_ctl`. Here a lock that is free is taken at once, and the descriptor is polled first;
trio is asked only when there is nothing to read, or after `MAX_IN_A_ROW` requests, so that other tasks have their
turn.

Owns the stand-in for the `trio` module that pyfuse3 looks its primitives up in, the same place through which
`pyfuse3.asyncio` replaces them. Safe to lose: without it pyfuse3 uses trio itself.

Whoever has something to do before the next request is read is a `Gate`: no handler begins until it is open.

Invariant: `wait_readable` returns only if the descriptor was readable at that moment. A request that its caller gave up
between the poll and the read would otherwise leave the loop in a blocking read until the next one.
"""

import select
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, TracebackType
from typing import Any, Protocol

import pyfuse3
import trio

from drivefs.fuse.handshake import Handshake

MAX_IN_A_ROW = 32
POLLS = 100
"""How often to look for the next request after one that was answered, some 30 µs in all: programs often send it that
soon, and to sleep and be woken takes longer and costs more. Measured, for 8 and 100: create 464 and 370 µs, open, read
and close 219 and 142, rename 251 and 195, with less processor time each."""


class Gate(Protocol):
    """Asked each time a request has come."""

    def is_suspected(self) -> bool:
        """Whether there is something to wait for."""
        ...

    async def end(self) -> None:
        """Wait for it, with a deadline."""
        ...


class PolledFirst:
    """Waits for descriptors to become readable; one waiter for each descriptor at a time.

    With a handshake, the first exchange on the descriptor goes through that.
    """

    def __init__(self, handshake: Handshake | None = None) -> None:
        self.gate: Gate | None = None
        self._handshake = handshake
        self._in_a_row = 0
        self._polls: dict[int, select.poll] = {}
        self.wait_count = 0
        """How often was waited: once for each request, so that one who looks twice sees whether any came between."""

    async def wait_readable(self, fd: int) -> None:
        """Return when `fd` can be read; a checkpoint at least once in `MAX_IN_A_ROW` calls.

        Raises:
            trio.ClosedResourceError: it was announced to be closed.
        """
        self.wait_count += 1
        await self._wait_readable(fd)
        while self.gate is not None and self.gate.is_suspected():
            await self.gate.end()
            await self._wait_readable(fd)

    async def _wait_readable(self, fd: int) -> None:
        if self._handshake is not None:
            await self._handshake.step(fd)
            if not self._handshake.is_over:
                return
            self._handshake = None
        poll = self._polls.get(fd) or self._register(fd)
        if self._in_a_row < MAX_IN_A_ROW and is_ready_soon(poll):
            self._in_a_row += 1
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        self._in_a_row = 0
        while True:
            await trio.lowlevel.wait_readable(fd)
            if poll.poll(0):
                return

    def _register(self, fd: int) -> select.poll:
        poll = self._polls[fd] = select.poll()
        poll.register(fd, select.POLLIN)
        return poll


def is_ready_soon(poll: select.poll) -> bool:
    """Whether a descriptor is ready now or within a few microseconds."""
    for _ in range(POLLS):  # noqa: SIM110 (as `any` it costs as much again as the polls)
        if poll.poll(0):
            return True
    return False


class EagerLock:
    """A lock that goes to whoever asks first once it is free, without a checkpoint.

    Leaving it wakes one waiter, who waits again if the lock was taken meanwhile: so the task that has just answered a
    request takes the next one itself, and another has its turn as soon as this one has to wait for anything.
    """

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._is_taken:
            await self._waiting.park()
        self._is_taken = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_taken = False
        self._waiting.unpark()


class _StandIn(ModuleType):
    """The parts of a module that were replaced, and for all else the module."""

    def __init__(self, module: ModuleType, **replaced: Any) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(replaced)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@contextmanager
def polled_first(polled: PolledFirst) -> Iterator[None]:
    """Let pyfuse3 wait this way; for one event loop at a time."""
    lowlevel = _StandIn(trio.lowlevel, wait_readable=polled.wait_readable)
    before = vars(pyfuse3)["trio"]
    vars(pyfuse3)["trio"] = _StandIn(trio, lowlevel=lowlevel, Lock=EagerLock)
    try:
        yield
    finally:
        vars(pyfuse3)["trio"] = before
