"""Refused mutations on a real local state: whatever the backend says, what was written can still be read."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from cache.check import check
from drivefs.protocol.changes import Create, Mutation, OpResult, Rename, Status, Store, Unlink
from drivefs.protocol.ids import Incarnation, InodeId, OpNumber, Seq
from drivefs.protocol.messages import Cursor, FeedPage, FeedStatus
from drivefs.protocol.model import DentryState, InodeKind, InodeState
from drivefs.sync.contents import Shown
from drivefs.sync.refusals import Labels, Refusals
from tests.fs.bench import ROOT, WORKSPACE, FsBench

COPY = b"a (conflicted copy, laptop, 2026-11-21).txt"


class Kernel:
    """Hears what it has to forget."""

    def __init__(self) -> None:
        self.forgotten: set[object] = set()

    def inode(self, inode: InodeId, *, content: bool) -> None:
        self.forgotten.add(inode)

    def entry(self, parent: InodeId, name: bytes) -> None:
        self.forgotten.add((parent, name))


class World:
    """A device whose backend refuses."""

    def __init__(self, bench: FsBench) -> None:
        self.bench, self.journal, self.kernel = bench, bench.local.journal, Kernel()
        labels = Labels(device="laptop", today=lambda: "2026-11-21")
        shown = Shown(bench.fs, self.kernel)
        self.refusals = Refusals(bench.local, ROOT, contents=bench.fs.contents, shown=shown, labels=labels)

    def refuse(self, *refused: tuple[Mutation, str], status: Status = Status.CONFLICT) -> None:
        """Let the backend refuse mutations for these reasons, in one reply."""
        with self.journal.transaction():
            self.journal.mark_sent([mutation.n for mutation, _ in refused])
            for mutation, reason in refused:
                self.journal.fail(mutation.n, status, reason)
            self.refusals.handle(
                [(mutation, OpResult(mutation.n, status, reason=reason)) for mutation, reason in refused]
            )

    def pending(self, kind: type[Mutation], inode: InodeId | None = None) -> list[Mutation]:
        rows = self.journal.unsettled(100)
        found = [row.mutation for row in rows if isinstance(row.mutation, kind)]  # type: ignore[arg-type]
        return [m for m in found if inode is None or m.inode == inode]

    def stored(self, name: bytes, content: bytes) -> tuple[InodeId, Mutation, Mutation]:
        """A new file whose store waits in the journal: its inode, creation and store."""
        inode = self.bench.file(name, content)
        snapshot = self.bench.freeze(inode)
        assert snapshot is not None
        assert self.bench.store(snapshot)
        return inode, self.pending(Create, inode)[0], self.pending(Store, inode)[0]

    def published(self, name: bytes, content: bytes) -> InodeId:
        """A file that the backend has."""
        inode = self.bench.file(name, content)
        self.bench.publish(inode)
        self.accept(self.pending(Create, inode))
        return inode

    def accept(self, mutations: Iterable[Mutation]) -> None:
        with self.journal.transaction():
            for mutation in mutations:
                self.journal.settle(mutation.n, 5)  # type: ignore[arg-type]

    def remote(self, name: bytes, inode: int, kind: InodeKind = InodeKind.FILE) -> None:
        """Another device has made this name."""
        state = InodeState(inode=InodeId(inode), kind=kind, mode=0o644)
        page = FeedPage(
            workspace=WORKSPACE,
            status=FeedStatus.CHANGES,
            cursor=Cursor(incarnation=Incarnation(1), seq=Seq(9)),
            inodes=[state],
            dentries=[DentryState(parent=ROOT, name=name, inode=InodeId(inode))],
        )
        self.bench.local.replica.apply_page(page)
        self.bench.fs.forget_cached([InodeId(inode)], [(ROOT, name)])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    bench = FsBench(tmp_path)
    yield World(bench)
    bench.close()
    assert check(tmp_path / "state", tmp_path / "cache") == []


def test_file_whose_name_was_taken_gets_another_and_keeps_its_content(world: World) -> None:
    inode, create, store = world.stored(b"a.txt", b"mine")
    world.remote(b"a.txt", 9000)
    world.refuse((create, "exists"), (store, "predecessor"))
    found = world.bench.lookup(COPY)
    assert found is not None
    assert found.inode == inode
    assert world.bench.read(inode) == b"mine"
    theirs = world.bench.lookup(b"a.txt")
    assert theirs is not None
    assert theirs.inode == 9000
    again = world.pending(Store, inode)
    assert [m.name for m in world.pending(Create)] == [COPY]
    assert {(ROOT, b"a.txt"), (ROOT, COPY)} <= world.kernel.forgotten
    world.accept(world.pending(Create))
    world.bench.commit(again[0].n)
    assert world.bench.read(inode) == b"mine"
    assert world.journal.drafts.draft(inode) is None


def test_content_that_lost_a_race_becomes_a_conflict_copy_beside_the_name(world: World) -> None:
    inode = world.published(b"a.txt", b"first")
    writer = world.bench.open_file(inode)
    world.bench.fs.write(writer, 0, b"SECOND")
    snapshot = world.bench.freeze(inode)
    assert snapshot is not None
    op = world.bench.store(snapshot)
    assert op is not None
    world.bench.fs.write(writer, 6, b"+later")
    world.refuse((world.pending(Store, inode)[0], "changed"))
    copy = world.bench.lookup(COPY)
    assert copy is not None
    assert world.bench.read(copy.inode) == b"SECOND+later"
    world.bench.fs.release(writer)
    assert world.bench.read(inode) == b"first"
    world.bench.commit(world.pending(Store, copy.inode)[0].n)
    assert world.bench.read(copy.inode) == b"SECOND+later"


def test_edit_of_a_file_that_was_deleted_brings_it_back_under_its_name(world: World) -> None:
    inode = world.published(b"a.txt", b"first")
    world.bench.fs.write(world.bench.open_file(inode), 0, b"EDIT!")
    snapshot = world.bench.freeze(inode)
    assert snapshot is not None
    world.bench.store(snapshot)
    store = world.pending(Store, inode)[0]
    world.journal.overlay.put_dentry(ROOT, b"a.txt", inode, store.n)
    world.refuse((store, "absent"))
    names = world.bench.names()
    assert len(names) == 1
    copy = world.bench.lookup(names.pop())
    assert copy is not None
    assert world.bench.read(copy.inode) == b"EDIT!"


def test_stale_deletion_is_dropped_and_the_file_shows_again(world: World) -> None:
    world.remote(b"kept", 9001)
    assert world.bench.lookup(b"kept") is not None
    world.bench.unlink(b"kept")
    assert world.bench.names() == set()
    world.refuse((world.pending(Unlink)[0], "changed"))
    assert world.bench.names() == {b"kept"}
    assert (ROOT, b"kept") in world.kernel.forgotten


def test_save_by_rename_over_a_changed_file_lands_beside_it(world: World) -> None:
    world.remote(b"a.txt", 9002)
    inode, create, store = world.stored(b"tmp", b"new")
    world.bench.rename(b"tmp", b"a.txt")
    rename = world.pending(Rename)[0]
    world.accept([create])
    world.bench.commit(store.n)
    world.refuse((rename, "changed"))
    theirs, mine = world.bench.lookup(b"a.txt"), world.bench.lookup(COPY)
    assert theirs is not None
    assert theirs.inode == 9002
    assert mine is not None
    assert mine.inode == inode
    assert world.bench.read(inode) == b"new"
    assert world.bench.lookup(b"tmp") is None
    fresh = world.pending(Rename)
    assert [(m.new_name, m.replaced) for m in fresh] == [(COPY, 0)]


def test_file_in_a_directory_that_is_gone_comes_to_the_top(world: World) -> None:
    directory = world.bench.mkdir(b"gone")
    inode = world.bench.file(b"a.txt", b"mine", directory)
    made = [m for m in world.pending(Create) if m.inode == directory]
    world.accept(made)
    create = world.pending(Create, inode)[0]
    world.refuse((create, "no_parent"))
    found = world.bench.lookup(COPY)
    assert found is not None
    assert world.bench.read(found.inode) == b"mine"


@pytest.mark.parametrize("status", [Status.ID_TAKEN, Status.STALE])
def test_refused_number_is_not_a_refused_change(world: World, status: Status) -> None:
    inode, create, store = world.stored(b"a.txt", b"mine")
    world.refuse((create, ""), (store, ""), status=status)
    again = [*world.pending(Create), *world.pending(Store)]
    assert [msgspec.structs.replace(m, n=OpNumber(0)) for m in again] == [
        msgspec.structs.replace(m, n=OpNumber(0)) for m in (create, store)
    ]
    assert min(m.n for m in again) > store.n
    world.accept(world.pending(Create))
    world.bench.commit(again[1].n)
    assert world.bench.read(inode) == b"mine"
    assert world.journal.drafts.draft(inode) is None


def test_content_of_a_file_whose_inode_id_is_taken_gets_a_new_file(world: World) -> None:
    inode, create, store = world.stored(b"a.txt", b"mine")
    with world.journal.transaction():
        world.journal.mark_sent([create.n, store.n])
        world.journal.fail(create.n, Status.ID_TAKEN, "inode")
        world.journal.fail(store.n, Status.CONFLICT, "predecessor")
        world.refusals.handle(
            [
                (create, OpResult(create.n, Status.ID_TAKEN, reason="inode")),
                (store, OpResult(store.n, Status.CONFLICT, reason="predecessor")),
            ]
        )
    world.refuse((world.pending(Store, inode)[0], "absent"))
    found = [world.bench.lookup(name) for name in world.bench.names()]
    assert len(found) == 1
    assert found[0] is not None
    assert found[0].inode != inode
    assert world.bench.read(found[0].inode) == b"mine"
