"""The replica: older never overwrites newer, absence is known only where all names are, and a page is one step."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from cache.errors import ReplicaCorrupt
from cache.overlay import MISSING
from cache.replica import Replica
from cache.workspace import LocalState
from drivefs.protocol.ids import CommitId, Incarnation, InodeId, RevisionNumber, Seq, WorkspaceId
from drivefs.protocol.messages import Cursor, Entry, FeedPage, FeedStatus
from drivefs.protocol.model import DentryState, InodeKind, InodeState
from tests.cache import states
from tests.cache.states import ROOT, Bench

WORKSPACE = WorkspaceId(3)


@pytest.fixture
def replica(local: LocalState) -> Replica:
    return local.replica


def directory(inode: int = ROOT, nlink: int = 2) -> InodeState:
    return InodeState(InodeId(inode), InodeKind.DIRECTORY, 0o755, nlink=nlink)


def file(inode: int, size: int = 0, nlink: int = 1) -> InodeState:
    return InodeState(InodeId(inode), InodeKind.FILE, 0o644, size=size, nlink=nlink)


def cursor(seq: int) -> Cursor:
    return Cursor(incarnation=Incarnation(1), seq=Seq(seq), commit=CommitId(bytes(16)))


def page(seq: int, inodes: list[InodeState] | None = None, names: dict[bytes, int] | None = None) -> FeedPage:
    dentries = [DentryState(ROOT, name, InodeId(inode)) for name, inode in (names or {}).items()]
    return FeedPage(
        workspace=WORKSPACE, status=FeedStatus.CHANGES, cursor=cursor(seq), inodes=inodes or [], dentries=dentries
    )


def listing(replica: Replica, seq: int, names: dict[bytes, int], *, complete: bool = True) -> None:
    entries = [Entry(name=name, inode=file(inode)) for name, inode in names.items()]
    replica.apply_listing(directory(), entries, Seq(seq), complete)


def names(replica: Replica) -> list[bytes]:
    return [name for name, _ in replica.names_after(ROOT, b"", 10_000)]


def test_a_name_is_absent_only_where_all_names_are_known(replica: Replica) -> None:
    listing(replica, 5, {b"a": 10}, complete=False)
    assert replica.dentry(ROOT, b"a") == 10
    assert replica.dentry(ROOT, b"b") is MISSING
    assert not replica.is_complete(ROOT)
    listing(replica, 5, {b"c": 11})
    assert replica.dentry(ROOT, b"b") is None
    assert replica.is_complete(ROOT)
    assert names(replica) == [b"a", b"c"]


def test_a_page_that_fails_half_way_leaves_the_cursor_where_it_was(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it brought would never come again."""
    replica.apply_page(page(5))

    def fail(*_: object) -> None:
        raise RuntimeError("half way")

    with monkeypatch.context() as patch:
        patch.setattr(replica.database, "write_many", fail)
        with pytest.raises(RuntimeError):
            replica.apply_page(page(6, [file(10)], {b"a": 10}))
    assert replica.cursor(WORKSPACE) == cursor(5)
    assert replica.inode(InodeId(10)) is None


def test_an_older_state_never_overwrites_a_newer_one(replica: Replica) -> None:
    replica.put_inodes([file(10, size=2)], Seq(7))
    replica.put_inodes([file(10, size=1)], Seq(6))
    state = replica.inode(InodeId(10))
    assert state is not None
    assert state.size == 2
    replica.put_inodes([file(10, nlink=0)], Seq(6))
    assert replica.inode(InodeId(10)) is not None
    replica.put_inodes([file(10, nlink=0)], Seq(7))
    assert replica.inode(InodeId(10)) is None


def test_an_older_name_never_takes_the_place_of_a_newer_one(replica: Replica) -> None:
    listing(replica, 7, {b"a": 10, b"b": 11})
    replica.apply_page(page(6, [file(12)], {b"a": 12, b"b": 0}))
    assert (replica.dentry(ROOT, b"a"), replica.dentry(ROOT, b"b")) == (10, 11)


