"""What an account's space is taken by: present contents, history and trash, and what sharing of blocks and compression
save.

Owns the recount, which changes nothing. The sum is kept by the commits (`commit.contents`, `releasing`); how it is
made up is counted when somebody asks, over all revisions, and remembered until the account changes. Each block counts
once, where it is needed most: what a file has now before what it had, and what it had before what lies in the trash.
So the trash is what emptying it frees.

Invariants: the parts together are the stored bytes. Of each reference to a run or block eight bytes are in memory, and
some forty while they are sorted, to be met with the rows in the order of their keys.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby, repeat
from operator import itemgetter
from typing import Any

import anyio
from sqlalchemy import Connection, and_, bindparam, case, func, select
from sqlalchemy.engine.interfaces import CoreExecuteOptionsParameter

from backend.metadata import schema
from backend.service.caller import Caller
from backend.service.commit.contents import split_runs
from backend.service.ground import Ground
from drivefs.protocol.accounting import QuotaReply
from drivefs.protocol.ids import AccountId
from drivefs.protocol.model import unpack_blocks

CURRENT, HISTORY, TRASH = range(3)
PAGED: CoreExecuteOptionsParameter = {"yield_per": 5000}
MAX_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Figures:
    """How an account's stored bytes are made up; all in bytes.

    `logical_bytes` are those of all contents as if each were stored whole, and `payload_bytes` what the blocks take
    compressed.
    """

    current_bytes: int = 0
    history_bytes: int = 0
    trash_bytes: int = 0
    logical_bytes: int = 0
    payload_bytes: int = 0


@dataclass(slots=True)
class _Parts:
    """The beginnings of the ids that are needed for each purpose."""

    ids: "tuple[array[int], ...]" = field(default_factory=lambda: tuple(array("Q") for _ in range(3)))

    def add(self, part: int, ids: Iterable[bytes]) -> None:
        self.ids[part].extend(int.from_bytes(each[:8], "big") for each in ids)

    def ordered(self) -> Iterator[tuple[int, int]]:
        """Each id with what it is needed for most, in order."""
        tagged = [zip(array("Q", sorted(ids)), repeat(part)) for part, ids in enumerate(self.ids)]
        for each, same in groupby(merge(*tagged), key=itemgetter(0)):
            yield each, next(same)[1]


class Accounting:
    """Counts accounts; `remembered` is what was counted last, by account, with the state that it was counted in."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._remembered: dict[AccountId, tuple[object, Figures]] = {}
        self._counting = anyio.Lock()
        """A count takes as long as the account is large, and one of the few connections: there is one at a time."""

    async def quota(self, caller: Caller) -> QuotaReply:
        """What the caller's own account may use, and what it does use for what."""
        async with self._counting:
            row = await self._ground.database.read(_limits, caller.account)
            figures = await self._figures(caller.account)
        given = self._ground.limits
        return QuotaReply(
            quota_bytes=given.quota_bytes if row.quota_bytes is None else row.quota_bytes,
            file_bytes=given.file_bytes if row.file_bytes is None else row.file_bytes,
            stored_bytes=row.stored_bytes,
            pinned_bytes=row.pinned_bytes,
            current_bytes=figures.current_bytes,
            history_bytes=figures.history_bytes,
            trash_bytes=figures.trash_bytes,
            logical_bytes=figures.logical_bytes,
            payload_bytes=figures.payload_bytes,
        )

    async def _figures(self, account: AccountId) -> Figures:
        state = await self._ground.database.read(_state, account)
        known = self._remembered.get(account)
        if known is not None and known[0] == state:
            return known[1]
        figures = await self._ground.database.read(count, account)
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[account] = (state, figures)
        return figures


def _limits(connection: Connection, account: AccountId) -> Any:
    return connection.execute(select(schema.accounts).where(schema.accounts.c.account == account)).one()


