"""Blocks on their way in and out: which are missing, storing what is sent, serving what is asked for.

Owns the order of steps: verify, seal, write, sync, record, acknowledge. The rows are `block_rows`' matter, the sealed
form `sealed`'s. Invariants: a block is recorded, and acknowledged, only when it is durable in the store and its bytes
are what its id names; nothing of the store is touched inside a transaction; one request holds at most a few blocks in
memory, however many it carries.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import anyio
from sqlalchemy import Connection

from backend.blockstore import errors, sealed
from backend.metadata.schema import Role
from backend.service import batches, block_rows, sealing, sight, workspaces
from backend.service.caller import Caller
from backend.service.ground import Ground
from backend.service.intake import MAX_WRITES_AT_ONCE, Disconnected, Intake, unavailable
from backend.service.keys import AccountKeys
from backend.service.sealing import Sealer
from backend.service.workspaces import Access
from drivefs.protocol import blocks as codec
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import AccountId, BlockId, WorkspaceId
from drivefs.protocol.messages import MAX_TRANSFER_BYTES, LostReply, MissingReply, PutReply

log = logging.getLogger(__name__)

MAX_READS_AT_ONCE = 4
MAX_TRANSFERS_AT_ONCE = 64
"""Uploads, and likewise downloads, that may hold blocks in memory: each up to two portions of 4 MiB."""
READ_BYTES = 4 * 2**20
"""How much is read from the store ahead of what is being sent."""

PLAINTEXTS_AT_ONCE = 4
MAX_LOST = 1000
"""How many lost blocks a device is asked for at once."""

Send = Callable[[list[codec.Bytes]], Awaitable[None]]
Opened = dict[BlockId, codec.Bytes | None]
"""Payloads by block; None: it is damaged or gone. What the store did not give is left out."""


@dataclass(frozen=True, slots=True)
class Located:
    """Blocks that were asked for, in that order, and where those lie that may be served."""

    wanted: Sequence[BlockId]
    places: dict[BlockId, block_rows.CopyPlace]
    accounts: dict[BlockId, AccountId]
    shares: Collection[WorkspaceId]
    """Those of others in which the blocks are."""
    drive: WorkspaceId | None
    """The caller's own drive, which is told where one of these ends; None: there are none."""


Heard = Callable[[AccountId, Iterable[BlockId]], None]


