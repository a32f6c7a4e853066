"""The journal: all mutations of this device that the replica does not show yet, in order, with their overlay.

Owns the table `mutations` and, through its parts, the whole of `journal.db`: one connection, used by the event loop
only. Invariants: a mutation and its effect on the overlay are one transaction; a body does not change once it was sent;
a row goes only when the replica has durably passed its commit (`forget`), when it was never sent (`remove`), or when
its refusal was dealt with (`remove`); op numbers are never used twice. Nothing may be awaited inside a transaction.
"""

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cache import needless
from cache.aliases import Aliases
from cache.barrier import Barrier
from cache.counters import Counter
from cache.database import Database, Row, Transaction
from cache.drafts import Drafts
from cache.effects import parents, renamed, subjects
from cache.ignored import Ignored
from cache.inode_ids import InodeIds
from cache.outline import Outline
from cache.overlay import Overlay
from cache.reserve import Reserve
from cache.sealing import is_sealed, row_digest
from cache.staging import Staging
from drivefs.protocol import wire
from drivefs.protocol.changes import Create, Mutation, Status
from drivefs.protocol.ground import Offload
from drivefs.protocol.ids import NO_REVISION, Epoch, InodeId, OpNumber, RevisionNumber, Seq
from drivefs.protocol.model import DentryState, InodeState

OP_STRIDE = 1_000_000
"""Numbers are given out so far apart, so that what is made again after a refusal finds room in its old place."""

GAP_SHARE = 16
"""Each mutation made in the place of another takes this part of the room that is left behind that one."""

NO_SEQ = Seq(0)

_COLUMNS = "n, state, seq, revision, status, reason, body, digest, mark"


class RowState(enum.IntEnum):
    """Where a mutation stands."""

    PENDING = 0
    """Not sent yet: it may still be replaced or removed."""
    SENT = 1
    """The server may know it: its body is frozen."""
    ACKED = 2
    """Committed; the replica may not have it yet."""
    FAILED = 3
    """Refused for good; waits to be resolved."""
    IGNORED = 4
    """About a file that a rule keeps on this device: it is not sent, and may still be replaced or removed."""


UNSENT = (RowState.PENDING, RowState.IGNORED)
"""What nobody else knows of, and may be replaced."""


class JournalRow(NamedTuple):
    """A mutation and what became of it so far."""

    n: OpNumber
    state: RowState
    mutation: Mutation
    seq: Seq
    revision: RevisionNumber
    status: Status | None
    reason: str


class Forgotten(NamedTuple):
    """Overlay rows that are gone, as they were, so that the replica's show; `more`: there is more to forget."""

    inodes: list[InodeState]
    names: list[DentryState]
    more: bool


def mark_of(n: OpNumber, state: RowState, seq: Seq, revision: RevisionNumber, answer: str = "") -> int:
    """The checksum of what changes in a row."""
    return row_digest(answer.encode(), n, state, seq, revision)


