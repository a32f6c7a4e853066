"""Holds mass deletions back: what would remove a large share of the drive is asked about before others hear of it.

Owns which removals of the journal are kept back, and the decision. A burst of removals waits until it is over, or slow;
then it is either let go, or held until people decide, which survives a restart. Everything else goes on meanwhile. A
name that is given to something new lets its removal go, with all that was removed below it: that is a replacement.

What counts are files that lose their last name and that the backend has. What was made here a moment ago, or was
never answered, is a temporary file and nobody's loss.

Invariants: only removals that were never sent are kept back; a directory's removal is kept back while one below it is,
so nothing that is kept back is needed by what is not.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import msgspec
import trio

from cache.journal import OP_STRIDE, Journal, JournalRow, RowState
from drivefs.protocol import wire
from drivefs.protocol.changes import Create, Status, Unlink
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.ids import InodeId, OpNumber
from drivefs.protocol.model import InodeKind
from drivefs.sync.numbers import Numbers

LEAST_FILES = 1000
"""Fewer removed files than this are never held, whatever share of the drive they are."""
WINDOW_SECONDS = 300
"""Removals within this time count together."""
BURST_FILES = 100
BURST_SECONDS = 10.0
"""So many removals within this time are a burst, and wait until it is over: fewer travel at once."""
QUIET_SECONDS = 0.5
"""A burst is over when nothing was removed for so long."""
SLOW_PER_SECOND = 100
"""A burst that goes on for `BURST_SECONDS` with fewer removals than this in the last second waits no longer."""
TEMPORARY_SECONDS = 60.0
"""What was made here and is removed again within this time is not asked about."""
PART_SECONDS = 5.0
SCANNED_ROWS = 500
META = "held_removals"


class Held(msgspec.Struct):
    """Removals that wait for people: their op numbers in ranges, how many of them are files, and since when they wait.

    `drive_files` is how many files the drive had before.
    """

    ranges: list[tuple[int, int]]
    files: int
    since_ns: int
    drive_files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What people are asked."""

    files: int
    drive_files: int
    since_ns: int


def is_mass(removed: int, before: int, share: float) -> bool:
    """Whether so many removed files, of so many that there were before, are a mass deletion."""
    return removed >= LEAST_FILES and removed > share * before


class Recent:
    """How many files were removed lately, by second."""

    def __init__(self) -> None:
        self._seconds: deque[list[int]] = deque()

    def add(self, second: int) -> None:
        """One more."""
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1][1] += 1
        else:
            self._seconds.append([second, 1])
            while self._seconds[0][0] < second - WINDOW_SECONDS:
                self._seconds.popleft()

    def latest(self) -> int:
        """How many in the last second in which there were any."""
        return self._seconds[-1][1] if self._seconds else 0

    def last_ns(self) -> int:
        """When the last one was removed, to the second."""
        return self._seconds[-1][0] * 10**9 if self._seconds else 0

    @property
    def count(self) -> int:
        """How many in the whole window."""
        return sum(count for _, count in self._seconds)

    def forgive(self, count: int) -> None:
        """So many were no removals after all."""
        while count > 0 and self._seconds:
            taken = min(count, self._seconds[-1][1])
            self._seconds[-1][1] -= taken
            count -= taken
            if not self._seconds[-1][1]:
                self._seconds.pop()

    def clear(self) -> None:
        """Count anew."""
        self._seconds.clear()


class Young:
    """The inodes that were made here lately, in parts by when they were made."""

    def __init__(self) -> None:
        self._parts: deque[tuple[float, Numbers]] = deque()

    def add(self, inode: InodeId, now: float) -> None:
        """One was made just now."""
        if not self._parts or now - self._parts[-1][0] >= PART_SECONDS:
            self._parts.append((now, Numbers()))
        self._parts[-1][1].add(inode)
        self._drop_old(now)

    def has(self, inode: InodeId, now: float) -> bool:
        """Whether an inode is one of them."""
        self._drop_old(now)
        return any(inode in part for _, part in self._parts)

    def _drop_old(self, now: float) -> None:
        while self._parts and self._parts[0][0] < now - TEMPORARY_SECONDS:
            self._parts.popleft()


