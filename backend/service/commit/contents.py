"""The content side of a batch: revisions, runs, blocks and the quota, in memory; pure.

Owns what a store must bring, and the reference counts. Invariants: a revision counts each of its runs once per
mention; a run counts its blocks while it is counted itself; the account's stored bytes are the plaintext sizes of all
blocks that are counted, each once, and its pinned bytes those of pinned blocks that are not.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from backend.service.commit import refusals
from backend.service.rows import InodeRow, RevisionRow
from drivefs.protocol.changes import Status, Store
from drivefs.protocol.ids import BLOCK_ID_BYTES, BlockId, InodeId, LineageId, RevisionNumber, RunId, Seq
from drivefs.protocol.model import MAX_INLINE_BLOCKS, PACKED_BLOCK_BYTES, BlockRef, run_id, unpack_blocks

SPARE_BLOCKS = 2**14
LEAST_AVERAGE_BYTES = 16 * 2**10
"""A content names at most one block for so many bytes, and the spare ones. Those that devices cut have 256 KiB, but the
last. A run may be named again and again: without a bound, a batch of 4 MiB would make a list of 4 GiB."""


class KnownRun(NamedTuple):
    """A row of `runs`."""

    packed: bytes
    refs: int


class KnownBlock(NamedTuple):
    """A block that can be served; `is_stored`: and that nobody is about to delete; `is_pinned`: by this device."""

    size_bytes: int
    refs: int
    is_stored: bool
    is_pinned: bool


@dataclass(slots=True)
class Account:
    """The account's figures, as the batch has left them so far."""

    stored_bytes: int
    pinned_bytes: int
    quota_bytes: int
    file_bytes: int


