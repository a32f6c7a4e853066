"""Deals with what the backend refused, as soon as this device knows what the backend has instead.

Owns when it is done and in which order: what was refused only because of its predecessor is made again, the others go
through `resolver` (pure) and `amends`, each in one journal transaction. Nothing is sent meanwhile. Invariant: a refused
mutation is in the journal until then, so a crash at any moment leaves it to be dealt with at the next start.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import trio

from cache.effects import entries, parents, subjects
from cache.errors import DiskFull, OutOfIds, Poisoned
from cache.journal import OP_STRIDE, JournalRow, RowState
from drivefs.protocol.changes import Create, Mutation, OpResult, Rename, Restore, Status, Store, Unlink
from drivefs.protocol.errors import Code
from drivefs.protocol.ids import NO_INODE, NO_REVISION, InodeId, OpNumber, RevisionNumber, Seq
from drivefs.protocol.messages import InodesRequest
from drivefs.protocol.model import InodeKind
from drivefs.remote.errors import Refused, RemoteError
from drivefs.sync.amends import Amends
from drivefs.sync.contents import Contents
from drivefs.sync.ends import Ends
from drivefs.sync.events import Event, Events, Kind, Origin
from drivefs.sync.lister import Lister
from drivefs.sync.outcomes import Outcome
from drivefs.sync.questions import Place
from drivefs.sync.resolver import Action, FreshId, Make, Merge, Refusal, Stay, resolve
from drivefs.sync.sides import LocalSide, RemoteSide, Unknown

log = logging.getLogger(__name__)

MOST_REFUSED = 1000
STEP_REFUSED = 16
"""After so many the event loop goes round once."""

MOST_TRIES = 12
"""What was refused so often is tried again only after a pause."""
FIRST_PAUSE_SECONDS = 0.2
"""It doubles with each further try: what others change again and again goes on soon, what never works costs little."""
LONGEST_PAUSE_SECONDS = 30.0

KEPT_NOTES = 20
INODE_TAKEN = "inode"
"""The reason beside `id_taken` that is about the id of a new inode."""

PREDECESSOR = "predecessor"
LACKING = ("absent", "no_parent")
"""Reasons with which the backend says where what is lacking last was."""


class Refusals:
    """What was refused and is not dealt with yet; `notes` are sentences for people about what was given up lately."""

    def __init__(self, ends: Ends, amends: Amends, lister: Lister, *, contents: Contents, events: Events) -> None:
        self._ends = ends
        self._journal = ends.local.journal
        self._replica = ends.local.replica
        self._amends = amends
        self._lister = lister
        self._events = events
        self._contents = contents
        self._local = LocalSide(ends.local, contents)
        self._remote = RemoteSide(ends.local)
        self._judged: set[OpNumber] = set()
        self._tries: Counter[int] = Counter()
        self.pausing: dict[OpNumber, float] = {}
        """For how many seconds ops wait that stand in the place of what was refused again and again."""
        self._wanted = Seq(0)
        self.notes: deque[str] = deque(maxlen=KEPT_NOTES)
        self.publishable: Callable[[InodeId], None] = lambda inode: None
        """Hears of files whose unpublished content may go on its way again."""

    def take(self, refused: Iterable[tuple[Mutation, OpResult]], head: Seq) -> None:
        """Take over the refusals of one reply, which are in the journal; `head` is the commit it was judged on."""
        for mutation, result in refused:
            self._judged.add(mutation.n)
            self._remote.told_gone(mutation, result)
            self._wanted = max(self._wanted, head)

    @property
    def are_waiting(self) -> bool:
        """Whether anything is to be dealt with before more is sent."""
        return bool(self._journal.failed(1))

    @property
    def is_behind(self) -> bool:
        """Whether the feed has not yet brought what the latest refusals were judged on."""
        cursor = self._replica.cursor(self._ends.workspace)
        return cursor is None or cursor.seq < self._wanted

    def begin_again(self) -> None:
        """The backend's history is another one: what was said of the old one is void."""
        self._wanted = Seq(0)
        self._judged.clear()
        self._remote.forget()

    async def settle(self) -> bool:
        """Deal with all of it; False if the feed has not yet brought what it was judged on.

        Cancellation leaves the rest for later.

        Raises:
            RemoteError: what the backend has is not known here and cannot be had now.
            DiskFull, OutOfIds: nothing was changed by what failed.
        """
        if self.is_behind:
            return False
        rows = self._journal.failed(MOST_REFUSED)
        for step, row in enumerate(rows):
            if self._is_only_behind(row):
                at_end = row.status is not Status.CONFLICT or self._is_too_early(row)
                with self._keeping(row), self._journal.transaction():
                    self._amends.again(row, at_end=at_end)
            if step % STEP_REFUSED == 0:
                await trio.lowlevel.checkpoint()
        for step, row in enumerate(rows):
            await self._deal_with(row.n)
            if step % STEP_REFUSED == 0:
                await trio.lowlevel.checkpoint()
        self._judged.clear()
        self._remote.forget()
        if not self._journal.pending_count:
            self._tries.clear()
        return not self.are_waiting

    def _is_only_behind(self, row: JournalRow) -> bool:
        """Whether a mutation was not refused as such, or nobody knows any more why it was.

        A number that is taken or stale was refused as a number, not as a change: so are those right behind it, and the
        new one comes after all others. Where what is lacking last was, only
        the mount heard that was told: an earlier one's refusals are asked for again.
        """
        if row.status in (Status.ID_TAKEN, Status.STALE) and row.reason != INODE_TAKEN:
            return True
        is_unexplained = row.reason in LACKING and row.n not in self._judged
        return row.reason == PREDECESSOR or is_unexplained or self._is_too_early(row)

    def _is_too_early(self, row: JournalRow) -> bool:
        """Whether what a mutation lacks is still to be made, by one that stands behind it.

        Whatever it was refused for: nothing happens to an inode before it is created.
        """
        lacks = {*subjects(row.mutation), *(parents(row.mutation) if row.reason in LACKING else ())} - {NO_INODE}
        makes = Create | Restore if row.reason in LACKING else Create
        queued = (each for inode in lacks for each in self._journal.touching(inode) if each.n > row.n)
        return any(isinstance(each.mutation, makes) and each.mutation.inode in lacks for each in queued)

    async def _deal_with(self, n: OpNumber) -> None:
        while True:
            row = self._journal.get(n)
            if row is None or row.state is not RowState.FAILED:
                return
            try:
                with self._keeping(row):
                    self._make_good(row, self._decide(row))
                return
            except Unknown as unknown:
                await self._learn(unknown)

    def _make_good(self, row: JournalRow, actions: list[Action]) -> None:
        if FreshId() in actions and self._tries[row.n // OP_STRIDE]:
            # Others of its range are as little ours, and there are thousands. It is gone even if there is no other.
            with self._journal.transaction():
                self._journal.drop_id_range(row.mutation.inode)
        put_back = self._contents.remember(inodes_of(row.mutation, actions))
        try:
            with self._journal.transaction():
                outcome = self._amends.make(row, actions)
        except BaseException:
            put_back()
            self._amends.forget_cached()
            raise
        if FreshId() in actions:
            self._tries[row.n // OP_STRIDE] += 1
        if Make(row.mutation) in actions:
            self._tries[row.n // OP_STRIDE] += 1
            more = self._tries[row.n // OP_STRIDE] - MOST_TRIES
            if more >= 0:
                pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(more, 20), LONGEST_PAUSE_SECONDS)
                self.pausing.update(dict.fromkeys(outcome.made, pause))
        self._tell(outcome)

    @contextmanager
    def _keeping(self, row: JournalRow) -> Iterator[None]:
        """Whatever is wrong with one refused change keeps nothing else waiting: it stays as one refused for good."""
        try:
            yield
        except (Unknown, RemoteError, Poisoned, DiskFull, OutOfIds):
            raise
        except Exception:
            log.exception("a refused change to inode %d cannot be dealt with: %r", row.mutation.inode, row)
            with self._journal.transaction():
                self._journal.keep_rejected(row.n)
            self.notes.append(
                f"a change made here to {self._about(row)} was refused by the server, and a defect of drivefs hindered"
                " what is done then: what was written is in lost+found of this device. Save it again from there"
            )

    def _about(self, row: JournalRow) -> str:
        inode = row.mutation.inode
        names = [*entries(row.mutation)[-1:], *self._amends.places.names_of(inode)]
        return self._path(Place(*names[0])).decode(errors="backslashreplace") if names else f"inode {inode}"

    def _decide(self, row: JournalRow) -> list[Action]:
        if row.status is Status.ID_TAKEN:
            return [FreshId()]
        if self._is_behind_kept(row):
            return [Stay()]
        refusal = Refusal(row.mutation, row.reason, self._base_of(row.mutation), row.status is Status.REJECTED)
        actions = resolve(refusal, self._local, self._remote)
        for action in actions:
            if isinstance(action, Merge):
                self._need_listed(action.into)
        return actions

    def _need_listed(self, into: InodeId) -> None:
        """What is merged into a directory may have been looked for in vain: only who knows all its names can tell."""
        state = self._replica.inode(into) if into else None
        if state is not None and state.kind is InodeKind.DIRECTORY and not self._replica.is_complete(into):
            raise Unknown(directory=into)

    def _is_behind_kept(self, row: JournalRow) -> bool:
        """Whether an earlier change was rejected for good that was to make the inode, or the directory of its name."""
        named = {row.mutation.inode, *parents(row.mutation)}
        earlier = (each for inode in named for each in self._journal.touching(inode) if each.n < row.n)
        kept = (each.mutation for each in earlier if _is_kept(each))
        return any(isinstance(change, Create | Restore) and change.inode in named for change in kept)

    def _base_of(self, mutation: Mutation) -> RevisionNumber | None:
        """The revision of what a mutation changes or removes that it was made on, if that has a number."""
        if isinstance(mutation, Store | Unlink | Rename):
            base = mutation.base
        elif (draft := self._journal.drafts.draft(mutation.inode)) is not None:
            base = draft.base
        else:
            return NO_REVISION
        if not base.revision_op:
            return base.revision
        made = self._journal.get(base.revision_op)
        if made is not None and _is_kept(made):
            return self._base_of(made.mutation)
        return made.revision if made is not None and made.state is RowState.ACKED else None

    async def _learn(self, unknown: Unknown) -> None:
        if unknown.directory:
            try:
                await self._lister.list_directory(unknown.directory)
            except Refused as error:
                if error.code is not Code.NOT_FOUND:
                    raise
                # It was empty when it was removed: all that it may show is here.
                self._replica.mark_complete(unknown.directory)
        elif unknown.content is not None:
            await self._lister.content(unknown.content.inode, unknown.content.revision)
        else:
            request = InodesRequest(inodes=[unknown.inode])
            reply = await self._ends.remote.inodes(self._ends.workspace, request)
            self._remote.told(unknown.inode, next(iter(reply.inodes), None))

    def _tell(self, outcome: Outcome) -> None:
        for inode in outcome.contents:
            self.publishable(inode)
        for copy, place in outcome.copies:
            path = self._path(place)
            log.info("%r is a conflict copy: another device changed the same file first", path)
            self._events.publish(Event(kind=Kind.CONFLICT, path=path, origin=Origin.HERE, inode=copy))
        for taken, place in outcome.aside:
            first = f"another device took the name {self._text(taken)} first"
            self._note(f"{first}: what was to have it here is {self._text(place)}")
        for inode, given_up, why in outcome.given_up:
            text = self._text(given_up) if given_up is not None else "a file"
            now = [self._text(Place(*name)) for name in self._amends.places.names_of(inode)[:1]]
            where = f"; it is {now[0]} now" if now and now[0] != text else ""
            self._note(f"a change made here to {text} was given up: {why}{where}")

    def _note(self, text: str) -> None:
        self.notes.append(text)
        log.warning("%s", text)

    def _path(self, place: Place) -> bytes:
        return self._amends.places.path_of(place)

    def _text(self, place: Place) -> str:
        return repr(self._path(place).decode(errors="backslashreplace"))


def inodes_of(mutation: Mutation, actions: Iterable[Action]) -> set[InodeId]:
    """The inodes whose contents may go from one to another."""
    merged = {inode for action in actions if isinstance(action, Merge) for inode in (action.inode, action.into)}
    return {*subjects(mutation), *merged} - {NO_INODE}


def _is_kept(row: JournalRow) -> bool:
    """Whether a change was refused for good, and is not given up yet (`giving_up`)."""
    return row.state is RowState.FAILED and row.status is Status.REJECTED
