"""Every object in two stores, so that the loss of one, or of the place where it stands, loses nothing.

Owns which of the two has been written and which is owed. Reads go to the first that gives the object; what is damaged
there is read from the other, and mended from it. What a store that is down means for writes is the operator's choice:
they wait (`needs_both`), or go to the other alone, and what is owed is copied when it is back (`copy_owed`).
Invariants: what `settle` has returned for is durable in both stores, or in one where that is enough; an object that is
refused is in neither as far as they can be reached.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Protocol

from backend.blockstore import errors
from backend.blockstore.store import ObjectStore, StoredObject

log = logging.getLogger(__name__)


class Place(ObjectStore, Protocol):
    """A store that can be one of the two."""

    def whole(self, name: str) -> bytes:
        """Read an object to its end.

        Raises:
            ObjectMissing: there is none.
        """
        ...


class ReplicatedStore:
    """An `ObjectStore` over two others."""

    def __init__(
        self,
        first: Place,
        second: Place,
        *,
        needs_both: bool,
        require_second: Callable[[], None] = lambda: None,
    ) -> None:
        """`require_second` raises an `OSError` while the second one is not really at its place."""
        self._stores = (first, second)
        self._require_second = require_second
        self._needs_both = needs_both
        self._lock = threading.Lock()
        self._holders: dict[str, list[Place]] = {}
        """Which stores have what is not settled yet."""
        self.is_owed = True
        """Whether one of them may lack what the other has: nobody knows before the first look."""

    @property
    def first(self) -> ObjectStore:
        """The one that is read first."""
        return self._stores[0]

    def put(self, name: str, parts: Iterable[bytes | bytearray]) -> None:
        """Write to both; see `ObjectStore.put`."""
        whole, failure, holders = list(parts), None, list[Place]()
        for store in self._stores:
            try:
                self._require(store)
                store.put(name, whole)
                holders.append(store)
            except OSError as error:
                failure = error
        self._refuse_or_owe(holders, [name], failure)
        with self._lock:
            self._holders[name] = holders

    def put_filled(self, name: str, size_bytes: int, fill: Callable[[memoryview], None]) -> None:
        """Make the bytes once, and write them to both; see `ObjectStore.put_filled`."""
        data = bytearray(size_bytes)
        fill(memoryview(data))
        self.put(name, [data])

    def settle(self, names: Iterable[str]) -> None:
        """Settle each object where it was written; see `ObjectStore.settle`."""
        wanted, failure, settled = list(names), None, list[Place]()
        with self._lock:
            holders = [self._holders.pop(name, list(self._stores)) for name in wanted]
        for store in self._stores:
            try:
                self._require(store)
                store.settle(name for name, those in zip(wanted, holders, strict=True) if store in those)
                settled.append(store)
            except OSError as error:
                failure = error
        for those in holders:
            self._refuse_or_owe([store for store in those if store in settled], wanted, failure)

    def _refuse_or_owe(self, holders: list[Place], names: list[str], failure: OSError | None) -> None:
        """Accept that only some stores have something, or take it back and refuse it."""
        if len(holders) == len(self._stores):
            return
        if self._needs_both or not holders:
            for name in names:
                with suppress(OSError):
                    self.delete(name)
            raise failure or OSError("a store has lost what was just written to it")
        if not self.is_owed:
            log.warning("a store of blocks cannot be written; the other takes them alone for now: %s", failure)
        self.is_owed = True

    def get(self, name: str, offset: int, length: int) -> bytes:
        """Read from the first store that has it; see `ObjectStore.get`.

        Raises:
            OSError: a store that may have it does not answer.
        """
        failure: OSError | errors.ObjectMissing | None = None
        for store in self._stores:
            try:
                data = store.get(name, offset, length)
            except OSError as error:
                failure = error
            except errors.ObjectMissing as error:
                failure = failure or error
            else:
                self.is_owed = self.is_owed or failure is not None
                return data
        assert failure is not None
        if isinstance(failure, errors.ObjectMissing):
            self._require_second()
        raise failure

    def mended(self, name: str, offset: int, length: int, is_sound: Callable[[bytes], bool]) -> bytes | None:
        """From the other place; see `ObjectStore.mended`."""
        found, damaged = None, list[Place]()
        for store in self._stores:
            with suppress(OSError, errors.ObjectMissing):
                self._require(store)
                data = store.get(name, offset, length)
                if is_sound(data):
                    found = data
                else:
                    damaged.append(store)
        if found is not None:
            for store in damaged:
                with suppress(OSError, errors.ObjectMissing):
                    whole = bytearray(store.whole(name))
                    whole[offset : offset + length] = found
                    store.put(name, [whole])
                    store.settle([name])
                    log.warning("object %s was damaged in one of its two places, and is mended from the other", name)
        return found

    def delete(self, name: str) -> None:
        """Remove from both; see `ObjectStore.delete`.

        Raises:
            OSError: one of them may still have it.
        """
        failure = None
        with self._lock:
            self._holders.pop(name, None)
        for store in self._stores:
            try:
                self._require(store)
                store.delete(name)
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure

    def objects(self) -> Iterator[StoredObject]:
        """Walk the first store, and what only the second has; see `ObjectStore.objects`."""
        yield from self._stores[0].objects()
        yield from _lacking(self._stores[1], self._stores[0])

    def quarantine(self, name: str) -> None:
        """Put aside in both; see `ObjectStore.quarantine`.

        Raises:
            OSError: one of them is out of reach, and may have it.
        """
        self._require_second()
        for store in self._stores:
            store.quarantine(name)

    def copy_owed(self) -> int:
        """Copy what either store lacks to it; gives how many objects. Nothing may be deleted meanwhile.

        Raises:
            OSError: one of them is not there still; what was copied stays.
        """
        self._require_second()
        self.is_owed, count = False, 0
        try:
            for source, target in (self._stores, self._stores[::-1]):
                for each in _lacking(source, target):
                    with suppress(errors.ObjectMissing):  # it was deleted meanwhile
                        target.put(each.name, [source.get(each.name, 0, each.size_bytes)])
                        target.settle([each.name])
                        count += 1
        except BaseException:
            self.is_owed = True
            raise
        return count

    def _require(self, store: Place) -> None:
        if store is self._stores[1]:
            self._require_second()


def _lacking(source: ObjectStore, target: ObjectStore) -> Iterator[StoredObject]:
    """The objects of one store that the other does not have whole."""
    for each in source.objects():
        try:
            target.get(each.name, max(0, each.size_bytes - 1), min(1, each.size_bytes))
        except errors.ObjectMissing:
            yield each
