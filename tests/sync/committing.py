"""A committer with a real journal before it and a backend made by hand behind it, which answers as it is told."""

from collections.abc import Callable, Iterable

import msgspec
import trio
import trio.testing

from cache.workspace import LocalState
from drivefs.protocol.changes import Base, Mutation, OpResult, Status, Store
from drivefs.protocol.ids import Epoch, Incarnation, InodeId, OpNumber, RevisionNumber, Seq, WorkspaceId
from drivefs.protocol.messages import CommitReply, CommitRequest, Cursor, Usage
from drivefs.remote.errors import Offline
from drivefs.sync.commits import Committer
from drivefs.sync.ends import Ends
from drivefs.sync.guard import Guard
from drivefs.sync.publications import Publications


class Backend:
    """Answers as told by `answers` (op number → status), else `ok`; keeps what it was sent."""

    def __init__(self) -> None:
        self.batches: list[list[Mutation]] = []
        self.answers: dict[int, Status] = {}
        self.is_down = False
        self.during: Callable[[], None] = lambda: None

    async def commit(self, workspace: WorkspaceId, request: CommitRequest) -> CommitReply:
        await trio.lowlevel.checkpoint()
        self.batches.append(request.mutations)
        self.during()
        if self.is_down:
            raise Offline("down")
        results = [
            OpResult(m.n, self.answers.get(m.n, Status.OK), seq=Seq(7), revision=RevisionNumber(1))
            for m in request.mutations
        ]
        return CommitReply(results=results, head=Cursor(incarnation=Incarnation(1), seq=Seq(7)), usage=Usage())

    @property
    def sent(self) -> list[list[int]]:
        return [[mutation.n for mutation in batch] for batch in self.batches]


class Contents:
    """No content waits but that of the inodes in `unpublished`; hears what was published."""

    def __init__(self) -> None:
        self.unpublished: dict[InodeId, int] = {}
        self.notes: list[str] = []
        self.heard: list[InodeId] = []

    def unpublished_bytes(self, inode: InodeId) -> int | None:
        return self.unpublished.get(inode)

    def published(self, inode: InodeId, op: OpNumber, revision: RevisionNumber) -> None:
        self.heard.append(inode)

    def remember(self, inodes: Iterable[InodeId]) -> Callable[[], None]:
        return lambda: None


class Refusals:
    """Takes refused mutations out of the journal."""

    def __init__(self, local: LocalState) -> None:
        self.local = local
        self.refused: list[tuple[int, str]] = []
        self.pausing: dict[OpNumber, float] = {}
        self.notes: list[str] = []
        self.is_behind = False

    def take(self, refused: list[tuple[Mutation, OpResult]], head: Seq) -> None:
        self.refused += [(mutation.n, result.reason) for mutation, result in refused]

    @property
    def are_waiting(self) -> bool:
        return bool(self.local.journal.failed(1))

    def begin_again(self) -> None:
        pass

    async def settle(self) -> bool:
        await trio.lowlevel.checkpoint()
        for row in [] if self.is_behind else self.local.journal.failed(99):
            self.local.journal.remove(row.n)
        return not self.is_behind


class World:
    """A journal, a backend and a committer between them."""

    def __init__(self, local: LocalState) -> None:
        self.local, self.journal = local, local.journal
        local.replica.set_cursor(WorkspaceId(1), Cursor(incarnation=Incarnation(1), seq=Seq(0)))
        self.backend, self.contents, self.refusals = Backend(), Contents(), Refusals(local)
        self.publications = Publications(self.journal.last_op)
        self.resent: list[int] = []
        self.guard = Guard(self.journal, self.count_files, share=0.5, asked=lambda question: None)
        trio.run(self.guard.scan)
        self.committer = self.new_committer()

    async def count_files(self) -> int:
        return 10_000

    def new_committer(self) -> Committer:
        committer = Committer(
            Ends(self.local, self.backend, WorkspaceId(1), bytes),  # type: ignore[arg-type]
            contents=self.contents,  # type: ignore[arg-type]
            publications=self.publications,
            refusals=self.refusals,  # type: ignore[arg-type]
            guard=self.guard,
        )
        committer.resend = lambda store, result: self.resent.append(store.n)
        return committer

    def store(self, inode: InodeId, base: Base | None = None) -> OpNumber:
        """Put the store of an inode's draft into the journal, as the publisher does."""
        n = self.journal.next_op()
        with self.journal.transaction():
            self.journal.append(Store(n=n, time_ns=1, inode=inode, base=base or Base(), size=0, runs=[], mtime_ns=1))
            if (draft := self.journal.drafts.draft(inode)) is not None:
                self.journal.drafts.put_draft(msgspec.structs.replace(draft, frozen=1, frozen_op=n))
        return n

    def commit(self, *, urgent: bool = False) -> CommitReply | None:
        async def main() -> CommitReply | None:
            return await self.committer.commit_next(Epoch(1), urgent=urgent)

        return trio.run(main, clock=trio.testing.MockClock())
