"""What happens on a drive, told to whoever listens: changes made here and elsewhere, and what became of them.

Owns the shape of an event and the queues of those who listen. Knows nothing of how an event comes about. Invariants:
publishing never waits, and costs a look at a list when nobody listens; a queue is bounded, and one that is full ends
with a single `overflow` until its reader has taken it: what happened meanwhile has to be looked up.
"""

import enum
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from drivefs.protocol.ids import NO_INODE, InodeId

QUEUE_EVENTS = 4096


class Kind(enum.StrEnum):
    """What happened. `changed` is content, `attributes` everything else that `stat` and xattrs show."""

    CREATED = "created"
    CHANGED = "changed"
    RENAMED = "renamed"
    REMOVED = "removed"
    ATTRIBUTES = "attributes"
    UPLOAD = "upload"
    CONFLICT = "conflict"
    HELD = "held"
    OVERFLOW = "overflow"


class Origin(enum.StrEnum):
    """Whether a program on this mount did it, or another device."""

    HERE = "here"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    `path` is relative to the root of the drive, which itself is empty; `source` is the path that a renamed one had.
    `details` is for what only some kinds have to say; msgpack must be able to carry it.
    """

    kind: Kind
    path: bytes
    origin: Origin
    inode: InodeId = NO_INODE
    source: bytes | None = None
    is_directory: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


OVERFLOW = Event(kind=Kind.OVERFLOW, path=b"", origin=Origin.HERE)


class Subscription:
    """The queue of one who listens."""

    def __init__(self, capacity: int) -> None:
        self._waiting: deque[Event] = deque()
        self._capacity = capacity
        self._filled = trio.Event()

    def put(self, event: Event) -> None:
        """Queue an event, or note that it did not fit."""
        if len(self._waiting) < self._capacity:
            self._waiting.append(event)
        elif self._waiting[-1] is not OVERFLOW:
            self._waiting.append(OVERFLOW)
        self._filled.set()

    async def take(self) -> list[Event]:
        """All that wait, in order, as soon as there is one; cancellation takes none."""
        await self._filled.wait()
        taken = list(self._waiting)
        self._waiting.clear()
        self._filled = trio.Event()
        return taken


class Events:
    """All that happens, for any number of listeners."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        self.hear: list[Callable[[bool], None]] = []
        """Called with whether anybody listens when that changes: who makes events may stay silent until then."""

    @property
    def are_heard(self) -> bool:
        """Whether anybody listens: what is costly to find out need not be, otherwise."""
        return bool(self._subscriptions)

    def publish(self, event: Event) -> None:
        """Tell all who listen; never waits, and nothing happens when there are none."""
        for subscription in self._subscriptions:
            subscription.put(event)

    @contextmanager
    def subscribed(self, capacity: int = QUEUE_EVENTS) -> Iterator[Subscription]:
        """Listen, from now on until the end of the `with`."""
        subscription = Subscription(capacity)
        self._subscriptions.append(subscription)
        if len(self._subscriptions) == 1:
            self._tell()
        try:
            yield subscription
        finally:
            self._subscriptions.remove(subscription)
            if not self._subscriptions:
                self._tell()

    def _tell(self) -> None:
        for each in self.hear:
            each(self.are_heard)
