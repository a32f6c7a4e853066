"""Tells what a person waits for from what a burst brings, and what may overtake what: by process.

Owns the counting, of system calls as they come in, and who made which mutation. A process that changes a few names and
files now and then is served at once, also while another unpacks an archive; one that makes many changes in a row is a
burst, which the background takes together. Bounded in memory and in what it lets through: programs that start a
process for each file are a burst together.

What goes ahead never overtakes what it may have come from: a mutation overtakes those only of processes that went on
making changes after it. A program that reads what another made, or runs after it, comes after it everywhere.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from drivefs.protocol.ids import NO_OP, InodeId, OpNumber

PROCESS_CHANGES = 20
"""So many changes in a row one process may make before it counts as a burst; so many a second of a pause come back."""
PROCESS_CHANGES_PER_SECOND = 10.0
ALL_CHANGES = 60
ALL_CHANGES_PER_SECOND = 20.0
PAUSE_SECONDS = 0.25
"""Less than this between two changes is no pause: what goes on without one stays a burst to its end, since each change
that went ahead would take all before it along, and the burst would be published piece by piece while it goes on."""
MOST_PROCESSES = 256
MOST_MAKERS = 10_000
MOST_MUTATIONS = 100_000


@dataclass(slots=True)
class _Allowance:
    """A bucket of changes that fills in pauses."""

    left: float
    most: float
    per_second: float
    at: float

    def take(self, now: float) -> bool:
        """Take one if there is one."""
        if now - self.at >= PAUSE_SECONDS:
            self.left = min(self.most, self.left + (now - self.at) * self.per_second)
        self.at = now
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True


class Lanes:
    """Counts the changes of each process; `now` is in seconds and never goes back."""

    def __init__(self) -> None:
        self._processes: dict[int, _Allowance] = {}
        self._all = _Allowance(ALL_CHANGES, ALL_CHANGES, ALL_CHANGES_PER_SECOND, 0.0)

    def is_urgent(self, process: int, now: float) -> bool:
        """Count one change of a process; whether it is to be published ahead of bursts."""
        own = self._processes.pop(process, None)
        if own is None:
            own = _Allowance(PROCESS_CHANGES, PROCESS_CHANGES, PROCESS_CHANGES_PER_SECOND, now)
            if len(self._processes) >= MOST_PROCESSES:
                del self._processes[next(iter(self._processes))]
        self._processes[process] = own
        return own.take(now) and self._all.take(now)


class Order:
    """Which process (or thread) made which unsettled mutation; one that nobody is known to have made has an end."""

    def __init__(self) -> None:
        self._made_by: dict[OpNumber, int] = {}
        self._written_by: dict[InodeId, int] = {}
        self._last: dict[int, OpNumber] = {}

    def made(self, op: OpNumber, process: int) -> None:
        """A process made a mutation."""
        self._note(op, process)
        self._went_on(process, op)

    def _note(self, op: OpNumber, process: int) -> None:
        self._made_by[op] = process
        if len(self._made_by) > MOST_MUTATIONS:
            # Nobody says what was taken back before it was sent; whoever made the oldest counts as ended.
            del self._made_by[next(iter(self._made_by))]

    def written(self, inode: InodeId, process: int, last_op: OpNumber) -> None:
        """A process has written content, after the mutation `last_op`."""
        self._written_by[inode] = process
        self._went_on(process, last_op)

    def _went_on(self, process: int, op: OpNumber) -> None:
        self._last.pop(process, None)
        self._last[process] = op
        if len(self._last) > MOST_MAKERS:
            # It has made nothing for long, so it counts as one that has ended.
            del self._last[next(iter(self._last))]

    def dropped(self, inode: InodeId) -> None:
        """The content of an inode will not become a mutation."""
        self._written_by.pop(inode, None)

    def stored(self, op: OpNumber, inode: InodeId) -> None:
        """The content that was written to an inode has become a mutation."""
        if (process := self._written_by.pop(inode, None)) is not None:
            self._note(op, process)

    def settled(self, ops: Iterable[OpNumber]) -> None:
        """These are of no interest any more."""
        for op in ops:
            self._made_by.pop(op, None)
        if not self._made_by:
            self._last.clear()

    def with_earlier(self, ops: Collection[OpNumber], unsettled: Iterable[OpNumber]) -> set[OpNumber]:
        """The ops, and the earlier ones that they may have come from."""
        if not ops:
            return set()
        newest, makers = max(ops), {self._made_by.get(op) for op in ops}
        chosen = set(ops)
        for op in unsettled:
            if op < newest:
                process = self._made_by.get(op)
                if process is None or process in makers or self._last.get(process, NO_OP) < newest:
                    chosen.add(op)
        return chosen
