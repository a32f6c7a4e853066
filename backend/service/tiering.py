"""Which blocks rest in the cold place: those that only old revisions have, and those that nobody has read for long.

Owns when blocks were read last, which is noted in memory and flushed now and then, and the choice of objects; how they
are moved is `blockstore.tiered`'s. Invariants: an object rests only if all that lies in it does; what was written or
read within a day stays; nothing is moved while objects are deleted or backed up.
"""

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import groupby, islice
from typing import NamedTuple

import anyio
from sqlalchemy import Connection, bindparam, select, update

from backend.blockstore.store import StoredObject
from backend.blockstore.tiered import TieredStore
from backend.metadata.queries import is_asked, select_in
from backend.metadata.schema import block_copies, blocks
from backend.service import accounting
from backend.service.ground import Ground
from backend.service.sealing import account_of
from drivefs.protocol.ids import AccountId, BlockId

DAY_NS = 86400 * 10**9
PAGE_OBJECTS = 500
MAX_NOTED = 100_000
"""Of so many blocks it is known in memory that they were read; of more it is forgotten."""


@dataclass(slots=True)
class Cooled:
    """How many objects were moved to the cold place, and their bytes."""

    object_count: int = 0
    size_bytes: int = 0


class Use(NamedTuple):
    """How a block is used: whether a file has it now, and when it was read last."""

    is_current: bool
    last_read_ns: int | None


def rests(uses: Iterable[Use], written_ns: int, now_ns: int, cold_days: int) -> bool:
    """Whether an object goes to the cold place; pure."""
    if now_ns - written_ns < DAY_NS:
        return False
    for use in uses:
        used_ns = max(written_ns, use.last_read_ns or 0)
        if now_ns - used_ns < (cold_days * DAY_NS if use.is_current else DAY_NS):
            return False
    return True


class Tiering:
    """Moves what rests, and brings back what is read; does nothing where there is one place only."""

    def __init__(self, ground: Ground, store: TieredStore | None, deleting: anyio.Lock) -> None:
        """`deleting` is held by whoever deletes objects, or needs them to stay."""
        self._ground = ground
        self._store = store
        self._deleting = deleting
        self._read: set[tuple[AccountId, BlockId]] = set()
        self._noted: set[tuple[AccountId, BlockId]] = set()
        self._noted_ns = 0

    def read(self, account: AccountId, ids: Iterable[BlockId]) -> None:
        """Somebody reads these blocks."""
        if self._store is not None and len(self._noted) + len(self._read) < MAX_NOTED:
            self._read.update((account, block) for block in ids if (account, block) not in self._noted)

    async def flush(self) -> None:
        """Note in the database what was read, each block once a day; how often is counted anew each day, too."""
        read, self._read = self._read, set()
        now_ns = self._ground.now_ns()
        if now_ns - self._noted_ns > DAY_NS:
            self._noted.clear()
            self._noted_ns = now_ns
            if self._store is not None:
                self._store.forget_reads()
        self._noted |= read
        if read:
            rows = [{"key": account, "which": block, "now": now_ns} for account, block in read]
            await self._ground.database.write(lambda connection: connection.execute(_READ, rows) and None)

    async def bring_back(self) -> int:
        """Bring back what was read often; gives how many objects.

        Raises:
            OSError: one of the places is out of reach; what is left is brought back when it is read again.
        """
        count = 0
        if self._store is not None:
            async with self._deleting:
                for name in self._store.read_often():
                    count += bool(await self._ground.offload(self._store.warm, name))
        return count

    async def cool(self, *, is_dry_run: bool = False) -> Cooled:
        """Go once through the hot place and move what rests. Cancellation leaves the rest for the next time.

        Raises:
            OSError: one of the places is out of reach.
        """
        done = Cooled()
        if self._store is None:
            return done
        await self.flush()
        walk = self._store.hot.objects()
        counted, current = AccountId(-1), array("Q")
        while page := await self._ground.offload(lambda: sorted(islice(walk, PAGE_OBJECTS))):
            for account, those in groupby(page, key=lambda each: account_of(each.name)):
                if account is None:
                    continue
                if account != counted:
                    counted, current = account, await self._ground.database.read(accounting.current_blocks, account)
                for each in await self._ground.database.read(self._resting, account, list(those), current):
                    await self._move(each, done, is_dry_run=is_dry_run)
        return done

    async def _move(self, each: StoredObject, done: Cooled, *, is_dry_run: bool) -> None:
        assert self._store is not None
        size_bytes = each.size_bytes
        if not is_dry_run:
            async with self._deleting:
                size_bytes = await self._ground.offload(self._store.cool, each.name)
        done.object_count += bool(size_bytes)
        done.size_bytes += size_bytes

    def _resting(
        self, connection: Connection, account: AccountId, page: Collection[StoredObject], current: "array[int]"
    ) -> list[StoredObject]:
        now_ns, cold_days = self._ground.now_ns(), self._ground.limits.cold_days
        old = {each.name: each for each in page if now_ns - each.modified_ns >= DAY_NS}
        if not old:
            return []
        inside: dict[str, list[tuple[BlockId, int | None]]] = {}
        for name, block, read_ns in select_in(connection, _INSIDE, old, account=account):
            inside.setdefault(name, []).append((block, read_ns))
        return [
            old[name]
            for name, those in inside.items()
            if rests(
                [Use(_is_in(current, block), read_ns) for block, read_ns in those],
                old[name].modified_ns,
                now_ns,
                cold_days,
            )
        ]


def _is_in(ordered: "array[int]", block: BlockId) -> bool:
    beginning = int.from_bytes(block[:8], "big")
    place = bisect_left(ordered, beginning)
    return place < len(ordered) and ordered[place] == beginning


_same = (blocks.c.account == block_copies.c.account) & (blocks.c.block == block_copies.c.block)
_INSIDE = (
    select(block_copies.c.object, block_copies.c.block, blocks.c.last_read_ns)
    .select_from(block_copies.join(blocks, _same))
    .where(block_copies.c.account == bindparam("account"), is_asked(block_copies.c.object))
)
_READ = (
    update(blocks)
    .where(blocks.c.account == bindparam("key"), blocks.c.block == bindparam("which"))
    .values(last_read_ns=bindparam("now"))
)
