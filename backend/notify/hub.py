"""Wake-ups: who waits for what, within one process.

Owns no truth: a wake-up is a hint that something may have changed, and whoever wakes reads the database. A lost or
extra one costs latency or one read. Nothing is kept for those who do not listen. Call it from the event loop only.
"""

from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self

import anyio

from drivefs.protocol.ids import DeviceId, WorkspaceId

Topic = tuple[str, int]


def of_workspace(workspace: WorkspaceId) -> Topic:
    """Woken after each commit of the workspace."""
    return ("workspace", workspace)


def of_device(device: DeviceId) -> Topic:
    """Woken when what the device may do has changed."""
    return ("device", device)


def of_link(link: int) -> Topic:
    """Woken when a public link is revoked."""
    return ("link", link)


class Listener(Protocol):
    """Listens from the moment it is entered, so that nothing is missed between a read and the wait after it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def wait(self) -> None:
        """Return when one of its topics was woken since it was entered or since the last `wait` or `was_woken`."""
        ...

    def was_woken(self) -> bool:
        """Whether `wait` would return at once; if so, that is forgotten."""
        ...


class Hub(Protocol):
    """Carries wake-ups from those who change to those who wait."""

    def wake(self, *topics: Topic) -> None:
        """Tell all who listen to one of the topics."""
        ...

    def wake_all(self) -> None:
        """Tell everybody: at shutdown."""
        ...

    def listen(self, topics: Iterable[Topic]) -> Listener:
        """Make a listener, to be entered with `with`."""
        ...


class InProcessHub:
    """The `Hub` of a backend that is one process."""

    def __init__(self) -> None:
        self._listeners: dict[Topic, set[InProcessListener]] = {}

    def wake(self, *topics: Topic) -> None:
        """See `Hub.wake`."""
        for topic in topics:
            for listener in self._listeners.get(topic, ()):
                listener.woken.set()

    def wake_all(self) -> None:
        """See `Hub.wake_all`."""
        self.wake(*self._listeners)

    def listen(self, topics: Iterable[Topic]) -> "InProcessListener":
        """See `Hub.listen`."""
        return InProcessListener(self, frozenset(topics))

    def listener_count(self) -> int:
        """How many listen now."""
        return len(set().union(*self._listeners.values()))

    def enter(self, listener: "InProcessListener") -> None:
        """Begin to tell a listener; only listeners call it."""
        for topic in listener.topics:
            self._listeners.setdefault(topic, set()).add(listener)

    def leave(self, listener: "InProcessListener") -> None:
        """Tell a listener no more; only listeners call it."""
        for topic in listener.topics:
            listening = self._listeners[topic]
            listening.discard(listener)
            if not listening:
                del self._listeners[topic]


class InProcessListener:
    """One who waits; see `Listener`."""

    def __init__(self, hub: InProcessHub, topics: frozenset[Topic]) -> None:
        self.topics = topics
        self.woken = anyio.Event()
        self._hub = hub

    def __enter__(self) -> Self:
        self._hub.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hub.leave(self)

    async def wait(self) -> None:
        """See `Listener.wait`; cancellation forgets nothing."""
        await self.woken.wait()
        self.woken = anyio.Event()

    def was_woken(self) -> bool:
        """See `Listener.was_woken`."""
        if not self.woken.is_set():
            return False
        self.woken = anyio.Event()
        return True
