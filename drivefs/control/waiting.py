"""Waiting, for a command, until the backend has what was written before it, or the kernel knows what it did.

Owns the waits and their bounds; who sends is the engine, who tells the kernel its `Invalidator`.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from cache.workspace import LocalState
from drivefs.control.server import Handler, Report
from drivefs.sync.engine import Engine

TOLD_SECONDS = 1.0
"""A notification that somebody's lock keeps waiting is not waited for longer: the name shows a moment later then."""


async def all_sent(engine: Engine, local: LocalState, seconds: float) -> bool:
    """Send everything, open files included, and wait for it; False: it was not all there in time.

    A server that has just come back is found; one that is away is not waited for.
    """
    if not await engine.connection.probe():
        return False
    with trio.move_on_after(seconds) as scope:
        await engine.settle(list(local.journal.drafts.draft_inodes()))
    return not scope.cancelled_caught


def once_told(table: dict[str, Handler], wait_told: Callable[[], Awaitable[None]]) -> dict[str, Handler]:
    """Commands that change names and contents behind the kernel's back: each ends once the kernel has been told.

    Who looks right after the command would else be shown what was there before.
    """

    def told(handler: Handler) -> Handler:
        async def handled(arguments: dict[str, Any], report: Report) -> object:
            done = await handler(arguments, report)
            with trio.move_on_after(TOLD_SECONDS):
                await wait_told()
            return done

        return handled

    return {name: told(handler) for name, handler in table.items()}
