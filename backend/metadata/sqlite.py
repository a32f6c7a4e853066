"""The embedded metadata database: one SQLite file, opened by one process.

Owns connections and transactions; knows no table. Reads run side by side, each in a snapshot; writes run one at a
time, in the order they came. Invariants: a writing transaction begins IMMEDIATE, so it never fails half way for want
of the lock; `synchronous=FULL`, so what is committed survives power loss; whoever waits for a connection waits
asynchronously and holds no thread.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import anyio
import pysqlite3.dbapi2 as sqlite_library
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import QueuePool

from backend.metadata import damaged_log, errors, structure, upgrade
from drivefs.protocol.ground import Offload

P = ParamSpec("P")
R = TypeVar("R")

OLDEST_LIBRARY = (3, 51, 3)
"""Earlier libraries can lose commits when a WAL is reset (fixed in this one)."""
MAX_READERS = 4
MOST_PROBLEMS = 10
"""So many of a damaged file are told."""
UNREADABLE = (
    "The database {path} cannot be used ({reason}). Nothing was changed. If its disk is full, make room; if it is "
    "damaged, put a backup back with drivefs-server restore: the blocks are kept, and devices send what they have that "
    "is newer."
)
BUSY_MILLISECONDS = 10_000
"""How long a write waits for another process, such as an administrator's command."""

PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    f"PRAGMA busy_timeout={BUSY_MILLISECONDS}",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA cache_size=-16384",
)


class Database:
    """The metadata, open. `read` and `write` run a function of a connection in one transaction each."""

    def __init__(self, path: Path, offload: Offload) -> None:
        self.path = path
        self._offload = offload
        self._readers = open_engine(path, begin="BEGIN", connection_count=MAX_READERS, is_read_only=True)
        self._writer = open_engine(path, begin="BEGIN IMMEDIATE", connection_count=1)
        self._reading = anyio.Semaphore(MAX_READERS)
        self._writing = anyio.Lock()

    @classmethod
    async def open(cls, path: Path, offload: Offload, on_loss: Callable[[], None] = lambda: None) -> "Database":
        """Open the database, made new where there is none and brought up to this program's schema.

        `on_loss` is called, before anything changes, if its log lacks what was committed.

        Raises:
            MetadataError: it cannot be used; nothing in it was changed.
        """
        await offload(_prepare, path, on_loss)
        return cls(path, offload)

    async def read(self, work: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `work(connection, …)` in a thread, on a snapshot of the database; it must not write.

        Raises:
            Unreadable: SQLite has found that the file is damaged.
        """
        async with self._reading:
            result: R = await self._offload(_run, self._readers, work, args, kwargs)
        return result

    async def write(self, work: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `work(connection, …)` in a thread and commit; an exception rolls everything back.

        Durable on return. Cancellation while waiting for the turn leaves nothing; once begun it runs to its end.

        Raises:
            Unreadable: SQLite has found that the file is damaged; nothing of this was committed.
        """
        async with self._writing:
            with anyio.CancelScope(shield=True):
                result: R = await self._offload(_run, self._writer, work, args, kwargs)
        return result

    async def problems(self) -> list[str]:
        """What is wrong with the file, or the first of it; empty: nothing. Reads all of it, on a snapshot."""
        try:
            return await self.read(_problems)
        except errors.Unreadable as error:
            return [str(error.__cause__)]

    def lost_logs(self) -> list[str]:
        """The names of damaged logs that were put aside, and of which commits are lost; until somebody removes them."""
        return damaged_log.lost_logs(self.path)

    async def renew_indexes(self) -> None:
        """Make all indexes again from the tables.

        Raises:
            Unreadable: a table is damaged, too; nothing was changed.
        """
        await self.write(_renew_indexes)

    async def copy_to(self, path: Path) -> None:
        """Write all of the database, as of one moment, to a new file; others go on meanwhile. Not synced.

        Raises:
            OSError: it could not be written.
        """
        await self._offload(copy_database, self.path, path)

    def close(self) -> None:
        """Close all connections; no call may be under way."""
        self._readers.dispose()
        self._writer.dispose()


def _run(engine: Engine, work: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
    try:
        with engine.begin() as connection:
            return work(connection, *args, **kwargs)
    except DatabaseError as error:
        # Those who met a constraint, or a file that is locked or full, have classes of their own.
        if type(error.orig) is not sqlite_library.DatabaseError:
            raise
        raise errors.Unreadable(UNREADABLE.format(path=engine.url.database, reason=error.orig)) from error.orig


def _problems(connection: Connection) -> list[str]:
    found = list(connection.exec_driver_sql(f"PRAGMA integrity_check({MOST_PROBLEMS})").scalars())
    if found != ["ok"]:
        return found
    return structure.schema_problems(connection) or structure.type_problems(connection)


def _renew_indexes(connection: Connection) -> None:
    connection.exec_driver_sql("REINDEX")


def copy_database(path: Path, copy: Path) -> None:
    """Write all of a database, as of one moment, to a new file; blocks. Not synced.

    Raises:
        OSError: it could not be read or written.
    """
    connection = sqlite_library.connect(str(path), isolation_level=None)
    try:
        connection.execute("VACUUM INTO ?", (str(copy),))
    except sqlite_library.DatabaseError as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


def _prepare(path: Path, on_loss: Callable[[], None]) -> None:
    if sqlite_library.sqlite_version_info < OLDEST_LIBRARY:
        wanted = ".".join(map(str, OLDEST_LIBRARY))
        raise errors.LibraryTooOld(
            f"SQLite {sqlite_library.sqlite_version} can lose commits; nothing was opened. "
            f"Install a pysqlite3 that brings SQLite {wanted} or newer."
        )
    try:
        damaged_log.mend(path, on_loss)
    except OSError as error:
        raise errors.Unreadable(UNREADABLE.format(path=path, reason=error)) from error
    engine = open_engine(path, begin="BEGIN IMMEDIATE", connection_count=1)
    try:
        upgrade.bring_up(engine, path)
        with engine.begin() as connection:
            problems = structure.schema_problems(connection)
        if problems:
            raise errors.Unreadable(UNREADABLE.format(path=path, reason=problems[0]))
    except (DatabaseError, sqlite_library.DatabaseError) as error:
        reason = error.orig if isinstance(error, DatabaseError) else error
        raise errors.Unreadable(UNREADABLE.format(path=path, reason=reason)) from error
    finally:
        engine.dispose()


def open_engine(path: Path, *, begin: str, connection_count: int, is_read_only: bool = False) -> Engine:
    """An engine whose transactions start with `begin`, and not when the driver thinks fit."""
    pragmas = (*PRAGMAS, "PRAGMA query_only=ON") if is_read_only else PRAGMAS
    engine = create_engine(
        f"sqlite:///{path}",
        module=sqlite_library,
        poolclass=QueuePool,
        pool_size=connection_count,
        max_overflow=0,
        connect_args={"isolation_level": None, "check_same_thread": False},
        query_cache_size=2000,
    )

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:
        for pragma in pragmas:
            connection.execute(pragma)

    def start(connection: Any) -> None:
        connection.execute(begin)

    # One that listens for "begin" makes SQLAlchemy ask all its lists of listeners at each statement.
    engine.dialect.do_begin = start  # type: ignore[assignment]
    return engine