def _state(connection: Connection, account: AccountId) -> object:
    """What changes with everything that is counted: commits, and what is let go."""
    w, r = schema.workspaces.c, schema.revisions.c
    heads = connection.execute(select(w.workspace, w.head_seq).where(w.account == account).order_by(w.workspace)).all()
    limits = _limits(connection, account)
    in_trash = (
        select(func.count())
        .select_from(schema.dentry_versions)
        .where(schema.dentry_versions.c.account == account, schema.dentry_versions.c.trash == schema.Trash.HELD)
    )
    revision_count = connection.execute(select(func.count()).where(r.account == account)).scalar_one()
    return (
        [tuple(each) for each in heads],
        limits.stored_bytes,
        connection.execute(in_trash).scalar_one(),
        revision_count,
    )


def count(connection: Connection, account: AccountId) -> Figures:
    """Go through all revisions, runs and blocks of an account once, at one moment."""
    runs, logical_bytes = _Parts(), 0
    for row in connection.execute(_REVISIONS, {"account": account}, execution_options=PAGED):
        runs.add(row.part, split_runs(row.runs))
        logical_bytes += row.size
    blocks = _Parts()
    for row, part in _met(connection, _RUNS, account, runs):
        blocks.add(part, (block for block, _ in unpack_blocks(row.packed)))
    sizes, payload_bytes = [0, 0, 0], 0
    for row, part in _met(connection, _BLOCKS, account, blocks):
        sizes[part] += row.size_bytes
        payload_bytes += row.payload_bytes
    current, history, trash = sizes
    return Figures(current, history, trash, logical_bytes, payload_bytes)


def current_blocks(connection: Connection, account: AccountId) -> "array[int]":
    """The beginnings of the ids of all blocks that files have now, in order: eight bytes, as a number."""
    runs = _Parts()
    for row in connection.execute(_REVISIONS, {"account": account}, execution_options=PAGED):
        if row.part == CURRENT:
            runs.add(CURRENT, split_runs(row.runs))
    blocks = _Parts()
    for row, part in _met(connection, _RUNS, account, runs):
        blocks.add(part, (block for block, _ in unpack_blocks(row.packed)))
    return array("Q", sorted(blocks.ids[CURRENT]))


def _met(connection: Connection, statement: Any, account: AccountId, parts: _Parts) -> Iterator[tuple[Any, int]]:
    """The rows, which come by their first column, that are needed, each with what for."""
    wanted = parts.ordered()
    each, part = next(wanted, (-1, CURRENT))
    for row in connection.execute(statement, {"account": account}, execution_options=PAGED):
        here = int.from_bytes(row[0][:8], "big")
        while 0 <= each < here:
            each, part = next(wanted, (-1, CURRENT))
        if each == here:
            yield row, part


def _revisions() -> Any:
    """Revisions with what they are needed for: a history is that of the file which goes on with it."""
    r, line, h, v = schema.revisions, schema.lineages, schema.inodes, schema.dentry_versions
    row = and_(line.c.account == r.c.account, line.c.lineage == r.c.lineage)
    holds = and_(h.c.account == r.c.account, h.c.inode == func.coalesce(line.c.inode, r.c.lineage))
    is_holder = and_(holds, h.c.lineage == r.c.lineage)
    here = (v.c.account == h.c.account, v.c.inode == h.c.inode, v.c.trash == schema.Trash.HELD)
    in_trash = select(v.c.inode).where(*here).exists()
    part = case(
        (and_(h.c.nlink > 0, h.c.revision == r.c.number), CURRENT),
        (and_(h.c.nlink == 0, in_trash), TRASH),
        else_=HISTORY,
    )
    joined = r.outerjoin(line, row).outerjoin(h, is_holder)
    return select(r.c.runs, r.c.size, part.label("part")).select_from(joined).where(r.c.account == bindparam("account"))


_REVISIONS = _revisions()
_RUNS = select(schema.runs.c.run, schema.runs.c.packed).where(schema.runs.c.account == bindparam("account"))
_RUNS = _RUNS.order_by(schema.runs.c.run)
_b = schema.blocks.c
_BLOCKS = (
    select(_b.block, _b.size_bytes, _b.payload_bytes)
    .where(_b.account == bindparam("account"), _b.refs > 0)
    .order_by(_b.block)
)
