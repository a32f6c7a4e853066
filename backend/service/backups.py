"""Backups: a whole copy of all metadata and blocks as of one moment, made beside the service and verified.

Owns the order of steps. The copy has the shape of a data directory, but for its mark: whoever uses it, in whatever way,
begins a new incarnation. The master key is not part of it. Steps: a snapshot of the database; each object that the
snapshot names; a check of all of it as the copy has it; the name. A crash leaves a directory `NAME.partial`, which the
next backup of that name replaces. Invariant: under the name asked for there is a whole, durable backup or nothing.
"""

import itertools
import logging
import os
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import anyio
from sqlalchemy import Connection, bindparam, func, select, update

from backend.blockstore import errors
from backend.blockstore.local import LocalStore
from backend.blockstore.places import BLOCKS_NAME
from backend.blockstore.store import ObjectStore
from backend.durable import sync_path
from backend.metadata.queries import is_asked, select_in
from backend.metadata.schema import CopyState, block_copies, deployment
from backend.metadata.sqlite import Database, copy_database
from backend.service.checks import Checks, Progress, Report
from backend.service.ground import Ground
from backend.service.keys import AccountKeys, MasterKey
from backend.service.mending import REPLACED
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ground import Offload
from drivefs.protocol.ids import AccountId, BlockId

log = logging.getLogger(__name__)

DATABASE_NAME = "metadata.db"
PARTIAL = ".partial"
PAGE_OBJECTS = 64
COPIED_MARK = "a backup"
"""No data directory that is in use has this mark."""

HERE_COPY = block_copies.c.state == CopyState.STORED

Objects = Sequence[tuple[str, int]]


