"""Which files have content to publish, and when.

Owns the waiting list only: inodes, the moment from which each may be published, and which are on their way. Everything
here is in memory; after a restart every draft in the journal is offered again. Invariant: an inode is never due while
it is on its way, so there is one publication of a file at a time.

A file is due a short quiet time after its last close, so that write-to-temporary and rename become one commit; a file
that stays open is due after an fsync, at most once in `REPUBLISH_SECONDS`.

What `lanes` calls urgent goes ahead of a burst that goes on at the same time.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import islice

import trio

from drivefs.protocol.ids import NO_OP, InodeId, OpNumber
from drivefs.sync.lanes import Chain, Lanes, Order
from drivefs.sync.signal import Signal

QUIET_SECONDS = 0.03
URGENT_QUIET_SECONDS = 0.003
"""The content of what goes ahead of a burst is on its way sooner; its commit is not, it waits for `LULL_SECONDS`."""
LULL_SECONDS = 0.025
BURST_LULL_SECONDS = 0.15
"""In a burst it takes longer until nobody counts as writing: on a busy machine a program often waits for its turn."""
FIRST_LULL_SECONDS = 1.0
LONGEST_LULL_SECONDS = 4.0
IDLE_SHARE = 3.0
"""How many times as long as it worked the background waits while a burst of writing goes on."""
REPUBLISH_SECONDS = 5.0
MOST_TAKEN_ALONG = 100
"""So many mutations at most go before what goes ahead, because it may have come from them."""
BURST_SECONDS = 0.3
"""A burst counts as going on for so long after its last change."""
COMPANY_SECONDS = 5.0
LONGEST_WAY_SECONDS = 0.4
"""So long at most, after it was made, what goes ahead of a burst keeps the background from beginning anything else."""
LOOK_SECONDS = 0.005


def _no_op() -> OpNumber:
    return NO_OP


class Publications:
    """The waiting list of inodes with unpublished content; satisfies what the file system tells of its writes."""

    def __init__(self, last_op: Callable[[], OpNumber] = _no_op) -> None:
        """Begin empty; `last_op` gives the number of the mutation that was added last."""
        self._last_op = last_op
        self._lanes = Lanes()
        self._order = Order()
        self._process = 0
        self._last_urgent = self._last_of_burst = -math.inf
        self._urgent_inodes: set[InodeId] = set()
        self.urgent_ops: set[OpNumber] = set()
        """Mutations to be committed ahead of a burst; `settled` takes them out."""
        self.urgent_changed = Signal()
        self._urgent_offered = Signal()
        self._own_way_until = self._last_beside = -math.inf
        self._due: dict[InodeId, float] = {}
        self._again: dict[InodeId, float] = {}
        self.on_their_way: set[InodeId] = set()
        """Those that were taken; `arrived` or `returned` takes them out."""
        self._taken_ahead: set[InodeId] = set()
        """Those that were taken as urgent ones and are not stored; some of them may not be on their way any more."""
        self._set_aside: set[InodeId] = set()
        self._published_at: dict[InodeId, float] = {}
        self._offered = Signal()
        self._last_event = -math.inf
        self.journal_changed = Signal()
        self.hear: Callable[[InodeId], None] | None = None
        """Called with each file that was written and closed or fsynced, while somebody listens."""

    def acting(self, process: int) -> None:
        """The changes that come now are made by this process (or thread)."""
        if process != self._process:
            # Else each call would bring a number of its own, to be kept with each change: as much as its key.
            self._process = process

    def _is_urgent(self, now: float) -> bool:
        """Note a change at this moment; whether it goes ahead of a burst."""
        self._last_event = now
        if not self._lanes.is_urgent(self._process, now):
            self._last_of_burst = now
            return False
        if now < self._last_of_burst + BURST_SECONDS:
            self._last_beside = now
        self._last_urgent = now
        return True

    def changed(self) -> None:
        """A system call added a mutation to the journal."""
        op = self._last_op()
        self._order.made(op, self._process)
        if self._is_urgent(trio.current_time()):
            self.urgent_ops.add(op)
            self.urgent_changed.raise_()
        self.journal_changed.raise_()

    def stored(self, ops: Mapping[InodeId, OpNumber] | None = None) -> None:
        """The background added mutations to the journal, or one may go out again: nobody is writing because of it.

        `ops` are the stores that it added, by inode.
        """
        for inode, op in (ops or {}).items():
            self._order.stored(op, inode)
            self._taken_ahead.discard(inode)
        if ops and (urgent := [ops[inode] for inode in self._urgent_inodes & ops.keys()]):
            self._urgent_inodes.difference_update(ops)
            self.urgent_ops.update(urgent)
            self.urgent_changed.raise_()
        self.journal_changed.raise_()

    def settled(self, ops: Iterable[OpNumber]) -> None:
        """These mutations have their answer."""
        ops = list(ops)
        self.urgent_ops.difference_update(ops)
        self._order.settled(ops)

    def ahead(self, unsettled: Sequence[OpNumber], *, kept: Set[OpNumber]) -> list[Chain]:
        """Those of all unsettled mutations, in order, that go ahead of a burst, each with what has to go before it.

        What is `kept` back is neither. Where too many would have to go before them, they go in their turn.
        """
        self._order.unsettled(unsettled)
        self.urgent_ops.intersection_update(unsettled)
        free = [op for op in unsettled if op not in kept] if kept else unsettled
        found = self._order.chains(self.urgent_ops - kept, free)
        for chain in found:
            if len(chain.ops) > len(chain.own) + MOST_TAKEN_ALONG:
                # It may have come from a burst, so it goes with it: that would be published piece by piece otherwise.
                self.go_in_turn(chain.own)
        return [chain for chain in found if len(chain.ops) <= len(chain.own) + MOST_TAKEN_ALONG]

    def go_in_turn(self, ops: Iterable[OpNumber]) -> None:
        """These do not go ahead after all."""
        self.urgent_ops.difference_update(ops)

    def opened(self, inode: InodeId) -> None:
        """The present process has opened a file."""
        self._order.opened(inode, self._process)

    def closed(self, inode: InodeId) -> None:
        """The last descriptor that could write to a changed file was closed."""
        if self.hear is not None:
            self.hear(inode)
        now = trio.current_time()
        self._offer(inode, now + self._note_content(inode, now))

    def synced(self, inode: InodeId) -> None:
        """A changed file that stays open was fsynced."""
        if self.hear is not None:
            self.hear(inode)
        now = trio.current_time()
        earliest = self._published_at.get(inode, -math.inf) + REPUBLISH_SECONDS
        self._offer(inode, max(now + self._note_content(inode, now), earliest))

    def _note_content(self, inode: InodeId, now: float) -> float:
        """Note that a file has content to publish; gives after how many seconds of quiet."""
        self._order.written(inode, self._process)
        # It is another content than the one that could not be published.
        self._set_aside.discard(inode)
        if not self._is_urgent(now):
            return QUIET_SECONDS
        self._urgent_inodes.add(inode)
        self._urgent_offered.raise_()
        return URGENT_QUIET_SECONDS

    def forced(self, inodes: Iterable[InodeId]) -> None:
        """Someone waits for these: publish them now, open or not."""
        now = trio.current_time()
        for inode in inodes:
            self._offer(inode, now)

    def renumber(self, fresh: Mapping[InodeId, InodeId]) -> None:
        """Inodes have new ids, by the old ones; what is on its way under an old one comes to nothing: it is due again.

        Those who have it on its way still say when they are done with it, which does no harm.
        """
        now = trio.current_time()
        for old, new in fresh.items():
            waits = [waiting.pop(old) for waiting in (self._due, self._again) if old in waiting]
            if old in self._set_aside:
                self._set_aside.remove(old)
                self._set_aside.add(new)
            if old in self.on_their_way:
                self.on_their_way.discard(old)
                waits.append(now)
            if waits:
                self._offer(new, min(waits))

    def dropped(self, inode: InodeId) -> None:
        """The inode has nothing to publish any more."""
        self._due.pop(inode, None)
        self._again.pop(inode, None)
        self._set_aside.discard(inode)
        self._urgent_inodes.discard(inode)
        self._order.dropped(inode)

    def _offer(self, inode: InodeId, due: float) -> None:
        waiting = self._again if inode in self.on_their_way else self._due
        waiting[inode] = due
        self._offered.raise_()

    def take_due(self, limit: int, *, urgent: bool = False) -> list[InodeId]:
        """Take up to `limit` inodes that are due; they are on their way until `arrived` or `returned`.

        With `urgent`, only those that go ahead of a burst.
        """
        now = trio.current_time()
        if urgent:
            due = [inode for inode in self._urgent_inodes if self._due.get(inode, math.inf) <= now][:limit]
        else:
            due = [inode for inode, moment in self._due.items() if moment <= now][:limit]
        for inode in due:
            del self._due[inode]
            self.on_their_way.add(inode)
        if not self._due:
            # What is empty keeps the room that it took otherwise; so below.
            self._due.clear()
        if urgent:
            self._taken_ahead = self._taken_ahead & self.on_their_way | set(due)
        return due

    def behind(self, inode: InodeId) -> None:
        """An inode that was taken has a store on its way from before: what is newer is due when that has arrived."""
        self._again[inode] = trio.current_time()

    def arrived(self, inode: InodeId) -> None:
        """The publication of an inode is committed; what was offered meanwhile is due in its turn.

        So is what may be left of one that was not taken here: a copy goes on with the store that it was made with.
        """
        now = trio.current_time()
        self._set_aside.discard(inode)
        if inode in self.on_their_way:
            self.on_their_way.discard(inode)
            if not self.on_their_way:
                self.on_their_way.clear()
        else:
            self._again[inode] = now
        self._published_at.pop(inode, None)
        self._published_at[inode] = now
        for old in [old for old, moment in islice(self._published_at.items(), 2) if moment < now - REPUBLISH_SECONDS]:
            del self._published_at[old]
        if (again := self._again.pop(inode, None)) is not None:
            self._offer(inode, again)

    def returned(self, inode: InodeId, delay_seconds: float = 0.0) -> None:
        """The publication of an inode did not work out: offer it again later."""
        self.on_their_way.discard(inode)
        self._again.pop(inode, None)
        self._offer(inode, trio.current_time() + delay_seconds)

    def set_aside(self, inode: InodeId, delay_seconds: float) -> None:
        """The inode cannot be published as it is: nothing waits for it, and it is offered again later."""
        self._set_aside.add(inode)
        self.returned(inode, delay_seconds)

    def is_on_its_way(self, inode: InodeId) -> bool:
        """Whether the content of the inode is due or being published, rather than still being written or set aside."""
        return (inode in self.on_their_way or inode in self._due) and inode not in self._set_aside

    async def wait(self, longest_seconds: float) -> None:
        """Wait until something is offered or falls due, at most so long; cancellation changes nothing."""
        if self._due:
            next_due = min(self._due.values()) - trio.current_time()
            longest_seconds = min(longest_seconds, max(next_due, 0.0))
        await self._offered.wait(longest_seconds)

    @property
    def has_burst(self) -> bool:
        """Whether some process makes many changes, or did so just now."""
        return trio.current_time() < self._last_of_burst + BURST_SECONDS

    @property
    def has_company(self) -> bool:
        """Whether something that goes ahead of a burst was made beside one lately: more of it may come."""
        return trio.current_time() < self._last_beside + COMPANY_SECONDS

    async def wait_urgent(self, longest_seconds: float) -> None:
        """Wait until something urgent is offered or falls due, at most so long; cancellation changes nothing."""
        if moments := [self._due[inode] for inode in self._urgent_inodes if inode in self._due]:
            longest_seconds = min(longest_seconds, max(min(moments) - trio.current_time(), 0.0))
        await self._urgent_offered.wait(longest_seconds)

    async def give_way(self) -> None:
        """Let what goes ahead of a burst pass: return when none of it is on its way, or has been for long.

        Everything else that the background does on the network awaits this between two steps. It gets half of the time
        at least, however much is urgent.
        """
        await trio.lowlevel.checkpoint()
        began = trio.current_time()
        if began < self._own_way_until:
            return
        while self._is_urgent_on_its_way and trio.current_time() < self._last_urgent + LONGEST_WAY_SECONDS:
            await trio.sleep(LOOK_SECONDS)
            if trio.current_time() > began + LONGEST_WAY_SECONDS:
                break
        ended = trio.current_time()
        if ended > began:
            self._own_way_until = ended + (ended - began)

    @property
    def _is_urgent_on_its_way(self) -> bool:
        soon = trio.current_time() + QUIET_SECONDS
        return bool(self.urgent_ops) or self._is_urgent_content_coming(soon)

    def _is_urgent_content_coming(self, soon: float) -> bool:
        """Whether content that goes ahead of a burst is being published, or falls due by `soon`."""
        return any(
            inode in self._taken_ahead & self.on_their_way or self._due.get(inode, math.inf) <= soon
            for inode in self._urgent_inodes
        )

    async def urgent_lull(self) -> None:
        """Return when nothing urgent has changed for a moment, so that what belongs together goes together.

        A file that was made waits so for its content, without which it cannot go, unless that is long in coming.
        """
        latest = trio.current_time() + LONGEST_WAY_SECONDS
        while True:
            now = trio.current_time()
            if now < self._last_urgent + LULL_SECONDS:
                await trio.sleep_until(self._last_urgent + LULL_SECONDS)
            elif now < latest and self._is_urgent_content_coming(now):
                await self.urgent_changed.wait(latest - now)
            else:
                return

    async def lull(self, worked_seconds: float = 0.0) -> None:
        """Return when nothing has been written for a moment, at once if so, at most after a longest time.

        The work that follows shares the interpreter with system calls: it disturbs less, and does more at once, when
        a burst of them is over. Where it does not end, work that took `worked_seconds` the last time waits longer, so
        that it never takes more than a part of the time.
        """
        longest = min(max(FIRST_LULL_SECONDS, worked_seconds * IDLE_SHARE), LONGEST_LULL_SECONDS)
        deadline = trio.current_time() + longest
        while (now := trio.current_time()) < deadline:
            quiet_at = max(self._last_event + LULL_SECONDS, self._last_of_burst + BURST_LULL_SECONDS)
            if quiet_at <= now:
                return
            await trio.sleep_until(min(quiet_at, deadline))
