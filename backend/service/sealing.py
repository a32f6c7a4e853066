"""Payloads to sealed copies in the store, and back; blocking, for threads.

Owns which bytes become which object: a block of some size has an object of its own, small ones share one, since each
object costs a sync. Knows no rows. Invariant: what is sealed here has been verified against its id before.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from backend.blockstore import errors, sealed
from backend.blockstore.store import ObjectStore
from backend.metadata.schema import BlockState
from backend.service.block_rows import FIRST_GENERATION, CopyPlace, KnownBlock, StoredBlock
from drivefs.protocol import blocks as codec
from drivefs.protocol.ids import AccountId, BlockId

SMALL_PAYLOAD_BYTES = 128 * 2**10
"""Payloads up to this length share an object with the other small ones at hand."""
OBJECT_NAME_BYTES = 16


@dataclass(frozen=True, slots=True)
class Sealer:
    """How the blocks of one upload are sealed, and where they go."""

    account: AccountId
    seal: sealed.Seal
    store: ObjectStore
    directory: str

    def write(self, frames: Iterable[codec.Frame], known: dict[BlockId, KnownBlock]) -> list[StoredBlock]:
        """Verify blocks, and seal and write those that are not here yet; durable once the store has settled.

        Raises:
            ProtocolError: `block_invalid`; as with the following, nothing is left in the store.
            OSError: the store cannot.
        """
        written: list[StoredBlock] = []
        try:
            self._write(frames, known, written)
        except BaseException:
            for name in {each.place.object for each in written}:
                with suppress(OSError):
                    self.store.delete(name)
            raise
        return written

    def _write(
        self, frames: Iterable[codec.Frame], known: dict[BlockId, KnownBlock], written: list[StoredBlock]
    ) -> None:
        shared = self._new_name()
        parts: list[bytearray] = []
        shared_bytes = 0
        for block, payload in frames:
            assert payload is not None
            size_bytes = codec.verify_payload(payload, block)
            if block in known and known[block].is_here:
                continue
            generation = _next_generation(known.get(block))
            name, length = sealed.BlockName(self.account, block, generation), self.seal.length(len(payload))
            fill = partial(self.seal.seal_into, payload=payload, name=name)
            if len(payload) > SMALL_PAYLOAD_BYTES:
                place = CopyPlace(block, generation, self.seal.key.number, self._new_name(), 0, length)
                self.store.put_filled(place.object, length, fill)
            else:
                place = CopyPlace(block, generation, self.seal.key.number, shared, shared_bytes, length)
                parts.append(bytearray(length))
                fill(memoryview(parts[-1]))
                shared_bytes += length
            written.append(StoredBlock(place, size_bytes, len(payload)))
        if parts:
            self.store.put(shared, parts)

    def _new_name(self) -> str:
        return f"{self.directory}/{self.seal.random_bytes(OBJECT_NAME_BYTES).hex()}"


def account_of(name: str) -> AccountId | None:
    """Whose blocks lie in an object of that name; None: it is not a name that is given here."""
    parts = name.split("/")
    try:
        is_ours = len(parts) == 3 and len(parts[1]) == 2 and len(bytes.fromhex(parts[2])) == OBJECT_NAME_BYTES
        return AccountId(int(parts[0], 16)) if is_ours else None
    except ValueError:
        return None


def open_copy(store: ObjectStore, account: AccountId, place: CopyPlace, key: sealed.AccountKey) -> bytes | bytearray:
    """Read a copy from the store and open it; gives the payload.

    Raises:
        StoreError: it is not there or does not open, wherever it lies.
    """
    name = sealed.BlockName(account, place.block, place.generation)

    def opens(data: bytes) -> bool:
        with suppress(errors.SealBroken):
            sealed.unseal(data, name, key)
            return True
        return False

    data = store.get(place.object, place.offset, place.length)
    try:
        return sealed.unseal(data, name, key)
    except errors.SealBroken:
        mended = store.mended(place.object, place.offset, place.length, opens)
        if mended is None:
            raise
        return sealed.unseal(mended, name, key)


def _next_generation(known: KnownBlock | None) -> int:
    """Which life of a block a new copy begins or heals."""
    if known is None:
        return FIRST_GENERATION
    return known.generation + 1 if known.state is BlockState.DELETING else known.generation
