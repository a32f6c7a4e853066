"""Which mutations of the journal go ahead of a burst: what is urgent, and all that has to go before that.

Owns the search. Ten thousand others may wait, so it reads only what it needs: numbers of all, and the rows that touch
the same inodes and names. It orders nothing: `planner` does. Invariant: with each mutation that it gives, it gives all
earlier unsettled ones that `planner` would let go before it; where that cannot be said for certain, it gives nothing.
"""

from collections.abc import Iterable, Iterator, Set

from cache.effects import entries, parents, subjects
from cache.journal import Journal, JournalRow, RowState
from cache.workspace import LocalState
from drivefs.protocol.changes import Create, Link, Mutation, Rename, Restore, SetAttributes, Unlink
from drivefs.protocol.ids import NO_INODE, NO_OP, InodeId, OpNumber
from drivefs.protocol.model import InodeKind
from drivefs.sync import planner, renaming
from drivefs.sync.guard import Guard
from drivefs.sync.lanes import Chain
from drivefs.sync.publications import Publications

MOST_WAITING = 50_000
"""While more than this waits, all goes in its turn: to look over more would disturb programs."""
MOST_TOGETHER = 300
"""So much goes ahead at once."""

UNSETTLED = (RowState.PENDING, RowState.SENT)


class Unclear(Exception):
    """What has to go first is not found by inodes and names."""


class Ahead:
    """What of one journal goes ahead of a burst."""

    def __init__(self, local: LocalState, publications: Publications, guard: Guard) -> None:
        self._journal = local.journal
        self._replica = local.replica
        self._publications = publications
        self._guard = guard

    def chains(self) -> list[list[JournalRow]]:
        """All that goes ahead now, in order, each with what has to go before it: one waits for no other.

        No removal goes ahead for its own sake: it may be the first of many.
        """
        publications = self._publications
        publications.go_in_turn([op for op in publications.urgent_ops if self._is_removal(op)])
        if not publications.urgent_ops:
            return []
        unsettled = self._journal.outline.unsettled(MOST_WAITING)
        if len(unsettled) == MOST_WAITING:
            return []
        kept, found = self._guard.kept(unsettled), list[list[JournalRow]]()
        for chain in publications.ahead(unsettled, kept=kept):
            try:
                rows = self._with_predecessors(chain, kept)
            except Unclear:
                publications.go_in_turn(chain.own)
            else:
                found.append([rows[n] for n in sorted(rows)])
        return found

    def _is_removal(self, op: OpNumber) -> bool:
        row = self._journal.get(op)
        return row is not None and isinstance(row.mutation, Unlink)

    def _with_predecessors(self, chain: Chain, kept: Set[OpNumber]) -> dict[OpNumber, JournalRow]:
        """The rows of a chain, and all that have to go before one of them.

        Raises:
            Unclear: it is not certain that these would be all, or they are many, or one of them is kept back.
        """
        found: dict[OpNumber, JournalRow] = {}
        left = [row for op in chain.ops if (row := self._journal.get(op)) is not None]
        while left:
            fresh = {row.n: row for row in left if row.n not in found}
            found |= fresh
            if len(found) > MOST_TOGETHER or not kept.isdisjoint(fresh):
                raise Unclear
            left = [*self._touching(fresh.values()), *self._taking(fresh.values())]
        return found

    def _touching(self, rows: Iterable[JournalRow]) -> Iterator[JournalRow]:
        """What was done before to the inodes that these are about, and to the directories that they name."""
        for row in rows:
            change = row.mutation
            if renaming.moves_nothing(change) or self._is_about_children(change):
                raise Unclear
            for inode in filter(None, subjects(change)):
                yield from self._earlier(inode, row.n)
            for parent in parents(change):
                yield from (each for each in self._earlier(parent, row.n) if parent in planner.moved(each.mutation))
            if (store := first_store(self._journal, change)) is not None:
                yield store

    def _earlier(self, inode: InodeId, n: OpNumber) -> Iterator[JournalRow]:
        return (row for row in self._journal.touching(inode) if row.n < n and row.state in UNSETTLED)

    def _is_about_children(self, change: Mutation) -> bool:
        """Whether a mutation has to follow those that were made in a directory: nothing finds these quickly."""
        if isinstance(change, SetAttributes):
            return change.mtime_ns is not None and self._may_be_directory(change.inode)
        return not isinstance(change, Create) and any(map(self._may_be_directory, planner.moved(change)))

    def _may_be_directory(self, inode: InodeId) -> bool:
        state = self._journal.overlay.inode(inode) or self._replica.inode(inode)
        return state is None or state.kind is InodeKind.DIRECTORY

    def _taking(self, rows: Iterable[JournalRow]) -> Iterator[JournalRow]:
        """What took away the names that these give anew.

        Whatever else was done to their names is about the inodes that these are about.
        """
        wanted: dict[tuple[InodeId, bytes], OpNumber] = {}
        for row in rows:
            if (entry := _given_anew(row.mutation)) is not None:
                wanted[entry] = max(row.n, wanted.get(entry, NO_OP))
        if not wanted:
            return
        numbers = self._journal.outline.taking({name for _, name in wanted}, MOST_TOGETHER)
        if len(numbers) == MOST_TOGETHER:
            raise Unclear
        for found in filter(None, map(self._journal.get, numbers)):
            if any(found.n < wanted.get(entry, NO_OP) for entry in entries(found.mutation)):
                yield found


def first_store(journal: Journal, made: Mutation) -> JournalRow | None:
    """The store that has to be committed together with the creation of a file, if there is one yet."""
    if not isinstance(made, Create) or made.kind is not InodeKind.FILE:
        return None
    draft = journal.drafts.draft(made.inode)
    return journal.get(draft.frozen_op) if draft is not None and draft.frozen_op else None


def _given_anew(change: Mutation) -> tuple[InodeId, bytes] | None:
    """The name that a mutation gives, if it expects it to be free."""
    if isinstance(change, Create | Link | Restore):
        return change.parent, change.name
    if isinstance(change, Rename) and change.replaced == NO_INODE:
        return change.new_parent, change.new_name
    return None
