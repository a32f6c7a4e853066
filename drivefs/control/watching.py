"""What a mount answers to `drivefs watch`: events, for as long as the client listens.

Owns the shape in which events travel to commands. Invariants: a client that does not take its events holds nobody up:
they wait in a bounded queue, which ends with one `overflow`; one that has gone is noticed within `BEAT_SECONDS`.
"""

import math
from typing import Any

import trio

from drivefs.control.server import Handler, Report
from drivefs.sync.events import Event, Events, Kind

BEAT_SECONDS = 2.0
"""How often something is sent at least, so that each end knows that the other is there."""


class Watching:
    """The handler of one mount."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def table(self) -> dict[str, Handler]:
        """The command."""
        return {"watch": self.watch}

    async def watch(self, arguments: dict[str, Any], report: Report) -> None:
        """Report what happens at `path` and below, relative to the root, in lists; empty ones say that it goes on.

        Never returns: the client, or the mount, breaks off.
        """
        path = arguments["path"]
        with self._events.subscribed() as subscription:
            await report([])
            while True:
                taken: list[Event] = []
                with trio.move_on_after(BEAT_SECONDS):
                    taken = await subscription.take()
                # A reader may stop for as long as it likes: what does not fit its queue is an overflow.
                await report([_told(event) for event in taken if concerns(event, path)], math.inf)


def concerns(event: Event, path: bytes) -> bool:
    """Whether an event is about a path or anything below it, now or before; an overflow may be."""
    if not path or event.kind is Kind.OVERFLOW:
        return True
    return any(each == path or each.startswith(path + b"/") for each in (event.path, event.source) if each is not None)


def _told(event: Event) -> dict[str, Any]:
    return {
        "kind": event.kind.value,
        "origin": event.origin.value,
        "path": event.path,
        "source": event.source,
        "inode": event.inode,
        "directory": event.is_directory,
        "details": dict(event.details),
    }
