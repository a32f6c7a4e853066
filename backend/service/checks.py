"""The check of everything that is stored: each block that a revision needs is here, opens, and is what its id names.

Before that, the database: where its structure is damaged nothing else is judged, or mended, by what it says. A row that
an index does not lead to any more makes its object one that nothing names.

Owns the walk and its findings; a copy found unreadable is noted, so that a device which has the block is asked for it.
What more a repair does is `mending`'s. Works page by page in short reads, so that it can run beside the service.
"""

import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection, bindparam, func, select, tuple_

from backend.blockstore import errors, places
from backend.blockstore.sealed import AccountKey
from backend.blockstore.store import ObjectStore
from backend.metadata.queries import is_asked, select_in
from backend.metadata.schema import blocks, revisions, runs
from backend.service import affected, block_rows
from backend.service.commit.contents import split_runs
from backend.service.ground import Ground
from backend.service.keys import AccountKeys, WrongMasterKey
from backend.service.mending import Mended, Mending
from backend.service.sealing import open_copy
from drivefs.protocol import blocks as codec
from drivefs.protocol import model
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import AccountId, BlockId, InodeId, RunId

PAGE_BLOCKS = 64
PAGE_RUNS = 64
PAGE_REVISIONS = 500

Progress = Callable[[int, int], Awaitable[None]]
"""Told how many blocks are done and how many there are about."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A block that is not as it must be, and the files that have it; `is_referenced`: a revision needs it."""

    account: AccountId
    block: BlockId
    problem: str
    is_referenced: bool
    files: tuple[str, ...] = ()


@dataclass(slots=True)
class Report:
    """What a check has looked at and found."""

    block_count: int = 0
    byte_count: int = 0
    database: list[str] = field(default_factory=list)
    """What is wrong with the database: with its structure, then nothing else was looked at; or with revisions."""
    lost_logs: list[str] = field(default_factory=list)
    """Damaged logs of the database that lie beside it, and of which commits are lost."""
    findings: list[Finding] = field(default_factory=list)
    mended: Mended = field(default_factory=Mended)

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.findings or self.database or self.lost_logs)


@dataclass(frozen=True, slots=True)
class _Row:
    account: AccountId
    block: BlockId
    size_bytes: int
    refs: int


class Checks:
    """Checks all that is stored, of all accounts."""

    def __init__(self, ground: Ground, keys: AccountKeys) -> None:
        self._ground = ground
        self._keys = keys
        self._mending = Mending(ground)

    async def check(self, progress: Progress, *, is_repair: bool = False) -> Report:
        """Look at every run, block and object; the report names each block that is not as it must be.

        With repair, indexes of the database are made again if it is damaged, unreadable objects are put aside,
        unreadable blocks that nothing needs are forgotten, and objects that no row names are removed if they are old
        enough.

        Raises:
            ProtocolError: `conflict`: where blocks rest is out of reach, or the system cannot read now, so nobody can
                tell what is missing.
        """
        report = Report(lost_logs=self._ground.database.lost_logs())
        report.database = await self._ground.database.problems()
        if report.database and is_repair:
            report.database = await self._mending.mend_database(report.database, report.mended)
        if report.database:
            return report
        total = await self._ground.database.read(_count_blocks)
        await progress(0, total)
        after = (0, b"")
        while rows := await self._ground.database.read(_page_of_blocks, after):
            for row in rows:
                await self._check_block(row, report)
                report.block_count += 1
                report.byte_count += row.size_bytes
            after = (rows[-1].account, rows[-1].block)
            await progress(report.block_count, max(total, report.block_count))
        await self._check_runs(report)
        await self._check_revisions(report)
        await self._mending.look_at_objects(report.mended, is_repair=is_repair)
        if is_repair:
            report.findings = [each for each in report.findings if not await self._is_forgotten(each, report)]
        report.findings = await self._with_files(report.findings)
        return report

    async def _is_forgotten(self, finding: Finding, report: Report) -> bool:
        if finding.is_referenced:
            return False
        return await self._mending.forget(finding.account, finding.block, report.mended)

    async def _with_files(self, findings: list[Finding]) -> list[Finding]:
        named = []
        for account in {finding.account for finding in findings}:
            own = [finding for finding in findings if finding.account == account]
            damaged = {finding.block for finding in own if finding.is_referenced}
            files = await self._ground.database.read(affected.files_with, account, damaged) if damaged else {}
            named += [replace(finding, files=tuple(files.get(finding.block, ()))) for finding in own]
        return named

    async def _check_block(self, row: _Row, report: Report) -> None:
        problem, place = await self._problem(row)
        if problem is None:
            return
        # While the service runs, a block may have been mended or deleted since its row was read.
        again = await self._ground.database.read(_row, row.account, row.block)
        if again is None:
            return
        problem, place = await self._problem(again)
        if problem is None:
            return
        if place is not None:
            await self._ground.database.write(block_rows.mark_lost, row.account, place)
        report.findings.append(Finding(row.account, row.block, problem, again.refs > 0))

    async def _problem(self, row: _Row) -> tuple[str | None, block_rows.CopyPlace | None]:
        found = await self._ground.database.read(block_rows.places, row.account, [row.block])
        place = found.get(row.block)
        if place is None:
            return "no copy of it can be read", None
        try:
            key = await self._keys.numbered(row.account, place.key)
        except (LookupError, WrongMasterKey) as error:
            return str(error), None
        try:
            size_bytes = await self._ground.offload(self._verify, row.account, place, key)
        except (errors.StoreError, ProtocolError, OSError) as error:
            await self._ground.offload(_require_all_places, self._ground.store)
            if isinstance(error, OSError) and not errors.is_damage(error):
                raise _unreadable_now(error) from error
            return str(error), place
        if size_bytes != row.size_bytes:
            return f"it has {size_bytes} bytes, and is recorded with {row.size_bytes}", place
        if place.is_owed:
            await self._ground.database.write(block_rows.mark_found, row.account, place)
        return None, None

    def _verify(self, account: AccountId, place: block_rows.CopyPlace, key: AccountKey) -> int:
        payload = open_copy(self._ground.store, account, place, key)
        return codec.verify_payload(payload, place.block)

    async def _check_runs(self, report: Report) -> None:
        after = (0, b"")
        while page := await self._ground.database.read(_page_of_runs, after):
            for account, run, packed in page:
                problems = await self._ground.database.read(_problems_of_run, account, packed)
                report.findings += [Finding(account, block, problem, True) for block, problem in problems]
                after = (account, run)

    async def _check_revisions(self, report: Report) -> None:
        after = (0, 0, 0)
        while page := await self._ground.database.read(_page_of_revisions, after):
            report.database += await self._ground.database.read(_problems_of_revisions, page)
            after = page[-1][:3]


