"""The disk of the simulation: what its cuts leave, and that it is told of all that our code and SQLite do."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pysqlite3.dbapi2 as other_sqlite
import pytest
import trio

from backend.blockstore.local import LocalStore
from cache.check import check
from cache.workspace import LocalState
from tests.cache.states import FIRST_ID, create, inline
from tests.simulation.disk import PAGE_BYTES, Change, SimDisk, all_survives, nothing_survives
from tests.simulation.interception import small_sizes, watching

A, B = b"A" * PAGE_BYTES, b"B" * PAGE_BYTES


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SimDisk]:
    disk = SimDisk(tmp_path / "disk", random.Random(1))
    with watching(disk), small_sizes():
        yield disk


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def put(path: Path, data: bytes) -> Path:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    os.pwrite(descriptor, data, 0)
    os.close(descriptor)
    return path


def put_durably(path: Path, data: bytes) -> Path:
    sync(put(path, data))
    sync(path.parent)
    return path


def open_database(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def open_other_database(path: Path, synchronous: str = "FULL") -> Any:
    connection = other_sqlite.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    return connection


def test_a_cut_leaves_what_was_synced_under_names_that_were_synced(disk: SimDisk) -> None:
    put_durably(disk.root / "kept", A)
    put(disk.root / "kept", B)
    sync(put(disk.root / "nameless", A))
    put(disk.root / "unsynced", A)
    sync(disk.root)
    os.rename(disk.root / "nameless", disk.root / "other")
    root = disk.crash(nothing_survives)
    assert {p.name: p.read_bytes() for p in root.iterdir()} == {"kept": A, "nameless": A, "unsynced": b""}


def test_what_was_never_named_durably_is_gone(disk: SimDisk) -> None:
    (disk.root / "folder").mkdir()
    put_durably(disk.root / "folder" / "file", A)
    assert list(disk.crash(nothing_survives).iterdir()) == []


def test_a_kill_leaves_all_and_makes_nothing_durable(disk: SimDisk) -> None:
    file = put_durably(disk.root / "file", A)
    os.link(file, disk.root / "link")
    put(file, B)
    put(disk.root / "new", A)
    root = disk.kill()
    assert (root / "link").read_bytes() == B
    assert (root / "link").stat().st_ino == (root / "file").stat().st_ino
    assert (root / "new").read_bytes() == A
    sync(root)
    assert {p.name: p.read_bytes() for p in disk.crash(nothing_survives).iterdir()} == {
        "file": A,
        "link": A,
        "new": b"",
    }


def test_what_is_left_of_a_dead_process_reaches_no_disk(disk: SimDisk) -> None:
    late = os.open(disk.root / "late", os.O_CREAT | os.O_WRONLY, 0o600)
    old = disk.root
    root = disk.kill()
    os.write(late, A)
    os.fsync(late)
    os.close(late)
    put_durably(old / "later", A)
    assert [(p.name, p.read_bytes()) for p in root.iterdir()] == [("late", b"")]
    assert [p.name for p in disk.crash(all_survives).iterdir()] == ["late"]


def test_each_page_survives_or_not_for_itself_and_may_be_torn(disk: SimDisk) -> None:
    file = put_durably(disk.root / "file", A + A + A)
    put(file, B + B + B)
    kept = {0: PAGE_BYTES, 1: 0, 2: 512}
    assert disk.changes() == [Change("page", "file", number) for number in kept]
    root = disk.crash(lambda change: kept[change.page])
    assert (root / "file").read_bytes() == B + A + B[:512] + A[512:]


def test_a_file_that_grew_may_have_zeros_where_its_pages_did_not_survive(disk: SimDisk) -> None:
    put(put_durably(disk.root / "file", A), A + B + B)
    root = disk.crash(lambda change: PAGE_BYTES if change.kind == "size" or change.page == 2 else 0)
    assert (root / "file").read_bytes() == A + bytes(PAGE_BYTES) + B


def test_a_rename_over_a_file_leaves_one_of_both_under_the_name(disk: SimDisk) -> None:
    put_durably(disk.root / "file", A)
    sync(put(disk.root / "new", B))
    os.replace(disk.root / "new", disk.root / "file")
    outcomes = [disk.look().image(survival) for survival in (nothing_survives, all_survives)]
    assert [len(image.names[0]) for image in outcomes] == [1, 1]
    assert sorted(data for image in outcomes for data in image.files.values()) == [A, B]


def test_a_number_that_is_used_again_is_another_file(disk: SimDisk) -> None:
    first = put_durably(disk.root / "first", A)
    for _ in range(20):
        first.unlink()
        put(first, B)
    sync(disk.root)
    assert (disk.crash(nothing_survives) / "first").read_bytes() == b""


def test_a_failed_sync_is_reported_and_what_it_lost_stays_lost(disk: SimDisk) -> None:
    file = put_durably(disk.root / "file", A + A)
    put(file, B + A)
    disk.failing_syncs = 1
    with pytest.raises(OSError, match="Input/output"):
        sync(file)
    put(file, B + B)
    sync(file)
    assert file.read_bytes() == B + B, "what the kernel remembers"
    assert (disk.crash(all_survives) / "file").read_bytes() == A + B


def test_a_full_disk_takes_what_fits_and_says_so(disk: SimDisk) -> None:
    file = put(disk.root / "file", A)
    disk.room_bytes = 100
    assert os.statvfs(disk.root).f_bavail == 0
    descriptor = os.open(file, os.O_WRONLY)
    assert os.pwrite(descriptor, B, 0) == PAGE_BYTES
    assert os.pwrite(descriptor, B, PAGE_BYTES) == 100
    with pytest.raises(OSError, match="No space"):
        os.pwrite(descriptor, B, PAGE_BYTES + 100)
    os.close(descriptor)
    file.unlink()
    put(file, A)


def test_full_disks_and_failing_syncs_reach_both_libraries(disk: SimDisk) -> None:
    first, other = open_database(disk.root / "first.db"), open_other_database(disk.root / "other.db")
    for connection in (first, other):
        connection.execute("CREATE TABLE t (a)")
    disk.room_bytes = 0
    with pytest.raises(apsw.FullError):
        first.execute("INSERT INTO t VALUES (zeroblob(100000))")
    with pytest.raises(other_sqlite.OperationalError, match="full"):
        other.execute("INSERT INTO t VALUES (zeroblob(100000))")
    disk.room_bytes, disk.failing_syncs = None, 2
    with pytest.raises(apsw.IOError):
        first.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with pytest.raises(other_sqlite.OperationalError, match="disk I/O"):
        other.execute("INSERT INTO t VALUES (1)")
    assert disk.failing_syncs == 0
    for connection in (first, other):
        connection.close()


def test_a_cut_takes_commits_of_which_no_sync_was_asked(disk: SimDisk) -> None:
    first = open_database(disk.root / "first.db")
    other, lax = (open_other_database(disk.root / f"{s}.db", s) for s in ("FULL", "NORMAL"))
    connections = (first, other, lax)
    for connection in connections:
        connection.execute("CREATE TABLE t (a)")
    for connection in (first, lax):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    sync(disk.root)
    for connection in connections:
        connection.execute("INSERT INTO t VALUES (1)")
    root = disk.crash(nothing_survives)
    for connection in connections:
        connection.close()
    found = {name: apsw.Connection(str(root / f"{name}.db")) for name in ("first", "FULL", "NORMAL")}
    counts = {name: connection.execute("SELECT count(*) FROM t").fetchall() for name, connection in found.items()}
    assert counts == {"first": [(0,)], "FULL": [(1,)], "NORMAL": [(0,)]}
    for connection in found.values():
        connection.close()


def test_every_prefix_of_the_pages_of_a_log_is_a_sound_database(disk: SimDisk) -> None:
    connection = open_database(disk.root / "a.db")
    connection.execute("CREATE TABLE t (a)")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    sync(disk.root)
    for number in range(20):
        connection.execute("INSERT INTO t VALUES (?)", (number,))
    pages = [change.page for change in disk.changes() if change.kind == "page"]
    assert len(pages) > 5
    counts = set()
    for torn in range(0, 4096, 1024):
        for last in pages:
            image = disk.look().image(
                lambda c, last=last, torn=torn: torn if c.page == last else 4096 * (c.page < last)
            )
            copy = SimDisk(disk.root.parent.parent / "copy", random.Random(1))
            found = apsw.Connection(str(copy.go_back(image) / "a.db"))
            assert found.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            rows = [row[0] for row in found.execute("SELECT a FROM t ORDER BY a")]
            assert rows == list(range(len(rows)))
            counts.add(len(rows))
            found.close()
            copy.clear()
    connection.close()
    assert len(counts) > 10


def test_rot_flips_a_bit_of_what_is_durable(disk: SimDisk) -> None:
    file = put_durably(disk.root / "file", A)
    assert len(disk.rot("fi*")) == 1
    damaged = file.read_bytes()
    assert damaged != A
    assert len(damaged) == PAGE_BYTES
    assert (disk.crash(nothing_survives) / "file").read_bytes() == damaged
    assert disk.rot("none*") == []


def test_an_old_state_comes_back_whole(disk: SimDisk) -> None:
    put(disk.root / "file", A)
    old = disk.snapshot()
    put_durably(disk.root / "file", B)
    put(disk.root / "other", B)
    boot = disk.boot
    assert [(p.name, p.read_bytes()) for p in disk.go_back(old).iterdir()] == [("file", A)]
    assert disk.boot != boot


def test_boundaries_are_told_and_what_is_raised_there_comes_out(disk: SimDisk) -> None:
    class Cut(BaseException):
        pass

    told: list[str] = []
    disk.on_boundary = told.append
    put_durably(disk.root / "file", A)
    operations = ["create file", "write file", "sync file", "sync ."]
    assert told == [f"{when} {what}" for what in operations for when in ("before", "after")]

    def cut(what: str) -> None:
        if what == "before sync o.db-wal":
            raise Cut

    other = open_other_database(disk.root / "o.db")
    disk.on_boundary = cut
    with pytest.raises(other_sqlite.OperationalError):
        other.execute("CREATE TABLE t (a)")
    with pytest.raises(Cut):
        disk.raise_pending()
    disk.on_boundary = None
    other.close()


def test_the_same_chance_draws_the_same_cut(tmp_path: Path) -> None:
    def run(name: str) -> dict[str, bytes]:
        disk = SimDisk(tmp_path / name, random.Random(7))
        with watching(disk):
            for number in range(20):
                put(disk.root / f"{number}", A + B)
        return {p.name: p.read_bytes() for p in disk.crash().iterdir()}

    assert run("one") == run("two")


@pytest.mark.parametrize("seed", range(10))
def test_a_local_state_recovers_from_any_cut_with_what_a_barrier_covered(tmp_path: Path, seed: int) -> None:
    disk = SimDisk(tmp_path / "disk", random.Random(seed))

    def opened() -> LocalState:
        with disk.booted():
            return LocalState(disk.root / "state", disk.root / "cache", offload=inline, cache_limit_bytes=2**20)

    with watching(disk), small_sizes():
        names: list[bytes] = []
        sure = 0
        for round_number in range(4):
            local = opened()
            if not local.journal.ids_left():
                local.journal.add_id_range(FIRST_ID)
            found = {m.name for m in (row.mutation for row in local.journal.unsettled(1000))}
            assert found == set(names[: len(found)])
            assert len(found) >= sure
            names = names[: len(found)]
            for number in range(6):
                names.append(b"%d-%d" % (round_number, number))
                create(local.journal, names[-1], content=names[-1] * 300)
                if number == 3:
                    trio.run(local.barrier)
                    sure = len(names)
            disk.crash()
            local.close()
        opened().close()
    assert [f for f in check(disk.root / "state", disk.root / "cache") if f.severity.name == "DAMAGE"] == []


def test_a_store_keeps_what_it_settled(disk: SimDisk) -> None:
    store = LocalStore(disk.root / "store")
    store.prepare()
    store.put("a/settled", [A])
    store.settle(["a/settled"])
    store.put("a/other", [B])
    again = LocalStore(disk.crash(nothing_survives) / "store")
    again.prepare()
    assert [each.name for each in again.objects()] == ["a/settled"]
    assert again.get("a/settled", 0, PAGE_BYTES) == A


def test_all_that_a_watch_replaces_is_as_it_was_afterwards(tmp_path: Path) -> None:
    before = {name: getattr(os, name) for name in ("fsync", "open", "rename", "unlink", "pwrite")}
    with watching(SimDisk(tmp_path / "disk", random.Random(1))):
        assert os.fsync is not before["fsync"]
    assert {name: getattr(os, name) for name in before} == before
    connection = apsw.Connection(str(tmp_path / "after.db"))
    assert connection.filename_wal
    connection.close()
