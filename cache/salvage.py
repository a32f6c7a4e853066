"""Makes a new journal of what can be read of one whose structure is damaged beyond what SQLite takes.

Owns which rows are taken over and which are only put aside, and the order of durable steps: the journal as it was found
is copied to `lost+found`; the new one is made beside it; once it is whole and durable under `SALVAGED`, it takes the
old one's place. A crash before that leaves the old one, a crash after it is finished by whoever opens the state next.

Rows are read from the pages (`pages`), since SQLite stops at the first bad one. Taken over are rows of pages that the
trees lead to; of pages that no tree leads to any more, only if they are known not to be free: a free page still has
rows that were dropped long ago. What was written to a file some of whose records are lost goes to `lost+found`, never
half into the file. All other rows that verify are put aside in `ROWS`, for people.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from cache.counters import Counter
from cache.database import PAGE_BYTES, Database
from cache.drafts import PLACE_BITS, DraftRow
from cache.durable import sync_path
from cache.errors import Misfit
from cache.findings import Finding, Severity
from cache.journal import OP_STRIDE
from cache.lost import LostAndFound
from cache.pages import GREATEST_KEY, LEAF_TABLE, LEAST_KEY, Hole, Image, Row, Senseless, Tree
from cache.recovery import Recovery, ReplicaStates
from cache.redo import read_redo
from cache.rescue import content_name, copy_aside
from cache.reserve import Reserve
from cache.schema import JOURNAL_VERSION
from cache.staging import Staging, number_of
from cache.structure import JOURNAL_STRUCTURE, fits
from cache.verification import LAST_FILE, RECORDS, TABLES
from cache.versions import create_tables
from drivefs.protocol import wire
from drivefs.protocol.errors import ProtocolError

SALVAGED = "salvaged.db"
"""A whole new journal that waits to take the place of the damaged one."""
ROWS = "rows.jsonl"
CACHE_KIBIBYTES = 8192
FAR = 2**20
"""So far beyond all that is known numbers go on, where it is not known how many were given out."""

_ORPHANS = {table.name: table for table in (*TABLES, RECORDS) if table.name in ("mutations", "drafts", "records")}
"""Tables of which rows are taken over though no tree leads to them: each row says what it is, and none grows old."""


def finish_salvage(state_dir: Path) -> None:
    """Let a new journal that is whole take the place of the damaged one; nobody has either open."""
    salvaged, path = state_dir / SALVAGED, state_dir / "journal.db"
    if not salvaged.exists():
        return
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    sync_path(state_dir)
    os.replace(salvaged, path)
    sync_path(state_dir)


def salvage(state_dir: Path, replica: ReplicaStates) -> list[Finding]:
    """Put a new journal in the place of the damaged one in a state that the caller has locked.

    Raises:
        DiskFull, Poisoned: the disk is full or fails; the damaged one is still in its place.
    """
    return Salvage(state_dir, replica).run()


class Salvage:
    """One run; `found` says what was done."""

    def __init__(self, state_dir: Path, replica: ReplicaStates) -> None:
        self._state = state_dir
        self._path = state_dir / "journal.db"
        self._image = Image(self._path, PAGE_BYTES)
        self._replica = replica
        self._lost = LostAndFound(state_dir / "lost+found")
        self._aside = self._lost.directory / f"journal-{content_name(self._path)}"
        self._holes: dict[str, list[Hole]] = {}
        self._known: set[int] = set()
        self._aside_count = 0
        self.found: list[Finding] = []

    def run(self) -> list[Finding]:
        """All of it, in the order that the module says."""
        copy_aside(self._path, self._aside, self._path.with_name("redo"))
        making = self._state / "salvaging"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        database = new_journal(making / "journal.db")
        try:
            with database.transaction():
                self._fill(database)
            self._place(database)
            database.empty_log()
        finally:
            database.close()
        sync_path(making / "journal.db")
        os.replace(making / "journal.db", self._state / SALVAGED)
        sync_path(self._state)
        finish_salvage(self._state)
        shutil.rmtree(making)
        return [self._summary(), *self.found]

    def _summary(self) -> Finding:
        lacking = ", ".join(sorted(self._holes)) or "nothing"
        rows = f"; {self._aside_count} rows that have no place are in {self._aside / ROWS}" if self._aside_count else ""
        return Finding(
            Severity.DAMAGE if self._holes or self._aside_count else Severity.WARNING,
            "The structure of the journal was damaged; a new one was made of all that could be read (parts are lacking"
            f" of: {lacking})",
            f"The journal as it was found is in {self._aside}{rows}",
            "Check the disk, and look whether what you wrote last is there",
        )

    # -- rows --------------------------------------------------------------------------------------------------------

    def _fill(self, database: Database) -> None:
        roots = self._roots(database)
        with self._rows_aside() as aside:
            for name, (root, is_table) in roots.items():
                tree = Tree(self._image, root)
                types = _types(database, name)
                width = len(types)
                for row in tree.rows():
                    is_ours = name not in JOURNAL_STRUCTURE.unsealed or (len(row) == width and fits(row, types))
                    if is_table and not (is_ours and width and _insert(database, name, width, row)):
                        aside.keep(name, row)
                if tree.holes:
                    self._holes[name] = tree.holes
                self._known |= tree.pages
            if self._holes:
                self._fill_from_orphans(database, aside)
            self._aside_count = aside.count
        self._run_redo(database)
        self._set_counters(database)

    def _run_redo(self, database: Database) -> None:
        """Run what the log lacks, if it fits: before drafts are given up, else it would make new ones of a part."""
        row = database.row("SELECT value FROM meta WHERE key = 'group'")
        last = int.from_bytes(row[0], "big") if row else 0
        found = read_redo(self._path.with_name("redo"), last)
        lost_count = found.other_count
        try:
            database.run_again(found.transactions)
        except Misfit:
            lost_count += len(found.transactions)
        if lost_count:
            what = f"{lost_count} changes that were not yet in the log do not fit what could be read"
            advice = "Look whether what you wrote last is there"
            self.found.append(Finding(Severity.DAMAGE, what, f"They are in {self._aside / 'redo'}", advice))
        database.write("DELETE FROM meta WHERE key = 'group'")

    def _rows_aside(self) -> "_Aside":
        return _Aside(self._aside / ROWS)

    def _roots(self, database: Database) -> dict[str, tuple[int, bool]]:
        """The root page of each table and index, by name: as the schema says, or else as a new journal has it."""
        found = {}
        schema = Tree(self._image, 1)
        expected = dict(_roots_of(database))
        for row in schema.rows():
            match row:
                case ("table", str(name), str(table), int(root), str(sql)):
                    # It has its name three times; one of them may have rotted.
                    names = (name, table, sql.removeprefix("CREATE TABLE ").partition(" ")[0])
                    found[next((each for each in names if each in expected), name)] = (root, True)
                case ("index", str(name), str(), int(root), *_):
                    found[name] = (root, False)
        self._known |= schema.pages
        if schema.holes or not expected.keys() <= found.keys() | JOURNAL_STRUCTURE.later:
            self._holes["sqlite_schema"] = schema.holes
            return expected | found
        return found

    def _fill_from_orphans(self, database: Database, aside: "_Aside") -> None:
        free = self._image.free_pages()
        columns = {name: _columns(database, name) for name in _ORPHANS}
        for number in range(2, self._image.page_count + 1):
            if number in self._known:
                continue
            try:
                kind, cells, _right, _is_whole = self._image.cells(number)
            except Senseless:
                continue
            for cell in cells if kind == LEAF_TABLE else ():
                name = _belongs(cell.row, columns)
                if not name:
                    continue
                is_live = free is not None and number not in free
                if not (is_live and _insert(database, name, len(cell.row), cell.row)):
                    aside.keep(name, cell.row)

    def _set_counters(self, database: Database) -> None:
        """No number that was given out is given out again; if that is not known, the server makes it another life."""
        files = [number_of(path) or 0 for path in (self._state / "staging").glob("*")]
        for name, query, more in (
            ("op", f"SELECT max(n) / {OP_STRIDE} FROM mutations", 0),
            ("draft", f"SELECT max(id) >> {PLACE_BITS} FROM records", 0),
            ("file", LAST_FILE, max(files, default=0)),
        ):
            row = database.row(query)
            used = max(more, row[0] or 0 if row else 0)
            known = database.row("SELECT reserved FROM counters WHERE name = ?", (name,))
            is_sure = known is not None and "counters" not in self._holes
            reserved = max(known[0] if known else 0, used + 1 + (0 if is_sure else FAR))
            database.write("INSERT OR REPLACE INTO counters VALUES (?, ?)", (name, reserved))
            if not is_sure:
                database.write("DELETE FROM meta WHERE key IN ('nonce', 'next_nonce')")

    # -- what the rows mean ------------------------------------------------------------------------------------------

    def _place(self, database: Database) -> None:
        numbers = Counter(database, "file")
        reserve = Reserve(self._state)
        staging = Staging(self._state / "staging", take_number=numbers.take, reserve=reserve, on_rot=lambda: None)
        try:
            recovery = Recovery(database, staging, self._lost, replica=self._replica, is_thorough=True)
            self.found += recovery.run_salvaged(self._is_doubtful)
        finally:
            staging.close()

    def _is_doubtful(self, place: int) -> bool:
        first, last = place << PLACE_BITS, (place + 1) << PLACE_BITS
        return any(hole.low <= last and first <= hole.high for hole in self._holes.get("records", ()))


class _Aside:
    """The file of rows that are put aside, made when there is one; durable at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []
        self.count = 0

    def __enter__(self) -> "_Aside":
        self._path.unlink(missing_ok=True)
        return self

    def __exit__(self, *_exit: object) -> None:
        self._write()
        if self.count:
            sync_path(self._path)
            sync_path(self._path.parent)

    def keep(self, table: str, row: Row) -> None:
        shown = [{"hex": value.hex()} if isinstance(value, bytes) else value for value in row]
        self._lines.append(json.dumps({"table": table, "row": shown}) + "\n")
        self.count += 1
        if len(self._lines) >= 1000:
            self._write()

    def _write(self) -> None:
        if self._lines:
            with open(os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "w") as file:
                file.writelines(self._lines)
            self._lines.clear()


