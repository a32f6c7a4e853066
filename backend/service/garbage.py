"""Collecting blocks that no revision names and no device pins: condemned first, deleted much later, object by object.

Owns the steps from stored to absent (`BlockState`). Each is a compare-and-set under the account's lock, so that a pin,
which comes under the same lock, wins against it up to the moment at which a block is being deleted; from then on
`missing` asks for the block, which comes back as a new generation in an object of its own. Invariants: an object is
deleted only when all the blocks in it are being deleted or have come back elsewhere; an object is deleted before the
rows that name it, so a crash leaves rows from which the next round goes on; nothing is deleted during a backup.
"""

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import anyio
from sqlalchemy import Connection, bindparam, delete, select, tuple_, update

from backend.metadata.queries import is_asked, select_in
from backend.metadata.schema import BlockState, block_copies, blocks, pins
from backend.service import block_rows
from backend.service.ground import Ground
from drivefs.protocol.ids import AccountId, BlockId

CONDEMN_SECONDS = 72 * 3600
"""How long a block is kept that nothing names, after the last revision or the last pin that did."""
DELETE_SECONDS = 24 * 3600
"""How long it can still be had after that."""
PAGE_BLOCKS = 2000
PORTION_OBJECTS = 250

Objects = dict[str, list[tuple[bytes, int]]]
"""Names of objects, each with the blocks in it and their generations."""


@dataclass(slots=True)
class Collected:
    """What one round has done."""

    condemned_count: int = 0
    deleted_count: int = 0
    object_count: int = 0
    object_bytes: int = 0
    """Freed on the disk."""


class _Due(NamedTuple):
    account: AccountId
    block: BlockId
    state: BlockState
    generation: int


class _Deleting(NamedTuple):
    """Objects that may go, with the blocks that are deleted with them, by their generations."""

    objects: list[str]
    blocks: list[tuple[BlockId, int]]
    size_bytes: int


