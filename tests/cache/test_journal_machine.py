"""Journal, overlay, drafts and replica together, against a model made of dictionaries, through closes and crashes."""

import tempfile
from pathlib import Path

import msgspec
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cache.findings import Severity
from cache.journal import OP_STRIDE
from cache.overlay import MISSING
from cache.workspace import LocalState
from drivefs.protocol.changes import Create, Mutation, Rename, Unlink
from drivefs.protocol.ids import (
    NO_INODE,
    NO_OP,
    CommitId,
    Incarnation,
    InodeId,
    OpNumber,
    RevisionNumber,
    Seq,
    WorkspaceId,
)
from drivefs.protocol.messages import Cursor, FeedPage, FeedStatus
from drivefs.protocol.model import DentryState, InodeKind, InodeState
from tests.cache.states import ROOT, T0, Bench, content_of, draft_of
from tests.support.examples import examples
from tests.support.journals import mark_sent

MEMORY = Path("/dev/shm")
"""Where files cost no disk: this is about what is in them."""

WORKSPACE = WorkspaceId(1)
NAMES = [b"a", b"b", b"c", b"\xff"]
name_of = st.sampled_from(NAMES)


class Broken(Exception):
    """Ends a transaction that is to fail."""


class JournalMachine(RuleBasedStateMachine):
    """One device: changes, answers in any order that dependencies allow, the feed, closes and crashes."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        self.bench = Bench(Path(self.directory.name))
        self.place = "0"
        self.local: LocalState = self.bench.open(self.place)
        self.local.replica.mark_complete(ROOT)
        self.view: dict[bytes, InodeId] = {}
        self.contents: dict[InodeId, bytes] = {}
        self.pending: list[Mutation] = []
        self.acked: list[tuple[Mutation, int]] = []
        self.server: dict[bytes, InodeId] = {}
        self.seq = 0

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            assert self.bench.close(self.local, self.place) == []
            self.directory.cleanup()

    # -- changes -----------------------------------------------------------------------------------------------------

    def _append(self, mutation: Mutation, outcome: dict[bytes, InodeId]) -> None:
        overlay = self.local.journal.overlay
        with self.local.journal.transaction():
            self.local.journal.append(mutation)
            for name, inode in outcome.items():
                overlay.put_dentry(ROOT, name, inode, mutation.n)
            overlay.put_inode(InodeState(ROOT, InodeKind.DIRECTORY, 0o755, mtime_ns=T0 + mutation.n), mutation.n)
        self.pending.append(mutation)
        for name, inode in outcome.items():
            self.view[name] = inode
            if not inode:
                del self.view[name]

    def _stamp(self) -> tuple[OpNumber, int]:
        n = self.local.journal.next_op()
        return n, T0 + n

    @rule(name=name_of)
    def create(self, name: bytes) -> None:
        if name in self.view:
            return
        journal = self.local.journal
        with journal.transaction():
            inode = journal.allocate_inode()
            n, now = self._stamp()
            journal.overlay.put_inode(InodeState(inode, InodeKind.FILE, 0o644, mtime_ns=now), n)
            self._append(
                Create(n=n, time_ns=now, inode=inode, parent=ROOT, name=name, kind=InodeKind.FILE, mode=0o644),
                {name: inode},
            )
        assert inode not in self.contents
        self.contents[inode] = b""

    @rule(name=name_of)
    def unlink(self, name: bytes) -> None:
        inode = self.view.get(name)
        if inode is None:
            return
        n, now = self._stamp()
        with self.local.journal.transaction():
            self._append(Unlink(n=n, time_ns=now, parent=ROOT, name=name, inode=inode), {name: NO_INODE})
            self.local.journal.drafts.drop_draft(inode)
        self.contents[inode] = b""

    @rule(name=name_of, new_name=name_of)
    def rename(self, name: bytes, new_name: bytes) -> None:
        if name not in self.view or name == new_name:
            return
        n, now = self._stamp()
        inode, replaced = self.view[name], self.view.get(new_name, NO_INODE)
        rename = Rename(
            n=n, time_ns=now, parent=ROOT, name=name, new_parent=ROOT, new_name=new_name, inode=inode, replaced=replaced
        )
        with self.local.journal.transaction():
            self._append(rename, {name: NO_INODE, new_name: inode})
            if replaced:
                self.local.journal.drafts.drop_draft(replaced)
        if replaced:
            self.contents[replaced] = b""

    @rule(name=name_of, offset=st.integers(0, 50), data=st.binary(min_size=1, max_size=40), staged=st.booleans())
    def write(self, name: bytes, offset: int, data: bytes, staged: bool) -> None:
        if name not in self.view:
            return
        inode = self.view[name]
        with self.local.journal.transaction():
            self._ensure_draft(inode)
            where = self.local.staging.append(inode, data) if staged else None
            self.local.journal.drafts.add_record(inode, offset, data, where)
            old = self.contents[inode].ljust(offset, b"\0")
            self._show(inode, old[:offset] + data + old[offset + len(data) :])

    @rule(name=name_of, size=st.integers(0, 60))
    def truncate(self, name: bytes, size: int) -> None:
        if name not in self.view:
            return
        inode = self.view[name]
        with self.local.journal.transaction():
            self._ensure_draft(inode)
            self.local.journal.drafts.add_truncate(inode, size)
            self._show(inode, self.contents[inode][:size].ljust(size, b"\0"))

    def _ensure_draft(self, inode: InodeId) -> None:
        if self.local.journal.drafts.draft(inode) is None:
            self.local.journal.drafts.put_draft(draft_of(inode))

    def _show(self, inode: InodeId, content: bytes) -> None:
        self.contents[inode] = content
        state = self.local.journal.overlay.inode(inode) or self.local.replica.inode(inode)
        assert state is not None
        self.local.journal.overlay.put_inode(msgspec.structs.replace(state, size=len(content)), NO_OP)

    @rule(name=name_of)
    def fail(self, name: bytes) -> None:
        journal = self.local.journal
        try:
            with journal.transaction():
                n, now = self._stamp()
                journal.append(Unlink(n=n, time_ns=now, parent=ROOT, name=name, inode=InodeId(1)))
                journal.overlay.put_dentry(ROOT, name, NO_INODE, n)
                for inode in list(journal.drafts.draft_inodes()):
                    journal.drafts.drop_draft(inode)
                journal.allocate_inode()
                raise Broken
        except Broken:
            pass

    # -- answers and the feed ----------------------------------------------------------------------------------------

    def _may_settle(self) -> list[Mutation]:
        """Pending changes that depend on no earlier pending one: they share no name and no inode."""
        free: list[Mutation] = []
        names: set[bytes] = set()
        inodes: set[InodeId] = set()
        for mutation in self.pending:
            its_names, its_inodes = names_and_inodes(mutation)
            if names.isdisjoint(its_names) and inodes.isdisjoint(its_inodes):
                free.append(mutation)
            names |= its_names
            inodes |= its_inodes
        return free

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        mutation = data.draw(st.sampled_from(self._may_settle()))
        self.seq += 1
        mark_sent(self.local.journal, [mutation.n])
        self.local.journal.settle(mutation.n, Seq(self.seq), RevisionNumber(1))
        self.pending.remove(mutation)
        self.acked.append((mutation, self.seq))

    @precondition(lambda self: self.acked)
    @rule(count=st.integers(1, 5), limit=st.integers(1, 3))
    def follow(self, count: int, limit: int) -> None:
        """The feed brings the next commits; then the overlay lets go."""
        for mutation, seq in self.acked[:count]:
            self.local.replica.apply_page(page_of(mutation, seq))
            apply(mutation, self.server)
        passed = self.acked[min(count, len(self.acked)) - 1][1]
        del self.acked[:count]
        trio.run(self.local.replica.sync)
        assert self.local.replica.synced_seq(WORKSPACE) == passed
        while self.local.journal.forget(Seq(passed), limit).more:
            pass

    # -- ends and beginnings -----------------------------------------------------------------------------------------

    @rule()
    def barrier(self) -> None:
        trio.run(self.local.barrier)
        trio.run(self.local.barrier)  # what the first removed, the second notes
        assert not self.local.dirty

    @rule()
    def close_and_open(self) -> None:
        assert self.bench.close(self.local, self.place) == []
        self.local = self.bench.open(self.place)
        assert self.local.report == []

    @rule()
    def crash(self) -> None:
        before, self.place = self.place, str(int(self.place) + 1)
        self.bench.crash(self.place, before, flushed=False)
        self.bench.close(self.local, before)
        self.local = self.bench.open(self.place)
        assert {finding.severity for finding in self.local.report} <= {Severity.NOTE}

    # -- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def names_are_those_of_the_model(self) -> None:
        if not hasattr(self, "local"):
            return
        for name in NAMES:
            found = self.local.journal.overlay.dentry(ROOT, name)
            if found is MISSING:
                found = self.local.replica.dentry(ROOT, name)
            assert found == self.view.get(name), name
            assert self.local.replica.dentry(ROOT, name) == self.server.get(name)

    @invariant()
    def the_journal_is_that_of_the_model(self) -> None:
        if not hasattr(self, "local"):
            return
        journal = self.local.journal
        assert [row.mutation for row in journal.unsettled(1000)] == self.pending
        assert journal.pending_count == len(self.pending)
        lowest = self.pending[0].n if self.pending else journal.last_op() + OP_STRIDE
        assert journal.watermark() == lowest

    @invariant()
    def contents_are_those_of_the_model(self) -> None:
        if not hasattr(self, "local"):
            return
        records = 0
        for inode, content in self.contents.items():
            assert content_of(self.local, inode) == content
            records += sum(record.length for record in self.local.journal.drafts.records(inode))
        assert self.local.journal.pending_bytes == records


def names_and_inodes(mutation: Mutation) -> tuple[set[bytes], set[InodeId]]:
    if isinstance(mutation, Rename):
        return {mutation.name, mutation.new_name}, {mutation.inode, mutation.replaced} - {NO_INODE}
    assert isinstance(mutation, Create | Unlink)
    return {mutation.name}, {mutation.inode}


def apply(mutation: Mutation, names: dict[bytes, InodeId]) -> None:
    """What the server makes of it."""
    if isinstance(mutation, Create):
        names[mutation.name] = mutation.inode
    elif isinstance(mutation, Unlink):
        del names[mutation.name]
    elif isinstance(mutation, Rename):
        names[mutation.new_name] = names.pop(mutation.name)


def page_of(mutation: Mutation, seq: int) -> FeedPage:
    """The page of the feed with this one commit."""
    names: dict[bytes, InodeId] = {}
    inodes = [InodeState(ROOT, InodeKind.DIRECTORY, 0o755, nlink=2)]
    if isinstance(mutation, Create):
        names[mutation.name] = mutation.inode
        inodes.append(InodeState(mutation.inode, InodeKind.FILE, 0o644))
    elif isinstance(mutation, Unlink):
        names[mutation.name] = NO_INODE
        inodes.append(InodeState(mutation.inode, InodeKind.FILE, 0o644, nlink=0))
    elif isinstance(mutation, Rename):
        names = {mutation.name: NO_INODE, mutation.new_name: mutation.inode}
        inodes.append(InodeState(mutation.inode, InodeKind.FILE, 0o644))
        if mutation.replaced:
            inodes.append(InodeState(mutation.replaced, InodeKind.FILE, 0o644, nlink=0))
    cursor = Cursor(incarnation=Incarnation(1), seq=Seq(seq), commit=CommitId(bytes(16)))
    dentries = [DentryState(ROOT, name, inode) for name, inode in names.items()]
    return FeedPage(workspace=WORKSPACE, status=FeedStatus.CHANGES, cursor=cursor, inodes=inodes, dentries=dentries)


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=examples(40), stateful_step_count=40)
