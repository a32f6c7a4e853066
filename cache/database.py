"""One SQLite connection in WAL mode: pragmas, transactions, translation of errors.

Owns the connection and the depth of its transactions. Does not own any table. Invariants: at most one transaction at
a time, a nested one joins the outer; a nested one that failed dooms the outer, even if its exception was caught;
what was committed is in the WAL file, or in that of `redo` (it survives the death of the process, not yet a power
cut). Nothing may be awaited inside a transaction.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import apsw

from cache import errors
from cache.durable import fill
from cache.redo import Bindings, Redo, statements_of

Row = tuple[Any, ...]

PAGE_BYTES = 2048
"""Small pages: a created file dirties five of them, and each goes to the WAL whole."""

FRAME_BYTES = PAGE_BYTES + 24
SHRINK_BYTES = 32 * 2**20
BUSY_MILLISECONDS = 5000
MISFITS = (apsw.ConstraintError, apsw.MismatchError, apsw.SQLError)
"""What SQLite says of statements that were made for another state of the tables."""

FAILED_READS = frozenset({apsw.SQLITE_IOERR_READ, apsw.SQLITE_IOERR_SHORT_READ})


def _nothing() -> None:
    return None


class Database:
    """A connection whose statements are short; used by one thread at a time.

    Called for each outermost transaction: `on_begin` after it began, `on_commit` before it commits, `on_committed`
    and `on_rollback` after it ended. `on_distrust` is called when what the disk gave does not verify, or cannot be
    read, `on_failure` when it did not take what was written.
    """

    def __init__(
        self,
        path: Path,
        *,
        cache_kibibytes: int,
        corrupt: type[errors.Corrupt] = errors.Corrupt,
        is_for_reading: bool = False,
    ) -> None:
        """Open or create the database at `path`; one that is for reading stays as it is, its WAL included.

        Raises:
            Corrupt: it is no database, or damaged.
        """
        self.path = path
        self.wal_path = Path(f"{path}-wal")
        self.wal_bytes = 0
        self.commit_count = 0
        self.poisoned: errors.Poisoned | None = None
        self.on_begin: Callable[[], None] = _nothing
        self.on_commit: Callable[[], None] = _nothing
        self.on_committed: Callable[[], None] = _nothing
        self.on_rollback: Callable[[], None] = _nothing
        self.on_distrust: Callable[[], None] = _nothing
        self.on_failure: Callable[[], None] = _nothing
        self._corrupt = corrupt
        self._depth = 0
        self._doomed = False
        self._redo: Redo | None = None
        self._transaction = Transaction(self)
        if not is_for_reading:
            create_private(path)
        try:
            self._connection = apsw.Connection(str(path), statementcachesize=300)
        except apsw.Error as error:
            raise self.translated(error) from error
        self._execute = self._connection.cursor().execute
        self._executemany = self._connection.cursor().executemany
        try:
            self._connection.set_busy_timeout(BUSY_MILLISECONDS)
            self.leave_log(True)
            # Else a statement that could use a partial index is compiled anew each time it gets other values.
            self._connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
            for pragma in (
                f"page_size = {PAGE_BYTES}",
                "journal_mode = WAL",
                "synchronous = NORMAL",
                f"cache_size = -{cache_kibibytes}",
                "temp_store = MEMORY",
                "trusted_schema = OFF",
                f"query_only = {int(is_for_reading)}",
            ):
                self._execute(f"PRAGMA {pragma}").fetchall()
        except apsw.Error as error:
            self._connection.close()
            raise self.translated(error) from error
        self.leave_log(is_for_reading and self.wal_path.exists() and self.wal_path.stat().st_size > 0)
        self._connection.set_wal_hook(self._note_commit)

    def leave_log(self, is_left: bool) -> None:
        """Let closing leave the WAL as it is, since the database may be damaged; or copy it, as it does otherwise."""
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(is_left))

    def _note_commit(self, _connection: apsw.Connection, _name: str, page_count: int) -> int:
        self.wal_bytes = page_count * FRAME_BYTES
        self.commit_count += 1
        return 0

    @property
    def is_in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._depth > 0

    def transaction(self) -> "Transaction":
        """A context manager: commits at the outermost exit, rolls all of it back on an exception.

        Raises:
            DiskFull: on commit; nothing was changed.
            Corrupt: the database is damaged.
            Poisoned: the write failed.
        """
        return self._transaction

    def begin(self) -> None:
        """Enter a transaction, or join the one that is open."""
        if self._depth:
            self._depth += 1
            return
        if self.poisoned:
            raise errors.Poisoned(*self.poisoned.args)
        self._recall_if_lost()
        if self._redo is not None and self._redo.is_full:
            self.flush()
        try:
            if not self._connection.in_transaction:
                self._execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            raise self.translated(error) from error
        self._depth = 1
        self._doomed = False
        try:
            self.on_begin()
        except BaseException:
            self._roll_back()
            raise

    def commit(self) -> None:
        """Leave a transaction that went well; the outermost one is committed."""
        if self._depth > 1:
            self._depth -= 1
            return
        if self._doomed:
            self._roll_back()
            raise RuntimeError("a transaction went on after a part of it had failed; it was rolled back")
        try:
            self.on_commit()
            if self._redo is None or not self._redo.accept():
                self._commit_all()
            elif self._redo.accepted:
                self.commit_count += 1
        except apsw.Error as error:
            self._roll_back()
            raise self.translated(error) from error
        except BaseException:
            self._roll_back()
            raise
        self._depth = 0
        self.on_committed()

    def abandon(self) -> None:
        """Leave a transaction that failed; the outermost one is rolled back."""
        self._doomed = True
        if self._depth > 1:
            self._depth -= 1
        else:
            self._roll_back()

    def _commit_all(self) -> None:
        if self._redo is None:
            self._execute("COMMIT")
            return
        self._execute(*self._redo.numbering())
        self._execute("COMMIT")
        self._redo.committed()

    def share_commits(self, redo: Redo | None) -> None:
        """From here on let transactions share a COMMIT, which `flush` makes, if not one of them; None: not any more.

        Where one is rolled back those before it are run again.
        """
        self.flush()
        if self._redo is not None:
            self._redo.close()
        self._redo = redo

    def flush(self) -> None:
        """Bring into the log what shares a COMMIT that was not made yet.

        Raises:
            DiskFull, Corrupt, Poisoned: nothing is lost, it may be tried again, or the next start does it.
        """
        if self._depth:
            raise RuntimeError("a transaction ends before what came before it is brought into the log")
        if self._redo is None or not (self._connection.in_transaction or self._redo.accepted):
            return
        if self.poisoned:
            raise errors.Poisoned(*self.poisoned.args)
        self._recall_if_lost()
        try:
            if self._redo.is_needed:
                self._commit_all()
            else:
                self._execute("COMMIT")
        except apsw.Error as error:
            self._recall()
            raise self.translated(error) from error

    def begin_sync(self) -> "LogSync":
        """What to sync so that all that was accepted until now is durable; `sync_ended` hears when that is done.

        Raises:
            DiskFull, Corrupt, Poisoned: nothing is lost, it may be tried again, or the next start does it.
        """
        self._recall_if_lost()
        if self._redo is not None and self._redo.begin_sync():
            return LogSync(self._redo.path, 0)
        self.flush()
        return LogSync(self.wal_path, self._redo.group - 1 if self._redo is not None else 0)

    def sync_ended(self, sync: "LogSync") -> None:
        """It went well."""
        if self._redo is not None:
            self._redo.log_synced(sync.commit)

    def run_again(self, transactions: Iterable[bytes]) -> None:
        """Run what `redo` has kept once more, inside the caller's transaction: all of it or nothing.

        Raises:
            Misfit: nothing was changed, and it would be so the next time.
            Corrupt, DiskFull, Poisoned: it may be tried again, once the caller's transaction is rolled back.
        """
        try:
            self._execute("SAVEPOINT again")
            for transaction in transactions:
                for sql, bindings in statements_of(transaction):
                    self._execute(sql, bindings)
            self._execute("RELEASE again")
        except apsw.Error as error:
            if self._connection.in_transaction:
                self._execute("ROLLBACK TO again")
            if isinstance(error, MISFITS):
                raise errors.Misfit(f"{self.path.name} is not what redo was made for: {error}") from error
            raise self.translated(error) from error

    def _recall_if_lost(self) -> None:
        """SQLite rolls back by itself where a statement, be it one that reads, finds no memory."""
        if self._redo is not None and self._redo.accepted and not self._connection.in_transaction:
            self._recall()
            if self.poisoned:
                raise errors.Poisoned(*self.poisoned.args)

    def _recall(self) -> None:
        """Roll back, and run the transactions again that were accepted."""
        accepted: list[bytes] = []
        if self._redo is not None:
            self._redo.statements = []
            accepted = self._redo.accepted
        try:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            if accepted:
                self._execute("BEGIN IMMEDIATE")
                self.run_again(accepted)
        except (apsw.Error, errors.CacheError) as error:
            self.poison(error)

    def _roll_back(self) -> None:
        is_untouched = self._redo is not None and not self._redo.statements and self._connection.in_transaction
        if not is_untouched:
            self._recall()
        self._depth = 0
        self.on_rollback()

    def write(self, sql: str, bindings: Bindings = ()) -> None:
        """Run a statement that changes something, in a transaction of its own if none is open."""
        if not self._depth:
            with self._transaction:
                self.write(sql, bindings)
            return
        if self._redo is not None:
            self._redo.statements.append((sql, bindings))
        self._execute(sql, bindings)

    def write_many(self, sql: str, rows: Iterable[Bindings]) -> int:
        """Run a statement that changes something once for each row, inside the caller's transaction.

        Gives how many rows of the table it changed.
        """
        if not self._depth:
            raise RuntimeError("many rows are written in one transaction")
        before = self._connection.total_changes()
        self._executemany(sql, self._noted(sql, rows))
        return self._connection.total_changes() - before

    def _noted(self, sql: str, many: Iterable[Bindings]) -> Iterable[Bindings]:
        if self._redo is None:
            return many
        rows = list(many)
        self._redo.statements += [(sql, row) for row in rows]
        return rows

    def rows_of_many(self, sql: str, many: Iterable[Bindings]) -> list[Row]:
        """Run a statement that changes something once for each of `many`, as `write_many`; gives what it returns."""
        if not self._depth:
            raise RuntimeError("many rows are written in one transaction")
        try:
            return self._executemany(sql, self._noted(sql, many)).fetchall()
        except (apsw.Error, UnicodeDecodeError) as error:
            raise self.translated(error) from error

    def row(self, sql: str, bindings: Bindings = ()) -> Row | None:
        """The first row of a query, or None."""
        try:
            rows = self._execute(sql, bindings).fetchall()
        except (apsw.Error, UnicodeDecodeError) as error:
            raise self.translated(error) from error
        return rows[0] if rows else None

    def rows(self, sql: str, bindings: Bindings = ()) -> list[Row]:
        """All rows of a query; the caller bounds them."""
        try:
            return self._execute(sql, bindings).fetchall()
        except (apsw.Error, UnicodeDecodeError) as error:
            raise self.translated(error) from error

    def changed_count(self) -> int:
        """How many rows the last `write` changed."""
        return self._connection.changes()

    def execute_script(self, sql: str) -> None:
        """Run several statements, as when the schema is created; not where transactions share a COMMIT."""
        if self._redo is not None:
            raise RuntimeError("statements that are not noted cannot be run again")
        try:
            self._connection.cursor().execute(sql).fetchall()
        except apsw.Error as error:
            raise self.translated(error) from error

    def translated(self, error: apsw.Error | UnicodeDecodeError) -> errors.CacheError:
        """Our error for one of SQLite's, or for text that is none."""
        name = self.path.name
        if isinstance(error, apsw.FullError):
            return errors.DiskFull(f"The disk that holds {name} is full; nothing was changed. Free some space.")
        if isinstance(error, apsw.CorruptError | apsw.NotADBError | UnicodeDecodeError):
            return self._corrupt(f"{name} is damaged: {error}")
        if isinstance(error, apsw.IOError):
            return self.poison(error)
        return errors.Poisoned(f"{name} could not be used: {error}")

    def poison(self, error: Exception) -> errors.Poisoned:
        """The disk failed: what was written may be lost, so nothing more is accepted; gives what to tell everyone."""
        self.poisoned = errors.Poisoned(
            f"{self.path.name} could not be read, written or synced ({error}); nothing more is accepted. Check the disk"
            " and mount again: what is there is verified then."
        )
        self.on_distrust()
        if getattr(error, "extendedresult", None) not in FAILED_READS:
            self.on_failure()
        return self.poisoned

    def rot(self, message: str) -> errors.Corrupt:
        """A row does not verify: the next start looks at everything; gives what to raise."""
        self.on_distrust()
        return self._corrupt(message)

    def checkpoint(self) -> int:
        """Copy the WAL into the database as far as it has come, on a connection of its own: for a thread.

        Gives how many bytes of the WAL are copied now; that part is durable on return. Does not stop the writer.
        """
        try:
            connection = apsw.Connection(str(self.path))
            try:
                connection.set_busy_timeout(0)
                # A connection that has read nothing yet knows of no WAL, and would copy nothing.
                connection.execute("SELECT 1 FROM sqlite_schema").fetchall()
                return max(0, connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)[1]) * FRAME_BYTES
            finally:
                connection.close()
        except apsw.BusyError:
            return 0
        except apsw.Error as error:
            raise self.translated(error) from error

    def finish_checkpoint(self) -> None:
        """Copy the rest of the WAL here and now, so that the next write starts it afresh: short after `checkpoint`."""
        self.flush()
        try:
            self._execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except apsw.Error as error:
            raise self.translated(error) from error

    def empty_log(self) -> None:
        """Copy all of the WAL into the database and begin it afresh; nobody else may have it open."""
        self.flush()
        try:
            self._execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except apsw.Error as error:
            raise self.translated(error) from error
        self.wal_bytes = 0

    def reserve_log(self, size_bytes: int) -> int:
        """Let the log have a size before it is filled, as far as the disk has room; gives the size that it has then.

        To sync what is written in place measured half of what it costs where the file grows too. SQLite takes the
        zeros for what they are: no frames.
        """
        with suppress(OSError):
            fill(self.wal_path, size_bytes)
        return self.wal_path.stat().st_size if self.wal_path.exists() else 0

    def shrink(self) -> None:
        """Give free pages back to the disk if they are many and what is in use is little: quick then."""
        row = self.row("SELECT freelist_count, page_count FROM pragma_freelist_count, pragma_page_count")
        free, used = (row[0], row[1] - row[0]) if row else (0, 0)
        if used * PAGE_BYTES <= SHRINK_BYTES < free * PAGE_BYTES:
            self.execute_script("VACUUM")
            self.empty_log()

    def close(self) -> None:
        """Close; the WAL is copied into the database and removed. What was not flushed is left to the next start."""
        if self._redo is not None:
            self._redo.close()
        self._connection.set_wal_hook(None)
        self._connection.close()


class LogSync(NamedTuple):
    """A file to be synced: the log up to the COMMIT of a number, or, with 0, the one of what is not committed yet."""

    path: Path
    commit: int


class Transaction:
    """What `Database.transaction` gives."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._database.commit()
            return
        self._database.abandon()
        if isinstance(error, apsw.Error):
            raise self._database.translated(error) from error


def create_private(path: Path) -> None:
    """Create an empty file for the owner only, unless it exists; SQLite gives its other files the same mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        os.chmod(path, 0o600)


def remove_database(path: Path) -> None:
    """Remove a database that nobody has open, with its WAL."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def json_list(numbers: Sequence[int]) -> str:
    """Many numbers as one parameter, for `json_each`."""
    return f"[{','.join(map(str, numbers))}]"
