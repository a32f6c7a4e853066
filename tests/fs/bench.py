"""A file system over real local databases, with a backend in memory, for tests without a kernel.

Owns the pretended parts: a clock that ticks, a backend that keeps blocks in a dict and may be offline, and the way of
one publication as the engine does it.
"""

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import trio

from cache.workspace import LocalState
from drivefs.fs.drive import Drive, Services
from drivefs.fs.filesystem import FileSystem
from drivefs.fs.namespace import NewInode
from drivefs.fs.ownership import Owner
from drivefs.fs.snapshots import Snapshot
from drivefs.protocol import blocks as codec
from drivefs.protocol.changes import Mutation, Store
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.history import (
    EmptyTrashReply,
    MomentReply,
    MomentRequest,
    RevisionInfo,
    RevisionsReply,
    SnapshotInfo,
    SnapshotsReply,
    TrashEntry,
    TrashReply,
    TrashRequest,
)
from drivefs.protocol.ids import (
    BlockId,
    CommitId,
    Incarnation,
    InodeId,
    OpNumber,
    RevisionNumber,
    Seq,
    WorkspaceId,
)
from drivefs.protocol.messages import Cursor, Entry, Limits, ListReply, Usage
from drivefs.protocol.model import (
    MAX_INLINE_BLOCKS,
    BlockRef,
    InodeKind,
    InodeState,
    cut_runs,
    pack_blocks,
    run_id,
)
from drivefs.remote.errors import Offline, Refused
from tests.support.journals import mark_sent

ROOT = InodeId(2**20)
WORKSPACE = WorkspaceId(1)
FIRST_ID = InodeId(2**21)
LIMITS = Limits(file_bytes=2**40, quota_bytes=2**41)
OWNER = Owner(1000, 1000)

Result = TypeVar("Result")


@dataclass(frozen=True)
class User:
    """Who calls."""

    uid: int = 1000
    gid: int = 1000
    pid: int = 77


ME = User()


class Backend:
    """Blocks, listings and block lists of the server; hears what there is to publish."""

    def __init__(self) -> None:
        self.local: LocalState
        self.is_online = True
        self.blocks: dict[BlockId, bytes] = {}
        self.contents: dict[tuple[InodeId, RevisionNumber], bytes] = {}
        self.past: dict[tuple[InodeId, RevisionNumber], bytes] = {}
        self.listings: dict[InodeId, tuple[InodeState, list[Entry]]] = {}
        self.fetched: list[BlockId] = []
        self.ahead: list[BlockId] = []
        self.heard: list[tuple[str, InodeId]] = []
        self.during: Callable[[], None] = lambda: None
        """Called once while somebody waits for the server."""

    async def wait(self) -> None:
        during, self.during = self.during, lambda: None
        during()
        if not self.is_online:
            raise Offline("the server is away")

    def expect(self, workspace: WorkspaceId, refs: Sequence[BlockRef]) -> None:
        self.ahead += [ref.block for ref in refs]

    async def fetch(self, workspace: WorkspaceId, blocks: Sequence[BlockId]) -> None:
        await self.wait()
        self.fetched += blocks
        await self.local.blocks.keep([(block, self.blocks[block]) for block in blocks])

    async def read(self, workspace: WorkspaceId, inode: InodeId, block: BlockId) -> bytes:
        await self.wait()
        return self.blocks[block]

    async def list_directory(self, directory: InodeId) -> None:
        await self.wait()
        state, entries = self.listings[directory]
        self.local.replica.apply_listing(state, entries, Seq(1), complete=True)

    async def content(self, inode: InodeId, revision: RevisionNumber) -> bytes:
        await self.wait()
        return self.contents[inode, revision]

    def acting(self, process: int) -> None:
        self.process = process

    def changed(self) -> None:
        self.heard.append(("changed", InodeId(0)))

    def opened(self, inode: InodeId) -> None:
        pass

    def closed(self, inode: InodeId) -> None:
        self.heard.append(("closed", inode))

    def synced(self, inode: InodeId) -> None:
        self.heard.append(("synced", inode))

    def dropped(self, inode: InodeId) -> None:
        self.heard.append(("dropped", inode))

    def told(self, inode: InodeId) -> list[str]:
        """What was heard of an inode."""
        return [word for word, about in self.heard if about == inode]


