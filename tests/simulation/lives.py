"""The life of a process: what runs in it ends with it, at once, and what is left of it touches nothing any more.

Owns the nursery of one process, its threads (`offload`: done on the loop, after a delay that is drawn), and its death.
A process that dies does not clean up: its tasks are cancelled wherever they are, also where they are shielded, and what
their clean-up tries to have done in a thread is not done.
"""

import random
from collections.abc import Callable
from typing import Any, TypeVar

import trio

T = TypeVar("T")

LONGEST_WORK_SECONDS = 0.004


class Dead(BaseException):
    """Raised in what is left of a process that has died."""


class Life:
    """One process, from its start to its end; `run` lasts as long as it does."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self.name = name
        self.is_dead = False
        self.expected: tuple[type[Exception], ...] = ()
        """Errors with which the process may end by itself."""
        self.nursery: trio.Nursery
        self._chance = chance
        self._scope = trio.CancelScope()
        self._threads: set[trio.CancelScope] = set()
        self._ended = trio.Event()

    async def run(self, body: Callable[["Life"], Any], *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Run a process; returns when it has died or ended. What it raises while it lives is passed on."""
        try:
            with self._scope:
                async with trio.open_nursery() as self.nursery:
                    await body(self)
                    task_status.started()
        except BaseException as error:
            self.is_dead = self.is_dead or all(isinstance(each, self.expected) for each in leaves(error))
            if not self.is_dead:
                raise
            left = left_of(error)
            if left is not None:
                raise left from None
        finally:
            self._ended.set()

    def die(self) -> None:
        """End now, wherever it stands; `ended` returns once nothing of it runs any more."""
        self.is_dead = True
        self._scope.cancel()
        for thread in self._threads:
            thread.cancel()

    async def ended(self) -> None:
        await self._ended.wait()

    async def cancel_at_end(self, scope: trio.CancelScope) -> None:
        """Run in the nursery; what a process that ends has under way, in this scope, never returns."""
        try:
            await trio.sleep_forever()
        finally:
            scope.cancel()

    async def offload(self, work: Callable[..., T], /, *args: Any) -> T:
        """Do what a thread would do, a moment later; once begun, only death keeps it from being done."""
        done_at = trio.current_time() + self._chance.random() ** 3 * LONGEST_WORK_SECONDS
        with trio.CancelScope(shield=True, deadline=done_at) as thread:
            self._threads.add(thread)
            try:
                await trio.sleep_forever()
            finally:
                self._threads.discard(thread)
        if self.is_dead:
            raise Dead
        return work(*args)


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group, but for cancellations that came of them."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [] if isinstance(error, trio.Cancelled) else [error]


def left_of(error: BaseException) -> BaseException | None:
    """What of an error is not the end of a process: a cancellation from without."""
    if isinstance(error, BaseExceptionGroup):
        parts = [part for part in map(left_of, error.exceptions) if part is not None]
        return BaseExceptionGroup("of a dead process", parts) if parts else None
    return error if isinstance(error, trio.Cancelled | KeyboardInterrupt) else None
