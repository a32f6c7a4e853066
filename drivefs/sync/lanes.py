"""Tells what a person waits for from what a burst brings, and what may overtake what: by process.

Owns the counting, of system calls as they come in, and who made which mutation. A process that changes a few names and
files now and then is served at once, also while another unpacks an archive; one that makes many changes in a row is a
burst, which the background takes together. Bounded in memory and in what it lets through: programs that start a
process for each file are a burst together.

What goes ahead never overtakes what it may have come from: all that its process made before, and all that those made
whose files it has opened. A program that reads what another wrote comes after it everywhere.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from drivefs.protocol.ids import InodeId, OpNumber

PROCESS_CHANGES = 20
"""So many changes in a row one process may make before it counts as a burst; so many a second of a pause come back."""
PROCESS_CHANGES_PER_SECOND = 20.0
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


class Chain(NamedTuple):
    """What one process wants to go ahead, and all that may not come after that: `own` is among `ops`."""

    own: set[OpNumber]
    ops: set[OpNumber]


class Order:
    """Which process (or thread) made which unsettled mutation, and has opened what others made."""

    def __init__(self) -> None:
        self._made_by: dict[OpNumber, int] = {}
        self._written_by: dict[InodeId, int] = {}
        """Who wrote the content that is not a mutation yet."""
        self._last_writers: dict[InodeId, int] = {}
        self._read_from: dict[int, set[int]] = {}
        self._has_forgotten = False
        """Whether somebody may have opened something of somebody else, and it is not known any more."""

    def made(self, op: OpNumber, process: int) -> None:
        """A process made a mutation."""
        self._made_by[op] = process
        if len(self._made_by) > MOST_MUTATIONS:
            # What nobody is known to have made is not overtaken.
            del self._made_by[next(iter(self._made_by))]

    def written(self, inode: InodeId, process: int) -> None:
        """A process has written content."""
        self._written_by[inode] = process
        self._last_writers.pop(inode, None)
        self._last_writers[inode] = process
        if len(self._last_writers) > MOST_MUTATIONS:
            del self._last_writers[next(iter(self._last_writers))]
            self._has_forgotten = True

    def opened(self, inode: InodeId, process: int) -> None:
        """A process sees the content of an inode from now on."""
        writer = self._last_writers.get(inode, process)
        if writer == process:
            return
        self._read_from.setdefault(process, set()).add(writer)
        if len(self._read_from) > MOST_MAKERS:
            del self._read_from[next(iter(self._read_from))]
            self._has_forgotten = True

    def dropped(self, inode: InodeId) -> None:
        """The content of an inode will not become a mutation."""
        self._written_by.pop(inode, None)

    def stored(self, op: OpNumber, inode: InodeId) -> None:
        """The content that was written to an inode has become a mutation."""
        if (process := self._written_by.pop(inode, None)) is not None:
            self.made(op, process)

    def settled(self, ops: Iterable[OpNumber]) -> None:
        """These are of no interest any more."""
        for op in ops:
            self._made_by.pop(op, None)
        if not self._made_by and not self._written_by:
            # What is empty keeps the room that it took otherwise.
            self._made_by.clear()
            self._written_by.clear()
            self._last_writers.clear()
            self._read_from.clear()
            self._has_forgotten = False

    def unsettled(self, ops: Iterable[OpNumber]) -> None:
        """These are all mutations that are not settled: nobody says what was taken back before it was sent."""
        made = self._made_by
        self._made_by = {op: made[op] for op in ops if op in made}

    def chains(self, ops: Collection[OpNumber], unsettled: Iterable[OpNumber]) -> list[Chain]:
        """The ops by who made them, each with the earlier ones of `unsettled` that they may have come from.

        None at all while it is not known what may have come from what.
        """
        if not ops or self._has_forgotten:
            return []
        makers: dict[int, set[OpNumber]] = {}
        for op in ops:
            if (maker := self._made_by.get(op)) is not None:
                makers.setdefault(maker, set()).add(op)
        made: dict[int | None, list[OpNumber]] = {}
        for op in unsettled:
            made.setdefault(self._made_by.get(op), []).append(op)
        return [Chain(own, own | self._before(max(own), maker, made)) for maker, own in makers.items()]

    def _before(self, newest: OpNumber, maker: int, made: Mapping[int | None, Iterable[OpNumber]]) -> set[OpNumber]:
        """The ops before one of a process that it may have come from, those that nobody is known to have made too."""
        sources = [None, *self._sources(maker)]
        return {op for source in sources for op in made.get(source, ()) if op < newest}

    def _sources(self, process: int) -> set[int]:
        """A process, those whose content it opened, those whose content these opened, and so on."""
        found, left = {process}, [process]
        while left:
            fresh = self._read_from.get(left.pop(), set()) - found
            found |= fresh
            left += fresh
        return found
