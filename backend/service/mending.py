"""Mending what is stored: what a check with repair does beyond looking.

Owns what becomes of copies that cannot be read and of objects that nothing names. Invariants: an object is removed only
if no row names it, no database or log that was put aside may name it, and it is older than any upload; one whose copies
cannot be read is moved to quarantine, never removed; a name that is not one of ours is left alone. A block that a
revision needs is never forgotten: devices that have it are asked for it (`blocks/lost`).
"""

import itertools
import logging
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, select
from sqlalchemy.exc import IntegrityError

from backend.blockstore.store import StoredObject
from backend.metadata.errors import Unreadable
from backend.metadata.queries import is_asked, select_in
from backend.metadata.schema import CopyState, block_copies
from backend.service import block_rows
from backend.service.ground import Ground
from backend.service.sealing import account_of
from drivefs.protocol.ids import AccountId, BlockId

log = logging.getLogger(__name__)

PAGE_OBJECTS = 2000
"""So many are looked at at once: of all of a large store there may be millions."""

REPLACED = ".replaced-"
"""Follows the name of the database, in that of one that a restore has replaced: it may be wanted again."""
SAFE_SECONDS = 24 * 3600
"""No upload takes so long (`BODY_SECONDS`): an older object that no row names was written just before a crash, or its
row went."""


@dataclass(slots=True)
class Mended:
    """What was found beside the blocks, and what was done: `orphan_*` is what no row names and was not removed."""

    orphan_count: int = 0
    orphan_bytes: int = 0
    removed_count: int = 0
    removed_bytes: int = 0
    forgotten_count: int = 0
    quarantined_count: int = 0
    index_problem_count: int = 0
    """What was wrong with indexes of the database, which were made again."""

    @property
    def is_change(self) -> bool:
        """Whether anything was done."""
        return bool(self.index_problem_count or self.removed_count or self.forgotten_count or self.quarantined_count)


class Mending:
    """What `Checks` asks for."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def mend_database(self, problems: list[str], mended: Mended) -> list[str]:
        """Make the indexes again, which mends a database whose tables are whole; gives what is wrong after that."""
        try:
            await self._ground.database.renew_indexes()
        except (Unreadable, IntegrityError):
            return problems
        left = await self._ground.database.problems()
        mended.index_problem_count = 0 if left else len(problems)
        return left

    async def forget(self, account: AccountId, block: BlockId, mended: Mended) -> bool:
        """Forget a block that cannot be read and that no revision needs; False: one does, or it is here again."""
        is_forgotten = await self._ground.database.write(block_rows.forget_unreadable, account, block)
        mended.forgotten_count += is_forgotten
        return is_forgotten

    async def look_at_objects(self, mended: Mended, *, is_repair: bool) -> None:
        """Go through the store, some objects at a time: count what no row names, and with repair deal with it."""
        walk = self._ground.store.objects()
        while page := await self._ground.offload(lambda: sorted(itertools.islice(walk, PAGE_OBJECTS))):
            for account, those in itertools.groupby(page, key=lambda each: account_of(each.name)):
                if account is None:
                    continue
                objects = list(those)
                # The rows are read after the objects: what was recorded meanwhile is no orphan.
                named = await self._ground.database.read(_named, account, [each.name for each in objects])
                for each in objects:
                    await self._look_at(each, named.get(each.name), mended, is_repair=is_repair)

    async def _look_at(self, each: StoredObject, has_readable: bool | None, mended: Mended, *, is_repair: bool) -> None:
        if has_readable:
            return
        if has_readable is False:
            if is_repair:
                await self._ground.offload(self._ground.store.quarantine, each.name)
                mended.quarantined_count += 1
            return
        is_old = self._ground.now_ns() - each.modified_ns >= SAFE_SECONDS * 10**9
        if is_repair and is_old and not self._is_another_beside():
            await self._ground.offload(self._ground.store.delete, each.name)
            mended.removed_count += 1
            mended.removed_bytes += each.size_bytes
            log.info("removed object %s (%d bytes), which no row names", each.name, each.size_bytes)
        else:
            mended.orphan_count += 1
            mended.orphan_bytes += each.size_bytes

    def _is_another_beside(self) -> bool:
        """Whether a database that a restore has replaced, or a log that was damaged, lies there still.

        It may name what this one does not.
        """
        path = self._ground.database.path
        return any(path.parent.glob(f"{path.name}{REPLACED}*")) or bool(self._ground.database.lost_logs())


def _named(connection: Connection, account: AccountId, objects: Collection[str]) -> dict[str, bool]:
    """Those of these objects that rows of an account name, and whether any of their copies counts as readable."""
    return {name: bool(readable) for name, readable in select_in(connection, _NAMED, objects, account=account)}


_NAMED = (
    select(block_copies.c.object, func.max(block_copies.c.state) == CopyState.STORED)
    .where(block_copies.c.account == bindparam("account"), is_asked(block_copies.c.object))
    .group_by(block_copies.c.object)
)