class Blocks:
    """What the sync API offers about blocks."""

    def __init__(self, ground: Ground, keys: AccountKeys, algorithm: sealed.Algorithm, heard: Heard) -> None:
        """`heard` is told of which blocks are fetched."""
        self._ground = ground
        self._heard = heard
        self._keys = keys
        self._algorithm = algorithm
        self._receiving = anyio.Semaphore(MAX_TRANSFERS_AT_ONCE)
        self._sending = anyio.Semaphore(MAX_TRANSFERS_AT_ONCE)
        self._giving = anyio.Semaphore(MAX_TRANSFERS_AT_ONCE)
        """For whoever has the address of a link: they wait for each other, and no device for them."""
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

    async def let_go(self, caller: Caller, workspace: WorkspaceId) -> None:
        """Drop what the device has pinned: what it needs of that still, it asks for again; durable on return.

        Raises:
            ProtocolError: `not_found`, `forbidden`.
        """
        database = self._ground.database
        account, _ = await database.read(_look_up, caller, workspace, ())
        until_ns = self._pin(account, caller, is_proven=False).expires_ns
        while await database.write(block_rows.drop_pins_of, account, caller.device, until_ns):
            pass

    async def lost(self, caller: Caller, workspace: WorkspaceId, after: bytes) -> LostReply:
        """Say which blocks that revisions need cannot be read here any more, a page at a time.

        Raises:
            ProtocolError: `not_found`, `forbidden`.
        """
        found = await self._ground.database.read(_lost, caller, workspace, after)
        return LostReply(blocks=found[:MAX_LOST], more=len(found) > MAX_LOST)

    async def put(self, caller: Caller, workspace: WorkspaceId, body: AsyncIterator[bytes]) -> PutReply:
        """Store the blocks of a framed body and pin them for the device; all of it durable on return.

        What arrived whole before the body broke off, or before a block that is refused, is stored and pinned too: it
        need not be sent again.

        Raises:
            ProtocolError: `not_found`, `forbidden`, `block_invalid`, `too_large`, `over_quota`, `unavailable`.
            Disconnected: the body broke off.
        """
        account, takes_blocks = await self._ground.database.read(self._receiver, caller, workspace)
        if not takes_blocks:
            raise block_rows.over_quota()
        key = await self._keys.active(account)
        async with self._receiving:
            intake = Intake(self._sealer(account, key), self._ground.database, self._ground.offload, self._writing)
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
        located = await self._ground.database.read(_locate, caller, workspace, wanted)
        for account in set(located.accounts.values()):
            self._heard(account, [block for block, owner in located.accounts.items() if owner == account])
        return located

    async def check_shares(self, caller: Caller, located: Located) -> None:
        """See whether the shares from which blocks are sent are still the caller's to see.

        Raises:
            ProtocolError: `not_found`.
        """
        await self._ground.database.read(_check_shares, caller, located.shares)

    async def drive_of_writer(self, caller: Caller, workspace: WorkspaceId) -> WorkspaceId:
        """The caller's own drive, in which it shows when nothing may be sent to the workspace any more.

        Raises:
            ProtocolError: `not_found`, `forbidden`: nothing may be sent to it.
        """
        return await self._ground.database.read(_drive_of_writer, caller, workspace)

    async def send(self, located: Located, send: Send) -> None:
        """Open blocks and hand them on as frames, in the order asked for; reads ahead while it sends.

        A block that is not here, or does not open, is framed as such: never other bytes in its place. One that the
        store does not give now is left out, and asked for again.
        """
        async with self._sending:
            ready: list[codec.Bytes] = []
            for portion in _portions(located):
                ready = await self._send_while_reading(send, ready, located, portion)
            if ready:
                await send(ready)

    async def plaintexts(self, account: AccountId, wanted: Sequence[BlockId]) -> AsyncGenerator[bytes, None]:
        """Blocks of an account in the order asked for, some at a time; who asks has found out that they may be given.

        Raises:
            ProtocolError: `unavailable`: one of them cannot be read.
        """
        async with self._giving:
            for start in range(0, len(wanted), PLAINTEXTS_AT_ONCE):
                some = list(wanted[start : start + PLAINTEXTS_AT_ONCE])
                places = await self._ground.database.read(block_rows.places, account, set(some))
                opened = await self._read_of(account, list(places.values()))
                for block in some:
                    payload = opened.get(block)
                    if payload is None:
                        raise ProtocolError(Code.UNAVAILABLE, "A part of this file cannot be read now.")
                    yield await self._ground.offload(codec.decode_payload, payload, block)

    async def _send_while_reading(
        self, send: Send, ready: list[codec.Bytes], located: Located, portion: list[BlockId]
    ) -> list[codec.Bytes]:
        read: list[list[codec.Bytes]] = []

        async def read_portion() -> None:
            read.append(await self._read(located, portion))

        if not ready:
            await read_portion()
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read_portion)
                await send(ready)
        return read[0]

    async def _read(self, located: Located, portion: list[BlockId]) -> list[codec.Bytes]:
        opened: Opened = {}
        for account in dict.fromkeys(located.accounts[block] for block in portion if block in located.places):
            here = [located.places[block] for block in portion if located.accounts.get(block) == account]
            opened |= await self._read_of(account, here)
        answered = [block for block in portion if block in opened or block not in located.places]
        return [part for block in answered for part in codec.frame(block, opened.get(block))]

    async def _read_of(self, account: AccountId, here: list[block_rows.CopyPlace]) -> Opened:
        keys = {place.key: await self._keys.numbered(account, place.key) for place in here}
        async with self._reading:
            opened: Opened = await self._ground.offload(self._open, account, here, keys)
        for place in here:
            if place.block in opened and place.is_owed is (opened[place.block] is not None):
                mark = block_rows.mark_found if place.is_owed else block_rows.mark_lost
                await self._ground.database.write(mark, account, place)
        return opened

    def _open(
        self, account: AccountId, places: list[block_rows.CopyPlace], keys: dict[int, sealed.AccountKey]
    ) -> Opened:
        opened: Opened = {}
        for place in places:
            try:
                opened[place.block] = sealing.open_copy(self._ground.store, account, place, keys[place.key])
            except errors.StoreError as error:
                log.error("block %s of account %d cannot be read: %s", place.block.hex(), account, error)
                opened[place.block] = None
            except OSError as error:
                log.error("block %s of account %d cannot be read now: %s", place.block.hex(), account, error)
        return opened

    async def _keep(self, pin: block_rows.Pin, intake: Intake) -> None:
        """Record what the intake has made durable; delete the objects that turn out not to be needed."""
        written = intake.written
        objects = {each.place.object for each in written}
        unneeded = objects
        try:
            if written:
                await self._ground.offload(self._ground.store.settle, objects)
                # Unless it is refused, nobody knows what becomes of it until the answer is here, and a revision may
                # name what lies in these objects by then. Those that turn out to be named by nothing take room only.
                unneeded = set()
                try:
                    recording = self._ground.database.write(block_rows.record, pin, written, self._ground.limits)
                    unneeded = objects - await recording
                except ProtocolError:
                    unneeded = objects
                    raise
            if intake.known:
                await self._ground.database.write(block_rows.pin_present, pin, intake.known)
        except OSError as error:
            raise unavailable(error) from error
        finally:
            for name in unneeded:
                with suppress(OSError):  # it takes room until the next check with repair
                    await self._ground.offload(self._ground.store.delete, name)

    def _sealer(self, account: AccountId, key: sealed.AccountKey) -> Sealer:
        # Objects of one request share a directory, and with it the sync that makes their names durable.
        ground = self._ground
        directory = f"{account:x}/{ground.random_bytes(1).hex()}"
        seal = sealed.Seal(key, self._algorithm, ground.random_bytes)
        return Sealer(account, seal, ground.store, directory)

    def _pin(self, account: AccountId, caller: Caller, *, is_proven: bool) -> block_rows.Pin:
        now_ns = self._ground.now_ns()
        expires_ns = now_ns + self._ground.limits.pin_seconds * 10**9
        return block_rows.Pin(account, caller.device, now_ns, expires_ns, is_proven)

    def _receiver(self, connection: Connection, caller: Caller, workspace: WorkspaceId) -> tuple[AccountId, bool]:
        """Whose blocks they are to be, and whether any are taken: a full account takes what it needs and has lost."""
        account = _writable(connection, caller, workspace).account
        has_room = block_rows.room_bytes(connection, account, self._ground.limits) > 0
        return account, has_room or bool(block_rows.lost_blocks(connection, account, b"", 1))


