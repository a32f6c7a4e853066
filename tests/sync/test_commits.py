"""The way of mutations from a real journal to a backend made by hand, and what its answers lead to."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from cache.journal import RowState
from drivefs.protocol.changes import Base, Rename, Status, Store, Unlink
from drivefs.protocol.ids import Epoch, OpNumber, RevisionNumber
from drivefs.remote.errors import Offline
from drivefs.sync import commits
from drivefs.sync.guard import Guard
from drivefs.sync.planner import OVERTAKEN_ABOVE_BYTES
from tests.cache.states import ROOT, Bench, create, unlink
from tests.sync.committing import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    bench = Bench(tmp_path)
    yield World(bench.open())
    bench.close_all()


def test_creation_never_leaves_without_its_content_however_far_apart_they_stand(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "WINDOW_ROWS", 3)
    made = [create(world.journal, b"f%d" % i, content=b"x") for i in range(6)]
    stores = [world.store(inode) for inode, _ in made]
    world.commit()
    expected = [n for (_, creation), store in zip(made, stores, strict=True) for n in (creation, store)]
    assert world.backend.sent[0] == expected[:6]
    while world.commit():
        pass
    assert sorted(n for batch in world.backend.sent for n in batch) == sorted(expected)
    assert all(
        set(batch).issuperset({creation, store})
        for batch in world.backend.sent
        for (_, creation), store in zip(made, stores, strict=True)
        if {creation, store} & set(batch)
    )


def test_behind_much_that_waits_what_can_go_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "MAX_BATCH_MUTATIONS", 2)
    waiting = [create(world.journal, b"f%d" % i, content=b"x") for i in range(4)]
    world.contents.unpublished |= {inode: 2 * OVERTAKEN_ABOVE_BYTES for inode, _ in waiting}
    ready, n = create(world.journal, b"ready", content=b"x")
    store = world.store(ready)
    world.commit()
    assert world.backend.sent == [[n, store]]


def test_what_is_urgent_goes_ahead_of_whatever_waits_and_only_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "WINDOW_ROWS", 3)
    older = [create(world.journal, b"f%d" % i)[1] for i in range(6)]
    saved, n = create(world.journal, b"saved", content=b"x")
    store = world.store(saved)
    world.publications.urgent_ops.add(n)
    world.publications._order.made(n, 1)
    for op in older:
        world.publications._order.made(op, 2)
    world.commit(urgent=True)
    assert world.backend.sent == [[n, store]]
    assert world.commit(urgent=True) is None
    while world.commit():
        pass
    assert sorted(n for batch in world.backend.sent[1:] for n in batch) == older


def test_what_is_urgent_does_not_wait_for_the_content_of_something_else_that_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.publications, "is_on_its_way", lambda inode: True)
    unsent, waiting = create(world.journal, b"unsent", content=b"x")
    world.contents.unpublished[unsent] = 1
    ready, n = create(world.journal, b"ready", content=b"x")
    store = world.store(ready)
    for process, op in ((1, waiting), (2, n)):
        world.publications.urgent_ops.add(op)
        world.publications._order.made(op, process)
    world.commit(urgent=True)
    assert world.backend.sent == [[n, store]]


def test_file_whose_content_is_still_to_be_stored_stays(world: World) -> None:
    inode, n = create(world.journal, b"a", content=b"x")
    world.contents.unpublished[inode] = 1
    assert world.commit() is None
    del world.contents.unpublished[inode]
    store = world.store(inode)
    world.commit()
    assert world.backend.sent == [[n, store]]
    assert world.contents.heard == [inode]


@pytest.mark.fault(7, 27)
def test_lost_answer_sends_the_same_batch_again_and_it_is_durable_before_it_leaves(world: World) -> None:
    inode, n = create(world.journal, b"a", content=b"x")
    store = world.store(inode)
    world.backend.is_down = True
    with pytest.raises(Offline):
        world.commit()
    assert [row.state for row in world.journal.unsettled(9)] == [RowState.SENT] * 2
    assert not world.journal.is_log_dirty
    world.backend.is_down = False
    world.committer = world.new_committer()
    world.commit()
    assert world.backend.batches[0] == world.backend.batches[1]
    assert [m.n for m in world.backend.batches[1]] == [n, store]
    assert world.commit() is None


@pytest.mark.fault(29, 55)
@pytest.mark.parametrize("status", [Status.BLOCKED, Status.OVER_QUOTA])
def test_what_has_no_answer_yet_stays_and_lets_others_pass(world: World, status: Status) -> None:
    inode, n = create(world.journal, b"a", content=b"x")
    store = world.store(inode)
    world.backend.answers = {store: status}
    world.commit()
    assert [row.n for row in world.journal.unsettled(9)] == [store]
    _other, m = create(world.journal, b"b")
    world.commit()
    assert world.backend.sent == [[n, store], [m]]
    assert world.committer.is_over_quota is (status is Status.OVER_QUOTA)


def test_missing_blocks_are_sent_again_before_their_store(world: World) -> None:
    inode, _ = create(world.journal, b"a", content=b"x")
    store = world.store(inode)
    world.backend.answers = {store: Status.NEEDS_BLOCKS}
    world.commit()
    assert world.resent == [store]
    assert world.commit() is None
    world.backend.answers = {}
    world.committer.resent(store)
    world.commit()
    assert world.backend.sent[-1] == [store]


def test_store_whose_blocks_are_not_taken_goes_out_a_while_later(world: World) -> None:
    inode, _ = create(world.journal, b"a", content=b"x")
    store = world.store(inode)
    world.backend.answers = {store: Status.NEEDS_BLOCKS}
    world.commit()
    world.backend.answers = {}

    async def main() -> None:
        world.committer.postpone(store)
        assert await world.committer.commit_next(Epoch(1)) is None
        await trio.sleep(60)
        assert await world.committer.commit_next(Epoch(1)) is not None

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert world.backend.sent[-1] == [store]


def test_what_waits_for_blocks_goes_out_again_to_a_backend_with_another_history(world: World) -> None:
    """Nobody sends the blocks that the old one lacked."""
    inode, _ = create(world.journal, b"a", content=b"x")
    store = world.store(inode)
    world.backend.answers = {store: Status.NEEDS_BLOCKS}
    world.commit()
    world.backend.answers = {}
    world.committer.begin_again()
    world.commit()
    assert world.backend.sent[-1] == [store]


def test_store_whose_content_is_nowhere_gives_way_and_people_are_told(world: World) -> None:
    inode, _ = create(world.journal, b"a.txt", content=b"x")
    store = world.store(inode)
    world.backend.answers = {store: Status.NEEDS_BLOCKS}
    world.commit()
    later = world.store(inode, Base(revision_op=store))
    row = world.journal.get(store)
    assert row is not None
    assert isinstance(row.mutation, Store)
    lost = row.mutation
    world.journal.drafts.drop_draft(inode)

    async def lack() -> None:
        world.publications.forced([inode])
        assert world.publications.take_due(1) == [inode]
        world.committer.lacks(lost)
        assert not world.publications.is_on_its_way(inode)

    trio.run(lack)
    assert world.journal.get(store) is None
    (waiting,) = world.journal.unsettled(9)
    assert isinstance(waiting.mutation, Store)
    assert (waiting.n, waiting.mutation.base) == (later, Base())
    world.committer.lacks(lost)
    (note,) = world.committer.given_up
    assert "a.txt" in note
    assert "Write it again" in note


def test_a_store_that_goes_out_anew_meanwhile_is_not_given_up_for_an_old_answer(world: World) -> None:
    inode, _ = create(world.journal, b"a.txt", content=b"x")
    store = world.store(inode)
    world.backend.answers = {store: Status.NEEDS_BLOCKS}
    world.commit()
    (lost,) = [each for each in world.backend.batches[0] if isinstance(each, Store)]
    with world.journal.transaction():
        world.journal.unsend(store)  # by another history of the backend, which may have what this one lacked

    async def lack() -> None:
        world.committer.lacks(lost)

    trio.run(lack)
    assert world.journal.get(store) is not None
    assert world.committer.given_up == []


def test_what_was_sent_behind_a_store_whose_content_is_nowhere_goes_out_without_it(world: World) -> None:
    """The backend waits for ever for an answer to the store."""
    inode, made = create(world.journal, b"a.txt", content=b"x")
    store = world.store(inode)
    gone = unlink(world.journal, b"a.txt", inode)
    row = world.journal.get(gone)
    assert row is not None
    with world.journal.transaction():
        world.journal.replace(msgspec.structs.replace(row.mutation, base=Base(revision_op=store)))
    world.backend.answers = {made: Status.BLOCKED, store: Status.NEEDS_BLOCKS, gone: Status.BLOCKED}
    world.commit()
    assert world.backend.sent == [[made, store, gone]]
    (lost,) = [each for each in world.backend.batches[0] if isinstance(each, Store)]
    world.journal.drafts.drop_draft(inode)

    async def lack() -> None:
        world.committer.lacks(lost)

    trio.run(lack)
    world.backend.answers = {}
    world.committer = world.new_committer()
    while world.commit() is not None:
        pass
    assert world.journal.unsettled(9) == []
    sent = [each for batch in world.backend.batches[1:] for each in batch]
    assert all(store not in each.after for each in sent)
    assert [each.base for each in sent if isinstance(each, Unlink)] == [Base()]


@pytest.mark.parametrize("is_written_since", [False, True])
def test_a_file_that_would_be_made_without_its_content_is_not_made(world: World, is_written_since: bool) -> None:
    """A rename behind it would put an empty file over what another one was. What was written since goes out."""
    old, kept = create(world.journal, b"a.txt", content=b"old")
    kept_store = world.store(old)
    inode, made = create(world.journal, b"a.tmp", content=b"new")
    store = world.store(inode)
    rename = world.journal.next_op()
    with world.journal.transaction():
        world.journal.append(
            Rename(
                n=rename,
                time_ns=1,
                parent=ROOT,
                name=b"a.tmp",
                new_parent=ROOT,
                new_name=b"a.txt",
                inode=inode,
                replaced=old,
            )
        )
    world.backend.answers = {made: Status.BLOCKED, store: Status.NEEDS_BLOCKS, rename: Status.BLOCKED}
    world.commit()
    assert world.backend.sent == [[kept, kept_store, made, store, rename]]
    (lost,) = [each for each in world.backend.batches[0] if isinstance(each, Store) and each.n == store]
    world.journal.drafts.drop_draft(inode)
    later = [world.store(inode, Base(revision_op=store))] if is_written_since else []

    async def lack() -> None:
        world.committer.lacks(lost)

    trio.run(lack)
    world.backend.answers = {}
    world.committer = world.new_committer()
    if is_written_since:
        while world.commit() is not None:
            pass
        assert world.backend.sent[1:] == [[made, *later, rename]]
        return
    assert [row.n for row in world.journal.rejected(9)] == [store, made]
    assert [(row.n, row.state) for row in world.journal.unsettled(9)] == [(rename, RowState.PENDING)]


def test_a_content_on_its_way_that_nobody_has_any_more_is_given_up_with_all_behind_it(world: World) -> None:
    """After a power cut it was here as its store alone, and the backend has let its blocks go since."""
    inode, made = create(world.journal, b"a.txt", content=b"x")
    store = world.store(inode)
    gone = unlink(world.journal, b"a.txt", inode)
    again, taken = create(world.journal, b"a.txt")
    draft = world.journal.drafts.draft(inode)
    assert draft is not None
    with world.journal.transaction():
        world.journal.drafts.put_draft(msgspec.structs.replace(draft, frozen_op=store))
    blocked = dict.fromkeys((made, gone, taken), Status.BLOCKED)
    world.backend.answers = {**blocked, store: Status.NEEDS_BLOCKS}
    world.commit()
    (lost,) = [each for each in world.backend.batches[0] if isinstance(each, Store)]
    assert len(world.backend.batches[0]) == 4

    async def lack() -> None:
        world.committer.lacks(lost)

    trio.run(lack)
    assert [row.n for row in world.journal.rejected(9)] == [store, made]
    assert [(row.n, row.state) for row in world.journal.unsettled(9)] == [
        (gone, RowState.PENDING),
        (taken, RowState.PENDING),
    ]
    assert world.journal.drafts.draft(inode) is not None, "what is here of it is kept by who gives it up"
    assert again != inode


@pytest.mark.parametrize("status", [Status.CONFLICT, Status.ID_TAKEN, Status.STALE])
def test_refusals_are_dealt_with_and_the_file_may_be_published_again(world: World, status: Status) -> None:
    inode, _n = create(world.journal, b"a", content=b"x")
    store = world.store(inode)
    world.backend.answers = {store: status}

    async def publish() -> None:
        world.publications.forced([inode])
        assert world.publications.take_due(1) == [inode]

    trio.run(publish)
    world.commit()
    assert world.refusals.refused == [(store, "")]
    assert not world.publications.is_on_its_way(inode)
    assert world.committer.has_deferred()
    world.commit()
    assert world.journal.unsettled(9) == world.journal.failed(9) == []
    assert not world.committer.has_deferred()


def test_nothing_is_sent_before_what_was_refused_is_dealt_with(world: World) -> None:
    _, n = create(world.journal, b"a")
    world.backend.answers = {n: Status.CONFLICT}
    world.commit()
    _, m = create(world.journal, b"b")
    world.refusals.is_behind = True
    assert world.commit() is None
    world.refusals.is_behind = False
    world.commit()
    assert world.backend.sent == [[n], [m]]


def test_what_is_refused_again_and_again_waits_and_lets_others_pass(world: World) -> None:
    _, n = create(world.journal, b"a")
    world.backend.answers = {n: Status.CONFLICT}
    world.commit()
    _, held = create(world.journal, b"b")
    _, m = create(world.journal, b"c")
    world.refusals.pausing[held] = 1.0
    world.commit()
    assert world.backend.sent == [[n], [m]]


def test_nothing_is_sent_before_it_is_known_what_an_earlier_mount_removed(world: World) -> None:
    create(world.journal, b"a")
    world.guard = Guard(world.journal, world.count_files, share=0.5, asked=lambda question: None)
    committer = world.new_committer()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(committer.commit_next, Epoch(1))
            await trio.testing.wait_all_tasks_blocked()
            assert world.backend.batches == []
            await world.guard.scan()
        assert len(world.backend.batches) == 1

    trio.run(main)


@pytest.mark.parametrize("is_on_its_outcome", [False, True])
def test_what_was_done_while_a_store_was_sent_is_made_on_what_it_became(world: World, is_on_its_outcome: bool) -> None:
    inode, _ = create(world.journal, b"a")
    world.commit()
    store, removal = world.store(inode), OpNumber(0)

    def remove_meanwhile() -> None:
        nonlocal removal
        removal = unlink(world.journal, b"a", inode)
        row = world.journal.get(removal)
        assert row is not None
        base = Base(revision_op=store) if is_on_its_outcome else Base()
        world.journal.replace(msgspec.structs.replace(row.mutation, base=base))

    world.backend.during = remove_meanwhile
    world.commit()
    row = world.journal.get(removal)
    assert row is not None
    assert isinstance(row.mutation, Unlink)
    assert row.mutation.base == Base(revision=RevisionNumber(1))
