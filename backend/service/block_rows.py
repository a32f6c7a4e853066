"""The rows of blocks, their copies and pins: what is known of a block, and how that changes.

Owns the SQL of blocks; all functions run inside a transaction of the caller's, who has found out which account it is.
Invariants: a block is here when its state is stored (or condemned, which a pin revives) and its copy is whole; the
account's `pinned_bytes` is the sum of the sizes of all blocks without references that some device pins, each once.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, func, insert, select, update

from backend.metadata.queries import is_asked
from backend.metadata.schema import BlockState, CopyState, accounts, block_copies, blocks, pins, stores
from backend.service.ground import Limits
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import AccountId, BlockId, DeviceId

STORE = 1
"""The one store of an embedded deployment."""
FIRST_GENERATION = 1
MAX_IN_QUERY = 500
HERE = (BlockState.STORED, BlockState.CONDEMNED)


# -- statements that most requests need, each made once --------------------------------------------------------------

_COPY = ("block", "generation", "key", "object", "offset", "length")
_own, _own_copy, _own_pin = (table.c.account == bindparam("account") for table in (blocks, block_copies, pins))
_same = (block_copies.c.account == blocks.c.account) & (block_copies.c.block == blocks.c.block)
_same &= block_copies.c.generation == blocks.c.generation


def _lost() -> Select[Any]:
    copy = block_copies.alias()
    readable = select(copy.c.block).where(
        copy.c.account == blocks.c.account,
        copy.c.block == blocks.c.block,
        copy.c.generation == blocks.c.generation,
        copy.c.state == CopyState.STORED,
    )
    owed = (
        block_copies.c.account == bindparam("of"),
        block_copies.c.state == CopyState.OWED,
        block_copies.c.block > bindparam("after"),
    )
    same = (blocks.c.account == block_copies.c.account) & (blocks.c.block == block_copies.c.block)
    statement = select(block_copies.c.block).distinct().join(blocks, same)
    statement = statement.where(*owed, blocks.c.refs > 0, ~readable.exists()).order_by(block_copies.c.block)
    return statement.limit(bindparam("most"))


def _known() -> Select[Any]:
    whole = _same & (block_copies.c.store == STORE) & (block_copies.c.state == CopyState.STORED)
    columns = (blocks.c.block, blocks.c.state, blocks.c.generation, blocks.c.size_bytes, blocks.c.refs)
    statement = select(*columns, block_copies.c.object.is_not(None)).outerjoin(block_copies, whole)
    return statement.where(_own, is_asked(blocks.c.block))


def _places() -> Select[Any]:
    columns = [*(block_copies.c[name] for name in _COPY), block_copies.c.state == CopyState.OWED]
    statement = select(*columns).join(blocks, _same).where(_own_copy, is_asked(block_copies.c.block))
    return statement.where(block_copies.c.store == STORE, blocks.c.state.in_(HERE))


def _pinned_size() -> Select[Any]:
    pinned = select(pins.c.block).where(_own_pin, is_asked(pins.c.block))
    statement = select(func.coalesce(func.sum(blocks.c.size_bytes), 0))
    return statement.where(_own, blocks.c.refs == 0, blocks.c.block.in_(pinned))


_KNOWN = _known()
_LOST = _lost()
_PLACES = _places()
_PINNED_SIZE = _pinned_size()
_PINS = select(pins.c.block, pins.c.device, pins.c.proven).where(_own_pin, is_asked(pins.c.block))
_EXPIRED = (
    select(pins.c.block, pins.c.device).where(_own_pin, pins.c.expires_ns < bindparam("now_ns")).limit(MAX_IN_QUERY)
)
_UNPIN = delete(pins).where(_own_pin, pins.c.device == bindparam("device"), is_asked(pins.c.block))
_OF_DEVICE = select(pins.c.block).where(
    _own_pin, pins.c.device == bindparam("device"), pins.c.expires_ns <= bindparam("until_ns")
)
_ROOM = select(accounts.c.quota_bytes, accounts.c.stored_bytes, accounts.c.pinned_bytes).where(
    accounts.c.account == bindparam("account")
)
_LOCK = select(accounts.c.account).where(accounts.c.account == bindparam("account")).with_for_update()
_ADD_PINNED = (
    update(accounts)
    .where(accounts.c.account == bindparam("key"))
    .values(pinned_bytes=accounts.c.pinned_bytes + bindparam("more"))
)
_INSERT_BLOCKS, _INSERT_COPIES, _INSERT_PINS = insert(blocks), insert(block_copies), insert(pins)


@dataclass(frozen=True, slots=True)
class KnownBlock:
    """A block that has a row: where it stands, and whether its bytes can be read."""

    block: BlockId
    state: BlockState
    generation: int
    size_bytes: int
    refs: int
    has_copy: bool

    @property
    def is_here(self) -> bool:
        """Whether it can be served and named by a revision."""
        return self.state in HERE and self.has_copy


@dataclass(frozen=True, slots=True)
class CopyPlace:
    """Where the sealed bytes of a block lie, and which of the account's keys opens them."""

    block: BlockId
    generation: int
    key: int
    object: str
    offset: int
    length: int
    is_owed: bool = False
    """Whether it could not be read the last time; it may be readable after all."""


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block that has just become durable in the store."""

    place: CopyPlace
    size_bytes: int
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class Pin:
    """Who keeps blocks from being deleted, and until when; `is_proven`: it has sent the bytes itself."""

    account: AccountId
    device: DeviceId
    now_ns: int
    expires_ns: int
    is_proven: bool


def establish_store(connection: Connection, kind: str) -> None:
    """Note the one store of this deployment, which its copies refer to, if that has not been done yet."""
    if connection.execute(select(stores.c.store).where(stores.c.store == STORE)).one_or_none() is None:
        connection.execute(insert(stores), {"store": STORE, "kind": kind, "region": ""})


def portions(ids: Collection[BlockId]) -> Iterator[list[BlockId]]:
    """Cut a long list of ids into lists that fit into one query each."""
    ordered = list(ids)
    for start in range(0, len(ordered), MAX_IN_QUERY):
        yield ordered[start : start + MAX_IN_QUERY]


def known_blocks(connection: Connection, account: AccountId, ids: Collection[BlockId]) -> dict[BlockId, KnownBlock]:
    """Load what is known of these blocks; those without a row are left out."""
    found = {}
    for some in portions(ids):
        for block, state, *rest in connection.execute(_KNOWN, {"account": account, "asked": some}):
            found[BlockId(block)] = KnownBlock(BlockId(block), BlockState(state), *rest)
    return found


def places(connection: Connection, account: AccountId, ids: Collection[BlockId]) -> dict[BlockId, CopyPlace]:
    """Where the copies of those blocks lie that are here, or were the last time anybody looked for them."""
    found = {}
    for some in portions(ids):
        for row in connection.execute(_PLACES, {"account": account, "asked": some}):
            place = CopyPlace(*row)
            found[place.block] = place
    return found


def pin_present(connection: Connection, pin: Pin, ids: Collection[BlockId]) -> set[BlockId]:
    """Pin those of these blocks that are here, and revive the condemned among them; gives which they are."""
    lock_account(connection, pin.account)
    here = [known for known in known_blocks(connection, pin.account, ids).values() if known.is_here]
    _pin(connection, pin, here)
    return {known.block for known in here}


def record(connection: Connection, pin: Pin, written: Sequence[StoredBlock], limits: Limits) -> set[str]:
    """Make written blocks known as stored and pin them; gives the objects that are needed.

    A block that someone else has stored meanwhile stays as it is, and is pinned. What takes no more room, such as a
    lost block of a revision, is taken by a full account too.

    Raises:
        ProtocolError: `over_quota`: nothing is recorded.
    """
    lock_account(connection, pin.account)
    drop_expired_pins(connection, pin.account, pin.now_ns)
    known = known_blocks(connection, pin.account, [each.place.block for each in written])
    wanted = [each for each in written if _is_wanted(known.get(each.place.block), each)]
    fresh = [each for each in wanted if each.place.block not in known]
    _insert_blocks(connection, pin, fresh)
    for each in wanted:
        if each.place.block in known:
            _store_again(connection, pin, each)
            _drop_copy(connection, pin.account, each.place)
    _insert_copies(connection, pin.account, wanted)
    now = known_blocks(connection, pin.account, [each.place.block for each in written])
    if _pin(connection, pin, list(now.values())) and room_bytes(connection, pin.account, limits) < 0:
        raise over_quota()
    return {each.place.object for each in wanted}


def mark_lost(connection: Connection, account: AccountId, place: CopyPlace) -> None:
    """Note that a copy cannot be read, so that `missing` asks for the block; unless it was replaced meanwhile."""
    _mark(connection, account, place, CopyState.OWED)


def mark_found(connection: Connection, account: AccountId, place: CopyPlace) -> None:
    """Note that a copy can be read after all: the store had not answered, or was slow to show it."""
    _mark(connection, account, place, CopyState.STORED)


def _mark(connection: Connection, account: AccountId, place: CopyPlace, state: CopyState) -> None:
    same = (
        (block_copies.c.account == account)
        & (block_copies.c.block == place.block)
        & (block_copies.c.generation == place.generation)
        & (block_copies.c.store == STORE)
        & (block_copies.c.object == place.object)
        & (block_copies.c.offset == place.offset)
    )
    connection.execute(update(block_copies).where(same).values(state=state))


def proven_blocks(
    connection: Connection, account: AccountId, device: DeviceId, asked: Collection[BlockId]
) -> set[BlockId]:
    """Those of these blocks that a device has sent itself, and pins."""
    rows = (
        row for some in portions(list(asked)) for row in connection.execute(_PINS, {"account": account, "asked": some})
    )
    return {BlockId(row.block) for row in rows if row.device == device and row.proven}


def lost_blocks(connection: Connection, account: AccountId, after: bytes, limit: int) -> list[BlockId]:
    """Blocks that revisions need and of which no copy can be read, in order."""
    bound = {"of": account, "after": after, "most": limit}
    return [BlockId(block) for (block,) in connection.execute(_LOST, bound)]


def forget_unreadable(connection: Connection, account: AccountId, block: BlockId) -> bool:
    """Forget a block that no revision needs and that cannot be read, and give its bytes back; False: it stays."""
    lock_account(connection, account)
    known = known_blocks(connection, account, [block]).get(block)
    if known is None or known.refs or known.has_copy:
        return False
    unpin(connection, account, [block])
    for table in (block_copies, blocks):
        connection.execute(delete(table).where(table.c.account == account, table.c.block == block))
    return True


def unpin(connection: Connection, account: AccountId, ids: Collection[BlockId]) -> None:
    """Drop all pins of these blocks, run out or not, and give their bytes back to the quota."""
    for some in portions(ids):
        before = _pinned_without_refs(connection, account, some)
        connection.execute(delete(pins).where(pins.c.account == account, pins.c.block.in_(some)))
        _add_pinned_bytes(connection, account, -before)


def drop_expired_pins(connection: Connection, account: AccountId, now_ns: int) -> int:
    """Drop pins that have run out, a bounded number at a time, and give their bytes back; gives how many there were."""
    expired = connection.execute(_EXPIRED, {"account": account, "now_ns": now_ns}).all()
    if not expired:
        return 0
    ids = {BlockId(row.block) for row in expired}
    before = _pinned_without_refs(connection, account, ids)
    of_block = (pins.c.account == account) & (pins.c.block.in_(ids)) & (pins.c.expires_ns < now_ns)
    connection.execute(delete(pins).where(of_block))
    _add_pinned_bytes(connection, account, _pinned_without_refs(connection, account, ids) - before)
    return len(expired)


def drop_pins_of(connection: Connection, account: AccountId, device: DeviceId, until_ns: int) -> int:
    """Drop a device's pins that run out by then, a bounded number at a time, and give their bytes back; gives how many.

    One that still needs such a block is asked for it when it names it.
    """
    lock_account(connection, account)
    own = {"account": account, "device": device}
    ids = connection.execute(_OF_DEVICE.limit(MAX_IN_QUERY), {**own, "until_ns": until_ns}).scalars().all()
    if ids:
        before = _pinned_without_refs(connection, account, ids)
        connection.execute(_UNPIN, {**own, "asked": ids})
        _add_pinned_bytes(connection, account, _pinned_without_refs(connection, account, ids) - before)
    return len(ids)


def room_bytes(connection: Connection, account: AccountId, limits: Limits) -> int:
    """How much of the quota is free; negative when more is in use than is allowed now."""
    row = connection.execute(_ROOM, {"account": account}).one()
    quota = limits.quota_bytes if row.quota_bytes is None else row.quota_bytes
    return int(quota - row.stored_bytes - row.pinned_bytes)


def over_quota() -> ProtocolError:
    """What a device is told whose account is full."""
    return ProtocolError(
        Code.OVER_QUOTA,
        "The account is full: this upload does not fit. What is stored stays; delete something, or ask for more room.",
    )


def _is_wanted(known: KnownBlock | None, written: StoredBlock) -> bool:
    """Whether the freshly written copy is needed: there is none, or none that can be read, in this generation."""
    return known is None or (not known.is_here and written.place.generation >= known.generation)


def lock_account(connection: Connection, account: AccountId) -> None:
    """Hold an account until the transaction ends: whatever changes what is kept of its blocks does."""
    connection.execute(_LOCK, {"account": account})


def _insert_blocks(connection: Connection, pin: Pin, fresh: Iterable[StoredBlock]) -> None:
    rows = [
        {
            "account": pin.account,
            "block": each.place.block,
            "state": BlockState.STORED,
            "generation": each.place.generation,
            "size_bytes": each.size_bytes,
            "payload_bytes": each.payload_bytes,
            "refs": 0,
            "unreferenced_ns": pin.now_ns,
            "verified": True,
        }
        for each in fresh
    ]
    if rows:
        connection.execute(_INSERT_BLOCKS, rows)


def _store_again(connection: Connection, pin: Pin, written: StoredBlock) -> None:
    same = (blocks.c.account == pin.account) & (blocks.c.block == written.place.block)
    values = {
        "state": BlockState.STORED,
        "generation": written.place.generation,
        "payload_bytes": written.payload_bytes,
        "verified": True,
    }
    connection.execute(update(blocks).where(same).values(values))


def _insert_copies(connection: Connection, account: AccountId, wanted: Sequence[StoredBlock]) -> None:
    rows = [
        {
            "account": account,
            "block": each.place.block,
            "generation": each.place.generation,
            "store": STORE,
            "key": each.place.key,
            "object": each.place.object,
            "offset": each.place.offset,
            "length": each.place.length,
            "state": CopyState.STORED,
        }
        for each in wanted
    ]
    if rows:
        connection.execute(_INSERT_COPIES, rows)


def _drop_copy(connection: Connection, account: AccountId, place: CopyPlace) -> None:
    """Forget the unreadable copy that a new one takes the place of."""
    copy = block_copies.c
    same = (copy.block == place.block, copy.generation == place.generation, copy.store == STORE)
    connection.execute(delete(block_copies).where(copy.account == account, *same))


def _pin(connection: Connection, pin: Pin, here: Sequence[KnownBlock]) -> int:
    """Pin blocks, and revive the condemned; gives how much more room that takes."""
    ids = [known.block for known in here]
    pinned: set[BlockId] = set()
    proven: set[BlockId] = set()
    for some in portions(ids):
        own = {"account": pin.account, "asked": some}
        found = connection.execute(_PINS, own).all()
        pinned.update(row.block for row in found)
        proven.update(row.block for row in found if row.device == pin.device and row.proven)
        connection.execute(_UNPIN, {**own, "device": pin.device})
    rows = [
        {
            "account": pin.account,
            "block": block,
            "device": pin.device,
            "expires_ns": pin.expires_ns,
            "proven": pin.is_proven or block in proven,
        }
        for block in ids
    ]
    if rows:
        connection.execute(_INSERT_PINS, rows)
    _revive(connection, pin.account, [known for known in here if known.state is BlockState.CONDEMNED])
    added = sum(known.size_bytes for known in here if known.refs == 0 and known.block not in pinned)
    _add_pinned_bytes(connection, pin.account, added)
    return added


def _revive(connection: Connection, account: AccountId, condemned: Sequence[KnownBlock]) -> None:
    for some in portions([known.block for known in condemned]):
        same = (blocks.c.account == account) & (blocks.c.block.in_(some)) & (blocks.c.state == BlockState.CONDEMNED)
        connection.execute(update(blocks).where(same).values(state=BlockState.STORED))


def _pinned_without_refs(connection: Connection, account: AccountId, ids: Collection[BlockId]) -> int:
    total: Any = connection.execute(_PINNED_SIZE, {"account": account, "asked": list(ids)}).scalar_one()
    return int(total)


def _add_pinned_bytes(connection: Connection, account: AccountId, count: int) -> None:
    if count:
        connection.execute(_ADD_PINNED, {"key": account, "more": count})