class Guard:
    """Which removals of the journal wait.

    `count_files` asks the backend how many files the drive has; `share` of them may be removed (0: the guard is off);
    `asked` hears when people are asked.
    """

    def __init__(
        self,
        journal: Journal,
        count_files: Callable[[], Awaitable[int]],
        *,
        share: float,
        asked: Callable[[Question], None],
    ) -> None:
        self._journal = journal
        self._count_files = count_files
        self._share = share
        self._asked = asked
        self._recent = Recent()
        """All but what is held."""
        self._young = Young()
        self._latest: deque[tuple[OpNumber, float]] = deque()
        """Removals since the last decision, and when: those that may be the beginning of a burst."""
        self._waiting = Numbers(stride=OP_STRIDE)
        self._waiting_files = 0
        self._began = self._last = 0.0
        self._held = Numbers(stride=OP_STRIDE)
        self._held_files = self._since_ns = self._drive_files = 0
        self._taken: deque[InodeId] = deque()
        self._scanned = trio.Event()
        if share:
            self._load()
        else:
            journal.set_meta(META, None)
            self._scanned.set()

    def _load(self) -> None:
        body = self._journal.meta(META)
        if body is None:
            return
        try:
            held = wire.decode(body, Held)
        except ProtocolError:
            return
        self._held = Numbers(held.ranges, stride=OP_STRIDE)
        self._held_files, self._since_ns, self._drive_files = held.files, held.since_ns, held.drive_files

    def _save(self) -> None:
        with self._journal.transaction():
            if not self._held:
                self._held_files = 0
                self._journal.set_meta(META, None)
                return
            held = Held(list(self._held.ranges()), self._held_files, self._since_ns, self._drive_files)
            self._journal.set_meta(META, wire.encode(held))

    # -- what programs do --------------------------------------------------------------------------------------------

    def made(self, inode: InodeId) -> None:
        """A new inode got its first name just now."""
        if self._share:
            self._young.add(inode, trio.current_time())

    def removed(self, change: Unlink, *, is_directory: bool) -> None:
        """A removal was added to the journal just now."""
        if not self._share or not self._scanned.is_set() or not self._is_guarded(change.inode):
            return
        self._last = trio.current_time()
        if self._counts(change.inode):
            self._recent.add(change.time_ns // 10**9)
        if self._waiting:
            self._wait_for(change.n, change.inode)
            return
        if is_directory and self._held and self._is_any_kept_below(change.inode):
            self._held.add(change.n)
            self._save()
        self._latest.append((change.n, self._last))
        while self._latest[0][1] < self._last - BURST_SECONDS:
            self._latest.popleft()
        if len(self._latest) >= BURST_FILES:
            self._begin_burst()

    def _begin_burst(self) -> None:
        self._began = self._last
        for n, _ in self._latest:
            row = self._journal.get(n)
            is_free = row is not None and row.state is RowState.PENDING and n not in self._held
            if row is not None and is_free and not self._is_retaken(row):
                self._wait_for(n, row.mutation.inode)
        self._latest.clear()

    def _is_retaken(self, row: JournalRow) -> bool:
        """Whether the name that a removal took away leads to something new: what was made of it must not go first."""
        change = row.mutation
        if not isinstance(change, Unlink) or self._journal.overlay.removal_of(change.parent, change.name) == row.n:
            return False
        if self._is_directory(change.inode):
            self._taken.append(change.inode)
        return True

    def _wait_for(self, n: OpNumber, inode: InodeId) -> None:
        if not n % OP_STRIDE:
            self._waiting.add(n)
            self._waiting_files += self._counts(inode)

    def _is_guarded(self, inode: InodeId) -> bool:
        """Whether the removal of an inode may have to wait: it is no temporary one, or what was in it has to."""
        return not self._is_temporary(inode) or self._is_any_kept_below(inode)

    def _is_temporary(self, inode: InodeId) -> bool:
        if self._young.has(inode, trio.current_time()):
            return True
        state = self._journal.overlay.inode(inode)
        if state is None or state.seq:
            return False
        return any(isinstance(row.mutation, Create) for row in self._journal.touching(inode))

    def _counts(self, inode: InodeId) -> bool:
        """Whether what was removed is a file that has no name left."""
        state = self._journal.overlay.inode(inode)
        return state is None or (state.kind is not InodeKind.DIRECTORY and not state.nlink)

    def _is_directory(self, inode: InodeId) -> bool:
        state = self._journal.overlay.inode(inode)
        return state is not None and state.kind is InodeKind.DIRECTORY

    def _is_any_kept_below(self, directory: InodeId) -> bool:
        if not self._held and not self._waiting:
            return False
        removed = self._journal.overlay.removed_in(directory)
        return any(each.op in self._held or each.op in self._waiting for each in removed)

    def taking(self, parent: InodeId, name: bytes, replaced: InodeId) -> None:
        """A name is about to lead to something new, in the caller's transaction; `replaced` is what it leads to yet."""
        if not self._waiting and not self._held:
            return
        if replaced and self._is_directory(replaced):
            self._taken.append(replaced)
        op = self._journal.overlay.removal_of(parent, name)
        row = self._journal.get(op) if op in self._waiting or op in self._held else None
        if row is not None:
            self._let_go(row.n, row.mutation.inode)
            if self._is_directory(row.mutation.inode):
                self._taken.append(row.mutation.inode)
            self._save()

    def _let_go(self, n: OpNumber, inode: InodeId) -> None:
        count = self._counts(inode)
        if n in self._waiting:
            self._waiting.discard(n)
            self._waiting_files = max(0, self._waiting_files - count)
            self._recent.forgive(count)
        elif n in self._held:
            self._held.discard(n)
            self._held_files = max(0, self._held_files - count)

    # -- what may be sent --------------------------------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Whether removals wait for the end of a burst: it will be decided soon."""
        return bool(self._waiting or self._taken) or not self._scanned.is_set()

    @property
    def question(self) -> Question | None:
        """What people are asked, if removals are held."""
        if not self._held:
            return None
        return Question(files=self._held_files, drive_files=self._drive_files, since_ns=self._since_ns)

    async def ready(self) -> None:
        """Return when it is known what may be sent now; what cannot be decided yet waits, and this does not.

        Cancellation leaves the decision for later.

        Raises:
            RemoteError: there is something to decide, and the backend does not say how many files there are.
        """
        await self._scanned.wait()
        while self._taken:
            self._replace(self._taken.popleft())
            await trio.lowlevel.checkpoint()
        if self._waiting and self._is_over():
            await self._decide()

    def rows(self, limit: int, after_n: int = 0) -> list[JournalRow]:
        """The first mutations without a final answer that are not kept back, in order."""
        found: list[JournalRow] = []
        for first, last in sorted([*self._waiting.ranges(), *self._held.ranges()]):
            if len(found) >= limit:
                break
            if first > after_n + 1:
                found += self._journal.unsettled(limit - len(found), after_n, first)
            after_n = max(after_n, last)
        if len(found) < limit:
            found += self._journal.unsettled(limit - len(found), after_n)
        return found

    def kept(self, numbers: Iterable[OpNumber]) -> set[OpNumber]:
        """Those of some mutations that are kept back."""
        if not self._waiting and not self._held:
            return set()
        return {n for n in numbers if n in self._waiting or n in self._held}

    def is_settled_below(self, n: OpNumber) -> bool:
        """Whether all mutations before this one have a final answer, or are held."""
        if self.is_waiting:
            return False
        if not self._held:
            return self._journal.watermark() >= n
        # What was refused is not settled before it is dealt with.
        failed = (row for row in self._journal.failed(SCANNED_ROWS) if row.status is not Status.REJECTED)
        return all(row.n >= n for row in [*self.rows(1), *failed])

    async def scan(self) -> None:
        """Find what an earlier mount left: a burst that was not decided yet is decided now. Nothing is sent before."""
        left, files, after = Numbers(stride=OP_STRIDE), 0, 0
        while not self._scanned.is_set() and (rows := self.rows(SCANNED_ROWS, after)):
            for row in rows:
                change = row.mutation
                if not isinstance(change, Unlink) or row.state is not RowState.PENDING:
                    continue
                if self._is_guarded(change.inode) and not self._is_retaken(row):
                    left.add(row.n)
                    if self._counts(change.inode):
                        files += 1
                        self._recent.add(change.time_ns // 10**9)
            after = rows[-1].n
            await trio.lowlevel.checkpoint()
        if files >= BURST_FILES:
            self._waiting, self._waiting_files = left, files
        self._scanned.set()

    def _replace(self, directory: InodeId) -> None:
        """Let go what was removed in a directory whose name leads to something new, and have those below it follow."""
        before = len(self._held)
        for each in self._journal.overlay.removed_in(directory):
            if each.op in self._waiting or each.op in self._held:
                self._let_go(each.op, each.inode)
                if self._is_directory(each.inode):
                    self._taken.append(each.inode)
        if len(self._held) != before:
            self._save()

    def _is_over(self) -> bool:
        now = trio.current_time()
        if now - self._last >= QUIET_SECONDS:
            return True
        return now - self._began >= BURST_SECONDS and self._recent.latest() < SLOW_PER_SECOND

    async def _decide(self) -> None:
        files = 0
        if self._removed_files >= LEAST_FILES:
            files = await self._count_files()
        if not self._waiting:
            return
        # What waits is still there for the backend; what was sent within the window is not.
        sent = max(0, self._recent.count - self._waiting_files)
        before = files + sent
        if is_mass(self._removed_files, before, self._share):
            self._hold(before)
        self._waiting, self._waiting_files = Numbers(stride=OP_STRIDE), 0

    @property
    def _removed_files(self) -> int:
        return max(self._recent.count, self._waiting_files) + self._held_files

    def _hold(self, before: int) -> None:
        if not self._held:
            self._since_ns, self._drive_files = self._recent.last_ns(), 0
        # What is held is still in the drive, so later there may be more than at first.
        self._drive_files = max(self._drive_files, before)
        self._held.update(self._waiting)
        self._held_files += self._waiting_files
        self._recent.forgive(self._waiting_files)
        self._save()
        question = self.question
        assert question is not None, "what waited is held now"
        self._asked(question)

    # -- what people decide ------------------------------------------------------------------------------------------

    def release(self) -> int:
        """Let all that is held go; gives how many files that removes."""
        files = self._held_files
        self._held = Numbers(stride=OP_STRIDE)
        self._recent.clear()
        self._save()
        return files

    def last_held(self, limit: int) -> list[OpNumber]:
        """The latest of what is held, latest first: a directory comes before what was in it."""
        return [OpNumber(n) for n in self._held.latest(limit)]

    def dealt_with(self, n: OpNumber, inode: InodeId) -> None:
        """One that was held is so no longer, in the caller's journal transaction; `keep` notes it durably."""
        self._let_go(n, inode)

    def keep(self) -> None:
        """Note what is held, in the caller's journal transaction."""
        self._save()