class Past:
    """What the server tells of the past: of `history` the revisions by number, of `trees` the directories by seq."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.history: dict[InodeId, list[RevisionInfo]] = {}
        self.trees: dict[Seq, dict[InodeId, ListReply]] = {}
        self.moments: list[MomentReply] = []
        self.named: list[SnapshotInfo] = []
        self.kept: list[tuple[InodeId, RevisionNumber, bool]] = []
        self.asked: list[str] = []
        self.removed: list[TrashEntry] = []

    async def _asked(self, what: str) -> None:
        self.asked.append(what)
        await self.backend.wait()

    async def content(self, inode: InodeId, revision: RevisionNumber, *, in_history: bool) -> bytes:
        await self._asked("content")
        if (inode, revision) not in self.backend.past:
            raise Refused(ProtocolError(Code.NOT_FOUND, "no such content"))
        return self.backend.past[inode, revision]

    async def revisions(self, inode: InodeId, after: RevisionNumber, limit: int) -> RevisionsReply:
        await self._asked("revisions")
        if inode not in self.history:
            raise Refused(ProtocolError(Code.NOT_FOUND, "no such file"))
        found = [each for each in self.history[inode] if each.number > after]
        return RevisionsReply(revisions=found[:limit], more=len(found) > limit)

    async def keep(self, inode: InodeId, revision: RevisionNumber, *, is_kept: bool) -> None:
        await self._asked("keep")
        self.kept.append((inode, revision, is_kept))

    async def trash(self, request: TrashRequest) -> TrashReply:
        await self._asked("trash")
        found = [each for each in self.removed if each.place.parent == request.parent or not request.parent]
        return TrashReply(entries=found, keep_seconds=1)

    async def empty_trash(self, until: Seq) -> EmptyTrashReply:
        await self._asked("empty_trash")
        return EmptyTrashReply(count=0)

    async def moment(self, request: MomentRequest) -> MomentReply:
        await self._asked("moment")
        if request.snapshot:
            found = [each for each in self.named if each.name == request.snapshot]
            if not found:
                raise Refused(ProtocolError(Code.NOT_FOUND, "no such snapshot"))
            return MomentReply(seq=found[0].seq, time_ns=found[0].time_ns)
        return max((each for each in self.moments if each.time_ns <= request.time_ns), key=lambda each: each.seq)

    async def snapshots(self) -> SnapshotsReply:
        await self._asked("snapshots")
        return SnapshotsReply(snapshots=self.named)

    async def create_snapshot(self, name: str, time_ns: int) -> SnapshotInfo:
        await self._asked("create_snapshot")
        moment = await self.moment(MomentRequest(time_ns=time_ns or 2**62))
        self.named.append(SnapshotInfo(name=name, seq=moment.seq, time_ns=moment.time_ns, created_ns=1))
        return self.named[-1]

    async def delete_snapshot(self, name: str) -> None:
        await self._asked("delete_snapshot")
        self.named = [each for each in self.named if each.name != name]

    async def inode(self, inode: InodeId, seq: Seq) -> InodeState | None:
        await self._asked("inode")
        return self.trees[seq][inode].directory

    async def directory(self, directory: InodeId, seq: Seq, after: bytes, limit: int) -> ListReply:
        await self._asked("directory")
        whole = self.trees[seq][directory]
        found = [entry for entry in whole.entries if entry.name > after]
        return ListReply(directory=whole.directory, entries=found[:limit], seq=seq, more=len(found) > limit)


async def at_once(work: Callable[..., Any], /, *args: Any) -> Any:
    return work(*args)


class FsBench:
    """One device: a file system, its databases, and calls that run to their end."""

    def __init__(self, place: Path, limits: Limits = LIMITS) -> None:
        self.place = place
        self.limits = limits
        self.backend = Backend()
        self.past = Past(self.backend)
        self.ticks = count(10**18)
        self.revisions = count(1)
        self.seqs = count(2)
        self.local: LocalState
        self.fs: FileSystem
        self.open()

    def now_ns(self) -> int:
        return next(self.ticks)

    def open(self) -> None:
        self.local = LocalState(self.place / "state", self.place / "cache", offload=at_once, cache_limit_bytes=2**30)
        if self.local.replica.inode(ROOT) is None:
            root = InodeState(inode=ROOT, kind=InodeKind.DIRECTORY, mode=0o755, nlink=2, seq=Seq(1))
            self.local.replica.apply_listing(root, [], Seq(1), complete=True)
            self.local.replica.set_cursor(
                WORKSPACE, Cursor(incarnation=Incarnation(1), seq=Seq(1), commit=CommitId(b"c"))
            )
            self.local.journal.add_id_range(FIRST_ID)
        self.backend.local = self.local
        self.compose()

    def compose(self) -> None:
        """A new mount over the same databases."""
        services = Services(fetcher=self.backend, lister=self.backend, publisher=self.backend, past=self.past)
        drive = Drive(
            workspace=WORKSPACE,
            root=ROOT,
            owner=OWNER,
            limits=self.limits,
            usage=Usage(),
            files={b"status": lambda: {"online": self.backend.is_online}},
            status_of=lambda inode: "pending",
        )
        self.fs = FileSystem(self.local, services, drive, self.now_ns)

    def reopen(self) -> None:
        """As after the death of the process: what was in memory is gone."""
        self.local.close()
        self.open()

    def close(self) -> None:
        self.local.close()

    def run(self, work: Callable[..., Awaitable[Result]], *args: Any, **named: Any) -> Result:
        """Run an asynchronous call to its end."""

        async def call() -> Result:
            return await work(*args, **named)

        return trio.run(call)

    # -- names

    def make(self, name: bytes, kind: InodeKind = InodeKind.FILE, parent: InodeId = ROOT, **more: Any) -> InodeState:
        new = NewInode(parent=parent, name=name, kind=kind, mode=more.pop("mode", 0o644), **more)
        return self.run(self.fs.create, new, ME)

    def mkdir(self, name: bytes, parent: InodeId = ROOT) -> InodeId:
        return self.make(name, InodeKind.DIRECTORY, parent, mode=0o755).inode

    def file(self, name: bytes, content: bytes = b"", parent: InodeId = ROOT) -> InodeId:
        """Make a file with content, and close it."""
        new = NewInode(parent=parent, name=name, kind=InodeKind.FILE, mode=0o644)
        state, number = self.run(self.fs.create_file, new, os.O_WRONLY, ME)
        if content:
            self.fs.write(number, 0, content)
        self.fs.release(number)
        return state.inode

    def lookup(self, name: bytes, parent: InodeId = ROOT) -> InodeState | None:
        return self.run(self.fs.lookup, parent, name)

    def unlink(self, name: bytes, parent: InodeId = ROOT) -> None:
        self.run(self.fs.unlink, parent, name)

    def rename(self, old: bytes, new: bytes, *, replace: bool = True) -> None:
        self.run(self.fs.rename, (ROOT, old), (ROOT, new), replace=replace)

    def names(self, directory: InodeId = ROOT) -> set[bytes]:
        number = self.fs.open_directory(directory)
        entries = self.run(self.fs.read_directory, number, 0)
        found = {name for name, _, _ in entries} - {b".", b".."}
        self.fs.release_directory(number)
        return found

    # -- content

    def open_file(self, inode: InodeId, flags: int = os.O_RDWR, user: User = ME) -> int:
        return self.fs.open(inode, flags, user)

    def read(self, inode: InodeId, offset: int = 0, length: int = 2**40) -> bytes:
        number = self.fs.open(inode, os.O_RDONLY, ME)
        try:
            return bytes(self.run(self.fs.read, number, offset, length))
        finally:
            self.fs.release(number)

    def mutations(self) -> list[Mutation]:
        return [row.mutation for row in self.local.journal.unsettled(10_000)]

    # -- publishing, as the engine does it

    def freeze(self, inode: InodeId) -> Snapshot | None:
        return self.run(self.fs.contents.snapshot, inode)

    def content_of(self, snapshot: Snapshot) -> bytes:
        return self.run(snapshot.read, 0, snapshot.size)

    def store(self, snapshot: Snapshot, *, block_bytes: int = 16) -> OpNumber | None:
        """Have the blocks stored, and put the `Store` into the journal; None if it has become pointless."""
        content = self.content_of(snapshot)
        pieces = [content[start : start + block_bytes] for start in range(0, len(content), block_bytes)]
        refs = [BlockRef(codec.block_id(piece), len(piece)) for piece in pieces]
        self.backend.blocks.update({ref.block: piece for ref, piece in zip(refs, pieces, strict=True)})
        known = {run_id(run) for run in cut_runs(list(snapshot.base_blocks))}
        runs = {run_id(run): run for run in cut_runs(refs)}
        journal = self.local.journal
        store = Store(
            n=journal.next_op(),
            time_ns=self.now_ns(),
            inode=snapshot.inode,
            base=snapshot.base,
            size=snapshot.size,
            runs=[run_id(run) for run in cut_runs(refs)],
            new_runs=[run for name, run in runs.items() if name not in known],
            mtime_ns=snapshot.mtime_ns,
        )
        with journal.transaction():
            if not self.fs.contents.storing(snapshot, store.n, pack_blocks(refs)):
                return None
            journal.append(store)
        return store.n

    def commit(self, op: OpNumber) -> RevisionNumber:
        """The backend has committed a store."""
        row = self.local.journal.get(op)
        assert row is not None
        inode, revision = row.mutation.inode, RevisionNumber(next(self.revisions))
        journal = self.local.journal
        earlier = [row.n for row in journal.touching(inode) if row.n < op]
        mark_sent(journal, [*earlier, op])
        with journal.transaction():
            for n in earlier:
                journal.settle(n, Seq(next(self.seqs)))
            journal.settle(op, Seq(next(self.seqs)), revision)
            self.fs.contents.published(inode, op, revision)
        state = self.fs.inode(inode)
        if state.blocks is None:
            packed = self.local.replica.content(inode, revision)
            assert packed is not None
            self.backend.contents[inode, revision] = packed
        else:
            assert len(state.blocks) <= MAX_INLINE_BLOCKS * 36
        return revision

    def publish(self, inode: InodeId, *, block_bytes: int = 16) -> RevisionNumber:
        snapshot = self.freeze(inode)
        assert snapshot is not None
        op = self.store(snapshot, block_bytes=block_bytes)
        assert op is not None
        return self.commit(op)

    def add_remote_directory(self, name: bytes, directory: InodeId, entries: dict[bytes, InodeState]) -> None:
        """A directory that the server has and that was not listed here yet."""
        state = InodeState(inode=directory, kind=InodeKind.DIRECTORY, mode=0o755, nlink=2, seq=Seq(1))
        replica = self.local.replica
        with replica.transaction():
            replica.put_inodes([state], Seq(1))
            replica.database.write("INSERT OR REPLACE INTO dentries VALUES (?, ?, ?, 1)", (ROOT, name, directory))
        self.backend.listings[directory] = (
            state,
            [Entry(name=name, inode=inode) for name, inode in entries.items()],
        )