class Backups:
    """Makes backups of all that is stored."""

    def __init__(self, ground: Ground, keys: AccountKeys, deleting: anyio.Lock) -> None:
        """`deleting` is held by whoever deletes objects."""
        self._ground = ground
        self._keys = keys
        self._deleting = deleting

    async def make(self, destination: Path, progress: Progress) -> Report:
        """Make a backup under a name that is free; durable on return, and what the report says of it is so there.

        Raises:
            ProtocolError: `conflict`: there is something of that name, or it cannot be written; nothing was changed.
        """
        partial = destination.with_name(destination.name + PARTIAL)
        try:
            await self._ground.offload(_prepare, destination, partial)
            async with self._deleting:
                await self._ground.database.copy_to(partial / DATABASE_NAME)
                report = await self._fill(partial, progress)
            await self._ground.offload(_finish, partial, destination)
        except OSError as error:
            raise ProtocolError(
                Code.CONFLICT,
                f"The backup could not be written to {destination}: {error.strerror or error}. The server's data is as "
                "it was; what was begun may be removed.",
            ) from error
        return report

    async def _fill(self, partial: Path, progress: Progress) -> Report:
        """Copy the objects that the copied database names, then check the copy."""
        offload, copy = self._ground.offload, await Database.open(partial / DATABASE_NAME, self._ground.offload)
        try:
            store = LocalStore(partial / BLOCKS_NAME)
            await offload(store.prepare)
            total, done, after = await copy.read(_count_objects), 0, ""
            while page := await copy.read(_page_of_objects, after):
                await offload(_copy_objects, page, self._ground.store, store)
                done, after = done + len(page), page[-1][0]
                await progress(done, 2 * total)

            async def checked(count: int, of: int) -> None:
                await progress(total + total * count // max(of, 1), 2 * total)

            there = replace(self._ground, database=copy, store=store)
            report = await Checks(there, self._keys.of_copy(copy)).check(checked)
            await copy.write(_put_mark)
        finally:
            copy.close()
        return report


class Target(NamedTuple):
    """What a backup is put back into: a data directory, which the caller has locked, and where its blocks lie."""

    data: Path
    store: ObjectStore


async def put_back(source: Path, into: Target, master: MasterKey, offload: Offload, progress: Progress) -> Path | None:
    """Let a data directory have the state that a backup has.

    Blocks are added to those that are there; then the database takes the place of the present one, which stays under
    another name beside it: gives that. A crash leaves the one or the other in its place, whole; nothing is removed.
    What is put back has the mark of a backup, so whoever opens it next begins a new incarnation.

    Raises:
        WrongMasterKey, MetadataError, OSError: the present state was not touched.
    """
    path, fresh = into.data / DATABASE_NAME, into.data / f"{DATABASE_NAME}.restored"
    for suffix in ("", "-wal", "-shm"):
        fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    await offload(copy_database, source / DATABASE_NAME, fresh)
    copy = await Database.open(fresh, offload)
    try:
        await AccountKeys(copy, master, _never_now, _never_random).verify_master()
        await copy.write(_put_mark)
        store = LocalStore(source / BLOCKS_NAME)
        total, done, after = await copy.read(_count_objects), 0, ""
        while page := await copy.read(_page_of_objects, after):
            await offload(_copy_objects, page, store, into.store)
            done, after = done + len(page), page[-1][0]
            await progress(done, 2 * total)
    finally:
        copy.close()
    return await offload(_swap, path, fresh)


async def take_instead(source: Path, ground: Ground, report: Report) -> int:
    """Take from a backup what a check has found damaged; gives how many objects. What was there is put aside."""
    store, count = LocalStore(source / BLOCKS_NAME), 0
    for account in {each.account for each in report.findings}:
        damaged = {each.block for each in report.findings if each.account == account}
        for name, size in await ground.database.read(_objects_with, account, damaged):
            try:
                count += await ground.offload(_take, name, size, store, ground.store)
            except OSError as error:
                log.error("object %s could not be taken from the backup: %s", name, error)
    return count


def _take(name: str, size: int, store: ObjectStore, target: ObjectStore) -> bool:
    data = _whole(store, name, size)
    if data is None:
        return False
    target.quarantine(name)
    target.put(name, [data])
    target.settle([name])
    return True


def _swap(path: Path, fresh: Path) -> Path | None:
    kept = None
    sync_path(fresh)
    names = (path.with_name(f"{path.name}{REPLACED}{n}") for n in itertools.count(1))
    free = next(each for each in names if not each.exists())
    if path.exists():
        kept = free
        os.link(path, kept)
    # The log of a database that cannot be opened, or is not even there: SQLite would take it for the new one's.
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(free.with_name(free.name + suffix))
    sync_path(path.parent)
    fresh.rename(path)
    sync_path(path.parent)
    return kept


def _never_now() -> int:
    raise AssertionError("keys of a backup are read only")


def _never_random(_count: int) -> bytes:
    raise AssertionError("keys of a backup are read only")


def _copy_objects(page: Objects, store: ObjectStore, target: ObjectStore) -> None:
    """Copy those objects that are not there yet as they should be; what is lost, the check of the copy finds."""
    names = []
    for name, size in page:
        if _has(target, name, size):
            continue
        data = _whole(store, name, size)
        if data is not None:
            target.put(name, [data])
            names.append(name)
    target.settle(names)


def _has(store: ObjectStore, name: str, size: int) -> bool:
    return _read(store, name, size - 1, 1) is not None


def _whole(store: ObjectStore, name: str, size: int) -> bytes | None:
    return _read(store, name, 0, size)


def _read(store: ObjectStore, name: str, offset: int, length: int) -> bytes | None:
    """A part of an object; None: it is lost.

    Raises:
        OSError: it cannot be read now, which says nothing of it.
    """
    try:
        return store.get(name, offset, length)
    except errors.ObjectMissing:
        return None
    except OSError as error:
        if errors.is_damage(error):
            return None
        raise


def _prepare(destination: Path, partial: Path) -> None:
    if destination.exists() or destination.is_symlink():
        raise ProtocolError(
            Code.CONFLICT, f"{destination} is there already. Nothing was changed; give a name that is free."
        )
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(mode=0o700)


def _finish(partial: Path, destination: Path) -> None:
    for path in (partial / DATABASE_NAME, partial):
        sync_path(path)
    partial.rename(destination)
    sync_path(destination.parent)


def _count_objects(connection: Connection) -> int:
    statement = select(func.count(func.distinct(block_copies.c.object))).where(HERE_COPY)
    return connection.execute(statement).scalar_one()


def _page_of_objects(connection: Connection, after: str) -> Objects:
    c = block_copies.c
    statement = select(c.object, func.max(c.offset + c.length)).where(HERE_COPY, c.object > after)
    rows = connection.execute(statement.group_by(c.object).order_by(c.object).limit(PAGE_OBJECTS))
    return [(name, size) for name, size in rows]


def _objects_with(connection: Connection, account: AccountId, damaged: Collection[BlockId]) -> Objects:
    """The objects in which the copies of these blocks lie, with their sizes."""
    names = {name for (name,) in select_in(connection, _HOLDING, damaged, account=account)}
    return [(name, size) for name, size in select_in(connection, _SIZES, names, account=account)]


_c = block_copies.c
_HOLDING = select(_c.object).where(_c.account == bindparam("account"), is_asked(_c.block))
_SIZES = (
    select(_c.object, func.max(_c.offset + _c.length))
    .where(_c.account == bindparam("account"), is_asked(_c.object))
    .group_by(_c.object)
)


def _put_mark(connection: Connection) -> None:
    connection.execute(update(deployment).values(mark=COPIED_MARK))