def _require_all_places(store: ObjectStore) -> None:
    """What cannot be read for lack of the disk that it rests on is not lost: devices are not to be asked for it."""
    tier = places.tier_of(store)
    if tier is None:
        return
    try:
        tier.require_cold()
    except OSError as error:
        raise ProtocolError(
            Code.CONFLICT,
            "The cold store is not at its place, and blocks rest there: what is only there cannot be checked, and is "
            "not taken for lost. Mount it, then check again.",
        ) from error


def _unreadable_now(error: OSError) -> ProtocolError:
    return ProtocolError(
        Code.CONFLICT,
        f"Blocks cannot be read now ({error.strerror or error}), which says nothing of them: nobody can tell what is "
        "damaged. What was found before that is noted, nothing was removed. Check again when it is over.",
    )


def _count_blocks(connection: Connection) -> int:
    here = blocks.c.state.in_(block_rows.HERE)
    return connection.execute(select(func.count()).select_from(blocks).where(here)).scalar_one()


_COLUMNS = (blocks.c.account, blocks.c.block, blocks.c.size_bytes, blocks.c.refs)


def _page_of_blocks(connection: Connection, after: tuple[int, bytes]) -> list[_Row]:
    here = blocks.c.state.in_(block_rows.HERE)
    key = tuple_(blocks.c.account, blocks.c.block)
    statement = select(*_COLUMNS).where(here, key > after).order_by(blocks.c.account, blocks.c.block)
    return [_Row(*row) for row in connection.execute(statement.limit(PAGE_BLOCKS))]


def _row(connection: Connection, account: AccountId, block: BlockId) -> _Row | None:
    same = (blocks.c.account == account) & (blocks.c.block == block) & blocks.c.state.in_(block_rows.HERE)
    row = connection.execute(select(*_COLUMNS).where(same)).one_or_none()
    return _Row(*row) if row is not None else None


def _page_of_runs(connection: Connection, after: tuple[int, bytes]) -> Sequence[tuple[AccountId, bytes, bytes]]:
    key = tuple_(runs.c.account, runs.c.run)
    statement = select(runs.c.account, runs.c.run, runs.c.packed).where(runs.c.refs > 0, key > after)
    rows = connection.execute(statement.order_by(runs.c.account, runs.c.run).limit(PAGE_RUNS))
    return [(AccountId(account), run, packed) for account, run, packed in rows]


def _problems_of_run(connection: Connection, account: AccountId, packed: bytes) -> list[tuple[BlockId, str]]:
    """Blocks of a run that are not recorded as stored; whether they can be read is looked at block by block."""
    problems = []
    wanted = model.unpack_blocks(packed)
    known = block_rows.known_blocks(connection, account, {ref.block for ref in wanted})
    for ref in wanted:
        found = known.get(ref.block)
        if found is None or found.state not in block_rows.HERE:
            problems.append((ref.block, "a revision needs it, and it is not stored"))
        elif found.size_bytes != ref.size_bytes:
            problem = f"a revision needs {ref.size_bytes} bytes of it, and it has {found.size_bytes}"
            problems.append((ref.block, problem))
    return problems


def _page_of_revisions(
    connection: Connection, after: tuple[int, int, int]
) -> list[tuple[AccountId, int, int, InodeId, bytes]]:
    r = revisions.c
    key = tuple_(r.account, r.lineage, r.number)
    statement = select(r.account, r.lineage, r.number, r.inode, r.runs).where(key > after)
    rows = connection.execute(statement.order_by(r.account, r.lineage, r.number).limit(PAGE_REVISIONS))
    return [tuple(row) for row in rows]


def _problems_of_revisions(
    connection: Connection, page: Sequence[tuple[AccountId, int, int, InodeId, bytes]]
) -> list[str]:
    """Revisions with a list of blocks that is not there; what those that are there name is looked at by itself."""
    problems = []
    for account, those in itertools.groupby(page, key=lambda each: each[0]):
        named = [(number, inode, set(split_runs(packed))) for _, _, number, inode, packed in those]
        wanted = set[RunId]().union(*(of for _, _, of in named))
        known = {run for (run,) in select_in(connection, _KNOWN_RUNS, wanted, account=account)}
        for number, inode, of in named:
            if not of <= known:
                path = affected.path_of(connection, account, inode)
                problems.append(f"revision {number} of {path} has a list of blocks that is not there")
    return problems


_KNOWN_RUNS = select(runs.c.run).where(runs.c.account == bindparam("account"), runs.c.refs > 0, is_asked(runs.c.run))
