"""The replica: what the server has acknowledged of the tree, as of the cursor; it can be fetched again at any time.

Owns `replica.db`. Invariants: a row says as of which seq it is right, and an older one never overwrites a newer one; a
page of the feed and its cursor are one transaction; every entry's inode is here too, else the directory does not count
as complete; a name that is not here is absent only in a complete directory.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from cache.database import Database, Transaction, create_tables, json_list, remove_database
from cache.errors import NewerState, ReplicaCorrupt
from cache.overlay import MISSING, Missing
from cache.schema import REPLICA, REPLICA_VERSION
from cache.staging import sync_path
from drivefs.protocol import wire
from drivefs.protocol.ground import Offload
from drivefs.protocol.ids import InodeId, RevisionNumber, Seq, WorkspaceId
from drivefs.protocol.messages import Cursor, Entry, FeedPage
from drivefs.protocol.model import InodeKind, InodeState

CACHE_KIBIBYTES = 8192
CONTENTS_BYTES = 64 * 2**20
"""How much of long block lists is kept."""

PUT_INODE = (
    "INSERT INTO inodes VALUES (?, ?, ?) ON CONFLICT (inode) DO UPDATE SET seq = excluded.seq, state = excluded.state"
    " WHERE excluded.seq >= seq"
)
PUT_DENTRY = (
    "INSERT INTO dentries VALUES (?, ?, ?, ?) ON CONFLICT (parent, name) DO UPDATE"
    " SET inode = excluded.inode, seq = excluded.seq WHERE excluded.seq >= seq"
)


class Replica:
    """The metadata that is known here; used on the event loop, statements are short."""

    def __init__(self, path: Path, offload: Offload) -> None:
        self._path = path
        self._offload = offload
        self._synced: dict[WorkspaceId, Seq] = {}
        self._synced_commits = -1
        try:
            self.database = self._open()
        except (ReplicaCorrupt, NewerState):
            remove_database(path)
            self.database = self._open()

    def _open(self) -> Database:
        database = Database(self._path, cache_kibibytes=CACHE_KIBIBYTES, corrupt=ReplicaCorrupt)
        create_tables(database, REPLICA, REPLICA_VERSION)
        return database

    def reset(self) -> None:
        """Throw all of it away; the next session begins with an empty replica."""
        self.database.close()
        remove_database(self._path)
        self._synced.clear()
        self.database = self._open()

    def transaction(self) -> Transaction:
        """A context manager, for several changes at once."""
        return self.database.transaction()

    # -- inodes and names --------------------------------------------------------------------------------------------

    def inode(self, inode: InodeId) -> InodeState | None:
        """The state of an inode, or None if it is not known here."""
        row = self.database.row("SELECT state FROM inodes WHERE inode = ?", (inode,))
        return wire.decode(row[0], InodeState) if row else None

    def put_inodes(self, states: Iterable[InodeState], seq: Seq) -> None:
        """Take over states that are right as of `seq`; one without a name left is dropped."""
        with self.database.transaction():
            for state in states:
                self._put_inode(state, seq)

    def _put_inode(self, state: InodeState, seq: Seq) -> None:
        if state.nlink:
            self.database.write(PUT_INODE, (state.inode, seq, wire.encode(state)))
            return
        self.database.write("DELETE FROM inodes WHERE inode = ? AND seq <= ?", (state.inode, seq))
        self.database.write("DELETE FROM contents WHERE inode = ?", (state.inode,))
        if state.kind is InodeKind.DIRECTORY:
            self.database.write("DELETE FROM complete WHERE directory = ?", (state.inode,))

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

    def inodes(self, wanted: Sequence[InodeId]) -> list[InodeState]:
        """The states of those of many inodes that are known here, in no order."""
        rows = self.database.rows(
            "SELECT state FROM inodes WHERE inode IN (SELECT value FROM json_each(?))", (json_list(wanted),)
        )
        return [wire.decode(state, InodeState) for (state,) in rows]

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

    # -- from the server ---------------------------------------------------------------------------------------------

    def apply_listing(self, directory: InodeState, entries: Sequence[Entry], seq: Seq, complete: bool) -> None:
        """Take over a page of a directory's listing as of `seq`; `complete` with the last page."""
        parent = directory.inode
        with self.database.transaction():
            self._put_inode(directory, seq)
            if self.is_complete(parent):
                return
            for entry in entries:
                self._put_inode(entry.inode, seq)
                self.database.write(PUT_DENTRY, (parent, entry.name, entry.inode.inode, seq))
            if complete:
                self._mark_complete(parent)

    def apply_page(self, page: FeedPage) -> None:
        """Take over a page of the feed, with its cursor, in one transaction; twice does no harm."""
        seq = page.cursor.seq
        with self.database.transaction():
            for state in page.inodes:
                self._put_inode(state, seq)
            for dentry in page.dentries:
                parent, name, inode = dentry.parent, dentry.name, dentry.inode
                if not inode and self.is_complete(parent):
                    self.database.write(
                        "DELETE FROM dentries WHERE parent = ? AND name = ? AND seq <= ?", (parent, name, seq)
                    )
                    continue
                self.database.write(PUT_DENTRY, (parent, name, inode, seq))
                if inode and not self._has_inode(inode):
                    self.database.write("DELETE FROM complete WHERE directory = ?", (parent,))
            self.set_cursor(page.workspace, page.cursor)

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
        return wire.decode(row[0], Cursor) if row else None

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
        found = {WorkspaceId(workspace): wire.decode(cursor, Cursor).seq for workspace, cursor in rows}
        try:
            await self._offload(sync_path, database.wal_path)
        except OSError as error:
            raise ReplicaCorrupt(f"the replica could not be synced: {error}") from error
        if database is self.database:
            self._synced.update(found)
            self._synced_commits = commit_count

    def close(self) -> None:
        """Close the database."""
        self.database.close()
