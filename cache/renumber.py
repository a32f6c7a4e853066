"""Gives inodes that the server does not know yet fresh ids: those they have belong to an epoch that is over.

Owns the list of all places in the journal's database that name an inode. Invariants: everything is one transaction, so
a crash leaves the old ids everywhere or nowhere; what a server knows keeps its id; op numbers, names, contents and the
order of the journal stay. What was sent under the old epoch counts as never sent: the new one has not heard of it.
"""

from collections.abc import Callable, Iterator, Mapping

import msgspec

from cache.database import Database
from cache.effects import renamed, subjects
from cache.journal import Journal, JournalRow, RowState, mark_of
from cache.sealing import row_digest
from cache.verification import pages
from drivefs.protocol import wire
from drivefs.protocol.changes import Base, Create, Mutation, Rename, Store, Unlink
from drivefs.protocol.ids import NO_OP, InodeId, OpNumber
from drivefs.protocol.model import InodeState

UNSETTLED = (RowState.PENDING, RowState.SENT, RowState.IGNORED)

Fresh = Mapping[InodeId, InodeId]
"""The new ids by the old ones; no id is both."""


def renumber_creations(
    database: Database, journal: Journal, known: Callable[[InodeId], InodeState | None]
) -> dict[InodeId, InodeId]:
    """Give each inode whose creation has no final answer an id of this epoch; gives the new ids by the old ones.

    `known` is what the replica has of an inode: a creation that was sent and that the feed has brought is committed,
    whatever became of the answer, and is settled. Durable with the next barrier.

    Raises:
        OutOfIds, DiskFull, Corrupt: nothing was changed.
    """
    with journal.transaction():
        fresh = _fresh_ids(database, journal, known)
        for row in _rows(database, journal):
            _rewrite(database, row, _rebased(renamed(row.mutation, fresh), journal))
        _move_inodes(database, journal, fresh)
        _move_entries(database, journal, fresh)
        for old, new in fresh.items():
            if journal.drafts.draft(old) is not None:
                journal.drafts.move_draft(old, new)
    return fresh


def _rows(database: Database, journal: Journal) -> Iterator[JournalRow]:
    """All mutations, verified, in order; those that were read already may change meanwhile."""
    for (n,) in pages(database, "mutations", "n", (0,)):
        row = journal.get(OpNumber(n))
        assert row is not None, "nothing removes a mutation meanwhile"
        yield row


def _fresh_ids(
    database: Database, journal: Journal, known: Callable[[InodeId], InodeState | None]
) -> dict[InodeId, InodeId]:
    fresh: dict[InodeId, InodeId] = {}
    for row in _rows(database, journal):
        if row.state not in UNSETTLED or not isinstance(row.mutation, Create):
            continue
        inode = row.mutation.inode
        state = known(inode) if row.state is RowState.SENT else None
        if state is not None:
            journal.settle(row.n, state.seq)
        else:
            fresh[inode] = inode
    for inode in fresh:
        # A server that was put back to an older state hands out ranges twice.
        while (new := journal.allocate_inode()) in fresh:
            pass
        fresh[inode] = new
    return fresh


def _rebased(mutation: Mutation, journal: Journal) -> Mutation:
    """Name the base by its number if it is the outcome of an op that only the old epoch knows."""
    if not isinstance(mutation, Store | Unlink | Rename) or mutation.base.revision_op == NO_OP:
        return mutation
    made = journal.get(mutation.base.revision_op)
    if made is None or made.state is not RowState.ACKED:
        return mutation
    return msgspec.structs.replace(mutation, base=Base(revision=made.revision))


def _rewrite(database: Database, row: JournalRow, mutation: Mutation) -> None:
    """Put a changed body into its row, and take back that it was sent."""
    state = RowState.PENDING if row.state is RowState.SENT else row.state
    if mutation == row.mutation and state is row.state:
        return
    first, second = subjects(mutation)
    body = wire.encode(mutation)
    answer = (row.status.value if row.status else "") + row.reason
    database.write(
        "UPDATE mutations SET state = ?, inode = ?, other = ?, body = ?, digest = ?, mark = ? WHERE n = ?",
        (
            state, first, second, body, row_digest(body, row.n),
            mark_of(row.n, state, row.seq, row.revision, answer), row.n,
        ),
    )  # fmt: skip


def _move_inodes(database: Database, journal: Journal, fresh: Fresh) -> None:
    for old, new in fresh.items():
        state = journal.overlay.inode(old)
        row = database.row("SELECT op FROM inodes WHERE inode = ?", (old,))
        if state is None or row is None:
            continue
        journal.overlay.drop_inode(old)
        journal.overlay.put_inode(msgspec.structs.replace(state, inode=new), OpNumber(row[0]))


def _move_entries(database: Database, journal: Journal, fresh: Fresh) -> None:
    """An entry that moved to a directory of a higher id is met again, and then names no old id."""
    for parent, name, inode, op in pages(database, "dentries", "parent, name, inode, op", (0, b"")):
        if parent not in fresh and inode not in fresh:
            continue
        journal.overlay.dentry(parent, name)  # verifies the row
        journal.overlay.drop_dentry(parent, name)
        journal.overlay.put_dentry(fresh.get(parent, parent), name, fresh.get(inode, inode), op)
