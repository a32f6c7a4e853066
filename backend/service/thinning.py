"""Letting revisions go as they get older, account by account and history by history.

Owns which histories are looked at, and what holds a revision beside its age: that it is what a file has or had last,
that somebody marked it, that a snapshot shows it, or that a device which is away, or has not sent everything since it
came back, may have it as a base. Which of the others go is `retention`'s, and what becomes of their blocks
`releasing`'s. Each step is one short transaction, and what is decided is decided in it. Cancellation, or a crash,
leaves the rest for the next time.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, func, or_, select

from backend.metadata import schema
from backend.metadata.queries import is_asked, select_in
from backend.service import block_rows, snapshots
from backend.service.commit.contents import split_runs
from backend.service.ground import Ground
from backend.service.releasing import Freed, OldRevision, Releasing
from backend.service.retention import NS_PER_SECOND, Span, Standing, let_go
from drivefs.protocol.ids import AccountId, BlockId, InodeId, LineageId, RunId
from drivefs.protocol.model import unpack_blocks

PAGE_LINEAGES = 100
PAGE_FILES = 500


@dataclass(slots=True)
class Thinned:
    """What was let go, or would be: of how many files, and how much is left of these."""

    file_count: int = 0
    left_count: int = 0
    freed: Freed = field(default_factory=Freed)


@dataclass(slots=True)
class _Trial:
    """What a dry run would let go, for counting what nothing would refer to any more."""

    revision_count: int = 0
    runs: Counter[RunId] = field(default_factory=Counter)


class _Decided(NamedTuple):
    """What of some histories goes."""

    going: list[OldRevision]
    file_count: int
    left_count: int


class Thinning:
    """Lets revisions go that are older than the rules of the deployment keep them."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def thin(self, *, is_dry_run: bool = False) -> Thinned:
        """Go once through all histories; a dry run changes nothing and tells the same."""
        done = Thinned()
        for account in await self._ground.database.read(_accounts):
            trial = _Trial() if is_dry_run else None
            after = LineageId(0)
            while lines := await self._ground.database.read(_long, account, after):
                after = lines[-1]
                await self._look_at(account, lines, done, trial)
            after = LineageId(0)
            while lines := await self._ground.database.read(_left, account, after):
                after = lines[-1]
                await self._look_at(account, lines, done, trial)
            await self._look_at_nameless(account, done, trial)
            if trial is not None:
                size_bytes, payload_bytes = await self._ground.database.read(_would_free, account, trial.runs)
                done.freed = done.freed.plus(Freed(trial.revision_count, size_bytes, payload_bytes))
        return done

    async def _look_at(
        self, account: AccountId, lines: Sequence[LineageId], done: Thinned, trial: _Trial | None
    ) -> None:
        decided = await self._ground.database.read(self._decide, account, lines)
        if not decided.going:
            return
        if trial is None:
            decided, freed = await self._ground.database.write(self._let_go, account, lines)
            done.freed = done.freed.plus(freed)
        else:
            trial.revision_count += len(decided.going)
            trial.runs.update(run for each in decided.going for run in split_runs(each.runs))
        done.file_count += decided.file_count
        done.left_count += decided.left_count

    def _let_go(self, connection: Connection, account: AccountId, lines: Sequence[LineageId]) -> tuple[_Decided, Freed]:
        block_rows.lock_account(connection, account)
        decided = self._decide(connection, account, lines)
        return decided, Releasing(connection, account, self._ground.now_ns()).drop(decided.going)

    def _decide(self, connection: Connection, account: AccountId, lines: Sequence[LineageId]) -> _Decided:
        now_ns = self._ground.now_ns()
        bound = {"account": account}
        held = {tuple(row) for statement in _HELD for row in select_in(connection, statement, lines, **bound)}
        spans = self._spans(connection, account, now_ns)
        rows = sorted(select_in(connection, _REVISIONS, lines, **bound), key=lambda row: (row.lineage, row.number))
        going: list[OldRevision] = []
        holders = dict(tuple(row) for row in select_in(connection, _LEFT, lines, **bound))
        for lineage, each in groupby(rows, key=lambda row: row.lineage):
            found = list(each)
            standing = [Standing(row.number, row.time_ns, (lineage, row.number) in held) for row in found]
            ended_ns = None
            if lineage in holders:
                left = {"file": holders[lineage], "lineage": lineage, "last": found[-1].number}
                ended_ns = connection.execute(_LEFT_AT, {**bound, **left}).scalar_one() or found[-1].time_ns
            gone = let_go(standing, spans, now_ns, self._ground.limits.retention, ended_ns=ended_ns)
            going += [_old(row) for row in found if row.number in gone]
        # Where what a file had next is gone, it is not known when it left this: what snapshots show is asked for.
        going = Releasing(connection, account, now_ns).without_kept(going)
        of = {each.lineage for each in going}
        return _Decided(going, len(of), sum(row.lineage in of for row in rows) - len(going))

    def _spans(self, connection: Connection, account: AccountId, now_ns: int) -> set[Span]:
        """The times of which all is to be kept: those of snapshots, and when each device was here last."""
        since = now_ns - self._ground.limits.feed_seconds * NS_PER_SECOND
        named = {Span(each.time_ns, each.time_ns) for each in snapshots.shown(connection, account)}
        lag_ns = self._ground.limits.retention.lag_seconds * NS_PER_SECOND
        seen = connection.execute(_SEEN, {"account": account, "since": since}).scalars()
        return named | {Span(each - lag_ns, each) for each in seen}

    async def _look_at_nameless(self, account: AccountId, done: Thinned, trial: _Trial | None) -> None:
        """Histories of files that are not even in the trash, and were held by what does not hold them any more."""
        after = InodeId(0)
        while gone := await self._ground.database.read(_nameless, account, after):
            after = gone[-1]
            # What would go with them is known only once it is gone: a dry run leaves them out.
            if trial is None:
                done.freed = done.freed.plus(await self._ground.database.write(self._release, account, gone))

    def _release(self, connection: Connection, account: AccountId, gone: Collection[InodeId]) -> Freed:
        block_rows.lock_account(connection, account)
        nameless = {inode for (inode,) in select_in(connection, _STILL_NAMELESS, gone, account=account)}
        return Releasing(connection, account, self._ground.now_ns()).release(nameless)


