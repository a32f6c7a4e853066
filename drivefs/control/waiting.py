"""Waiting, for a command, until the backend has what was written before it.

Owns the wait and its bound; who sends is the engine.
"""

import trio

from cache.workspace import LocalState
from drivefs.sync.engine import Engine


async def all_sent(engine: Engine, local: LocalState, seconds: float) -> bool:
    """Send everything, open files included, and wait for it; False: it was not all there in time.

    A server that has just come back is found; one that is away is not waited for.
    """
    if not await engine.connection.probe():
        return False
    with trio.move_on_after(seconds) as scope:
        await engine.settle(list(local.journal.drafts.draft_inodes()))
    return not scope.cancelled_caught
