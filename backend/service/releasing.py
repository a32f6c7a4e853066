"""Letting go of the histories of files that are gone for good: their revisions, and what only those refer to.

Owns which revisions nobody can come back to, and the reference counts on the way down to blocks; blocks without
references are the collector's (`garbage`). All functions run inside a transaction of the caller's, who holds the locks
of workspace and account. Invariants: a history that a file with a name, or one in the trash, goes on with stays whole,
one that it has forked from stays up to there, and so does what is marked to be kept or shown by a snapshot; counts and
the account's figures are exact afterwards.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, select, update

from backend.metadata.queries import is_asked, select_in
from backend.metadata.schema import (
    Trash,
    accounts,
    blocks,
    dentry_versions,
    inodes,
    kept,
    lineages,
    pins,
    revisions,
    runs,
)
from backend.service import snapshots
from backend.service.commit.contents import split_runs
from drivefs.protocol.ids import MAX_ID, AccountId, BlockId, InodeId, LineageId, RunId
from drivefs.protocol.model import BlockRef, unpack_blocks


class OldRevision(NamedTuple):
    """A revision, and what it refers to."""

    lineage: LineageId
    number: int
    inode: InodeId
    runs: bytes


class Freed(NamedTuple):
    """What was let go, and what nothing refers to any more by it: bytes of content, and as they are stored."""

    revision_count: int = 0
    size_bytes: int = 0
    payload_bytes: int = 0

    def plus(self, other: "Freed") -> "Freed":
        """Both together."""
        return Freed(*map(sum, zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True)
class Releasing:
    """Lets go for one account; `now_ns` is when.

    With `gives_up_pins`, the blocks that nothing refers to any more give their room back at once, though devices pin
    them that had uploaded them: one that still needs a block for what it has not committed asks for it again.
    """

    connection: Connection
    account: AccountId
    now_ns: int
    gives_up_pins: bool = False

    def release(self, gone: Collection[InodeId]) -> Freed:
        """Let go of the histories of these files, which have no name and are not in the trash any more."""
        found = self._revisions_of(gone)
        # Files that were replaced by renaming have revisions of their own beside those in the history of the name.
        earlier = {each.inode for each in found} - set(gone)
        found |= self._revisions_of(self._nameless(earlier))
        needed = self._needed(found)
        going = [each for each in found if each.number > needed[each.lineage]]
        return self.drop(self.without_kept(going))

    def drop(self, going: Collection[OldRevision]) -> Freed:
        """Let go of these revisions, which nothing needs."""
        self._drop_revisions(going)
        self._empty(going)
        size_bytes, payload_bytes = self._drop_runs(Counter(run for each in going for run in split_runs(each.runs)))
        return Freed(len(going), size_bytes, payload_bytes)

    def _revisions_of(self, files: Collection[InodeId]) -> set[OldRevision]:
        """All revisions of the histories that these go on with, and those that they made elsewhere."""
        bound = {"account": self.account}
        lines = {lineage for (lineage,) in select_in(self.connection, _LINEAGES_OF, files, **bound) if lineage}
        by_inode = {OldRevision(*row) for row in select_in(self.connection, _BY_INODE, files, **bound)}
        return by_inode | {OldRevision(*row) for row in select_in(self.connection, _BY_LINEAGE, lines, **bound)}

    def _nameless(self, files: Collection[InodeId]) -> set[InodeId]:
        """Those that have no name and are not in the trash."""
        bound = {"account": self.account}
        named = {inode for (inode,) in select_in(self.connection, _NAMED, files, **bound)}
        held = {inode for (inode,) in select_in(self.connection, _IN_TRASH, files, **bound)}
        return set(files) - named - held

    def _needed(self, found: Collection[OldRevision]) -> dict[LineageId, int]:
        """Up to which number each of these histories is one that a file goes on with, or went on from; 0: not at all.

        What forked from one is followed to its own forks: a file that keeps backups forks once, and then is gone too.
        A file in the trash has its history up to where another one took it over, which may be gone before it.
        """
        bound = {"account": self.account}
        lines = {each.lineage for each in found}
        holders = {line: InodeId(line) for line in lines}
        holders.update((line, inode) for line, inode in select_in(self.connection, _HOLDERS, lines, **bound))
        origins: dict[LineageId, tuple[LineageId, int]] = {}
        frontier = set(lines)
        while frontier:
            forks = [tuple(row) for row in select_in(self.connection, _FORKS, frontier, **bound)]
            frontier = {fork for fork, *_ in forks} - holders.keys()
            holders.update((fork, inode) for fork, inode, *_ in forks)
            origins.update((fork, (origin, number)) for fork, _, origin, number in forks)
        gone = self._nameless({*holders.values(), *(each.inode for each in found)})
        living = [(line, int(MAX_ID)) for line, holder in holders.items() if holder not in gone]
        others = {each.inode for each in found} - gone
        living += [(line, last) for line, last in select_in(self.connection, _LAST_OF, others, **bound)]
        needed = dict.fromkeys(holders, 0)
        for start in living:
            line, number = start
            while number > needed.get(line, MAX_ID):
                needed[line] = number
                line, number = origins.get(line, (line, 0))
        return needed

    def without_kept(self, found: Iterable[OldRevision]) -> list[OldRevision]:
        """Those of some revisions that nobody has marked to be kept, and no snapshot shows."""
        if not (found := list(found)):
            return found
        bound = {"account": self.account}
        marked = {tuple(row) for row in select_in(self.connection, _KEPT, {each.lineage for each in found}, **bound)}
        shown = snapshots.needed(self.connection, self.account, {each.inode for each in found})
        return [
            each
            for each in found
            if (each.lineage, each.number) not in marked and (each.inode, each.number) not in shown
        ]

    def _drop_revisions(self, going: Iterable[OldRevision]) -> None:
        rows = [{"key": self.account, "of": each.lineage, "which": each.number} for each in going]
        if rows:
            self.connection.execute(_DROP_REVISION, rows)

    def _empty(self, going: Iterable[OldRevision]) -> None:
        """Files whose content is gone say so (`InodeRow.is_emptied`)."""
        rows = [{"key": self.account, "of": each.inode, "line": each.lineage, "which": each.number} for each in going]
        if rows:
            self.connection.execute(_EMPTY, rows)

    def _drop_runs(self, less: Counter[RunId]) -> tuple[int, int]:
        less_blocks: Counter[BlockRef] = Counter()
        rows, dropped = [], []
        for run, packed, refs in select_in(self.connection, _RUNS, less, account=self.account):
            left = refs - less[run]
            rows.append({"key": self.account, "of": run, "left": left})
            if not left:
                dropped.append({"key": self.account, "of": run})
                less_blocks.update(unpack_blocks(packed))
        if rows:
            self.connection.execute(_COUNT_RUN, rows)
        if dropped:
            self.connection.execute(_DROP_RUN, dropped)
        return self._count_blocks(less_blocks)

    def _count_blocks(self, less: Counter[BlockRef]) -> tuple[int, int]:
        sizes = {ref.block: ref.size_bytes for ref in less}
        counts: Counter[BlockId] = Counter()
        for ref, count in less.items():
            counts[ref.block] += count
        bound = {"account": self.account}
        rows: list[dict[str, Any]] = []
        freed: set[BlockId] = set()
        payload_bytes = 0
        for block, refs, payload in select_in(self.connection, _BLOCKS, counts, **bound):
            left = refs - counts[block]
            if not left:
                freed.add(block)
                payload_bytes += payload
            rows.append({"key": self.account, "of": block, "left": left, "since": None if left else self.now_ns})
        if rows:
            self.connection.execute(_COUNT_BLOCK, rows)
        pinned = {block for (block,) in select_in(self.connection, _PINNED, freed, **bound)}
        if self.gives_up_pins and pinned:
            self.connection.execute(_UNPIN, [{"key": self.account, "of": block} for block in pinned])
            pinned.clear()
        size_bytes = sum(sizes[block] for block in freed)
        figures = {
            "key": self.account,
            "less": size_bytes,
            "more": sum(sizes[block] for block in pinned),
        }
        self.connection.execute(_FIGURES, figures)
        return size_bytes, payload_bytes


def _own(table: Any) -> Any:
    return table.c.account == bindparam("account")


_COLUMNS = (revisions.c.lineage, revisions.c.number, revisions.c.inode, revisions.c.runs)
_BY_INODE = select(*_COLUMNS).where(_own(revisions), is_asked(revisions.c.inode))
_BY_LINEAGE = select(*_COLUMNS).where(_own(revisions), is_asked(revisions.c.lineage))
_LINEAGES_OF = select(inodes.c.lineage).where(_own(inodes), is_asked(inodes.c.inode))
_NAMED = select(inodes.c.inode).where(_own(inodes), is_asked(inodes.c.inode), inodes.c.nlink > 0)
_IN_TRASH = select(dentry_versions.c.inode).where(
    _own(dentry_versions), is_asked(dentry_versions.c.inode), dentry_versions.c.trash == Trash.HELD
)
_HOLDERS = select(lineages.c.lineage, lineages.c.inode).where(_own(lineages), is_asked(lineages.c.lineage))
_LAST_OF = select(inodes.c.lineage, inodes.c.last_number).where(_own(inodes), is_asked(inodes.c.inode))
_l = lineages.c
_FORKS = select(_l.lineage, _l.inode, _l.parent_lineage, _l.parent_number).where(
    _own(lineages), is_asked(_l.parent_lineage), _l.parent_lineage.is_not(None)
)
_KEPT = select(kept.c.lineage, kept.c.number).where(_own(kept), is_asked(kept.c.lineage))
_RUNS = select(runs.c.run, runs.c.packed, runs.c.refs).where(_own(runs), is_asked(runs.c.run))
_BLOCKS = select(blocks.c.block, blocks.c.refs, blocks.c.payload_bytes).where(_own(blocks), is_asked(blocks.c.block))
_PINNED = select(pins.c.block).where(_own(pins), is_asked(pins.c.block))
_UNPIN = delete(pins).where(pins.c.account == bindparam("key"), pins.c.block == bindparam("of"))
_DROP_REVISION = delete(revisions).where(
    revisions.c.account == bindparam("key"),
    revisions.c.lineage == bindparam("of"),
    revisions.c.number == bindparam("which"),
)
_EMPTY = (
    update(inodes)
    .where(
        inodes.c.account == bindparam("key"),
        inodes.c.inode == bindparam("of"),
        inodes.c.lineage == bindparam("line"),
        inodes.c.revision == bindparam("which"),
    )
    .values(revision=0, content_since=inodes.c.last_number, size=0, blocks=b"")
)
_COUNT_RUN = (
    update(runs).where(runs.c.account == bindparam("key"), runs.c.run == bindparam("of")).values(refs=bindparam("left"))
)
_DROP_RUN = delete(runs).where(runs.c.account == bindparam("key"), runs.c.run == bindparam("of"))
_COUNT_BLOCK = (
    update(blocks)
    .where(blocks.c.account == bindparam("key"), blocks.c.block == bindparam("of"))
    .values(refs=bindparam("left"), unreferenced_ns=bindparam("since"))
)
_FIGURES = (
    update(accounts)
    .where(accounts.c.account == bindparam("key"))
    .values(
        stored_bytes=accounts.c.stored_bytes - bindparam("less"),
        pinned_bytes=accounts.c.pinned_bytes + bindparam("more"),
    )
)