class Garbage:
    """The collector; `deleting` is held while objects are deleted, and by whoever needs them to stay."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.deleting = anyio.Lock()

    async def collect(self) -> Collected:
        """Go once through all blocks. Cancellation leaves what the next round takes up.

        Raises:
            OSError: the store does not delete now; the next round tries again.
        """
        collected, after = Collected(), (0, b"")
        while True:
            due, end = await self._ground.database.read(_page, after, self._ground.now_ns())
            for account, those in itertools.groupby(due, key=lambda each: each.account):
                await self._collect(AccountId(account), list(those), collected)
            if end is None:
                return collected
            after = end

    async def due(self) -> Collected:
        """What a round would do now, and change nothing; objects are not counted."""
        database, due, after = self._ground.database, Collected(), (0, b"")
        while True:
            found, end = await database.read(_page, after, self._ground.now_ns())
            for account, those in itertools.groupby(found, key=lambda each: each.account):
                ids = [each.block for each in those]
                free = await database.read(_unwanted, AccountId(account), ids, self._ground.now_ns())
                stored_count = sum(each.state is BlockState.STORED for each in free.values())
                due.condemned_count += stored_count
                due.deleted_count += len(free) - stored_count
            if end is None:
                return due
            after = end

    async def _collect(self, account: AccountId, due: Sequence[_Due], collected: Collected) -> None:
        write, now_ns = self._ground.database.write, self._ground.now_ns()
        stored = [each.block for each in due if each.state is BlockState.STORED]
        if stored:
            collected.condemned_count += await write(_condemn, account, stored, now_ns)
        doomed = {each.block for each in due if each.state is not BlockState.STORED}
        if not doomed:
            return
        names = await self._ground.database.read(_objects_of, account, doomed)
        for first in range(0, len(names), PORTION_OBJECTS):
            await self._collect_objects(account, names[first : first + PORTION_OBJECTS], collected)

    async def _collect_objects(self, account: AccountId, names: Sequence[str], collected: Collected) -> None:
        """Delete those of these objects in which nothing is needed; few at a time, since much may lie in each."""
        write, now_ns = self._ground.database.write, self._ground.now_ns()
        objects = await self._ground.database.read(_inside, account, names)
        async with self.deleting:
            found = await write(_begin_to_delete, account, objects, now_ns)
            await self._ground.offload(self._delete, found.objects)
            await write(_forget, account, found)
        collected.deleted_count += len(found.blocks)
        collected.object_count += len(found.objects)
        collected.object_bytes += found.size_bytes

    def _delete(self, objects: Iterable[str]) -> None:
        for name in objects:
            self._ground.store.delete(name)


def _page(connection: Connection, after: tuple[int, bytes], now_ns: int) -> tuple[list[_Due], tuple[int, bytes] | None]:
    """Those of the next blocks for which a step may be due, and where the page ends; None: there are no more."""
    b = blocks.c
    columns = select(b.account, b.block, b.state, b.generation, b.refs, b.unreferenced_ns)
    rows = connection.execute(
        columns.where(tuple_(b.account, b.block) > after).order_by(b.account, b.block).limit(PAGE_BLOCKS)
    ).all()
    due = [
        _Due(AccountId(row.account), BlockId(row.block), BlockState(row.state), row.generation)
        for row in rows
        if row.refs == 0 and _is_due(BlockState(row.state), row.unreferenced_ns, now_ns)
    ]
    return due, (rows[-1].account, rows[-1].block) if len(rows) == PAGE_BLOCKS else None


def _is_due(state: BlockState, since_ns: int | None, now_ns: int) -> bool:
    seconds = {BlockState.STORED: CONDEMN_SECONDS, BlockState.CONDEMNED: DELETE_SECONDS}.get(state)
    if seconds is None:
        return state is BlockState.DELETING
    return since_ns is not None and since_ns + seconds * 10**9 <= now_ns


def _unwanted(connection: Connection, account: AccountId, ids: Iterable[BlockId], now_ns: int) -> dict[BlockId, _Due]:
    """Those of these blocks that nothing names and nobody pins, and for which the next step is due still."""
    b, p = blocks.c, pins.c
    found = {}
    for some in block_rows.portions(list(ids)):
        pinned = select(p.block).where(p.account == account, p.block.in_(some), p.expires_ns >= now_ns)
        columns = select(b.block, b.state, b.generation, b.unreferenced_ns)
        free = columns.where(b.account == account, b.block.in_(some), b.refs == 0, b.block.not_in(pinned))
        for block, state, generation, since_ns in connection.execute(free):
            if _is_due(BlockState(state), since_ns, now_ns):
                found[BlockId(block)] = _Due(account, BlockId(block), BlockState(state), generation)
    return found


def _condemn(connection: Connection, account: AccountId, ids: Sequence[BlockId], now_ns: int) -> int:
    block_rows.lock_account(connection, account)
    block_rows.drop_expired_pins(connection, account, now_ns)
    unwanted = [each.block for each in _unwanted(connection, account, ids, now_ns).values()]
    # What is left of their pins has run out. Once the blocks are gone, nobody could tell how much room they took.
    block_rows.unpin(connection, account, unwanted)
    _set_state(connection, account, unwanted, BlockState.CONDEMNED, since_ns=now_ns)
    return len(unwanted)


def _objects_of(connection: Connection, account: AccountId, ids: Collection[BlockId]) -> list[str]:
    """The objects in which copies of these blocks lie."""
    return sorted({name for (name,) in select_in(connection, _HOLDING, ids, account=account)})


def _inside(connection: Connection, account: AccountId, names: Collection[str]) -> Objects:
    """These objects with all that lies in each: they get no further copies once they are written."""
    found: Objects = {}
    for name, block, generation in select_in(connection, _INSIDE, names, account=account):
        found.setdefault(name, []).append((block, generation))
    return found


def _begin_to_delete(connection: Connection, account: AccountId, objects: Objects, now_ns: int) -> _Deleting:
    """From here on what lies in these objects is not served, nor revived by a pin."""
    block_rows.lock_account(connection, account)
    inside = {BlockId(block) for those in objects.values() for block, _ in those}
    unwanted = _unwanted(connection, account, inside, now_ns)
    doomed = {block: due for block, due in unwanted.items() if due.state is not BlockState.STORED}
    present = block_rows.known_blocks(connection, account, inside)

    def may_go(block: bytes, generation: int) -> bool:
        known = present.get(BlockId(block))
        return known is None or block in doomed or known.generation > generation

    deleting, gone = list[str](), list[tuple[BlockId, int]]()
    for name, those in objects.items():
        if all(may_go(block, generation) for block, generation in those):
            deleting.append(name)
            gone.extend((BlockId(block), n) for block, n in those if block in doomed)
    _set_state(connection, account, [block for block, _ in gone], BlockState.DELETING)
    return _Deleting(deleting, gone, _stored_bytes(connection, account, deleting))


def _stored_bytes(connection: Connection, account: AccountId, objects: Collection[str]) -> int:
    """How much lies in these objects, as far as rows name it."""
    lengths = select_in(connection, _LENGTHS, objects, account=account)
    return sum(length for (length,) in lengths)


_HOLDING = select(block_copies.c.object).where(
    block_copies.c.account == bindparam("account"), is_asked(block_copies.c.block)
)
_INSIDE = select(block_copies.c.object, block_copies.c.block, block_copies.c.generation).where(
    block_copies.c.account == bindparam("account"), is_asked(block_copies.c.object)
)
_LENGTHS = select(block_copies.c.length).where(
    block_copies.c.account == bindparam("account"), is_asked(block_copies.c.object)
)


def _forget(connection: Connection, account: AccountId, deleted: _Deleting) -> None:
    """The objects are gone: so are the rows that name them, and the blocks that have not come back meanwhile."""
    block_rows.lock_account(connection, account)
    c = block_copies.c
    connection.execute(delete(block_copies).where(c.account == account, c.object.in_(deleted.objects)))
    if deleted.blocks:
        rows = [{"key": account, "which": block, "n": generation} for block, generation in deleted.blocks]
        connection.execute(_FORGET, rows)


_FORGET = delete(blocks).where(
    blocks.c.account == bindparam("key"),
    blocks.c.block == bindparam("which"),
    blocks.c.generation == bindparam("n"),
    blocks.c.state == BlockState.DELETING,
)


def _set_state(
    connection: Connection,
    account: AccountId,
    ids: Sequence[BlockId],
    state: BlockState,
    *,
    since_ns: int | None = None,
) -> None:
    values: dict[str, object] = {"state": state} | ({} if since_ns is None else {"unreferenced_ns": since_ns})
    for some in block_rows.portions(ids):
        same = (blocks.c.account == account) & blocks.c.block.in_(some)
        connection.execute(update(blocks).where(same).values(values))
