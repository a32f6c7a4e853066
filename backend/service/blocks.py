"""Blocks on their way in and out: which are missing, storing what is sent, serving what is asked for.

Owns the order of steps: verify, seal, write, sync, record, acknowledge. The rows are `block_rows`' matter, the sealed
form `sealed`'s. Invariants: a block is recorded, and acknowledged, only when it is durable in the store and its bytes
are what its id names; nothing of the store is touched inside a transaction; one request holds at most a few blocks in
memory, however many it carries.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
from sqlalchemy import Connection

from backend.blockstore import errors, sealed
from backend.metadata.schema import BlockState, Role
from backend.service import block_rows, workspaces
from backend.service.caller import Caller
from backend.service.ground import Ground
from backend.service.keys import AccountKeys
from drivefs.protocol import blocks as codec
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import AccountId, BlockId, WorkspaceId
from drivefs.protocol.messages import MAX_BLOCKS_PER_REQUEST, MAX_TRANSFER_BYTES, MissingReply, PutReply

log = logging.getLogger(__name__)

SMALL_PAYLOAD_BYTES = 128 * 2**10
"""Payloads up to this length share an object with others of the same request: an object costs a sync."""
MAX_SHARED_BYTES = 4 * 2**20
MAX_WRITES_AT_ONCE = 4
"""Objects that are sealed and written side by side, so that their syncs overlap; whoever sends more has to wait."""
MAX_READS_AT_ONCE = 4
MAX_TRANSFERS_AT_ONCE = 64
"""Uploads, and likewise downloads, that may hold blocks in memory: each up to two portions of 4 MiB."""
READ_BYTES = 4 * 2**20
"""How much is read from the store ahead of what is being sent."""

Send = Callable[[list[bytes]], Awaitable[None]]


class Disconnected(Exception):
    """The device went away before its body had ended."""


@dataclass(frozen=True, slots=True)
class Located:
    """Blocks that were asked for, in that order, and where those lie that may be served."""

    account: AccountId
    wanted: Sequence[BlockId]
    places: dict[BlockId, block_rows.CopyPlace]


class Blocks:
    """What the sync API offers about blocks."""

    def __init__(self, ground: Ground, keys: AccountKeys, algorithm: sealed.Algorithm) -> None:
        self._ground = ground
        self._keys = keys
        self._algorithm = algorithm
        self._receiving = anyio.Semaphore(MAX_TRANSFERS_AT_ONCE)
        self._sending = anyio.Semaphore(MAX_TRANSFERS_AT_ONCE)
        self._writing = anyio.Semaphore(MAX_WRITES_AT_ONCE)
        self._reading = anyio.Semaphore(MAX_READS_AT_ONCE)

    async def missing(self, caller: Caller, workspace: WorkspaceId, wanted: Sequence[BlockId]) -> MissingReply:
        """Say which of these blocks have to be sent; the others are pinned for the device, durably.

        Raises:
            ProtocolError: `not_found`, `forbidden`.
        """
        account, here = await self._ground.database.read(_look_up, caller, workspace, wanted)
        if here:
            pin = self._pin(account, caller, is_proven=False)
            here = await self._ground.database.write(block_rows.pin_present, pin, here)
        return MissingReply(missing=[block for block in dict.fromkeys(wanted) if block not in here])

    async def put(self, caller: Caller, workspace: WorkspaceId, body: AsyncIterator[bytes]) -> PutReply:
        """Store the blocks of a framed body and pin them for the device; all of it durable on return.

        What arrived whole before the body broke off, or before a block that is refused, is stored and pinned too: it
        need not be sent again.

        Raises:
            ProtocolError: `not_found`, `forbidden`, `block_invalid`, `too_large`, `over_quota`, `unavailable`.
            Disconnected: the body broke off.
        """
        account, room = await self._ground.database.read(self._room, caller, workspace)
        if room <= 0:
            raise block_rows.over_quota()
        key = await self._keys.active(account)
        async with self._receiving:
            intake = _Intake(self._ground, _Sealer(account, key, self._algorithm), self._writing)
            failure: ProtocolError | Disconnected | None = None
            try:
                await intake.receive(body)
            except (ProtocolError, Disconnected) as error:
                failure = error
            with anyio.CancelScope(shield=True):
                await self._keep(self._pin(account, caller, is_proven=True), intake)
            if failure is not None:
                raise failure
            return PutReply(stored_count=intake.frame_count)

    async def locate(self, caller: Caller, workspace: WorkspaceId, wanted: Sequence[BlockId]) -> Located:
        """Find out where blocks lie before anything is sent; keeps of a list what fits into one body.

        Raises:
            ProtocolError: `not_found`, `forbidden`.
        """
        return await self._ground.database.read(_locate, caller, workspace, wanted)

    async def send(self, located: Located, send: Send) -> None:
        """Open blocks and hand them on as frames, in the order asked for; reads ahead while it sends.

        A block that is not here, or does not open, is framed as such: never other bytes in its place.
        """
        async with self._sending:
            ready: list[bytes] = []
            for portion in _portions(located):
                ready = await self._send_while_reading(send, ready, located, portion)
            if ready:
                await send(ready)

    async def _send_while_reading(
        self, send: Send, ready: list[bytes], located: Located, portion: list[BlockId]
    ) -> list[bytes]:
        read: list[list[bytes]] = []

        async def read_portion() -> None:
            read.append(await self._read(located, portion))

        if not ready:
            await read_portion()
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read_portion)
                await send(ready)
        return read[0]

    async def _read(self, located: Located, portion: list[BlockId]) -> list[bytes]:
        here = [located.places[block] for block in portion if block in located.places]
        keys = {place.key: await self._keys.numbered(located.account, place.key) for place in here}
        async with self._reading:
            payloads: dict[BlockId, bytes] = await self._ground.offload(self._open, located.account, here, keys)
        lost = [place for place in here if place.block not in payloads]
        for place in lost:
            await self._ground.database.write(block_rows.mark_lost, located.account, place)
        return [part for block in portion for part in codec.frame(block, payloads.get(block))]

    def _open(
        self, account: AccountId, places: list[block_rows.CopyPlace], keys: dict[int, sealed.AccountKey]
    ) -> dict[BlockId, bytes]:
        payloads = {}
        for place in places:
            try:
                payloads[place.block] = open_copy(self._ground, account, place, keys[place.key])
            except errors.StoreError as error:
                log.error("block %s of account %d cannot be read: %s", place.block.hex(), account, error)
        return payloads

    async def _keep(self, pin: block_rows.Pin, intake: "_Intake") -> None:
        """Record what the intake has made durable; delete the objects that turn out not to be needed."""
        written = intake.written
        objects = {each.place.object for each in written}
        needed: set[str] = set()
        try:
            if written:
                await self._ground.offload(self._ground.store.settle, objects)
                needed = await self._ground.database.write(block_rows.record, pin, written, self._ground.limits)
            if intake.known:
                await self._ground.database.write(block_rows.pin_present, pin, intake.known)
        except OSError as error:
            raise _unavailable(error) from error
        finally:
            for name in objects - needed:
                await self._ground.offload(self._ground.store.delete, name)

    def _pin(self, account: AccountId, caller: Caller, *, is_proven: bool) -> block_rows.Pin:
        now_ns = self._ground.now_ns()
        expires_ns = now_ns + self._ground.limits.pin_seconds * 10**9
        return block_rows.Pin(account, caller.device, now_ns, expires_ns, is_proven)

    def _room(self, connection: Connection, caller: Caller, workspace: WorkspaceId) -> tuple[AccountId, int]:
        account = _own_account(connection, caller, workspace)
        return account, block_rows.room_bytes(connection, account, self._ground.limits)


@dataclass(frozen=True, slots=True)
class _Sealer:
    """How the blocks of one upload are sealed."""

    account: AccountId
    key: sealed.AccountKey
    algorithm: sealed.Algorithm


class _Intake:
    """Takes one framed body in: blocks become sealed objects, a few at a time, while more arrive."""

    def __init__(self, ground: Ground, sealer: _Sealer, writing: anyio.Semaphore) -> None:
        self.written: list[block_rows.StoredBlock] = []
        self.known: set[BlockId] = set()
        self.frame_count = 0
        self._ground = ground
        self._sealer = sealer
        self._writing = writing
        self._seen: set[BlockId] = set()
        self._small: list[codec.Frame] = []
        self._small_bytes = 0
        self._failure: ProtocolError | Disconnected | None = None
        # Objects of one request share a directory, and with it the sync that makes their names durable.
        self._directory = f"{sealer.account:x}/{ground.random_bytes(1).hex()}"

    async def receive(self, body: AsyncIterator[bytes]) -> None:
        """Take the body in to its end; `written` holds what is in the store then, also after a failure."""
        async with anyio.create_task_group() as tasks:
            try:
                await self._take_apart(body, tasks)
            except (ProtocolError, Disconnected) as error:
                self._failure = self._failure or error
            if self._small:
                await self._start(tasks, self._small)
        if self._failure is not None:
            raise self._failure

    async def _take_apart(self, body: AsyncIterator[bytes], tasks: anyio.abc.TaskGroup) -> None:
        reader = codec.FrameReader()
        async for data in body:
            for frame in reader.feed(data):
                await self._sort(frame, tasks)
            if self._failure is not None:
                return
        reader.close()

    async def _sort(self, frame: codec.Frame, tasks: anyio.abc.TaskGroup) -> None:
        if frame.payload is None:
            raise ProtocolError(Code.BLOCK_INVALID, "A block was announced and not sent.")
        self.frame_count += 1
        if frame.block in self._seen:
            return
        self._seen.add(frame.block)
        if len(self._seen) > MAX_BLOCKS_PER_REQUEST:
            raise ProtocolError(Code.TOO_LARGE, f"One request carries at most {MAX_BLOCKS_PER_REQUEST} blocks.")
        if len(frame.payload) > SMALL_PAYLOAD_BYTES:
            await self._start(tasks, [frame])
            return
        self._small.append(frame)
        self._small_bytes += len(frame.payload)
        if self._small_bytes >= MAX_SHARED_BYTES:
            await self._start(tasks, self._small)
            self._small, self._small_bytes = [], 0

    async def _start(self, tasks: anyio.abc.TaskGroup, frames: list[codec.Frame]) -> None:
        # Returns when the write has its place: that is what slows the sender down.
        await tasks.start(self._write, frames)

    async def _write(self, frames: list[codec.Frame], *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with self._writing:
            task_status.started()
            await self._write_now(frames)

    async def _write_now(self, frames: list[codec.Frame]) -> None:
        try:
            ids = [frame.block for frame in frames]
            known = await self._ground.database.read(block_rows.known_blocks, self._sealer.account, ids)
            written: list[block_rows.StoredBlock] = await self._ground.offload(self._seal_and_write, frames, known)
            self.written += written
            self.known.update(block for block, each in known.items() if each.is_here)
        except ProtocolError as error:
            self._failure = self._failure or error
        except OSError as error:
            self._failure = self._failure or _unavailable(error)

    def _seal_and_write(
        self, frames: list[codec.Frame], known: dict[BlockId, block_rows.KnownBlock]
    ) -> list[block_rows.StoredBlock]:
        """Verify blocks, seal those that are not here yet, and write them as one object; runs in a thread."""
        written: list[block_rows.StoredBlock] = []
        parts: list[bytes] = []
        offset = 0
        name = f"{self._directory}/{self._ground.random_bytes(16).hex()}"
        for block, payload in frames:
            assert payload is not None
            size_bytes = len(codec.decode_payload(payload, block))
            if block in known and known[block].is_here:
                continue
            generation = _next_generation(known.get(block))
            part = self._seal(block, generation, payload)
            place = block_rows.CopyPlace(block, generation, self._sealer.key.number, name, offset, len(part))
            written.append(block_rows.StoredBlock(place, size_bytes, len(payload)))
            parts.append(part)
            offset += len(part)
        if parts:
            self._ground.store.put(name, parts)
        return written

    def _seal(self, block: BlockId, generation: int, payload: bytes) -> bytes:
        name = sealed.BlockName(self._sealer.account, block, generation)
        return sealed.seal(payload, name, self._sealer.key, self._sealer.algorithm, self._ground.random_bytes)


def open_copy(ground: Ground, account: AccountId, place: block_rows.CopyPlace, key: sealed.AccountKey) -> bytes:
    """Read a copy from the store and open it; gives the payload. Blocks: call it in a thread.

    Raises:
        StoreError: it is not there or does not open.
    """
    data = ground.store.get(place.object, place.offset, place.length)
    return sealed.unseal(data, sealed.BlockName(account, place.block, place.generation), key)


def _own_account(connection: Connection, caller: Caller, workspace: WorkspaceId) -> AccountId:
    """The account whose blocks a request is about.

    What others than the owner may ask and fetch is bound to the workspace; until blocks are counted per workspace, only
    the owner may.
    """
    access = workspaces.require(connection, caller.user, workspace)
    if access.role is not Role.OWNER:
        raise ProtocolError(Code.FORBIDDEN, "Only the owner of this drive can move its contents.")
    return access.account


def _look_up(
    connection: Connection, caller: Caller, workspace: WorkspaceId, wanted: Sequence[BlockId]
) -> tuple[AccountId, set[BlockId]]:
    account = _own_account(connection, caller, workspace)
    known = block_rows.known_blocks(connection, account, set(wanted))
    return account, {block for block, each in known.items() if each.is_here}


def _locate(connection: Connection, caller: Caller, workspace: WorkspaceId, wanted: Sequence[BlockId]) -> Located:
    account = _own_account(connection, caller, workspace)
    places = block_rows.places(connection, account, set(wanted))
    fitting = 0
    for count, block in enumerate(wanted):
        fitting += places[block].length if block in places else 0
        if fitting > MAX_TRANSFER_BYTES:
            return Located(account, wanted[:count], places)
    return Located(account, wanted, places)


def _portions(located: Located) -> list[list[BlockId]]:
    """Cut the blocks asked for into portions that are read as one."""
    portions: list[list[BlockId]] = []
    room = 0
    for block in located.wanted:
        place = located.places.get(block)
        length = place.length if place is not None else 0
        if not portions or length > room:
            portions.append([])
            room = READ_BYTES
        portions[-1].append(block)
        room -= length
    return portions


def _next_generation(known: block_rows.KnownBlock | None) -> int:
    """Which life of a block a new copy begins or heals."""
    if known is None:
        return block_rows.FIRST_GENERATION
    return known.generation + 1 if known.state is BlockState.DELETING else known.generation


def _unavailable(error: OSError) -> ProtocolError:
    log.error("a block could not be stored: %s", error)
    return ProtocolError(
        Code.UNAVAILABLE,
        f"The server cannot store blocks now ({error.strerror}). Nothing that it acknowledged is affected; "
        "the upload goes on when it can.",
    )