def test_a_name_removed_by_the_feed_does_not_come_back_with_an_older_listing(bench: Bench, local: LocalState) -> None:
    replica = local.replica
    listing(replica, 5, {b"a": 10}, complete=False)
    replica.apply_page(page(6, [file(11, nlink=0), file(12)], {b"gone": 0, b"new": 12}))
    listing(replica, 5, {b"gone": 11, b"z": 13})
    assert replica.dentry(ROOT, b"gone") is None
    assert names(replica) == [b"a", b"new", b"z"]
    assert bench.close(local) == []


@pytest.mark.fault(8)
def test_a_page_and_its_cursor_are_one_step_and_may_come_twice(replica: Replica) -> None:
    listing(replica, 5, {b"a": 10})
    change = page(6, [file(10, size=9), file(12)], {b"a": 0, b"b": 10, b"c": 12})
    for _ in range(2):
        replica.apply_page(change)
        assert names(replica) == [b"b", b"c"]
        found = replica.cursor(WORKSPACE)
        assert found == cursor(6)
    assert replica.names_of(InodeId(10)) == [(ROOT, b"b")]


@pytest.mark.fault(8)
def test_a_page_that_cannot_be_applied_changes_nothing(replica: Replica) -> None:
    replica.set_cursor(WORKSPACE, cursor(5))
    bad = page(6, [file(10)], {b"a": 10})
    bad.dentries.append(DentryState(ROOT, "no bytes", InodeId(1)))  # type: ignore[arg-type]
    bad.cursor = None  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        replica.apply_page(bad)
    assert replica.cursor(WORKSPACE) == cursor(5)
    assert replica.inode(InodeId(10)) is None


def test_an_entry_without_its_inode_makes_a_directory_incomplete(replica: Replica) -> None:
    listing(replica, 5, {})
    replica.apply_page(page(6, [], {b"a": 10}))
    assert not replica.is_complete(ROOT)
    assert replica.dentry(ROOT, b"b") is MISSING


def test_a_listing_of_a_complete_directory_changes_no_names(replica: Replica) -> None:
    listing(replica, 5, {b"a": 10})
    replica.apply_page(page(6, [file(10, nlink=0)], {b"a": 0}))
    listing(replica, 5, {b"a": 10})
    assert names(replica) == []


def test_an_own_directory_is_complete_from_the_start(replica: Replica) -> None:
    replica.mark_complete(InodeId(40))
    assert replica.dentry(InodeId(40), b"a") is None


def test_names_and_states_of_a_directory_come_all_at_once(replica: Replica) -> None:
    listing(replica, 5, {b"%05d" % index: 100 + index for index in range(2000)})
    found = replica.names_after(ROOT, b"", 10_000)
    assert found == [(b"%05d" % index, 100 + index) for index in range(2000)]
    states = replica.inodes([InodeId(inode) for _, inode in found[:500]] + [InodeId(7)])
    assert sorted(state.inode for state in states) == list(range(100, 600))


def test_long_block_lists_are_kept_within_a_bound(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.replica.CONTENTS_BYTES", 1000)
    for revision in range(1, 6):
        replica.put_content(InodeId(10), RevisionNumber(revision), bytes([revision]) * 400)
    kept = [replica.content(InodeId(10), RevisionNumber(revision)) for revision in range(1, 6)]
    assert kept[:3] == [None, None, None]
    assert kept[3:] == [bytes([4]) * 400, bytes([5]) * 400]


def test_what_is_synced_follows_the_cursor_only_by_a_sync(bench: Bench, replica: Replica) -> None:
    replica.apply_page(page(6))
    assert replica.synced_seq(WORKSPACE) == 0
    trio.run(replica.sync)
    assert replica.synced_seq(WORKSPACE) == 6
    replica.apply_page(page(7))
    assert replica.synced_seq(WORKSPACE) == 6
    bench.crash()
    assert bench.open("crashed").replica.synced_seq(WORKSPACE) == 0


@pytest.mark.parametrize("is_set_aside", [True, False])
def test_only_what_there_was_when_a_sync_began_is_synced_by_it(bench: Bench, is_set_aside: bool) -> None:
    gate = trio.Event()

    async def slow(work: Callable[..., Any], /, *args: Any) -> Any:
        await gate.wait()
        return work(*args)

    async def main() -> None:
        replica = bench.open(offload=slow).replica
        replica.apply_page(page(6))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replica.sync)
            await trio.testing.wait_all_tasks_blocked()
            if is_set_aside:
                replica.set_aside()
            replica.apply_page(page(7))
            gate.set()
        assert replica.synced_seq(WORKSPACE) == (0 if is_set_aside else 6)
        await replica.sync()
        assert replica.synced_seq(WORKSPACE) == 7
        replica.set_aside()
        assert replica.synced_seq(WORKSPACE) == 0

    trio.run(main)


