"""Collecting blocks that no revision names and no device pins: condemned first, deleted much later, object by object.

Owns the steps from stored to absent (`BlockState`). Each is a compare-and-set under the account's lock, so that a pin,
which comes under the same lock, wins against it up to the moment at which a block is being deleted; from then on
`missing` asks for the block, which comes back as a new generation in an object of its own. Invariants: an object is
deleted only when all the blocks in it are being deleted or have come back elsewhere; an object is deleted before the
rows that name it, so a crash leaves rows from which the next round goes on; nothing is deleted during a backup.
"""

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import anyio
from sqlalchemy import Connection, bindparam, delete, select, tuple_, update

from backend.metadata.queries import is_asked, select_in
from backend.metadata.schema import BlockState, accounts, block_copies, blocks, pins
from backend.service import block_rows
from backend.service.ground import Ground
from drivefs.protocol.ids import AccountId, BlockId

CONDEMN_SECONDS = 72 * 3600
"""How long a block is kept that nothing names, after the last revision or the last pin that did."""
DELETE_SECONDS = 24 * 3600
"""How long it can still be had after that."""
PAGE_BLOCKS = 2000
PORTION_OBJECTS = 250
MOST_FAILURES = 10
"""So many objects may resist in one round, each for a reason of its own; with more the store itself does not delete."""

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
    failures: list[OSError] = field(default_factory=list)


class _Due(NamedTuple):
    account: AccountId
    block: BlockId
    state: BlockState
    generation: int


class Garbage:
    """The collector; `deleting` is held while objects are deleted, and by whoever needs them to stay."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.deleting = anyio.Lock()

    async def collect(self) -> Collected:
        """Go once through all blocks. Cancellation leaves what the next round takes up.

        Raises:
            OSError: the store does not delete now, or not all; the next round tries again.
        """
        collected, after = Collected(), (0, b"")
        for account in await self._ground.database.read(_accounts):
            while await self._ground.database.write(_unpin, account, self._ground.now_ns()):
                pass  # uploads of many small blocks leave more than they drop themselves
        while True:
            due, end = await self._ground.database.read(_page, after, self._ground.now_ns())
            for account, those in itertools.groupby(due, key=lambda each: each.account):
                await self._collect(AccountId(account), list(those), collected)
            if end is None:
                break
            after = end
        if collected.failures:
            raise collected.failures[0]
        return collected

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
            gone = await self._ground.offload(self._delete, found, collected.failures)
            collected.object_bytes += await write(_forget, account, gone)
        collected.deleted_count += sum(map(len, gone.values()))
        collected.object_count += len(gone)
        if len(collected.failures) >= MOST_FAILURES:
            raise collected.failures[0]

    def _delete(self, objects: Objects, failures: list[OSError]) -> Objects:
        """Gives those that are gone: one that resists must not keep all others from going."""
        gone: Objects = {}
        for name, those in objects.items():
            if len(failures) >= MOST_FAILURES:
                break
            try:
                self._ground.store.delete(name)
            except OSError as error:
                failures.append(error)
            else:
                gone[name] = those
        return gone


def begin_anew(connection: Connection, now_ns: int) -> None:
    """Let all that nothing names count as if it were so from now on: what was put back is as old as its copy.

    Devices have contents that are newer, and may have relied on these blocks being here.
    """
    b = blocks.c
    waiting = (b.refs == 0, b.state.in_((BlockState.STORED, BlockState.CONDEMNED)))
    connection.execute(update(blocks).where(*waiting).values(state=BlockState.STORED, unreferenced_ns=now_ns))


def _accounts(connection: Connection) -> list[AccountId]:
    return [AccountId(account) for account in connection.execute(select(accounts.c.account)).scalars()]


def _unpin(connection: Connection, account: AccountId, now_ns: int) -> int:
    block_rows.lock_account(connection, account)
    return block_rows.drop_expired_pins(connection, account, now_ns)


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


def _begin_to_delete(connection: Connection, account: AccountId, objects: Objects, now_ns: int) -> Objects:
    """Gives those that may go, with what is deleted with each: it is not served from here on, nor revived by a pin."""
    block_rows.lock_account(connection, account)
    inside = {BlockId(block) for those in objects.values() for block, _ in those}
    unwanted = _unwanted(connection, account, inside, now_ns)
    doomed = {block: due for block, due in unwanted.items() if due.state is not BlockState.STORED}
    present = block_rows.known_blocks(connection, account, inside)

    def may_go(block: bytes, generation: int) -> bool:
        known = present.get(BlockId(block))
        return known is None or block in doomed or known.generation > generation

    deleting: Objects = {}
    for name, those in objects.items():
        if all(may_go(block, generation) for block, generation in those):
            deleting[name] = [(block, generation) for block, generation in those if block in doomed]
    going = [BlockId(block) for those in deleting.values() for block, _ in those]
    _set_state(connection, account, going, BlockState.DELETING)
    return deleting


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


def _forget(connection: Connection, account: AccountId, gone: Objects) -> int:
    """The objects are gone: so are the rows that name them, and the blocks that have not come back meanwhile.

    Gives how much lay in them.
    """
    block_rows.lock_account(connection, account)
    size_bytes = _stored_bytes(connection, account, gone)
    c = block_copies.c
    connection.execute(delete(block_copies).where(c.account == account, c.object.in_(list(gone))))
    rows = [{"key": account, "which": block, "n": n} for those in gone.values() for block, n in those]
    if rows:
        connection.execute(_FORGET, rows)
    return size_bytes


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
