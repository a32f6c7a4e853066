"""Which files a damaged block belongs to: for the administrator who has to tell people.

Owns a search through runs, revisions and names that is as long as the account is large; it is made only when something
is wrong. Changes nothing.
"""

from collections.abc import Collection, Iterator

from sqlalchemy import Connection, select

from backend.metadata.schema import dentries, inodes, revisions, runs
from drivefs.protocol import model
from drivefs.protocol.ids import BLOCK_ID_BYTES, AccountId, BlockId, InodeId
from drivefs.protocol.names import printable

MAX_FILES = 20
"""So many files are named for one block; more tell nothing new."""
PAGE_ROWS = 500


def files_with(connection: Connection, account: AccountId, damaged: Collection[BlockId]) -> dict[BlockId, list[str]]:
    """The paths of files that have one of these blocks, now or in a revision that is kept."""
    blocks_of_run = _runs_with(connection, account, set(damaged))
    found: dict[BlockId, dict[str, None]] = {block: {} for block in damaged}
    for inode, number, is_current, packed in _revisions(connection, account):
        named = {packed[at : at + BLOCK_ID_BYTES] for at in range(0, len(packed), BLOCK_ID_BYTES)}
        blocks = set().union(*(blocks_of_run[run] for run in named & blocks_of_run.keys()))
        wanting = [block for block in blocks if len(found[block]) < MAX_FILES]
        if wanting:
            path = path_of(connection, account, inode)
            for block in wanting:
                found[block][path if is_current else f"{path} (revision {number})"] = None
    return {block: list(paths) for block, paths in found.items()}


def _runs_with(connection: Connection, account: AccountId, damaged: set[BlockId]) -> dict[bytes, set[BlockId]]:
    statement = select(runs.c.run, runs.c.packed).where(runs.c.account == account, runs.c.refs > 0)
    found = {}
    for run, packed in connection.execution_options(yield_per=PAGE_ROWS).execute(statement):
        if has := damaged & {ref.block for ref in model.unpack_blocks(packed)}:
            found[run] = has
    return found


def _revisions(connection: Connection, account: AccountId) -> Iterator[tuple[InodeId, int, bool, bytes]]:
    same = (inodes.c.account == revisions.c.account) & (inodes.c.inode == revisions.c.inode)
    is_current = (inodes.c.lineage == revisions.c.lineage) & (inodes.c.content_since <= revisions.c.number)
    statement = (
        select(revisions.c.inode, revisions.c.number, is_current, revisions.c.runs)
        .outerjoin(inodes, same)
        .where(revisions.c.account == account)
    )
    for inode, number, current, packed in connection.execution_options(yield_per=PAGE_ROWS).execute(statement):
        yield inode, number, bool(current), packed


def path_of(connection: Connection, account: AccountId, inode: InodeId) -> str:
    """One path of an inode from the root of its drive, fit for a terminal."""
    names: list[bytes] = []
    seen: set[int] = set()
    place: int = inode
    while place not in seen:
        seen.add(place)
        same = (dentries.c.account == account) & (dentries.c.inode == place)
        row = connection.execute(select(dentries.c.parent, dentries.c.name).where(same).limit(1)).one_or_none()
        if row is None:
            break
        names.append(row.name)
        place = row.parent
    if not names:
        return f"inode {inode}, which was deleted"
    text = b"/".join(reversed(names)).decode(errors="backslashreplace")
    return "/" + printable(text)