@dataclass(slots=True)
class Contents:
    """What is known of the contents that the batch touches.

    `current` has the present revision of those inodes; `last_numbers` the highest number in use in each lineage that
    the batch may hand on.
    """

    account: Account
    current: dict[InodeId, RevisionRow]
    runs: dict[RunId, KnownRun]
    blocks: dict[BlockId, KnownBlock]
    last_numbers: dict[LineageId, RevisionNumber] = field(default_factory=dict)
    revisions: list[RevisionRow] = field(default_factory=list)
    run_refs: Counter[RunId] = field(default_factory=Counter)
    block_refs: Counter[BlockId] = field(default_factory=Counter)
    new_runs: dict[RunId, bytes] = field(default_factory=dict)
    brought_back: set[RunId] = field(default_factory=set)

    def store(self, mutation: Store, row: InodeRow, revision: RevisionRow) -> bytes | None:
        """Make the new content current and give its block list if it is short; `revision` lacks only its runs.

        Raises:
            Refused: `rejected`, `needs_blocks` or `over_quota`; nothing was changed.
        """
        base_runs = set(split_runs(self.current[row.inode].runs)) if row.revision else set()
        packed = self.check(mutation, base_runs)
        self.new_runs.update((run, each) for run, each in packed.items() if run not in base_runs)
        self.add(msgspec.structs.replace(revision, runs=b"".join(mutation.runs)))
        is_short = _block_count(mutation, packed) <= MAX_INLINE_BLOCKS
        return b"".join(packed[run] for run in mutation.runs) if is_short else None

    def check(self, mutation: Store, base_runs: set[RunId]) -> dict[RunId, bytes]:
        """See that a store over these runs can be made now; gives the packed form of each run that it names.

        Raises:
            Refused: `rejected`, `needs_blocks` or `over_quota`.
        """
        if mutation.size > self.account.file_bytes:
            raise refusals.rejected(refusals.LIMIT)
        packed = self._resolve_runs(mutation, base_runs)
        if _block_count(mutation, packed) > SPARE_BLOCKS + mutation.size // LEAST_AVERAGE_BYTES:
            raise refusals.rejected(refusals.LIMIT)
        refs = {run: unpack_blocks(each) for run, each in packed.items()}
        sizes = {run: sum(size for _, size in each) for run, each in refs.items()}
        if sum(sizes[run] for run in mutation.runs) != mutation.size:
            raise refusals.rejected(refusals.MALFORMED)
        named = [ref for run in packed if run not in base_runs for ref in refs[run]]
        self._check_blocks(named, base_runs)
        # What else is pinned has its room only as long as all of it fits: else what is here first is taken first.
        more_bytes = sum(size for block, size in set(named) if self._is_unreferenced(block))
        if more_bytes and self.account.stored_bytes + more_bytes > self.account.quota_bytes:
            raise refusals.Refused(Status.OVER_QUOTA)
        return packed

    def add(self, revision: RevisionRow) -> None:
        """Count a revision's runs, and make it its inode's current one."""
        self.revisions.append(revision)
        self.current[revision.inode] = revision
        self.last_numbers[revision.lineage] = revision.number
        for run in split_runs(revision.runs):
            known = self.runs.get(run)
            if (known is None or known.refs == 0) and not self.run_refs[run]:
                self._count_blocks(unpack_blocks(self.new_runs[run]))
            self.run_refs[run] += 1

    def copy(self, row: InodeRow, seq: Seq | None = None) -> None:
        """Name the current content of an inode in its new lineage too, which then is where its content is.

        `seq` is the commit of its workspace by which it got there; None: it is the same history, in another lineage.
        """
        copied = msgspec.structs.replace(self.current[row.inode], lineage=row.lineage, number=row.revision)
        if seq is not None:
            copied.workspace, copied.seq = row.workspace, seq
        self.add(copied)

    def bring_back(self, inode: InodeId) -> None:
        """Note that what an inode has is to be seen again."""
        if inode in self.current:
            self.brought_back.update(split_runs(self.current[inode].runs))

    def brought(self) -> set[BlockId]:
        """The blocks of the contents that were stored or brought back."""
        runs = self.new_runs.keys() | self.brought_back
        return {block for run in runs for block, _ in unpack_blocks(self._packed(run))}

    def _resolve_runs(self, mutation: Store, base_runs: set[RunId]) -> dict[RunId, bytes]:
        """The packed form of each run that a store names: it brings the run, or its base has it."""
        brought = {run_id(packed): packed for packed in mutation.new_runs}
        resolved = {}
        for run in mutation.runs:
            if run in brought:
                resolved[run] = brought[run]
            elif run in base_runs:
                resolved[run] = self._packed(run)
            else:
                raise refusals.rejected(refusals.MALFORMED)
        return resolved

    def _packed(self, run: RunId) -> bytes:
        return self.new_runs[run] if run in self.new_runs else self.runs[run].packed

    def _check_blocks(self, refs: list[BlockRef], base_runs: set[RunId]) -> None:
        if not refs:
            return
        in_base = {block for run in base_runs for block, _ in unpack_blocks(self._packed(run))}
        needed = []
        for block, size_bytes in refs:
            known = self.blocks.get(block)
            if known is None or not known.is_stored or not (known.is_pinned or block in in_base):
                needed.append(block)
            elif known.size_bytes != size_bytes:
                raise refusals.rejected(refusals.MALFORMED)
        if needed:
            raise refusals.Refused(Status.NEEDS_BLOCKS, blocks=dict.fromkeys(needed))

    def _is_unreferenced(self, block: BlockId) -> bool:
        return self.blocks[block].refs == 0 and not self.block_refs[block]

    def _count_blocks(self, refs: list[BlockRef]) -> None:
        for block, size_bytes in refs:
            if self._is_unreferenced(block):
                # A block without references that passed the check is pinned: it moves from one sum to the other.
                self.account.stored_bytes += size_bytes
                self.account.pinned_bytes -= size_bytes
            self.block_refs[block] += 1


def _block_count(mutation: Store, packed: dict[RunId, bytes]) -> int:
    return sum(len(packed[run]) for run in mutation.runs) // PACKED_BLOCK_BYTES


def split_runs(runs: bytes) -> list[RunId]:
    """The run ids of a revision."""
    return [RunId(runs[start : start + BLOCK_ID_BYTES]) for start in range(0, len(runs), BLOCK_ID_BYTES)]