class Journal:
    """The journal of one device.

    `pending_count` is how many mutations the backend has not taken yet, `pending_bytes` how many bytes of content no
    revision has yet.
    """

    def __init__(self, database: Database, staging: Staging, *, reserve: Reserve, offload: Offload) -> None:
        self._database = database
        self._reserve = reserve
        self._staging = staging
        self._ops = Counter(database, "op")
        self._ids = InodeIds(database)
        self.drafts = Drafts(database, staging)
        self._barrier = Barrier(database, staging, offload, self.drafts.merging.merge, staged=True)
        self._log_barrier = Barrier(database, staging, offload, self.drafts.merging.merge, staged=False)
        self.aliases = Aliases(database)
        self.overlay = Overlay(database, self.aliases.actual)
        self.outline = Outline(database)
        self.ignored = Ignored(database)
        self.pending_count = self._count_pending()
        self._pending_before = self.pending_count
        self._settled_below = OpNumber(0)
        self._removed: list[JournalRow] = []
        self._loosened = Forgotten([], [], False)
        self.uncovered: Callable[[Forgotten], None] = lambda forgotten: None
        """Hears, after each transaction, of overlay rows that went since a change was taken back or a draft dropped."""
        database.on_begin = self._begin
        database.on_commit = self._commit
        database.on_committed = self._committed
        database.on_rollback = self._rolled_back

    # -- transactions ------------------------------------------------------------------------------------------------

    def transaction(self) -> Transaction:
        """A context manager; COMMIT survives the death of the process. A nested one joins the outer.

        Raises:
            Poisoned: the disk failed.
            DiskFull: no room; nothing was changed.
        """
        return self._database.transaction()

    def _begin(self) -> None:
        self.drafts.begin()
        self._pending_before = self.pending_count
        self._reserve.look_now_and_then()

    def _commit(self) -> None:
        if self._removed or self.drafts.dropped:
            loose = set(self.drafts.dropped)
            names = needless.drop_entries(self._database, [row.mutation for row in self._removed])
            for row in self._removed:
                loose.update(subjects(row.mutation), parents(row.mutation))
            self._loosened = Forgotten(needless.drop_inodes(self._database, loose), names, False)
            self._removed.clear()

    def _committed(self) -> None:
        self.drafts.committed()
        loosened, self._loosened = self._loosened, Forgotten([], [], False)
        if loosened.inodes or loosened.names:
            self.uncovered(loosened)

    def _rolled_back(self) -> None:
        self._removed.clear()
        self._loosened = Forgotten([], [], False)
        self.pending_count = self._pending_before
        self.drafts.rolled_back()
        self._ops.reread()
        self._ids.rolled_back()
        self.aliases.reread()

    def admit(self, byte_count: int) -> None:
        """Accept something new of about so many bytes; what frees space is never asked for.

        Raises:
            DiskFull: there is no room.
        """
        self._reserve.admit(byte_count)

    @property
    def is_dirty(self) -> bool:
        """Whether anything happened since the last barrier began."""
        return self._barrier.is_needed

    async def barrier(self) -> None:
        """Durable on return: all that was committed or staged before the call.

        Raises:
            Poisoned: the disk failed.
        """
        await self._barrier.wait()

    @property
    def is_log_dirty(self) -> bool:
        """Whether anything was committed since the last barrier of the log began."""
        return self._log_barrier.is_needed

    def content_goes(self) -> None:
        """Content that is durable goes with what was just added, for other content: that is to be durable before."""
        self._staging.come_first()

    async def log_barrier(self) -> None:
        """Durable on return: all mutations and drafts committed before the call, but not the staged bytes of drafts.

        Raises:
            Poisoned: the disk failed.
        """
        await self._log_barrier.wait()

    # -- mutations ---------------------------------------------------------------------------------------------------

    def next_op(self) -> OpNumber:
        """A number for a new mutation."""
        return OpNumber(self._ops.take() * OP_STRIDE)

    def last_op(self) -> OpNumber:
        """The highest number that `next_op` gave out."""
        return OpNumber((self._ops.upcoming - 1) * OP_STRIDE)

    def end(self) -> OpNumber:
        """The highest number that was given out, or that a mutation here has: what comes behind that is the last."""
        ((highest,),) = self._database.rows("SELECT max(n) FROM mutations")
        return max(OpNumber(highest or 0), self.last_op())

    def op_after(self, n: OpNumber) -> OpNumber:
        """A number for a mutation that stands behind `n` and before all later ones; at the end if there is no room."""
        end = (n // OP_STRIDE + 1) * OP_STRIDE
        found = self._database.row("SELECT n FROM mutations WHERE n > ? AND n < ? ORDER BY n LIMIT 1", (n, end))
        room = (found[0] if found else end) - n
        return OpNumber(n + max(1, room // GAP_SHARE)) if room > 1 else self.next_op()

    def append(self, mutation: Mutation, state: RowState = RowState.PENDING) -> None:
        """Add a mutation, to be sent or `IGNORED`; its number comes from `next_op`."""
        first, second = subjects(mutation)
        body = wire.encode(mutation)
        n = mutation.n
        if state is RowState.IGNORED:
            self.ignored.expect()
        self._database.write(
            "INSERT INTO mutations VALUES (?, ?, ?, ?, 0, 0, '', '', ?, ?, ?)",
            (n, state, first, second, body, row_digest(body, n), row_digest(b"", n, state, 0, 0)),
        )
        self.pending_count += state is RowState.PENDING

    def replace(self, mutation: Mutation) -> None:
        """Put another mutation in the place of the unsent one with the same number.

        Raises:
            ValueError: it was sent, or is not there.
        """
        if not self.replace_unsent(mutation):
            raise ValueError(f"mutation {mutation.n} is not one that may still be replaced")

    def replace_unsent(self, mutation: Mutation) -> bool:
        """The same, if it is still there and unsent; gives whether it was."""
        return self._put_body(mutation, "state IN (0, 4)")

    def say_anew(self, mutation: Mutation) -> None:
        """Put another in the place of a mutation that will never be one of the server's as it is, sent or refused."""
        self.unsend(mutation.n)
        self._put_body(mutation, "state IN (0, 3)")

    def _put_body(self, mutation: Mutation, which: str) -> bool:
        n, body = mutation.n, wire.encode(mutation)
        columns = "inode = ?, other = ?, body = ?, digest = ?"
        values = (*subjects(mutation), body, row_digest(body, n), n)
        self._database.write(f"UPDATE mutations SET {columns} WHERE n = ? AND {which}", values)
        return bool(self._database.changed_count())

    def rename_queued(self, inode: InodeId, other: InodeId) -> None:
        """Let what is not sent, or was refused, name another inode instead; looks through all of it."""
        for (body,) in self._database.rows("SELECT body FROM mutations WHERE state IN (0, 3, 4)"):
            after = renamed(before := wire.decode_mutation(body), {inode: other})
            if after is not before:
                self._put_body(after, "state IN (0, 3, 4)")

    def remove(self, n: OpNumber) -> None:
        """Take back an unsent mutation, or drop a refused one after what it carried was taken care of.

        Overlay rows that nothing else needs go when the transaction commits.

        Raises:
            ValueError: it was sent and has no answer, or is not there.
        """
        row = self.get(n)
        if row is None or row.state not in (RowState.PENDING, RowState.FAILED, RowState.IGNORED):
            raise ValueError(f"mutation {n} is not one that may be removed")
        with self._database.transaction():
            self._database.write("DELETE FROM mutations WHERE n = ?", (n,))
            self.pending_count -= row.state is not RowState.IGNORED
            self._removed.append(row)

    def get(self, n: OpNumber) -> JournalRow | None:
        """One mutation, whatever its state."""
        found = self._database.row(f"SELECT {_COLUMNS} FROM mutations WHERE n = ?", (n,))
        return self._decoded(found) if found else None

    def unsettled(self, limit: int, after_n: int = 0, below_n: int = 2**63 - 1) -> list[JournalRow]:
        """Mutations without a final answer, in order, with numbers between these two."""
        found = self._database.rows(
            f"SELECT {_COLUMNS} FROM mutations WHERE n > ? AND n < ? AND state IN (0, 1) ORDER BY n LIMIT ?",
            (max(after_n, self._settled_below - 1), below_n, limit),
        )
        return [self._decoded(row) for row in found]

    def failed(self, limit: int) -> list[JournalRow]:
        """Mutations that were refused and are to be dealt with, in order."""
        wanted = f"SELECT {_COLUMNS} FROM mutations WHERE state = 3 AND status != 'rejected' ORDER BY n LIMIT ?"
        return [self._decoded(row) for row in self._database.rows(wanted, (limit,))]

    def rejected(self, limit: int) -> list[JournalRow]:
        """Mutations that were refused for good, the latest first."""
        wanted = f"SELECT {_COLUMNS} FROM mutations WHERE state = 3 AND status = 'rejected' ORDER BY n DESC LIMIT ?"
        return [self._decoded(row) for row in self._database.rows(wanted, (limit,))]

    def touching(self, inode: InodeId) -> list[JournalRow]:
        """Mutations, not acknowledged, that are about an inode (not those that only name it as a parent), in order."""
        # Sorted here: by the database it took ten times as long.
        found = self._database.rows(
            f"SELECT {_COLUMNS} FROM mutations WHERE inode = ?1 AND state != 2 UNION ALL"
            f" SELECT {_COLUMNS} FROM mutations WHERE other = ?1 AND other != 0 AND inode != ?1 AND state != 2",
            (inode,),
        )
        return [self._decoded(row) for row in sorted(found)]

    def made_in(self, inode: InodeId) -> Seq | None:
        """The commit in which this device made an inode, 0 before it is committed; None: it did not, or long ago."""
        for seq, body in self._database.rows("SELECT seq, body FROM mutations WHERE inode = ? ORDER BY n", (inode,)):
            if isinstance(wire.decode_mutation(body), Create):
                return Seq(seq)
        return None

    def mark_sent(self, mutations: Sequence[Mutation]) -> None:
        """Freeze mutations as they are given: these are about to be sent, after a barrier.

        Raises:
            ValueError: one was sent before, or is not there.
        """
        rows = []
        for mutation in mutations:
            n, body = mutation.n, wire.encode(mutation)
            rows.append(
                (*subjects(mutation), body, row_digest(body, n), mark_of(n, RowState.SENT, NO_SEQ, NO_REVISION), n)
            )
        with self._database.transaction():
            changed = self._database.write_many(
                "UPDATE mutations SET state = 1, inode = ?, other = ?, body = ?, digest = ?, mark = ?"
                " WHERE n = ? AND state = 0",
                rows,
            )
            if changed != len(rows):
                raise ValueError("a mutation that was sent, or is not there, cannot be sent anew")

    def settle(self, n: OpNumber, seq: Seq, revision: RevisionNumber = NO_REVISION) -> None:
        """A mutation was committed; it stays until `forget`."""
        self._answer(n, RowState.ACKED, (seq, revision, "", ""))

    def fail(self, n: OpNumber, status: Status, reason: str) -> None:
        """A mutation was refused; it is pending until `remove`."""
        self._answer(n, RowState.FAILED, (Seq(0), NO_REVISION, status.value, reason))

    def refuse_ignored(self, inode: InodeId, reason: str) -> None:
        """An ignored inode cannot stay where it is: all that is known of it is to be given up."""
        for row in self.touching(inode):
            if row.state is RowState.IGNORED:
                self._answer(row.n, RowState.FAILED, (Seq(0), NO_REVISION, Status.REJECTED.value, reason))
                self.pending_count += 1

    def keep_rejected(self, n: OpNumber) -> None:
        """Nothing can make a refused mutation pass: it stays, with what it carries, until it is given up."""
        row = self.get(n)
        if row is None or row.state is not RowState.FAILED:
            raise ValueError(f"mutation {n} was not refused")
        status = Status.REJECTED.value
        self._database.write(
            "UPDATE mutations SET status = ?, mark = ? WHERE n = ?",
            (status, mark_of(n, row.state, row.seq, row.revision, status + row.reason), n),
        )

    def _answer(self, n: OpNumber, state: RowState, answer: tuple[Seq, RevisionNumber, str, str]) -> None:
        seq, revision, status, reason = answer
        with self._database.transaction():
            self._database.write(
                "UPDATE mutations SET state = ?, seq = ?, revision = ?, status = ?, reason = ?, mark = ?"
                " WHERE n = ? AND state IN (0, 1, 4)",
                (state, *answer, mark_of(n, state, seq, revision, status + reason), n),
            )
            if not self._database.changed_count():
                raise ValueError(f"mutation {n} does not wait for an answer")
            self.pending_count -= state is RowState.ACKED

    def acknowledged(self, after: Seq = NO_SEQ) -> list[JournalRow]:
        """What was committed after a commit and the replica does not have yet, in order."""
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM mutations WHERE state = 2 AND seq > ? ORDER BY n", (after,))
        return [self._decoded(row) for row in rows]

    def offer_again(self, taken_over: Sequence[OpNumber], after: Seq = NO_SEQ) -> None:
        """The server has lost what it had committed after a commit: what the replica does not have is pending again.

        But those mutations, acknowledged too, what they carried has been taken over otherwise: they go.
        """
        with self.transaction():
            for row in self.acknowledged(after):
                mark = mark_of(row.n, RowState.PENDING, Seq(0), NO_REVISION)
                self._database.write(
                    "UPDATE mutations SET state = 0, seq = 0, revision = 0, mark = ? WHERE n = ?", (mark, row.n)
                )
                self.pending_count += 1
                if row.n in taken_over:
                    self.remove(row.n)
            self._settled_below = OpNumber(0)

    def unsend(self, n: OpNumber) -> None:
        """Let a mutation without an answer, that will never be one of the server's as it is, be as if never sent."""
        mark = mark_of(n, RowState.PENDING, Seq(0), NO_REVISION)
        self._database.write("UPDATE mutations SET state = 0, mark = ? WHERE n = ? AND state = 1", (mark, n))

    def watermark(self) -> OpNumber:
        """The lowest number without a final answer; all below are settled or were never sent."""
        found = self._database.row(
            "SELECT n FROM mutations WHERE n >= ? AND (state IN (0, 1) OR state = 3 AND status != 'rejected')"
            " ORDER BY n LIMIT 1",
            (self._settled_below,),
        )
        lowest = OpNumber(found[0] if found else self._ops.upcoming * OP_STRIDE)
        if not self._database.is_in_transaction:
            self._settled_below = lowest
        return lowest

    @property
    def pending_bytes(self) -> int:
        """Bytes of content that no revision has yet."""
        return self.drafts.record_bytes

    def _count_pending(self) -> int:
        row = self._database.row("SELECT count(*) FROM mutations WHERE state NOT IN (2, 4)")
        return row[0] if row else 0

    def _decoded(self, row: Row) -> JournalRow:
        n, state, seq, revision, status, reason, body, digest, mark = row
        if not (is_sealed(digest, body, n) and is_sealed(mark, f"{status}{reason}".encode(), n, state, seq, revision)):
            raise self._database.rot(f"mutation {n} of the journal does not match its checksum")
        mutation = wire.decode_mutation(body)
        if state in (RowState.PENDING, RowState.FAILED, RowState.IGNORED):
            mutation = self.aliases.actual(mutation)
        return JournalRow(n, RowState(state), mutation, seq, revision, Status(status) if status else None, reason)

    # -- forgetting --------------------------------------------------------------------------------------------------

    def forget(self, cursor_seq: Seq, limit: int = 128) -> Forgotten:
        """Drop acknowledged mutations that the replica has durably passed, and the overlay rows that only they need.

        At most `limit` mutations at a time, so that the event loop goes on.
        """
        found = self._database.rows(
            f"SELECT {_COLUMNS} FROM mutations WHERE state = 2 AND seq <= ? ORDER BY seq LIMIT ?",
            (cursor_seq, limit + 1),
        )
        mutations = [self._decoded(row).mutation for row in found[:limit]]
        # What was sent for a directory that was found to be another one since shows in that one.
        shown = [*mutations, *(actual for m in mutations if (actual := self.aliases.actual(m)) is not m)]
        touched = {inode for mutation in shown for inode in (*subjects(mutation), *parents(mutation))}
        with self._database.transaction():
            self._database.write_many("DELETE FROM mutations WHERE n = ?", [(mutation.n,) for mutation in mutations])
            names = needless.drop_entries(self._database, shown)
            inodes = needless.drop_inodes(self._database, touched)
        return Forgotten(inodes, names, len(found) > limit)

    # -- facts of the device -----------------------------------------------------------------------------------------

    def meta(self, key: str) -> bytes | None:
        """A fact by name."""
        row = self._database.row("SELECT value FROM meta WHERE key = ?", (key,))
        return row[0] if row else None

    def set_meta(self, key: str, value: bytes | None) -> None:
        """Set a fact, or remove it."""
        if value is None:
            self._database.write("DELETE FROM meta WHERE key = ?", (key,))
        else:
            self._database.write("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @property
    def epoch(self) -> Epoch:
        """The epoch of this journal; 0 before the first session."""
        return Epoch(int.from_bytes(self.meta("epoch") or b"", "big"))

    def begin_epoch(self, epoch: Epoch) -> None:
        """A new life of the journal: ids that were handed to the one before are not used any more."""
        with self._database.transaction():
            self.set_meta("epoch", epoch.to_bytes(8, "big"))
            self._ids.drop_ranges()

    def allocate_inode(self) -> InodeId:
        """An id for a new inode.

        Raises:
            OutOfIds: the server has to hand out a range first.
        """
        return self._ids.allocate()

    def add_id_range(self, start: InodeId) -> None:
        """Take over a range of ids from the server."""
        self._ids.add_range(start)

    def drop_id_range(self, inode: InodeId) -> None:
        """Forget the range that an id is of: the server does not know of it, or gave it to somebody else."""
        self._ids.drop_range_of(inode)

    def ids_left(self) -> int:
        """How many inode ids are left."""
        return self._ids.left()