def test_what_is_gone_is_not_known_of_what_was_set_aside(local: LocalState) -> None:
    replica = local.replica
    replica.apply_page(page(6, [file(10)], {b"a": 10}))
    replica.set_aside()
    assert replica.inode(InodeId(10)) is not None
    replica.put_inodes([file(10, nlink=0)], Seq(7))
    assert replica.inode(InodeId(10)) is None


@pytest.mark.fault(17)
def test_a_damaged_replica_begins_again_and_leaves_the_journal_alone(bench: Bench, local: LocalState) -> None:
    local.replica.apply_page(page(6, [file(10)], {b"a": 10}))
    inode, _ = states.create(local.journal, b"mine", content=b"x")
    bench.close(local)
    _, cache = bench.places()
    (cache / "replica.db").write_bytes(b"rot" * 5000)
    again = bench.open()
    assert again.replica.cursor(WORKSPACE) is None
    assert states.content_of(again, inode) == b"x"
    assert again.journal.overlay.dentry(ROOT, b"mine") == inode


@pytest.mark.fault(17)
def test_damage_that_is_met_later_is_told_and_mended_by_a_reset(local: LocalState) -> None:
    replica = local.replica
    listing(replica, 5, {b"%05d" % index: 100 + index for index in range(3000)})
    local.replica.database.empty_log()
    with (local.replica.database.path).open("r+b") as found:
        found.seek(4096)
        found.write(b"\xff" * 200_000)
    replica.database.execute_script("PRAGMA shrink_memory")
    with pytest.raises(ReplicaCorrupt):
        names(replica)
    replica.set_aside()
    assert names(replica) == []
    listing(replica, 5, {b"a": 10})
    assert names(replica) == [b"a"]


@pytest.mark.parametrize("value", ["'text'", "7", "x'ff'", "x''"])
def test_a_row_that_is_damaged_is_told_as_damage(replica: Replica, value: str) -> None:
    listing(replica, 5, {b"a": 10})
    replica.set_cursor(WORKSPACE, page(6, [], {}).cursor)
    replica.database.execute_script(f"UPDATE inodes SET state = {value}; UPDATE cursors SET cursor = {value}")
    for ask in (
        lambda: replica.inode(InodeId(10)),
        lambda: replica.inodes([InodeId(10)]),
        lambda: replica.inodes_after(InodeId(0), 9),
        lambda: replica.cursor(WORKSPACE),
        lambda: replica.has_passed(Seq(1)),
    ):
        with pytest.raises(ReplicaCorrupt):
            ask()