def _old(row: Any) -> OldRevision:
    return OldRevision(row.lineage, row.number, row.inode, row.runs)


def _accounts(connection: Connection) -> list[AccountId]:
    return [AccountId(row.account) for row in connection.execute(select(schema.accounts.c.account))]


def _long(connection: Connection, account: AccountId, after: LineageId) -> list[LineageId]:
    """The next histories of more than one revision."""
    return list(connection.execute(_LONG, {"account": account, "after": after}).scalars())


def _left(connection: Connection, account: AccountId, after: LineageId) -> list[LineageId]:
    """The next histories that the file which went on with them has left, as temporary files do that are renamed."""
    return list(connection.execute(_NEXT_LEFT, {"account": account, "after": after}).scalars())


def _nameless(connection: Connection, account: AccountId, after: InodeId) -> list[InodeId]:
    """The next files with revisions that have no name and are not in the trash."""
    return list(connection.execute(_NAMELESS, {"account": account, "after": after}).scalars())


def _would_free(connection: Connection, account: AccountId, less: Counter[RunId]) -> tuple[int, int]:
    """Bytes of content, and as stored, that nothing would refer to with so many references less to these runs."""
    less_blocks: Counter[BlockId] = Counter()
    for run, packed, refs in select_in(connection, _RUNS, less, account=account):
        if refs == less[run]:
            less_blocks.update(block for block, _ in unpack_blocks(packed))
    rows = select_in(connection, _BLOCKS, less_blocks, account=account)
    freed = [(size, payload) for block, refs, size, payload in rows if refs == less_blocks[block]]
    return sum(size for size, _ in freed), sum(payload for _, payload in freed)


def _own(table: Any) -> Any:
    return table.c.account == bindparam("account")


_r, _i, _k, _c, _v = (
    schema.revisions,
    schema.inodes,
    schema.kept,
    schema.commits,
    schema.dentry_versions,
)
_LONG = (
    select(_r.c.lineage)
    .where(_own(_r), _r.c.lineage > bindparam("after"))
    .group_by(_r.c.lineage)
    .having(func.count() > 1)
    .order_by(_r.c.lineage)
    .limit(PAGE_LINEAGES)
)
_by = and_(_c.c.account == _r.c.account, _c.c.workspace == _r.c.workspace, _c.c.seq == _r.c.seq)
_REVISIONS = (
    select(
        _r.c.lineage,
        _r.c.number,
        _r.c.inode,
        _r.c.seq,
        _r.c.runs,
        func.coalesce(_c.c.time_ns, _r.c.time_ns).label("time_ns"),
    )
    .select_from(_r.outerjoin(_c, _by))
    .where(_own(_r), is_asked(_r.c.lineage))
)
_shows = and_(_i.c.account == _r.c.account, _i.c.inode == _r.c.inode, _i.c.lineage == _r.c.lineage)


