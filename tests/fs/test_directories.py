"""Reading long directories: in parts, as they are at one moment, while names come and go."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import trio

from cache.check import check
from drivefs.fs import directories, listings, view
from drivefs.protocol.ids import NO_INODE, Incarnation, InodeId, Seq
from drivefs.protocol.messages import Cursor, Entry, FeedPage, FeedStatus
from drivefs.protocol.model import DentryState, InodeKind, InodeState
from tests.fs.bench import WORKSPACE, FsBench

FIRST, PART = 4, 8
COUNT = 5 * PART + 3
LONG = InodeId(5000)


def file_state(inode: int) -> InodeState:
    return InodeState(InodeId(inode), InodeKind.FILE, 0o644, seq=Seq(1))


def name_of(number: int) -> bytes:
    return b"%04d" % number


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FsBench]:
    for module in (directories, view):
        monkeypatch.setattr(module, "PART_NAMES", PART)
        monkeypatch.setattr(module, "FIRST_ENTRIES", FIRST)
    bench = FsBench(tmp_path)
    bench.add_remote_directory(b"long", LONG, {name_of(number): file_state(6000 + number) for number in range(COUNT)})
    yield bench
    bench.close()
    assert check(tmp_path / "state", tmp_path / "cache") == []


def read_while(bench: FsBench, *events: Callable[[], object]) -> list[bytes]:
    """All names of the long directory; one event happens each time that the reading lets others in."""
    bench.run(bench.fs.lookup, LONG, b"x")
    bench.fs.forget_cached([], [(LONG, b"x")])  # so that no listing in memory answers
    number, found = bench.fs.open_directory(LONG), list[bytes]()

    async def read() -> None:
        place = 0
        while entries := list(await bench.fs.read_directory(number, place)):
            found.extend(name for name, _, _ in entries)
            place = entries[-1][2]

    async def happen() -> None:
        for event in events:
            event()
            await trio.lowlevel.checkpoint()

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(happen)

    trio.run(scenario)
    bench.fs.release_directory(number)
    return sorted(found)


def names(*without: int) -> list[bytes]:
    return [b".", b"..", *(name_of(number) for number in range(COUNT) if number not in without)]


def test_a_long_directory_is_listed_whole(bench: FsBench) -> None:
    assert read_while(bench) == names()
    bench.unlink(name_of(7), LONG)
    bench.file(b"own", b"", LONG)
    assert read_while(bench) == [*names(7), b"own"]


def test_a_name_that_moves_elsewhere_while_a_directory_is_read_is_there_once(bench: FsBench) -> None:
    seqs = count(10)

    def rename(old: bytes, new: bytes) -> Callable[[], object]:
        def event() -> None:
            page = FeedPage(
                workspace=WORKSPACE,
                status=FeedStatus.CHANGES,
                cursor=Cursor(incarnation=Incarnation(1), seq=Seq(next(seqs))),
                inodes=[file_state(6001)],
                dentries=[DentryState(LONG, old), DentryState(LONG, new, InodeId(6001))],
            )
            bench.local.replica.apply_page(page)
            bench.fs.forget_cached([], [(LONG, old), (LONG, new)])

        return event

    there_and_back = [rename(name_of(1), b"9999"), rename(b"9999", name_of(1))] * 3
    moved = sorted(b"9999" if each == name_of(1) else each for each in names())
    for length in range(len(there_and_back) + 1):
        assert read_while(bench, *there_and_back[:length]) in (names(), moved)
        if length % 2:
            there_and_back[1]()


def test_changes_without_end_do_not_keep_a_directory_from_being_read(bench: FsBench) -> None:
    numbers = iter(range(COUNT))
    remove = bench.fs.forget_cached
    events = [lambda: remove([], [(LONG, name_of(next(numbers)))])] * COUNT
    assert read_while(bench, *events) == names()


def test_a_listing_that_is_read_stays_as_it_was(bench: FsBench) -> None:
    bench.run(bench.fs.lookup, LONG, b"x")
    number = bench.fs.open_directory(LONG)
    entries = bench.run(bench.fs.read_directory, number, 0)
    before = [next(entries)[0] for _ in range(10)]
    bench.unlink(before[-1], LONG)
    bench.unlink(name_of(COUNT - 1), LONG)
    bench.file(b"a new one", b"", LONG)
    rest = [name for name, _, _ in bench.run(bench.fs.read_directory, number, 10)]
    assert sorted([*before, *rest]) == names(COUNT - 1)
    bench.fs.release_directory(number)


def test_whether_a_directory_is_empty_is_known_without_listing_it(bench: FsBench) -> None:
    bench.run(bench.fs.lookup, LONG, b"x")
    looked = view.View(bench.local.journal, bench.local.replica)
    assert not looked.is_empty(LONG)
    for number in range(COUNT):
        bench.unlink(name_of(number), LONG)
    assert view.View(bench.local.journal, bench.local.replica).is_empty(LONG)
    own = bench.mkdir(b"own")
    assert view.View(bench.local.journal, bench.local.replica).is_empty(own)
    bench.file(b"file", b"", own)
    assert not view.View(bench.local.journal, bench.local.replica).is_empty(own)


def test_the_caches_of_a_view_stay_bounded(bench: FsBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "MAX_INODES", 40)
    looked, inodes = view.View(bench.local.journal, bench.local.replica), list[InodeId]()
    for number in range(30):
        directory = InodeState(InodeId(8000 + number), InodeKind.DIRECTORY, 0o755, nlink=2, seq=Seq(1))
        entries = [Entry(name=name_of(each), inode=file_state(9000 + 100 * number + each)) for each in range(6)]
        bench.local.replica.apply_listing(directory, entries, Seq(1), complete=True)
        assert len(looked.listing(directory.inode) or ()) == 6
        inodes += [entry.inode.inode for entry in entries]
    assert 0 < sum(looked.cached(inode) is not None for inode in inodes) <= 40


def test_what_a_view_has_noted_of_a_change_goes_with_it(bench: FsBench) -> None:
    looked = view.View(bench.local.journal, bench.local.replica)
    with bench.local.journal.transaction():
        looked.remember(file_state(9000))
        looked.show_name(LONG, b"by nobody", InodeId(9000))
    assert not looked.touched
    with looked.change():
        looked.remember(file_state(9000))
        assert looked.touched
    assert not looked.touched


def test_a_change_in_another_one_that_fails_is_forgotten_with_it(bench: FsBench) -> None:
    looked = view.View(bench.local.journal, bench.local.replica)

    def change() -> None:
        with looked.change():
            looked.remember(file_state(9000))
            with looked.change():
                looked.remember(file_state(9001))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change()
    assert looked.cached(InodeId(9000)) is looked.cached(InodeId(9001)) is None
    assert not looked.touched


def test_names_that_a_listing_has_are_those_that_are_found(bench: FsBench) -> None:
    looked = view.View(bench.local.journal, bench.local.replica)
    own = bench.mkdir(b"own")
    assert looked.named(own, b"name") == NO_INODE
    assert looked.listing(own) == {}
    with looked.change():
        looked.show_name(own, b"name", InodeId(9000))
    assert looked.named(own, b"name") == InodeId(9000)
    assert looked.listing(own) == {b"name": InodeId(9000)}


def test_listings_in_memory_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "MAX_LISTED", 60)
    kept = listings.Listings()
    for number in range(30):
        kept.keep(InodeId(number), {name_of(each): InodeId(each + 1) for each in range(6)})
        kept.put(InodeId(number), b"one more", InodeId(99))
        assert kept.size <= 60
    assert kept.get(InodeId(29)) is not None
    kept.keep(InodeId(1000), {name_of(each): InodeId(each + 1) for each in range(60)})
    assert kept.get(InodeId(1000)) is None


def test_names_are_durable_once_a_directory_was_synced(bench: FsBench) -> None:
    bench.file(b"new", b"")
    bench.rename(b"new", b"moved")
    assert bench.local.dirty
    bench.run(bench.fs.sync_directory)
    assert not bench.local.dirty
