"""The replica: what the server has acknowledged of the tree, as of the cursor; it can be fetched again at any time.

Owns `replica.db`. Invariants: a row says as of which seq it is right, and an older one never overwrites a newer one; a
page of the feed and its cursor are one transaction; every entry's inode is here too, else the directory does not count
as complete; a name that is not here is absent only in a complete directory.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from cache.database import Database, Transaction, json_list, remove_database
from cache.durable import sync_path
from cache.errors import NewerState, ReplicaCorrupt
from cache.overlay import MISSING, Missing
from cache.redo import Bindings
from cache.schema import IS_MARKED, REPLICA, REPLICA_VERSION
from cache.structure import REPLICA_STRUCTURE, refuse_other_schema
from cache.versions import create_tables
from drivefs.protocol import wire
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.ground import Offload
from drivefs.protocol.ids import InodeId, RevisionNumber, Seq, WorkspaceId
from drivefs.protocol.messages import Cursor, Entry, FeedPage
from drivefs.protocol.model import InodeKind, InodeState

T = TypeVar("T")

CACHE_KIBIBYTES = 4096
CONTENTS_BYTES = 64 * 2**20
"""How much of long block lists is kept."""
MOST_GONE = 10_000
"""So many inodes that were removed lately are remembered as such."""

PUT_INODE = (
    "INSERT INTO inodes VALUES (?, ?, ?) ON CONFLICT (inode) DO UPDATE SET seq = excluded.seq, state = excluded.state"
    " WHERE excluded.seq >= seq"
)
PUT_DENTRY = (
    "INSERT INTO dentries VALUES (?, ?, ?, ?) ON CONFLICT (parent, name) DO UPDATE"
    " SET inode = excluded.inode, seq = excluded.seq WHERE excluded.seq >= seq"
)
FORGOTTEN = (
    ("dentries", "parent"),
    ("complete", "directory"),
    ("incomplete", "directory"),
    ("contents", "inode"),
    ("inodes", "inode"),
)
"""Where a tree that is forgotten has rows."""
BELOW = (
    "WITH RECURSIVE tree (inode) AS (VALUES (?) UNION SELECT d.inode FROM tree"
    " JOIN dentries d ON d.parent = tree.inode AND d.inode != 0)"
)
ELSEWHERE = (
    "SELECT directory FROM complete WHERE directory NOT IN tree"
    " UNION SELECT parent FROM dentries WHERE parent NOT IN tree"
    " UNION SELECT inode FROM dentries WHERE inode != 0 AND parent NOT IN tree AND inode NOT IN tree"
)
"""What is not in that tree: directories, and what is in them."""
PUT_INCOMPLETE = (
    "INSERT OR IGNORE INTO incomplete (directory) SELECT ? WHERE NOT EXISTS"
    " (SELECT 1 FROM complete WHERE directory = ?)"
)


class Replica:
    """The metadata that is known here; used on the event loop, statements are short."""

    def __init__(self, path: Path, offload: Offload) -> None:
        self._path = path
        self._offload = offload
        self._synced: dict[WorkspaceId, Seq] = {}
        self._synced_commits = -1
        self.earlier: Replica | None = None
        """What was known when all was set aside; it may have an earlier one itself."""
        self.forgotten_count = 0
        """How often a tree was forgotten: what was asked for before that is not to be taken over."""
        self._gone: dict[InodeId, Seq] = {}
        self._gone_before = Seq(0)
        """What was removed, and when, is remembered from here on: what was asked for before that may come later."""
        try:
            self.database = self._open()
        except (ReplicaCorrupt, NewerState):
            remove_database(path)
            self.database = self._open()

    def _open(self) -> Database:
        database = Database(self._path, cache_kibibytes=CACHE_KIBIBYTES, corrupt=ReplicaCorrupt)
        row = database.row("PRAGMA user_version")
        if row and 0 < row[0] < REPLICA_VERSION:
            database.close()
            raise ReplicaCorrupt("an older drivefs made this replica; it is fetched again")
        try:
            create_tables(database, REPLICA, REPLICA_VERSION)
            refuse_other_schema(database, REPLICA_STRUCTURE)
        except ReplicaCorrupt:
            database.close()
            raise
        return database

    def set_aside(self) -> None:
        """Begin with an empty replica; what was known stays readable as `earlier` until `drop_earlier`.

        Only the open connection keeps it: after a crash it is gone.
        """
        self.earlier = copy.copy(self)
        remove_database(self._path)
        self._synced = {}
        self._synced_commits = -1
        self._gone, self._gone_before = {}, Seq(0)
        self.database = self._open()

    def drop_earlier(self) -> None:
        """What was known before is not needed any more."""
        earlier, self.earlier = self.earlier, None
        if earlier is not None:
            earlier.drop_earlier()
            earlier.database.close()

    def shown_names(self, directory: InodeId) -> list[tuple[bytes, InodeId]]:
        """The names of a directory as they were known last, here or in an earlier replica."""
        if self.earlier is not None and not self.is_complete(directory):
            return self.earlier.shown_names(directory)
        return self.names(directory)

    def complete_directories(self, limit: int) -> Iterator[list[InodeId]]:
        """The directories all of whose names are here, so many at a time; others may become it meanwhile."""
        after = 0
        while rows := self.database.rows(
            "SELECT directory FROM complete WHERE directory > ? ORDER BY directory LIMIT ?", (after, limit)
        ):
            yield [InodeId(directory) for (directory,) in rows]
            after = rows[-1][0]

    def transaction(self) -> Transaction:
        """A context manager, for several changes at once."""
        return self.database.transaction()

    # -- inodes and names --------------------------------------------------------------------------------------------

    def inode(self, inode: InodeId) -> InodeState | None:
        """The state of an inode, or None if it is not known here, nor was before all was set aside."""
        state = self.inode_now(inode)
        return self.earlier.inode(inode) if state is None and self.earlier is not None else state

    def inode_now(self, inode: InodeId) -> InodeState | None:
        """The state of an inode as the server has it; what was set aside says nothing of that."""
        row = self.database.row("SELECT state FROM inodes WHERE inode = ?", (inode,))
        return None if row is None else _decoded(row[0], InodeState)

    def put_inodes(self, states: Iterable[InodeState], seq: Seq) -> None:
        """Take over states that are right as of `seq`; one without a name left is dropped.

        So are those of inodes that were removed after `seq`.
        """
        with self.database.transaction():
            self._put_inodes([state for state in states if not self._is_gone_since(state.inode, seq)], seq)

    def _put_inodes(self, states: Iterable[InodeState], seq: Seq) -> None:
        kept: list[InodeState] = []
        gone: list[InodeState] = []
        for state in states:
            (kept if state.nlink else gone).append(state)
        write = self.database.write_many
        write(PUT_INODE, [(state.inode, seq, wire.encode(state)) for state in kept])
        write(PUT_INCOMPLETE, [(state.inode,) * 2 for state in kept if state.kind is InodeKind.DIRECTORY])
        if gone:
            self._note_gone(gone, seq)
            write("DELETE FROM inodes WHERE inode = ? AND seq <= ?", [(state.inode, seq) for state in gone])
            write("DELETE FROM contents WHERE inode = ?", [(state.inode,) for state in gone])
            directories = [(state.inode,) for state in gone if state.kind is InodeKind.DIRECTORY]
            write("DELETE FROM complete WHERE directory = ?", directories)
            write("DELETE FROM incomplete WHERE directory = ?", directories)
            if self.earlier is not None:
                self.earlier.forget_inodes([state.inode for state in gone])

    def _note_gone(self, gone: Iterable[InodeState], seq: Seq) -> None:
        for state in gone:
            self._gone.pop(state.inode, None)
            self._gone[state.inode] = seq
        while len(self._gone) > MOST_GONE:
            self._gone_before = max(self._gone_before, self._gone.pop(next(iter(self._gone))))

    def _is_gone_since(self, inode: InodeId, seq: Seq) -> bool:
        """Whether an inode that is not here was removed after `seq`, or may have been."""
        return seq < self._gone.get(inode, self._gone_before) and not self._has_inode(inode)

    def forget_inodes(self, inodes: Sequence[InodeId]) -> None:
        """These are known to be gone, whatever an earlier replica has of them."""
        with self.database.transaction():
            self.database.write_many("DELETE FROM inodes WHERE inode = ?", [(inode,) for inode in inodes])
        if self.earlier is not None:
            self.earlier.forget_inodes(inodes)

    def dentry(self, parent: InodeId, name: bytes) -> InodeId | Missing | None:
        """What a name leads to: None if it is absent, MISSING if the directory has to be listed to know."""
        row = self.database.row("SELECT inode FROM dentries WHERE parent = ? AND name = ?", (parent, name))
        if row is not None:
            return row[0] or None
        return None if self.is_complete(parent) else MISSING

    def names(self, parent: InodeId) -> list[tuple[bytes, InodeId]]:
        """All known names of a directory in byte order, with the inodes that they lead to."""
        found: list[tuple[bytes, InodeId]] = self.database.rows(
            "SELECT name, inode FROM dentries WHERE parent = ? AND inode != 0 ORDER BY name", (parent,)
        )
        return found

    def entries(self, parent: InodeId, limit: int) -> list[tuple[bytes, InodeId, bytes | None]]:
        """The first `limit` known names of a directory in byte order, with what they lead to and its encoded state."""
        found: list[tuple[bytes, InodeId, bytes | None]] = self.database.rows(
            "SELECT d.name, d.inode, i.state FROM dentries d LEFT JOIN inodes i USING (inode)"
            " WHERE d.parent = ? AND d.inode != 0 ORDER BY d.name LIMIT ?",
            (parent, limit),
        )
        return found

    def names_after(self, parent: InodeId, after: bytes, limit: int) -> list[tuple[bytes, InodeId]]:
        """The first `limit` known names of a directory that come after a name, in byte order."""
        found: list[tuple[bytes, InodeId]] = self.database.rows(
            "SELECT name, inode FROM dentries WHERE parent = ? AND name > ? AND inode != 0 ORDER BY name LIMIT ?",
            (parent, after, limit),
        )
        return found

    def inodes(self, wanted: Sequence[InodeId]) -> list[InodeState]:
        """The states of those of many inodes that are known here, in no order."""
        rows = self.database.rows(
            "SELECT state FROM inodes WHERE inode IN (SELECT value FROM json_each(?))", (json_list(wanted),)
        )
        return [_decoded(state, InodeState) for (state,) in rows]

    def inodes_after(self, after: InodeId, limit: int) -> list[InodeState]:
        """The first `limit` states that are known here of inodes with higher numbers, by number."""
        rows = self.database.rows("SELECT state FROM inodes WHERE inode > ? ORDER BY inode LIMIT ?", (after, limit))
        return [_decoded(state, InodeState) for (state,) in rows]

    def names_of(self, inode: InodeId) -> list[tuple[InodeId, bytes]]:
        """The known names that lead to an inode."""
        rows = self.database.rows(
            "SELECT parent, name FROM dentries WHERE inode = ? AND inode != 0 ORDER BY parent, name", (inode,)
        )
        return [(parent, name) for parent, name in rows]

    def is_complete(self, directory: InodeId) -> bool:
        """Whether all names of a directory are here."""
        return self.database.row("SELECT 1 FROM complete WHERE directory = ?", (directory,)) is not None

    def mark_complete(self, directory: InodeId) -> None:
        """A directory that this device has just made: nobody else can have put anything into it."""
        with self.database.transaction():
            self._mark_complete(directory)

    def _mark_complete(self, directory: InodeId) -> None:
        """From now on a name that is not here is absent: no row has to say so."""
        self.database.write("DELETE FROM dentries WHERE parent = ? AND inode = 0", (directory,))
        self.database.write("INSERT OR IGNORE INTO complete VALUES (?)", (directory,))
        self.database.write("DELETE FROM incomplete WHERE directory = ?", (directory,))

    def incomplete(self, limit: int) -> list[InodeId]:
        """The directories that have to be listed next, in the order in which they became known."""
        rows = self.database.rows("SELECT directory FROM incomplete ORDER BY place LIMIT ?", (limit,))
        return [InodeId(directory) for (directory,) in rows]

    def incomplete_count(self) -> int:
        """How many directories that are known here have to be listed; the cost grows with their number."""
        row = self.database.row("SELECT count(*) FROM incomplete")
        return row[0] if row else 0

    def leave_incomplete(self, directories: Iterable[InodeId]) -> None:
        """These cannot be listed: nobody needs to try again until someone asks for them."""
        with self.database.transaction():
            rows = [(directory,) for directory in directories]
            self.database.write_many("DELETE FROM incomplete WHERE directory = ?", rows)

    def forget_tree(self, root: InodeId, home: InodeId) -> tuple[list[InodeId], list[tuple[InodeId, bytes]]]:
        """Nothing is known any more of what is below a directory, and of itself: others could change it unheard.

        Nor of what no name leads to from `home`: it was below that directory when it was known last. A name that leads
        there is known still, and is listed anew with what it leads to. Gives the inodes that are forgotten, and the
        names in them.
        """
        self.forgotten_count += 1
        was_known = self.is_complete(root) or self.inode(root) is not None
        with self.database.transaction():
            inodes, names = self._forget(f"{BELOW} SELECT inode FROM tree", root)
            for parent, _ in self.names_of(root):
                self._mark_incomplete(parent)
            if was_known:
                more_inodes, more_names = self._forget(f"{BELOW} {ELSEWHERE}", home)
                return inodes + more_inodes, names + more_names
        return inodes, names

    def _forget(self, which: str, top: InodeId) -> tuple[list[InodeId], list[tuple[InodeId, bytes]]]:
        inodes = [InodeId(inode) for (inode,) in self.database.rows(which, (top,))]
        names = self.database.rows(
            "SELECT parent, name FROM dentries WHERE inode != 0 AND parent IN (SELECT value FROM json_each(?))",
            (json_list(inodes),),
        )
        for table, column in FORGOTTEN:
            self.database.write_many(f"DELETE FROM {table} WHERE {column} = ?", [(inode,) for inode in inodes])
        return inodes, names

    def marked(self) -> list[InodeId]:
        """The inodes known here that carry the mark of a conflict copy, perhaps with some others."""
        return [InodeId(inode) for (inode,) in self.database.rows(f"SELECT inode FROM inodes WHERE {IS_MARKED}")]

    # -- from the server ---------------------------------------------------------------------------------------------

    def apply_listing(self, directory: InodeState, entries: Sequence[Entry], seq: Seq, complete: bool) -> bool:
        """Take over a part of a directory's listing as of `seq`; `complete` with the last part.

        The parts may be of different seqs, and the feed may have gone on since the oldest of them: what it brought is
        newer and stays, and what it took away is noted as long as the directory is not complete. False if it took the
        directory away: nothing is taken over then.
        """
        parent = directory.inode
        with self.database.transaction():
            if self._is_gone_since(parent, seq):
                return False
            if self.is_complete(parent):
                self._put_inodes([directory], seq)
                return True
            newer = self._newer_names(parent, entries, seq)
            current = [each for each in entries if newer.get(each.name, each.inode.inode) == each.inode.inode]
            self._put_inodes([directory, *(entry.inode for entry in current)], seq)
            rows = [(parent, entry.name, entry.inode.inode, seq) for entry in current]
            self.database.write_many(PUT_DENTRY, rows)
            if complete:
                self._mark_complete(parent)
            return True

    def _newer_names(self, parent: InodeId, entries: Sequence[Entry], seq: Seq) -> dict[bytes, InodeId]:
        """What the feed has said of names between the first and the last of a listing since it was made."""
        if not entries:
            return {}
        return dict(
            self.database.rows(
                "SELECT name, inode FROM dentries WHERE parent = ? AND name BETWEEN ? AND ? AND seq > ?",
                (parent, entries[0].name, entries[-1].name, seq),
            )
        )

    def apply_page(self, page: FeedPage) -> None:
        """Take over a page of the feed, with its cursor, in one transaction; twice does no harm."""
        seq, brought = page.cursor.seq, {state.inode for state in page.inodes}
        with self.database.transaction():
            self._put_inodes(page.inodes, seq)
            for directory in page.made:
                if directory in brought:
                    self._mark_complete(directory)
            complete = {parent for parent in {each.parent for each in page.dentries} if self.is_complete(parent)}
            kept: list[Bindings] = []
            gone: list[Bindings] = []
            for dentry in page.dentries:
                if dentry.inode or dentry.parent not in complete:
                    kept.append((dentry.parent, dentry.name, dentry.inode, seq))
                else:
                    gone.append((dentry.parent, dentry.name, seq))
            self.database.write_many(PUT_DENTRY, kept)
            self.database.write_many("DELETE FROM dentries WHERE parent = ? AND name = ? AND seq <= ?", gone)
            named = (each for each in page.dentries if each.inode and each.inode not in brought)
            for parent in {each.parent for each in named if not self._has_inode(each.inode)}:
                self._mark_incomplete(parent)
            self.set_cursor(page.workspace, page.cursor)

    def _mark_incomplete(self, directory: InodeId) -> None:
        self.database.write("DELETE FROM complete WHERE directory = ?", (directory,))
        self.database.write(PUT_INCOMPLETE, (directory, directory))

    def _has_inode(self, inode: InodeId) -> bool:
        return self.database.row("SELECT 1 FROM inodes WHERE inode = ?", (inode,)) is not None

    # -- long block lists --------------------------------------------------------------------------------------------

    def content(self, inode: InodeId, revision: RevisionNumber) -> bytes | None:
        """The packed block list of a revision, if it was kept."""
        row = self.database.row("SELECT blocks FROM contents WHERE inode = ? AND revision = ?", (inode, revision))
        return row[0] if row else None

    def put_content(self, inode: InodeId, revision: RevisionNumber, blocks: bytes) -> None:
        """Keep a packed block list; the oldest ones make room for it."""
        with self.database.transaction():
            self.database.write(
                "INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?)", (inode, revision, blocks, len(blocks))
            )
            row = self.database.row("SELECT sum(size) FROM contents")
            excess = (row[0] if row else 0) - CONTENTS_BYTES
            while excess > 0:
                oldest = self.database.row("SELECT rowid, size FROM contents ORDER BY rowid LIMIT 1")
                if oldest is None:
                    return
                self.database.write("DELETE FROM contents WHERE rowid = ?", (oldest[0],))
                excess -= oldest[1]

    # -- cursors -----------------------------------------------------------------------------------------------------

    def cursor(self, workspace: WorkspaceId) -> Cursor | None:
        """Where the replica stands, or None before the first session."""
        row = self.database.row("SELECT cursor FROM cursors WHERE workspace = ?", (workspace,))
        return _decoded(row[0], Cursor) if row else None

    def has_passed(self, seq: Seq) -> bool:
        """Whether a commit is part of what is known here: its names came with the feed, or have to be listed."""
        cursors = self.database.rows("SELECT cursor FROM cursors")
        return any(_decoded(cursor, Cursor).seq >= seq for (cursor,) in cursors)

    def set_cursor(self, workspace: WorkspaceId, cursor: Cursor) -> None:
        """Set where the replica stands."""
        self.database.write("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (workspace, wire.encode(cursor)))

    def synced_seq(self, workspace: WorkspaceId) -> Seq:
        """The seq that the replica surely has after a power cut: what `Journal.forget` may go up to."""
        return self._synced.get(workspace, Seq(0))

    async def sync(self) -> None:
        """Make the replica durable as it is now, and move `synced_seq` up.

        Raises:
            ReplicaCorrupt: the disk failed; the replica has to be reset.
        """
        database, commit_count = self.database, self.database.commit_count
        if commit_count == self._synced_commits:
            return
        rows = database.rows("SELECT workspace, cursor FROM cursors")
        found = {WorkspaceId(workspace): _decoded(cursor, Cursor).seq for workspace, cursor in rows}
        try:
            await self._offload(sync_path, database.wal_path)
        except OSError as error:
            raise ReplicaCorrupt(f"the replica could not be synced: {error}") from error
        if database is self.database:
            self._synced.update(found)
            self._synced_commits = commit_count

    def close(self) -> None:
        """Close the database."""
        self.drop_earlier()
        self.database.close()


def _decoded(value: bytes, kind: type[T]) -> T:
    """A value as it was put there; a damaged row may even have one of another type."""
    try:
        return wire.decode(value, kind)
    except (ProtocolError, TypeError) as error:
        raise ReplicaCorrupt(f"what was known of the server is damaged: {error}") from error
