"""Objects in two places by how much they are used: what is new or read in the hot one, what rests in the cold one.

Owns which place an object is in, which nobody notes: whoever reads looks in the hot place first. Moving is to copy,
make durable, read back and compare, and only then to delete; a crash leaves the object in both, and the next move ends
it. Invariants: an object is always whole in at least one of the two; what the cold place does not have while it is not
there at all is not missing but out of reach.
"""

import errno
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from backend.blockstore import errors
from backend.blockstore.local import LocalStore
from backend.blockstore.store import StoredObject

OFTEN = 3
"""So many reads of a cold object within a day bring it back."""
MAX_COUNTED = 10_000


class TieredStore:
    """An `ObjectStore` over two others; `is_cold_there` says whether the cold one is really at its place."""

    def __init__(self, hot: LocalStore, cold: LocalStore, is_cold_there: Callable[[], bool]) -> None:
        self.hot = hot
        self.cold = cold
        self._is_cold_there = is_cold_there
        self._lock = threading.Lock()
        self._reads: Counter[str] = Counter()

    def put(self, name: str, parts: Iterable[bytes | bytearray]) -> None:
        """Write to the hot place; see `ObjectStore.put`."""
        self.hot.put(name, parts)

    def put_filled(self, name: str, size_bytes: int, fill: Callable[[memoryview], None]) -> None:
        """As `put`; see `ObjectStore.put_filled`."""
        self.hot.put_filled(name, size_bytes, fill)

    def settle(self, names: Iterable[str]) -> None:
        """Make durable in the hot place; see `ObjectStore.settle`."""
        self.hot.settle(names)

    def get(self, name: str, offset: int, length: int) -> bytes:
        """Read from where it is; see `ObjectStore.get`.

        Raises:
            OSError: the cold place, which may have it, is out of reach.
        """
        try:
            return self.hot.get(name, offset, length)
        except errors.ObjectMissing:
            pass
        try:
            data = self.cold.get(name, offset, length)
        except errors.ObjectMissing:
            self.require_cold()
            # It may have come back between the two looks.
            return self.hot.get(name, offset, length)
        with self._lock:
            if len(self._reads) < MAX_COUNTED or name in self._reads:
                self._reads[name] += 1
        return data

    def require_cold(self) -> None:
        """See that the cold place, which may have what the hot one has not, is there.

        Raises:
            OSError: it is out of reach.
        """
        if not self._is_cold_there():
            raise OSError(errno.ENODEV, "The cold store is not at its place")

    def whole(self, name: str) -> bytes:
        """Read an object to its end, from where it is.

        Raises:
            ObjectMissing: there is none.
        """
        try:
            return self.hot.whole(name)
        except errors.ObjectMissing:
            return self.cold.whole(name)

    def mended(self, name: str, offset: int, length: int, is_sound: Callable[[bytes], bool]) -> bytes | None:
        """An object is in one of the two; see `ObjectStore.mended`."""
        return None

    def delete(self, name: str) -> None:
        """Remove from both; see `ObjectStore.delete`.

        Raises:
            OSError: the cold place, which may have it, is out of reach.
        """
        self.require_cold()
        self.hot.delete(name)
        self.cold.delete(name)

    def objects(self) -> Iterator[StoredObject]:
        """Walk the hot place, and what only the cold one has; see `ObjectStore.objects`."""
        yield from self.hot.objects()
        for each in self.cold.objects():
            if not _has(self.hot, each):
                yield each

    def quarantine(self, name: str) -> None:
        """Put aside where it is; see `ObjectStore.quarantine`."""
        self.hot.quarantine(name)
        self.cold.quarantine(name)

    def cool(self, name: str) -> int:
        """Move an object to the cold place; gives its size, 0 if it is not in the hot one. Nobody may delete meanwhile.

        Raises:
            OSError: it is where it was.
        """
        self.require_cold()
        return _move(name, self.hot, self.cold)

    def warm(self, name: str) -> int:
        """Move an object back; as `cool`."""
        self.require_cold()
        return _move(name, self.cold, self.hot)

    def read_often(self) -> list[str]:
        """Which cold objects were read often since the counts were forgotten, each told once."""
        with self._lock:
            found = [name for name, count in self._reads.items() if count >= OFTEN]
            for name in found:
                del self._reads[name]
        return found

    def forget_reads(self) -> None:
        """Count anew."""
        with self._lock:
            self._reads.clear()


def _has(store: LocalStore, each: StoredObject) -> bool:
    try:
        store.get(each.name, max(0, each.size_bytes - 1), min(1, each.size_bytes))
    except errors.ObjectMissing:
        return False
    return True


def _move(name: str, source: LocalStore, target: LocalStore) -> int:
    try:
        data = source.whole(name)
    except errors.ObjectMissing:
        return 0
    target.put(name, [data])
    target.settle([name])
    if target.get(name, 0, len(data)) != data:
        target.delete(name)
        raise OSError(errno.EIO, f"What was copied of {name} reads back differently")
    source.delete(name)
    return len(data)
