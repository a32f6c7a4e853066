"""What people want to have on this device at all times: pinned inodes, in the journal's database.

Owns the table `pins`. What a pin covers (the inode and all below it) and what is done for it is not decided here. Pins
are about inodes, so a rename changes none. They are written nowhere else, which is why they lie beside the journal; a
version of drivefs that does not know the table leaves it alone. Invariant: `roots` is what the table says, but for rows
that do not verify: those are dropped, and `damaged_count` counts them.
"""

from cache.database import Database
from cache.sealing import is_sealed, row_digest
from cache.verification import PLAIN
from drivefs.protocol.ids import InodeId

TABLE = """
CREATE TABLE IF NOT EXISTS pins (  -- what is to be kept on this device, with all below it
    inode INTEGER PRIMARY KEY,
    path BLOB NOT NULL,            -- where it was last seen, from the root of the drive, without a leading slash
    digest INTEGER NOT NULL        -- of inode and path
)
"""


class Pins:
    """The pins of one device; used on the event loop. Each change is durable with the next barrier."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.write(TABLE)
        self.roots: dict[InodeId, bytes] = {}
        """Each pinned inode with the path at which it was last seen."""
        self.damaged_count = 0
        columns = ", ".join(PLAIN.format(each) for each in ("inode", "path", "digest"))
        for inode, path, digest in database.rows(f"SELECT {columns} FROM pins ORDER BY path, inode"):
            if is_sealed(digest, path, inode):
                self.roots[inode] = path
            else:
                self.damaged_count += 1
                database.write("DELETE FROM pins WHERE inode = ?", (inode,))

    def put(self, inode: InodeId, path: bytes) -> None:
        """Pin an inode, or note where it is seen now."""
        if self.roots.get(inode) != path:
            self._database.write("INSERT OR REPLACE INTO pins VALUES (?, ?, ?)", (inode, path, row_digest(path, inode)))
            self.roots[inode] = path

    def remove(self, inode: InodeId) -> bool:
        """Pin an inode no longer; False if it was not pinned."""
        if inode not in self.roots:
            return False
        self._database.write("DELETE FROM pins WHERE inode = ?", (inode,))
        del self.roots[inode]
        return True

    def renumber(self, old: InodeId, new: InodeId) -> None:
        """In the caller's transaction: an inode has another id now."""
        path = self.roots.get(old)
        if path is not None:
            self.remove(old)
            self.put(new, path)