def _in_trash(inodes: Any) -> Any:
    here = (_v.c.account == inodes.c.account, _v.c.inode == inodes.c.inode)
    return select(_v.c.inode).where(*here, _v.c.trash == schema.Trash.HELD).exists()


_HELD = [
    select(_k.c.lineage, _k.c.number).where(_own(_k), is_asked(_k.c.lineage)),
    # What a file has, or had when it came into the trash; what was replaced by renaming is nothing but history.
    select(_r.c.lineage, _r.c.number)
    .select_from(_r.join(_i, and_(_shows, _i.c.revision == _r.c.number)))
    .where(_own(_r), is_asked(_r.c.lineage), or_(_i.c.nlink > 0, _in_trash(_i))),
]
_u, _d = schema.user_workspaces, schema.devices
_SEEN = (
    select(func.coalesce(_d.c.based_ns, _d.c.last_seen_ns))
    .distinct()
    .select_from(_d.join(_u, _u.c.user == _d.c.user))
    .where(_own(_u), _d.c.revoked_ns.is_(None), _d.c.last_seen_ns > bindparam("since"))
)
_l = schema.lineages
_h = schema.inodes.alias("holder")
_holds = and_(_h.c.account == _r.c.account, _h.c.inode == func.coalesce(_l.c.inode, _r.c.lineage))
_row = and_(_l.c.account == _r.c.account, _l.c.lineage == _r.c.lineage)
_fork = schema.lineages.alias("fork")
_forked = (
    select(_fork.c.lineage).where(_fork.c.account == _r.c.account, _fork.c.parent_lineage == _r.c.lineage).exists()
)
_LEFT_ALL = (
    select(_r.c.lineage)
    .select_from(_r.outerjoin(_l, _row).join(_h, _holds))
    .where(_own(_r), _h.c.lineage != _r.c.lineage, ~_forked)
    .group_by(_r.c.lineage)
)
_LEFT = _LEFT_ALL.add_columns(func.max(_h.c.inode)).where(is_asked(_r.c.lineage))
_later = schema.revisions.alias("later")
_its = and_(_c.c.account == _later.c.account, _c.c.workspace == _later.c.workspace, _c.c.seq == _later.c.seq)
_LEFT_AT = (
    select(func.min(_c.c.time_ns))
    .select_from(_later.join(_c, _its))
    .where(_own(_later), _later.c.inode == bindparam("file"), _later.c.lineage != bindparam("lineage"))
    .where(_later.c.number > bindparam("last"))  # numbers of a file grow, also where one commit gave it two
)
_NEXT_LEFT = (
    _LEFT_ALL.where(_r.c.lineage > bindparam("after"))
    .having(func.count() == 1)  # the others are among the long ones
    .order_by(_r.c.lineage)
    .limit(PAGE_LINEAGES)
)


def _nameless_files() -> Any:
    """Files that have no name and are not in the trash, and whose history no file with a name goes on with."""
    row = and_(_l.c.account == _i.c.account, _l.c.lineage == _i.c.lineage)
    holds = and_(_h.c.account == _i.c.account, _h.c.inode == func.coalesce(_l.c.inode, _i.c.lineage))

    statement = select(_i.c.inode).select_from(_i.outerjoin(_l, row).join(_h, holds))
    nameless = (_i.c.nlink == 0, _h.c.nlink == 0, ~_in_trash(_i), ~_in_trash(_h))
    return statement.where(_own(_i), _i.c.lineage != 0, *nameless)


_STILL_NAMELESS = _nameless_files().where(is_asked(_i.c.inode))
_has_revisions = select(_r.c.inode).where(_r.c.account == _i.c.account, _r.c.inode == _i.c.inode).exists()
_NAMELESS = (
    _nameless_files().where(_i.c.inode > bindparam("after"), _has_revisions).order_by(_i.c.inode).limit(PAGE_FILES)
)
_RUNS = select(schema.runs.c.run, schema.runs.c.packed, schema.runs.c.refs).where(
    _own(schema.runs), is_asked(schema.runs.c.run)
)
_b = schema.blocks.c
_BLOCKS = select(_b.block, _b.refs, _b.size_bytes, _b.payload_bytes).where(_own(schema.blocks), is_asked(_b.block))
