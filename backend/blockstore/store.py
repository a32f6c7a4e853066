"""What every store of objects offers: put, get, delete by name, all durable or refused.

Owns the protocol only. An object is immutable bytes under a name that is used once; what lies in it (one sealed block,
or many small ones one after another) is the caller's business. All calls block and are made through `offload()`.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol


class StoredObject(NamedTuple):
    """An object as the store lists it: its size, and when it was written."""

    name: str
    size_bytes: int
    modified_ns: int


class ObjectStore(Protocol):
    """Keeps objects; safe to call from several threads at once."""

    def put(self, name: str, parts: Iterable[bytes | bytearray]) -> None:
        """Write an object as a whole; it may be found under its name only once `settle` has returned.

        Raises:
            OSError: nothing is under the name then.
        """
        ...

    def put_filled(self, name: str, size_bytes: int, fill: Callable[[memoryview], None]) -> None:
        """As `put`, of what `fill` writes into the memory that it is given: nothing is copied from there.

        Raises:
            OSError, or what `fill` raises: nothing is under the name then.
        """
        ...

    def settle(self, names: Iterable[str]) -> None:
        """Make objects that `put` has written durable under their names: on return they survive power loss."""
        ...

    def get(self, name: str, offset: int, length: int) -> bytes:
        """Read part of an object.

        Raises:
            ObjectMissing: there is no such object, or it ends before that part does.
        """
        ...

    def mended(self, name: str, offset: int, length: int, is_sound: Callable[[bytes], bool]) -> bytes | None:
        """The same part from a place where it is sound, which those where it is not get too; None: there is none.

        For who has got something else by `get`. Objects that a place lacks are not its matter.
        """
        ...

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...

    def objects(self) -> Iterator[StoredObject]:
        """Walk all objects, in no order."""
        ...

    def quarantine(self, name: str) -> None:
        """Put an object aside, durably: it is not found any more, and people can look at it."""
        ...
