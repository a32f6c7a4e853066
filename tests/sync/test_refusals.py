"""Refused mutations on a real local state: whatever the backend says, what was written can still be read."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
import trio

from cache.check import check
from cache.journal import JournalRow, RowState
from drivefs.protocol.changes import Create, Mutation, OpResult, Rename, SetXattr, Status, Store, Unlink
from drivefs.protocol.ids import Incarnation, InodeId, OpNumber, RevisionNumber, Seq
from drivefs.protocol.messages import Cursor, FeedPage, FeedStatus, InodesReply, InodesRequest
from drivefs.protocol.model import DentryState, InodeKind, InodeState
from drivefs.sync.amends import Amends, Outcome
from drivefs.sync.contents import Shown
from drivefs.sync.ends import Ends
from drivefs.sync.events import Events, Kind
from drivefs.sync.refusals import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, MOST_TRIES, Refusals
from drivefs.sync.renaming import Labels
from drivefs.sync.resolver import Action
from tests.fs.bench import ROOT, WORKSPACE, FsBench
from tests.support.journals import mark_sent

COPY = b"a (conflicted copy, laptop, 2026-11-21).txt"
LOST = b"lost+found"


class Kernel:
    """Hears what it has to forget."""

    def __init__(self) -> None:
        self.forgotten: set[object] = set()
        self.aliases: dict[InodeId, InodeId] = {}

    def inode(self, inode: InodeId, *, content: bool) -> None:
        self.forgotten.add(inode)

    def entry(self, parent: InodeId, name: bytes) -> None:
        self.forgotten.add((parent, name))

    def merged(self, inode: InodeId, into: InodeId, *, is_new: bool) -> None:
        self.aliases[inode] = into

    def parted(self, inode: InodeId) -> None:
        pass


class Remote:
    """Knows no inode but those in `states`."""

    def __init__(self) -> None:
        self.states: dict[InodeId, InodeState] = {}

    async def inodes(self, workspace: object, request: InodesRequest) -> InodesReply:
        await trio.lowlevel.checkpoint()
        return InodesReply(inodes=[self.states[inode] for inode in request.inodes if inode in self.states])


class World:
    """A device whose backend refuses."""

    make_remote: type[Remote] = Remote

    def __init__(self, bench: FsBench) -> None:
        self.bench, self.journal, self.kernel = bench, bench.local.journal, Kernel()
        labels = Labels(device="laptop", today=lambda: "2026-11-21")
        self.shown, self.events, self.remote_side = Shown(bench.fs, self.kernel), Events(), self.make_remote()
        self.ends = ends = Ends(bench.local, self.remote_side, WORKSPACE, bytes)  # type: ignore[arg-type]
        self.amends = amends = Amends(bench.local, ROOT, contents=bench.fs.contents, shown=self.shown, labels=labels)
        lister = bench.backend
        self.refusals = Refusals(ends, amends, lister, contents=bench.fs.contents, events=self.events)  # type: ignore[arg-type]

    def refuse(self, *refused: tuple[Mutation, str], status: Status = Status.CONFLICT) -> None:
        """Let the backend refuse mutations for these reasons, in one reply, and deal with it."""
        self.hear(*refused, status=status)
        assert self.settle()

    def hear(
        self, *refused: tuple[Mutation, str], status: Status = Status.CONFLICT, head: int = 0, gone: object = ()
    ) -> None:
        with self.journal.transaction():
            mark_sent(self.journal, [mutation.n for mutation, _ in refused])
            for mutation, reason in refused:
                self.journal.fail(mutation.n, status, reason)
        results = [
            (mutation, OpResult(mutation.n, status, reason=reason, gone=list(gone)))  # type: ignore[call-overload]
            for mutation, reason in refused
        ]
        self.refusals.take(results, Seq(head))

    def settle(self) -> bool:
        return trio.run(self.refusals.settle)

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

    def learned(self, name: bytes, inode: InodeId, **changed: object) -> None:
        """The feed has brought a file as it is here, or with what another device has `changed` of it since."""
        state = self.bench.fs.inode(inode)
        self.apply([msgspec.structs.replace(state, seq=Seq(9), **changed)], {name: inode})  # type: ignore[arg-type]
        self.journal.forget(Seq(9))

    def apply(self, states: list[InodeState], names: dict[bytes, int]) -> None:
        page = FeedPage(
            workspace=WORKSPACE,
            status=FeedStatus.CHANGES,
            cursor=Cursor(incarnation=Incarnation(1), seq=Seq(9)),
            inodes=states,
            dentries=[DentryState(parent=ROOT, name=name, inode=InodeId(inode)) for name, inode in names.items()],
        )
        self.bench.local.replica.apply_page(page)
        self.bench.fs.forget_cached([state.inode for state in states], [(ROOT, name) for name in names])

    def accept(self, mutations: Iterable[Mutation]) -> None:
        with self.journal.transaction():
            for mutation in mutations:
                self.journal.settle(mutation.n, 5)  # type: ignore[arg-type]

    def remote(self, name: bytes, inode: int, kind: InodeKind = InodeKind.FILE) -> None:
        """Another device has made this name."""
        self.apply([InodeState(inode=InodeId(inode), kind=kind, mode=0o644)], {name: inode})


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
    assert world.bench.store(snapshot) is not None
    world.bench.fs.write(writer, 6, b"+later")
    world.learned(b"a.txt", inode, revision=2, blocks=b"", size=0)
    with world.events.subscribed() as listening:
        world.refuse((world.pending(Store, inode)[0], "changed"))
        events = trio.run(listening.take)
    assert [(event.kind, event.path) for event in events] == [(Kind.CONFLICT, COPY)]
    copy = world.bench.lookup(COPY)
    assert copy is not None
    assert world.bench.read(copy.inode) == b"SECOND+later"
    world.bench.fs.release(writer)
    assert world.bench.read(inode) == b""
    marks = [m for m in world.pending(SetXattr, copy.inode) if m.name == b"drivefs.conflict"]  # type: ignore[union-attr]
    assert len(marks) == 1
    world.bench.commit(world.pending(Store, copy.inode)[0].n)
    assert world.bench.read(copy.inode) == b"SECOND+later"


def test_nothing_is_decided_before_the_feed_has_brought_what_it_was_judged_on(world: World) -> None:
    world.remote(b"kept", 9001)
    world.bench.unlink(b"kept")
    unlink = world.pending(Unlink)[0]
    world.hear((unlink, "changed"), head=12)
    assert not world.settle()
    assert world.refusals.are_waiting
    assert world.bench.names() == set()


def test_stale_deletion_is_dropped_and_the_file_shows_again(world: World) -> None:
    world.remote(b"kept", 9001)
    assert world.bench.lookup(b"kept") is not None
    world.bench.unlink(b"kept")
    world.apply([InodeState(inode=InodeId(9001), kind=InodeKind.FILE, mode=0o644, revision=RevisionNumber(2))], {})
    world.refuse((world.pending(Unlink)[0], "changed"))
    assert world.bench.names() == {b"kept"}
    assert (ROOT, b"kept") in world.kernel.forgotten
    assert "changed elsewhere" in world.refusals.notes[0]


def test_what_was_queued_for_a_name_that_was_lost_follows_to_the_new_one(world: World) -> None:
    inode, create, store = world.stored(b"a.txt", b"mine")
    world.bench.rename(b"a.txt", b"b.txt")
    world.remote(b"a.txt", 9000)
    world.refuse((create, "exists"), (store, "predecessor"))
    assert world.bench.names() == {b"a.txt", b"b.txt"}
    (moved,) = world.pending(Rename)
    assert (moved.name, moved.new_name) == (COPY, b"b.txt")  # type: ignore[union-attr]
    found = world.bench.lookup(b"b.txt")
    assert found is not None
    assert found.inode == inode


def test_saves_queued_behind_one_that_lost_go_to_its_copy(world: World) -> None:
    world.remote(b"a.txt", 9000)
    saved = []
    for content in (b"1", b"2", b"3"):
        saved.append(world.bench.file(b"tmp", content))
        world.bench.rename(b"tmp", b"a.txt")
    first = world.pending(Rename)[0]
    world.accept(world.pending(Create))
    world.apply([InodeState(inode=InodeId(9000), kind=InodeKind.FILE, mode=0o644, revision=RevisionNumber(2))], {})
    world.learned(b"tmp", saved[0], nlink=1)
    world.refuse((first, "changed"))
    assert world.bench.names() == {b"a.txt", COPY}
    copy = world.bench.lookup(COPY)
    assert copy is not None
    assert copy.inode == saved[2]
    assert [m.new_name for m in world.pending(Rename)] == [COPY] * 3  # type: ignore[union-attr]


def test_file_in_a_directory_of_which_nobody_knows_goes_to_lost_and_found(world: World) -> None:
    directory = world.bench.mkdir(b"gone")
    inode = world.bench.file(b"a.txt", b"mine", directory)
    world.accept([m for m in world.pending(Create) if m.inode == directory])
    create = world.pending(Create, inode)[0]
    world.refuse((create, "no_parent"))
    lost = world.bench.lookup(LOST)
    assert lost is not None
    found = world.bench.lookup(b"a.txt", lost.inode)
    assert found is not None
    assert found.inode == inode
    assert world.bench.read(inode) == b"mine"
    assert world.kernel.aliases == {directory: lost.inode}
    assert [m.parent for m in world.pending(Create)] == [ROOT, lost.inode]  # type: ignore[union-attr]


@pytest.mark.parametrize("is_answered", [True, False])
def test_what_was_removed_from_a_directory_that_became_another_hides_nothing_in_that(
    world: World, is_answered: bool
) -> None:
    directory = world.bench.mkdir(b"gone")
    world.bench.make(b"name", InodeKind.FIFO, directory)
    world.accept(world.pending(Create))
    world.bench.unlink(b"name", directory)
    removals = world.pending(Unlink)
    mark_sent(world.journal, [removal.n for removal in removals])
    if is_answered:
        world.accept(removals)
    inode = world.bench.file(b"a.txt", b"mine", directory)
    world.refuse((world.pending(Create, inode)[0], "no_parent"))
    if not is_answered:
        world.accept(removals)
        world.journal.forget(Seq(9))
    lost = world.bench.lookup(LOST)
    assert lost is not None
    assert world.journal.overlay.children(lost.inode) == [(b"a.txt", inode)]


def test_file_stays_in_a_directory_that_is_still_to_be_made(world: World) -> None:
    directory = world.bench.mkdir(b"d")
    inode = world.bench.file(b"a.txt", b"mine", directory)
    world.refuse((world.pending(Create, inode)[0], "no_parent"))
    assert world.bench.lookup(LOST) is None
    assert world.bench.names(directory) == {b"a.txt"}
    assert sorted(m.parent for m in world.pending(Create)) == sorted([ROOT, directory])  # type: ignore[union-attr]


def test_edit_of_a_file_of_which_nobody_knows_goes_to_lost_and_found(world: World) -> None:
    inode = world.published(b"a.txt", b"first")
    world.bench.fs.write(world.bench.open_file(inode), 0, b"EDIT!")
    snapshot = world.bench.freeze(inode)
    assert snapshot is not None
    world.bench.store(snapshot)
    world.journal.forget(Seq(9))
    world.refuse((world.pending(Store, inode)[0], "absent"))
    lost = world.bench.lookup(LOST)
    assert lost is not None
    (name,) = world.bench.names(lost.inode)
    found = world.bench.lookup(name, lost.inode)
    assert found is not None
    assert world.bench.read(found.inode) == b"EDIT!"


def test_refusals_of_an_earlier_mount_for_lack_of_something_are_asked_for_again(world: World) -> None:
    inode = world.published(b"a.txt", b"first")
    world.bench.fs.write(world.bench.open_file(inode), 0, b"EDIT!")
    snapshot = world.bench.freeze(inode)
    assert snapshot is not None
    world.bench.store(snapshot)
    store = world.pending(Store, inode)[0]
    world.hear((store, "absent"))
    world.refusals.begin_again()
    assert world.settle()
    (again,) = world.pending(Store, inode)
    assert again.n > store.n
    assert msgspec.structs.replace(again, n=store.n) == store


@pytest.mark.fault(68)
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


@pytest.mark.parametrize("status", [Status.ID_TAKEN, Status.STALE])
def test_what_is_made_again_behind_all_others_stays_in_its_order(world: World, status: Status) -> None:
    for name in (b"a", b"b", b"c"):
        world.bench.mkdir(name)
        world.bench.rename(name, b"moved " + name)
    before = [row.mutation for row in world.journal.unsettled(100)]
    world.refuse(*[(mutation, "") for mutation in before], status=status)
    again = [row.mutation for row in world.journal.unsettled(100)]
    assert [msgspec.structs.replace(m, n=OpNumber(0)) for m in again] == [
        msgspec.structs.replace(m, n=OpNumber(0)) for m in before
    ]
    assert again[0].n > before[-1].n


@pytest.mark.parametrize("is_together", [True, False])
def test_what_is_behind_a_change_that_is_made_again_at_the_end_is_behind_it_there(
    world: World, is_together: bool
) -> None:
    inode = world.bench.make(b"a", InodeKind.FIFO).inode
    world.bench.rename(b"a", b"b")
    world.bench.unlink(b"b")
    world.bench.mkdir(b"later")
    create, rename, unlink = (world.pending(kind, inode)[0] for kind in (Create, Rename, Unlink))
    world.hear((create, ""), status=Status.STALE)
    if not is_together:
        assert world.settle()
    world.refuse((rename, "predecessor"), (unlink, "predecessor" if is_together else "changed"))
    again = [row.mutation for row in world.journal.unsettled(100) if row.mutation.inode == inode]
    assert {type(change) for change in again} == {Create, Rename, Unlink}
    assert isinstance(again[0], Create)
    if is_together:
        assert [type(change) for change in again] == [Create, Rename, Unlink]


def test_file_whose_inode_id_is_taken_gets_another_and_keeps_its_name(world: World) -> None:
    inode, create, store = world.stored(b"a.txt", b"mine")
    world.hear((create, "inode"), status=Status.ID_TAKEN)
    world.hear((store, "predecessor"))
    assert world.settle()
    found = world.bench.lookup(b"a.txt")
    assert found is not None
    assert found.inode != inode
    assert world.bench.read(found.inode) == b"mine"
    assert world.kernel.aliases == {inode: found.inode}
    assert [m.inode for m in (*world.pending(Create), *world.pending(Store))] == [found.inode] * 2


def test_directory_whose_inode_id_is_taken_keeps_what_is_in_it(world: World) -> None:
    directory = world.bench.mkdir(b"d")
    inode = world.bench.file(b"a.txt", b"mine", directory)
    (create,) = [m for m in world.pending(Create) if m.inode == directory]
    world.refuse((create, "inode"), status=Status.ID_TAKEN)
    found = world.bench.lookup(b"d")
    assert found is not None
    assert found.inode != directory
    assert world.bench.names(found.inode) == {b"a.txt"}
    assert [m.parent for m in world.pending(Create, inode)] == [found.inode]  # type: ignore[union-attr]


def test_what_can_never_be_accepted_stays_with_all_that_depends_on_it_until_it_is_given_up(world: World) -> None:
    inode, create, store = world.stored(b"a.txt", b"mine")
    world.hear((create, "role"), status=Status.REJECTED)
    world.hear((store, "predecessor"))
    assert world.settle()
    (again,) = world.pending(Store)
    world.refuse((again, "absent"))
    assert world.bench.read(inode) == b"mine"
    assert [world.journal.get(m.n).state for m in (create, again)] == [RowState.FAILED] * 2  # type: ignore[union-attr]
    assert world.journal.pending_count == 2


def test_what_is_refused_again_and_again_for_no_reason_is_to_wait(world: World) -> None:
    directory = world.bench.mkdir(b"d")
    for _ in range(MOST_TRIES):
        assert not world.refusals.pausing
        (create,) = [m for m in world.pending(Create) if m.inode == directory]
        world.refuse((create, "exists"))
    assert world.refusals.pausing == {world.pending(Create)[0].n: FIRST_PAUSE_SECONDS}
    for _ in range(20):
        world.refuse((world.pending(Create)[0], "exists"))
    assert world.refusals.pausing[world.pending(Create)[0].n] == LONGEST_PAUSE_SECONDS


@pytest.mark.parametrize("fails_late", [False, True])
def test_refusal_that_nobody_can_deal_with_keeps_its_content_and_nothing_else_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails_late: bool
) -> None:
    inode = world.published(b"odd", b"first")
    writer = world.bench.open_file(inode)
    world.bench.fs.write(writer, 0, b"SECOND")
    snapshot = world.bench.freeze(inode)
    assert snapshot is not None
    assert world.bench.store(snapshot) is not None
    world.learned(b"odd", inode, revision=2, blocks=b"", size=0)
    store = world.pending(Store, inode)[0]
    _, other, other_store = world.stored(b"a.txt", b"mine")
    world.remote(b"a.txt", 9000)
    fail = KeyError("a defect")
    make = Amends.make

    def odd(self: Amends, row: JournalRow, actions: Sequence[Action]) -> Outcome:
        if row.n != store.n:
            return make(self, row, actions)
        if fails_late:
            make(self, row, actions)
        raise fail

    monkeypatch.setattr(Amends, "make", odd)
    world.refuse((store, "changed"), (other, "exists"), (other_store, "predecessor"))
    kept = world.journal.get(store.n)
    assert kept is not None
    assert kept.status is Status.REJECTED
    assert world.bench.read(inode) == b"SECOND"
    assert "odd" in world.refusals.notes[0]
    assert [m.name for m in world.pending(Create)] == [COPY]
    assert world.journal.drafts.draft(inode) is not None
    world.bench.fs.write(writer, 0, b"THIRD!")
    assert world.bench.read(inode) == b"THIRD!"
    world.bench.fs.release(writer)


def test_directory_whose_id_belongs_to_another_one_is_not_taken_for_that(world: World) -> None:
    directory = world.bench.mkdir(b"mine")
    world.bench.file(b"child", b"content", directory)
    create = world.pending(Create, directory)[0]
    world.remote(b"theirs", directory, InodeKind.DIRECTORY)
    world.refuse((create, "inode"), status=Status.ID_TAKEN)
    mine, theirs = world.bench.lookup(b"mine"), world.bench.lookup(b"theirs")
    assert mine is not None
    assert theirs is not None
    assert (theirs.inode, world.journal.aliases.inode(directory)) == (directory, directory)
    assert mine.inode != directory
    assert world.bench.lookup(b"child", mine.inode) is not None
    assert {m.parent for m in world.pending(Create)} == {ROOT, mine.inode}  # type: ignore[attr-defined]


def test_directory_that_got_another_id_and_meets_the_one_it_was_is_that(world: World) -> None:
    directory = world.bench.mkdir(b"d")
    inode = world.bench.file(b"a.txt", b"mine", directory)
    world.refuse((world.pending(Create, directory)[0], "inode"), status=Status.ID_TAKEN)
    fresh = world.bench.lookup(b"d")
    assert fresh is not None
    world.bench.add_remote_directory(b"d", directory, {})
    world.refuse((world.pending(Create, fresh.inode)[0], "exists"))
    found = world.bench.lookup(b"d")
    assert found is not None
    assert found.inode == directory
    assert world.bench.names(directory) == {b"a.txt"}
    assert [m.parent for m in world.pending(Create, inode)] == [directory]  # type: ignore[union-attr]


def test_directory_whose_id_another_one_has_elsewhere_leaves_that_alone(world: World) -> None:
    directory = world.bench.mkdir(b"d")
    world.bench.file(b"a.txt", b"mine", directory)
    world.refuse((world.pending(Create, directory)[0], "inode"), status=Status.ID_TAKEN)
    world.bench.add_remote_directory(b"theirs", directory, {})
    found = world.bench.lookup(b"theirs")
    assert found is not None
    assert (found.inode, world.bench.names(directory)) == (directory, set())