def test_the_cache_directory_may_be_deleted(bench: Bench, local: LocalState) -> None:
    inode, _ = states.create(local.journal, b"mine", content=b"x")
    local.replica.apply_page(page(6, [file(10)], {b"a": 10}))
    bench.close(local)
    _, cache = bench.places()
    for path in sorted(cache.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    cache.rmdir()
    again = bench.open()
    assert again.replica.cursor(WORKSPACE) is None
    assert states.content_of(again, inode) == b"x"


def test_directories_to_be_listed_stand_in_the_order_in_which_they_became_known(replica: Replica) -> None:
    replica.put_inodes([directory()], Seq(1))
    entries = [Entry(name=b"%d" % number, inode=directory(number)) for number in (40, 41)]
    replica.apply_listing(directory(), entries, Seq(5), complete=True)
    replica.apply_listing(directory(40), [Entry(name=b"x", inode=directory(42))], Seq(5), complete=True)
    assert replica.incomplete(9) == [41, 42]
    assert replica.incomplete(1) == [41]
    assert replica.incomplete_count() == 2
    replica.apply_page(page(6, [directory(41, nlink=0)], {b"41": 0}))
    assert replica.incomplete(9) == [42]
    replica.leave_incomplete([InodeId(42)])
    assert replica.incomplete(9) == []
    assert not replica.is_complete(InodeId(42))


def test_a_directory_that_the_feed_brings_whole_need_not_be_listed(replica: Replica) -> None:
    listing(replica, 5, {})
    brought = page(6, [directory(), directory(40), file(41)], {b"d": 40})
    brought.dentries.append(DentryState(InodeId(40), b"f", InodeId(41)))
    brought.made = [InodeId(40)]
    replica.apply_page(brought)
    assert replica.is_complete(InodeId(40))
    assert replica.dentry(InodeId(40), b"other") is None
    assert replica.incomplete(9) == []


def test_what_the_feed_brought_while_a_directory_was_being_listed_stays(replica: Replica) -> None:
    listing(replica, 5, {b"a": 10}, complete=False)
    brought = {b"gone": 0, b"moved": 0, b"z": 12, b"new": 13}
    replica.apply_page(page(6, [file(11, nlink=0), file(12), file(13)], brought))
    entries = [(b"gone", 11), (b"moved", 12), (b"old", 14), (b"z", 15)]
    listed = [Entry(name=name, inode=file(inode, size=1)) for name, inode in entries]
    replica.apply_listing(directory(), listed, Seq(5), complete=True)
    assert dict(replica.names_after(ROOT, b"", 10_000)) == {b"a": 10, b"old": 14, b"z": 12, b"new": 13}
    assert replica.inode(InodeId(11)) is None
    assert replica.inode(InodeId(15)) is None
    moved = replica.inode(InodeId(12))
    assert moved is not None
    assert moved.size == 0


def test_what_was_removed_does_not_come_back_with_what_was_asked_for_before(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.replica.MOST_GONE", 2)
    listing(replica, 5, {})
    replica.apply_page(page(6, [directory(40), file(41)], {b"d": 40, b"f": 41}))
    replica.apply_page(page(7, [directory(40, nlink=0), file(41, nlink=0)], {b"d": 0, b"f": 0}))
    for _ in range(2):
        assert not replica.apply_listing(directory(40), [Entry(name=b"x", inode=file(42))], Seq(6), complete=True)
        replica.put_inodes([file(41)], Seq(6))
        assert replica.inodes([InodeId(each) for each in (40, 41, 42)]) == []
        # Of what is not remembered any more it is not known, so it has to be asked for again.
        replica.apply_page(page(8, [file(43, nlink=0), file(44, nlink=0)]))
    replica.apply_page(page(9, [directory(40)], {b"d": 40}))
    assert replica.apply_listing(directory(40), [], Seq(9), complete=True)
    replica.put_inodes([file(41)], Seq(9))
    assert len(replica.inodes([InodeId(40), InodeId(41)])) == 2


def test_names_come_in_parts(replica: Replica) -> None:
    listing(replica, 5, {b"%d" % number: 10 + number for number in range(5)})
    replica.apply_page(page(6, [file(11, nlink=0)], {b"1": 0}))
    assert replica.names_after(ROOT, b"", 2) == [(b"0", 10), (b"2", 12)]
    assert replica.names_after(ROOT, b"2", 9) == [(b"3", 13), (b"4", 14)]


def test_a_replica_of_an_older_drivefs_begins_again(bench: Bench, local: LocalState) -> None:
    listing(local.replica, 5, {b"a": 10})
    local.replica.database.execute_script("PRAGMA user_version = 1")
    assert bench.close(local) == []
    again = bench.open().replica
    assert again.inode(InodeId(10)) is None
    assert not again.is_complete(ROOT)
