"""Takes mutations from the journal to the backend and settles them by its answers.

Owns the durable order of steps: mark as sent in the journal, barrier, send, settle in one journal transaction. A batch
whose answer was lost is sent again as it was. What was refused is dealt with before more is sent (`refusals`).
Invariants: one commit of this device is under way at a time; no mutation leaves the journal without a final answer;
nothing is committed to a history that lacks what this device has seen.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence, Set

import trio

from cache.effects import entries, outcome, subjects
from cache.journal import Journal, JournalRow, RowState
from drivefs.protocol.changes import FINAL, Base, Create, Mutation, OpResult, Status, Store
from drivefs.protocol.ids import Epoch, InodeId, OpNumber, RevisionNumber
from drivefs.protocol.messages import MAX_BATCH_MUTATIONS, CommitReply, CommitRequest
from drivefs.remote import errors
from drivefs.sync import planner, renaming, seen, sent, session
from drivefs.sync.ahead import Ahead, first_store
from drivefs.sync.contents import Contents
from drivefs.sync.ends import Ends
from drivefs.sync.guard import Guard
from drivefs.sync.publications import Publications
from drivefs.sync.refusals import Refusals

log = logging.getLogger(__name__)

WINDOW_ROWS = 2500
"""How far ahead of the oldest unsettled mutation a batch is looked for."""
BURST_BATCH_MUTATIONS = 300
"""So many go at once while a burst goes on: what goes ahead of it waits for no more than one commit of these."""
COMPANY_BATCH_MUTATIONS = 100
"""The same while somebody saves files beside it: they wait less, and the whole takes a little longer."""

KEPT_NOTES = 20
NO_CONTENT = "content"
"""The reason of a store whose content is nowhere any more."""

POSTPONE_SECONDS = 10.0
DEFER_SECONDS = {Status.BLOCKED: 0.2, Status.NEEDS_BLOCKS: math.inf, Status.OVER_QUOTA: 10.0}


class Committer:
    """Commits what the journal holds, batch by batch."""

    def __init__(
        self,
        ends: Ends,
        *,
        contents: Contents,
        publications: Publications,
        refusals: Refusals,
        guard: Guard,
    ) -> None:
        self._ends = ends
        self._journal: Journal = ends.local.journal
        self._remote = ends.remote
        self._workspace = ends.workspace
        self._contents = contents
        self._publications = publications
        self._refusals = refusals
        self._guard = guard
        self._ahead = Ahead(ends.local, publications, guard)
        self.resend: Callable[[Store, OpResult], None] = lambda store, result: None
        """Called with a store that lacks blocks which the backend has lost."""
        self._deferred: dict[OpNumber, tuple[float, Status]] = {}
        self._lost: deque[str] = deque(maxlen=KEPT_NOTES)

    async def commit_next(self, epoch: Epoch, *, urgent: bool = False) -> CommitReply | None:
        """Commit one batch; None if there is nothing that can go now. With `urgent`, only what goes ahead of a burst.

        Cancellation or an error after sending leaves the batch marked as sent: it goes out again, unchanged.

        Raises:
            RemoteError: no answer, or none that can be believed.
        """
        if seen.newest(self._ends.local, self._workspace) is None:
            raise errors.Offline("this device has not heard yet where the server's history stands")
        if self._refusals.are_waiting and not await self._settle_refusals():
            return None
        await self._guard.ready()
        batch = self._take_batch(urgent=urgent)
        if not batch:
            return None
        await self._journal.log_barrier()
        request = CommitRequest(
            epoch=epoch,
            nonce=session.nonce(self._journal),
            watermark=self._journal.watermark(),
            sent=sent.count(self._journal),
            seen=seen.newest(self._ends.local, self._workspace),
            mutations=batch,
        )
        reply = await self._remote.commit(self._workspace, request)
        self._settle(batch, reply)
        return reply

    async def _settle_refusals(self) -> bool:
        is_done = await self._refusals.settle()
        now = trio.current_time()
        self._deferred.update((n, (now + pause, Status.BLOCKED)) for n, pause in self._refusals.pausing.items())
        self._refusals.pausing.clear()
        return is_done

    @property
    def given_up(self) -> list[str]:
        """What people should know of changes that were given up lately."""
        return [*self._refusals.notes, *self._lost, *self._contents.notes]

    def begin_again(self) -> None:
        """The backend's history is another one: what it said of the old one is void."""
        self.offer_deferred()
        self._refusals.begin_again()

    def offer_deferred(self) -> None:
        """Nobody sees any more to what the backend lacked: what it could not take yet goes out, and it says so anew."""
        self._deferred.clear()

    def has_deferred(self) -> bool:
        """Whether mutations wait that the backend could not take yet, or that wait for the feed."""
        return bool(self._deferred) or self._refusals.are_waiting or self._guard.is_waiting

    @property
    def is_over_quota(self) -> bool:
        """Whether content waits for room in the account."""
        return any(status is Status.OVER_QUOTA for _, status in self._deferred.values())

    def without_room(self) -> set[InodeId]:
        """The inodes whose content waits for room."""
        waiting = [n for n, (_, status) in self._deferred.items() if status is Status.OVER_QUOTA]
        return {row.mutation.inode for n in waiting if (row := self._journal.get(n)) is not None}

    def _take_batch(self, *, urgent: bool) -> list[Mutation]:
        now = trio.current_time()
        self._deferred = {n: wait for n, wait in self._deferred.items() if wait[0] > now}
        most = BURST_BATCH_MUTATIONS if self._publications.has_burst else MAX_BATCH_MUTATIONS
        if self._publications.has_company:
            most = COMPANY_BATCH_MUTATIONS
        batch, frozen = self._plan_ahead(most) if urgent else self._plan_next(most)
        with self._journal.transaction():
            self._journal.mark_sent([mutation for mutation in batch if mutation.n not in frozen])
            if batch:
                sent.note(self._journal)
        return batch

    def _plan_next(self, most: int) -> tuple[list[Mutation], set[OpNumber]]:
        """The next batch, and which of it was sent before.

        Mostly the first rows fill a batch; to look at all the others each time would cost more than to send it.
        """
        limit = min(most + most // 2, WINDOW_ROWS)
        rows = self._window(limit)
        plan, frozen = self._plan(rows, most)
        if len(rows) >= limit and not plan.is_sure:
            plan, frozen = self._plan(self._window(WINDOW_ROWS), most)
        return plan.batch, frozen

    def _plan_ahead(self, most: int) -> tuple[list[Mutation], set[OpNumber]]:
        """What goes ahead of a burst, and which of it was sent before; none of it waits for what it does not need."""
        batch, sent = dict[OpNumber, Mutation](), set[OpNumber]()
        room = planner.Room(most)
        for rows in self._ahead.chains():
            plan, frozen = self._plan(rows, most, only={row.n for row in rows})
            fresh = {mutation.n: mutation for mutation in plan.batch if mutation.n not in batch}
            if not room.take(fresh.values()):
                break
            batch |= fresh
            sent |= frozen
        return list(batch.values()), sent

    def _plan(
        self, rows: list[JournalRow], most: int, only: Set[OpNumber] | None = None
    ) -> tuple[planner.Plan, set[OpNumber]]:
        """What goes next of these, and which of them were sent before."""
        frozen = {row.n for row in rows if row.state is RowState.SENT}
        terms = planner.Terms(frozen=frozen, deferred=self._deferred.keys(), only=only, most=most)
        return planner.plan((row.mutation for row in rows), self._waiting, terms), frozen

    def _window(self, limit: int) -> list[JournalRow]:
        """The oldest unsettled mutations, and the stores of the files that they create, wherever those stand."""
        rows = self._guard.rows(limit)
        idle = [row for row in rows if row.state is RowState.PENDING and renaming.moves_nothing(row.mutation)]
        if idle:
            self._take_back(idle)
            rows = self._guard.rows(limit)
        stored = {row.mutation.inode for row in rows if isinstance(row.mutation, Store)}
        made = (row.mutation for row in list(rows) if row.mutation.inode not in stored)
        return rows + [store for each in made if (store := first_store(self._journal, each)) is not None]

    def _take_back(self, idle: list[JournalRow]) -> None:
        """Let go of what moves nothing; what gave the name before gives it again."""
        with self._journal.transaction():
            for row in idle:
                about = filter(None, subjects(row.mutation))
                earlier = [each for inode in about for each in self._journal.touching(inode) if each.n < row.n]
                given = sorted((each.n, *entry) for each in earlier for entry in outcome(each.mutation))
                self._journal.remove(row.n)
                for op, parent, name, inode in given:
                    if (parent, name) in entries(row.mutation):
                        self._journal.overlay.put_dentry(parent, name, inode, op)

    def _waiting(self, inode: InodeId) -> planner.Waiting | planner.Nothing | None:
        size = self._contents.unpublished_bytes(inode)
        if size is None:
            state = self._journal.overlay.inode(inode)
            return planner.REMOVED if state is not None and not state.nlink else None
        return planner.Waiting(size, self._publications.is_on_its_way(inode))

    def _settle(self, batch: list[Mutation], reply: CommitReply) -> None:
        results = reply.results
        by_number = {mutation.n: mutation for mutation in batch}
        put_back = self._contents.remember({each.inode for each in batch if isinstance(each, Store)})
        try:
            with self._journal.transaction():
                self._note_answers(by_number, reply)
        except BaseException:
            # Without room nothing is settled: the batch goes out once more, and is answered as before.
            put_back()
            raise
        self._publications.settled(result.n for result in results if result.n not in self._deferred)
        for result in results:
            mutation = by_number[result.n]
            if result.status is Status.NEEDS_BLOCKS and isinstance(mutation, Store):
                self.resend(mutation, result)
            elif isinstance(mutation, Store) and result.n not in self._deferred:
                self._publications.arrived(mutation.inode)

    def _note_answers(self, by_number: dict[OpNumber, Mutation], reply: CommitReply) -> None:
        refused: list[tuple[Mutation, OpResult]] = []
        for result in reply.results:
            mutation = by_number[result.n]
            if result.status is Status.OK:
                self._settle_ok(mutation, result)
            elif result.status in FINAL or result.status is Status.STALE:
                self._journal.fail(result.n, result.status, result.reason)
                refused.append((mutation, result))
            else:
                until = trio.current_time() + DEFER_SECONDS[result.status]
                self._deferred[result.n] = (until, result.status)
        self._refusals.take(refused, reply.head.seq)
        seen.answered(self._journal, reply.head)

    def _settle_ok(self, mutation: Mutation, result: OpResult) -> None:
        self._journal.settle(result.n, result.seq, result.revision)
        if not isinstance(mutation, Store):
            return
        self._contents.published(mutation.inode, mutation.n, result.revision)
        self._rebase(mutation, result.revision)

    def _rebase(self, store: Store, revision: RevisionNumber) -> None:
        """Unsent mutations made on what this store replaced are now made on its outcome."""
        self._replace_base(store.inode, (store.base, Base(revision_op=store.n)), Base(revision=revision))

    def _replace_base(self, inode: InodeId, old: Sequence[Base], new: Base) -> None:
        waiting = [row.mutation for row in self._journal.touching(inode) if row.state is RowState.PENDING]
        for base in old:
            for mutation in planner.rebase(waiting, inode=inode, old=base, new=new):
                self._journal.replace(mutation)

    def lacks(self, store: Store) -> None:
        """The content of a store is neither with the backend nor here: the file is what the backend has of it.

        What is here of it, and what was written since, is to be given up as what the backend refuses is.
        """
        row = self._journal.get(store.n)
        if row is None or row.state is not RowState.SENT:
            return
        overlay, replica = self._ends.local.journal.overlay, self._ends.local.replica
        state = overlay.inode(store.inode) or replica.inode(store.inode)
        names = overlay.names_of(store.inode) or replica.names_of(store.inode)
        draft = self._journal.drafts.draft(store.inode)
        if (draft is not None and draft.frozen_op == store.n) or (names and self._is_all_of(store)):
            self._refuse(store)
            return
        with self._journal.transaction():
            self._journal.fail(store.n, Status.CONFLICT, NO_CONTENT)
            self._journal.remove(store.n)
            self._unsend_behind(store.inode, {store.n})
            self._replace_base(store.inode, [Base(revision_op=store.n)], store.base)
        self._deferred.pop(store.n, None)
        self._publications.settled([store.n])
        self._publications.arrived(store.inode)
        if state is not None and state.nlink:
            name = names[0][1].decode(errors="backslashreplace") if names else f"inode {store.inode}"
            note = (
                f"the server has lost {store.size} bytes that it had of {name!r}, and this device has them no more: "
                "the file is now what the server has of it. Write it again, from a backup or from another device"
            )
            log.error("%s", note)
            self._lost.append(note)

    def _is_all_of(self, store: Store) -> bool:
        """Whether a file that is not made yet would be made empty, and take the name of another one so."""
        rows = self._journal.touching(store.inode)
        is_made = any(isinstance(row.mutation, Create) and row.state is RowState.SENT for row in rows)
        has_other = any(isinstance(row.mutation, Store) and row.n != store.n for row in rows)
        return is_made and not has_other and self._journal.drafts.draft(store.inode) is None

    def _refuse(self, store: Store) -> None:
        """The backend can never take a store, nor the creation that goes with it: as if it had said so."""
        rows = self._journal.touching(store.inode)
        made = [row.n for row in rows if isinstance(row.mutation, Create) and row.state is RowState.SENT]
        with self._journal.transaction():
            for n in (*made, store.n):
                self._journal.fail(n, Status.REJECTED, NO_CONTENT)
            self._unsend_behind(store.inode, {*made, store.n})
        for n in (*made, store.n):
            self._deferred.pop(n, None)
        self._publications.settled([*made, store.n])

    def _unsend_behind(self, inode: InodeId, never: set[OpNumber]) -> None:
        """What was sent behind ops that never get an answer has none either, and goes out anew without them."""
        rows = {row.n: row for row in [*self._journal.unsettled(WINDOW_ROWS), *self._journal.touching(inode)]}
        sent = {n: row.mutation for n, row in rows.items() if row.state is RowState.SENT}
        while behind := [n for n, mutation in sent.items() if _stands_on(mutation, never)]:
            for n in behind:
                del sent[n]
                self._journal.unsend(n)
                self._deferred.pop(n, None)
            never.update(behind)

    def postpone(self, n: OpNumber) -> None:
        """The blocks that an op lacks are not taken: it goes out a while later, and what it is answered says why."""
        self._deferred[n] = (trio.current_time() + POSTPONE_SECONDS, Status.NEEDS_BLOCKS)

    def resent(self, n: OpNumber) -> None:
        """The blocks that an op lacked are with the backend again: it may go out."""
        self._deferred.pop(n, None)


def _stands_on(mutation: Mutation, ops: Set[OpNumber]) -> bool:
    """Whether a mutation, as it was sent, has one of these ops before it."""
    base = getattr(mutation, "base", None)
    return not ops.isdisjoint(mutation.after) or (base is not None and base.revision_op in ops)