def new_journal(path: Path) -> Database:
    """An empty journal with all tables that there are."""
    database = Database(path, cache_kibibytes=CACHE_KIBIBYTES)
    create_tables(database, JOURNAL_STRUCTURE.tables, JOURNAL_VERSION)
    return database


def _roots_of(database: Database) -> Iterator[tuple[str, tuple[int, bool]]]:
    for kind, name, root in database.rows("SELECT type, name, rootpage FROM sqlite_schema WHERE rootpage != 0"):
        yield name, (root, kind == "table")


def _columns(database: Database, name: str) -> list[str]:
    """The columns of a table of a new journal."""
    return [row[0] for row in database.rows("SELECT name FROM pragma_table_info(?)", (name,))]


def _types(database: Database, name: str) -> list[str]:
    """The types of the columns of a table; none: it is an index, or a table that we do not have."""
    sql = "SELECT type FROM pragma_table_info(?) WHERE ? IN (SELECT name FROM sqlite_schema WHERE type = 'table')"
    return [row[0] for row in database.rows(sql, (name, name))]


def _insert(database: Database, name: str, width: int, row: Row) -> bool:
    if len(row) != width or not all(_fits(value) for value in row):
        return False
    database.write(f"INSERT OR IGNORE INTO {name} VALUES ({', '.join('?' * width)})", row)
    return database.changed_count() > 0


def _fits(value: object) -> bool:
    return not isinstance(value, int) or LEAST_KEY <= value <= GREATEST_KEY


def _belongs(row: Row, columns: Mapping[str, list[str]]) -> str:
    """The table of which a row that stands alone is surely one; empty: it is not told, or none."""
    plain = [value.encode() if isinstance(value, str) else value for value in row]
    for name, table in _ORPHANS.items():
        if len(row) != len(columns[name]):
            continue
        by_column = dict(zip(columns[name], plain, strict=True))
        if table.verifies(tuple(by_column[column] for column in table.columns.split(", "))):
            return name if name != "drafts" or _decodes(row[2], DraftRow) else "inodes"
    return ""


def _decodes(body: object, kind: type[msgspec.Struct]) -> bool:
    try:
        return isinstance(body, bytes) and wire.decode(body, kind) is not None
    except ProtocolError:
        return False