def _writable(connection: Connection, caller: Caller, workspace: WorkspaceId) -> Access:
    """The workspace that contents are sent to."""
    access = workspaces.require(connection, caller.user, workspace)
    if access.role not in workspaces.WRITERS:
        raise ProtocolError(Code.FORBIDDEN, "This is shared with you to be read: nothing can be stored there.")
    return access


def _drive_of_writer(connection: Connection, caller: Caller, workspace: WorkspaceId) -> WorkspaceId:
    _writable(connection, caller, workspace)
    return workspaces.own_drive(connection, caller.user).workspace


def _look_up(
    connection: Connection, caller: Caller, workspace: WorkspaceId, wanted: Sequence[BlockId]
) -> tuple[AccountId, set[BlockId]]:
    """What need not be sent. Others than the owner are told of what they may see or have sent themselves, only."""
    access = _writable(connection, caller, workspace)
    known = block_rows.known_blocks(connection, access.account, set(wanted))
    here = {block for block, each in known.items() if each.is_here}
    if access.role is not Role.OWNER:
        proven = block_rows.proven_blocks(connection, access.account, caller.device, here)
        here = proven | batches.admitted(connection, access, here - proven)
    return access.account, here


def _lost(connection: Connection, caller: Caller, workspace: WorkspaceId, after: bytes) -> list[BlockId]:
    access = workspaces.require(connection, caller.user, workspace)
    if access.role is not Role.OWNER:
        raise ProtocolError(Code.FORBIDDEN, "Only its owner is asked for what a drive has lost.")
    return block_rows.lost_blocks(connection, access.account, after, MAX_LOST + 1)


def _locate(connection: Connection, caller: Caller, workspace: WorkspaceId, wanted: Sequence[BlockId]) -> Located:
    access = workspaces.require(connection, caller.user, workspace)
    places: dict[BlockId, block_rows.CopyPlace] = {}
    accounts: dict[BlockId, AccountId] = {}
    shares: list[WorkspaceId] = []
    for each in sight.look(connection, access, access.head_seq).slices:
        lacking = set(wanted) - places.keys()
        if lacking and each.access.role is not Role.OWNER:
            lacking = batches.admitted(connection, each.access, lacking)
        if lacking and (each.access is access or each.access.account != access.account):
            found = block_rows.places(connection, each.access.account, lacking)
            accounts.update(dict.fromkeys(found, each.access.account))
            places |= found
            if found and each.access.role is not Role.OWNER:
                shares.append(each.access.workspace)
    drive = workspaces.own_drive(connection, caller.user).workspace if shares else None
    fitting = 0
    for count, block in enumerate(wanted):
        fitting += places[block].length if block in places else 0
        if fitting > MAX_TRANSFER_BYTES:
            return Located(wanted[:count], places, accounts, shares, drive)
    return Located(wanted, places, accounts, shares, drive)


def _check_shares(connection: Connection, caller: Caller, shares: Collection[WorkspaceId]) -> None:
    for share in shares:
        workspaces.require(connection, caller.user, share)


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
