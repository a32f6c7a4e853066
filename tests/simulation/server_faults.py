"""The faults of what the server stands on: its database, and its object store.

Owns wrappers that stand in for the real ones and fail now and then. A transaction fails before it begins, when all is
done but the commit, or after the commit, so that nobody knows. A call of the store fails before anything is done, or
after it is all done; what was stored may not be found for a while; what is read may be damaged on the way.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import trio
from sqlalchemy.exc import OperationalError

from backend.blockstore.errors import ObjectMissing
from backend.blockstore.store import ObjectStore, StoredObject
from backend.metadata.sqlite import Database

INVISIBLE_SECONDS = 3.0


class Faults:
    """How often calls fail; both are 0 once there is peace."""

    def __init__(self, database: float, store: float, chance: random.Random) -> None:
        self.database = database
        self.store = store
        self._chance = chance

    def end(self) -> None:
        self.database = self.store = 0.0

    @property
    def are_possible(self) -> bool:
        return self.database > 0 or self.store > 0

    def happens(self, often: float) -> bool:
        return often > 0 and self._chance.random() < often

    def kind(self, *kinds: str) -> str:
        return self._chance.choice(kinds)

    def damaged(self, data: bytes) -> bytes:
        place = self._chance.randrange(len(data))
        if self._chance.random() < 0.3:
            return data[:place]
        return data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :]


def _lost(when: str) -> OperationalError:
    return OperationalError(f"the database went away {when}", None, ConnectionError())


def fail_transactions(database: Database, faults: Faults) -> None:
    """Let writing transactions of a database fail."""
    real: Callable[..., Any] = database.write

    async def write(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        kind = faults.kind("before BEGIN", "before COMMIT", "after COMMIT") if faults.happens(faults.database) else ""
        if kind == "before BEGIN":
            await trio.lowlevel.checkpoint()
            raise _lost(kind)

        def undone(connection: Any, *args: Any, **kwargs: Any) -> Any:
            work(connection, *args, **kwargs)
            raise _lost(kind)

        result = await real(undone if kind == "before COMMIT" else work, *args, **kwargs)
        if kind:
            raise _lost(kind)
        return result

    database.write = write  # type: ignore[method-assign]


class FaultyStore:
    """An `ObjectStore` in front of a real one."""

    def __init__(self, real: ObjectStore, faults: Faults) -> None:
        self._real = real
        self._faults = faults
        self._visible_at: dict[str, float] = {}

    def put(self, name: str, parts: Iterable[bytes | bytearray]) -> None:
        whole = b"".join(parts)

        def fill(memory: memoryview) -> None:
            memory[:] = whole

        self.put_filled(name, len(whole), fill)

    def put_filled(self, name: str, size_bytes: int, fill: Callable[[memoryview], None]) -> None:
        kind = self._kind("error", "timeout")
        if kind == "error":
            raise OSError("the store answers 500")
        self._real.put_filled(name, size_bytes, fill)
        if kind == "timeout":
            raise OSError("the store does not answer, though it has done it")

    def settle(self, names: Iterable[str]) -> None:
        names = list(names)
        kind = self._kind("error", "timeout", "later")
        if kind == "error":
            raise OSError("the store answers 500")
        self._real.settle(names)
        if kind == "timeout":
            raise OSError("the store does not answer, though it has done it")
        if kind == "later":
            self._visible_at.update(dict.fromkeys(names, trio.current_time() + INVISIBLE_SECONDS))

    def get(self, name: str, offset: int, length: int) -> bytes:
        if self._faults.store and trio.current_time() < self._visible_at.get(name, 0.0):
            raise ObjectMissing(f"object {name} is not to be seen yet")
        kind = self._kind("error", "damaged")
        if kind == "error":
            raise OSError("the store answers 500")
        data = self._real.get(name, offset, length)
        return self._faults.damaged(data) if kind == "damaged" else data

    def mended(self, name: str, offset: int, length: int, is_sound: Callable[[bytes], bool]) -> bytes | None:
        return self._real.mended(name, offset, length, is_sound)

    def delete(self, name: str) -> None:
        self._real.delete(name)

    def objects(self) -> Iterator[StoredObject]:
        return self._real.objects()

    def quarantine(self, name: str) -> None:
        self._real.quarantine(name)

    def prepare(self) -> None:
        self._real.prepare()  # type: ignore[attr-defined]

    def _kind(self, *kinds: str) -> str:
        return self._faults.kind(*kinds) if self._faults.happens(self._faults.store) else ""
