"""Transactions that share a COMMIT: accepted is accepted, whatever ends the process or rolls another one back."""

import errno
import os
import random
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from cache import redo, workspace
from cache.check import check
from cache.database import Database
from cache.durable import sync_path
from cache.errors import DiskFull, Poisoned
from cache.findings import Severity
from cache.journal import Journal
from cache.redo import MOST_TRANSACTIONS, read_redo
from cache.workspace import LocalState, last_group
from tests.cache.states import ROOT, Bench, content_of, create, power_cut, unlink
from tests.cache.test_recovery import stage


def names(local: LocalState) -> set[bytes]:
    return {name for name, inode in local.journal.overlay.children(ROOT) if inode}


def make(local: LocalState, count: int, begin: int = 0) -> set[bytes]:
    made = {b"%d" % index for index in range(begin, begin + count)}
    for name in sorted(made):
        create(local.journal, name, content=b"content of " + name)
    return made


def killed(bench: Bench) -> Path:
    return bench.crash(flushed=False)


def log_of(local: LocalState) -> bytes:
    return local.journal._database.wal_path.read_bytes()


@pytest.mark.fault(1)
@pytest.mark.parametrize("count", [1, 5, MOST_TRANSACTIONS, MOST_TRANSACTIONS + 1, 3 * MOST_TRANSACTIONS + 7])
def test_what_shares_a_commit_survives_the_process(bench: Bench, local: LocalState, count: int) -> None:
    bench.flush()
    before = log_of(local)
    made = make(local, count)
    assert (log_of(local) == before) is (count <= MOST_TRANSACTIONS)
    killed(bench)
    again = bench.open("crashed")
    assert again.report == []
    assert names(again) == made
    assert [row.n for row in again.journal.unsettled(1000)] == [row.n for row in local.journal.unsettled(1000)]
    assert again.journal.pending_count == local.journal.pending_count
    assert again.journal.pending_bytes == local.journal.pending_bytes
    assert bench.close(again, "crashed") == []


def test_the_check_looks_at_it_too_and_changes_nothing(bench: Bench, local: LocalState) -> None:
    bench.flush()
    inode, _ = create(local.journal, b"long", content=b"x")
    stage(local, inode, 1, bytes(300_000))
    image = killed(bench)
    before = {path: path.read_bytes() for path in image.rglob("*") if path.is_file() and path.suffix != ".db-shm"}
    assert check(image, image.parent / "cache") == []
    assert {path: path.read_bytes() for path in before} == before
    assert bench.open("crashed").report == []


def test_starts_that_are_killed_too_run_it_once(bench: Bench, local: LocalState) -> None:
    made = make(local, 10)
    killed(bench)
    for index in range(3):
        source, target = "crashed" + "+" * index, "crashed" + "+" * (index + 1)
        again = bench.open(source)
        bench.crash(target, source, flushed=False)
        made |= make(again, 3, 100 * (index + 1)) if index == 1 else set()
        if index == 1:
            bench.crash(target + "x", source, flushed=False)
            assert names(bench.open(target + "x")) == made
            made -= {b"200", b"201", b"202"}
        assert names(again) >= made
        assert again.report == []
    assert names(bench.open("crashed+++")) == made


def test_the_first_barrier_commits(bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(local, 10)
    trio.run(local.barrier)
    make(local, 1, 50)
    image = killed(bench)
    power_cut(monkeypatch)
    (image / "redo").write_bytes(b"")
    again = bench.open("crashed")
    assert names(again) == made
    assert again.report == []


def test_what_the_disk_had_of_it_counts_after_a_power_cut(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been an orderly reboot, after a kill: nothing may lack then."""
    made = make(local, 10)
    killed(bench)
    power_cut(monkeypatch)
    assert names(bench.open("crashed")) == made


def test_one_that_fails_takes_no_other_with_it(bench: Bench, local: LocalState) -> None:
    made = make(local, 10)
    count = local.journal.pending_count
    fail(local.journal)
    assert names(local) == made
    assert local.journal.pending_count == count
    made |= make(local, 2, 60)
    killed(bench)
    assert names(bench.open("crashed")) == made
    assert bench.close(local) == []


def test_one_that_changes_nothing_rolls_nothing_back(local: LocalState, monkeypatch: pytest.MonkeyPatch) -> None:
    make(local, 2)
    monkeypatch.setattr(local.journal._database, "run_again", None)
    with pytest.raises(KeyError), local.journal.transaction():
        raise KeyError
    assert len(names(local)) == 2


class Refusing:
    """A cursor's `execute` that fails at COMMIT."""

    def __init__(self, local: LocalState, error: type[apsw.Error]) -> None:
        self._real = local.journal._database._execute
        self._error = error
        self.is_on = True

    def __call__(self, sql: str, bindings: Any = ()) -> Any:
        if sql == "COMMIT" and self.is_on:
            raise self._error("as if")
        return self._real(sql, bindings)


def test_a_full_disk_costs_nothing_that_was_accepted(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.flush()
    made = make(local, MOST_TRANSACTIONS)
    refusing = Refusing(local, apsw.FullError)
    monkeypatch.setattr(local.journal._database, "_execute", refusing)
    with pytest.raises(DiskFull):
        make(local, 1, 100)
    assert names(local) == made
    with pytest.raises(DiskFull):
        trio.run(local.barrier)
    killed(bench)
    assert names(bench.open("crashed")) == made
    refusing.is_on = False
    trio.run(local.barrier)
    made |= make(local, 1, 100)
    assert names(local) == made
    assert bench.close(local) == []


def test_a_full_disk_at_the_end_leaves_it_to_the_next_start(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(local, 5)
    with monkeypatch.context() as full:
        full.setattr(local.journal._database, "_execute", Refusing(local, apsw.FullError))
        local.close()
    again = bench.open()
    assert names(again) == made
    assert bench.close(again) == []


def test_a_failed_disk_leaves_it_to_the_next_start(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(local, 5)
    monkeypatch.setattr(local.journal._database, "_execute", Refusing(local, apsw.IOError))
    with pytest.raises(Poisoned):
        trio.run(local.barrier)
    killed(bench)
    assert names(bench.open("crashed")) == made


@pytest.mark.parametrize("how", ["full", "short"])
def test_a_file_that_takes_no_more_is_gone_without(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    made = make(local, 3)
    real = os.pwrite

    def failing(descriptor: int, data: bytes, offset: int) -> int:
        if how == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:20], offset)

    with monkeypatch.context() as patch:
        patch.setattr(redo.os, "pwrite", failing)
        made |= make(local, 3, 10)
    made |= make(local, 3, 20)
    killed(bench)
    again = bench.open("crashed")
    assert (names(again), again.report) == (made, [])


@pytest.mark.fault(11)
@pytest.mark.parametrize("damage", ["gone", "empty", "zeros", "foreign", "first", "middle", "end"])
def test_no_damage_of_the_file_is_silent(bench: Bench, local: LocalState, damage: str) -> None:
    make(local, 10)
    path = killed(bench) / "redo"
    data = bytearray(path.read_bytes())
    end = len(bytes(data).rstrip(b"\0"))
    places = {"first": 40, "middle": end // 2, "end": end - 3}
    if damage in places:
        data[places[damage]] ^= 1
    path.write_bytes({"empty": b"", "zeros": bytes(2**20), "foreign": b"text" * 1000}.get(damage, bytes(data)))
    if damage == "gone":
        path.unlink()
    before = path.read_bytes() if path.exists() else b""
    again = bench.open("crashed")
    (told,) = again.report
    assert told.severity is (Severity.NOTE if damage in places else Severity.DAMAGE)
    assert len(names(again)) == {"first": 0, "end": 10}.get(damage, len(names(again)))
    assert {b"%d" % index for index in range(len(names(again)))} == names(again)
    kept = [each.read_bytes() for each in (path.parent / "lost+found").glob("redo-*")]
    assert kept == [before] * any(before)
    assert bench.close(again, "crashed") == []
    assert bench.open("crashed").report == []


def test_the_end_stands_behind_what_was_accepted(bench: Bench, local: LocalState) -> None:
    path, last = bench.places()[0] / "redo", last_group(local.journal._database) or 0
    begun = len(read_redo(path, last).transactions)
    for count in range(5):
        found = read_redo(path, last)
        assert (len(found.transactions) - begun, found.is_whole) == (count, True)
        assert found.group == last + 1
        make(local, 1, count)


def test_a_state_without_the_file_goes_on(bench: Bench) -> None:
    """As a program has left it that did not know of it, and as a full disk leaves it."""
    local = bench.open()
    made = make(local, 3)
    local.journal._database.share_commits(None)
    local.journal._database.write("DELETE FROM meta WHERE key = 'group'")
    make(local, 1, 10)
    image = bench.crash()
    (image / "redo").unlink()
    again = bench.open("crashed")
    assert (names(again), again.report) == (made | {b"10"}, [])


def test_without_room_for_the_file_each_has_its_own_commit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _size_bytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(redo, "fill", full)
        local = bench.open()
    before = log_of(local)
    made = make(local, 1)
    assert log_of(local) != before
    killed(bench)
    again = bench.open("crashed")
    assert (names(again), again.report) == (made, [])


def test_random_histories_come_back_after_each_kill(bench: Bench, local: LocalState) -> None:
    """Transactions that go well, that fail, and barriers, in many orders; killed after each."""
    source = random.Random(5)
    there: dict[bytes, Any] = {}
    for index in range(160):
        name = b"%d" % source.randrange(12)
        kind = source.choice(["make", "make", "drop", "fail", "barrier"]) if index % 40 else "barrier"
        if kind == "make" and name not in there:
            there[name], _ = create(local.journal, name, content=name * source.randrange(1, 3000))
        elif kind == "drop" and name in there:
            unlink(local.journal, name, there.pop(name))
        elif kind == "fail":
            fail(local.journal)
        elif kind == "barrier":
            trio.run(local.barrier)
        if not index % 8:
            bench.crash(f"crashed{index}", flushed=False)
            again = bench.open(f"crashed{index}")
            assert (names(again), again.report) == (set(there), [])
            assert bench.close(again, f"crashed{index}") == []


def test_a_start_that_is_refused_leaves_nothing_to_tell(bench: Bench, local: LocalState) -> None:
    made = make(local, 3)
    killed(bench)

    class Full(Database):
        def execute_script(self, sql: str) -> None:
            if "user_version =" in sql:
                raise DiskFull("as if")
            super().execute_script(sql)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workspace, "Database", Full)
        with pytest.raises(DiskFull):
            bench.open("crashed")
    again = bench.open("crashed")
    assert (names(again), again.report) == (made, [])


@pytest.mark.parametrize("how", ["transaction", "barrier", "close"])
def test_what_sqlite_rolls_back_by_itself_is_run_again(bench: Bench, local: LocalState, how: str) -> None:
    """As it does where a statement finds no memory, be it one that only reads."""
    made = make(local, 5)
    local.journal._database._execute("ROLLBACK")
    if how == "transaction":
        made |= make(local, 1, 10)
        assert names(local) == made
    elif how == "barrier":
        trio.run(local.barrier)
        assert names(local) == made
    else:
        assert bench.close(local) == []
        local = bench.open()
    killed(bench)
    assert names(bench.open("crashed")) == made


def test_a_state_whose_disk_failed_keeps_its_log_when_it_is_closed(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has may not be what was written: it is not to be copied into the database, nor to be missed then."""
    made = make(local, 5)

    def failing(_path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("cache.barrier.sync_path", failing)
        with pytest.raises(Poisoned):
            trio.run(local.barrier)
    before = log_of(local)
    bench.close(local)
    assert (bench.places()[0] / "journal.db-wal").read_bytes() == before
    again = bench.open()
    assert (names(again), again.report) == (made, [])


def fail(journal: Journal) -> None:
    with suppress(KeyError), journal.transaction():
        create(journal, b"never", content=b"never")
        raise KeyError


def test_what_redo_retires_goes_once_that_is_durable(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode, _ = create(local.journal, b"long", content=b"x")
    stage(local, inode, 1, bytes(300_000))
    trio.run(local.barrier)
    assert local.journal.drafts.drop_draft(inode)
    killed(bench)
    steps: list[str] = []
    real_unlink = Path.unlink

    def synced(path: Path) -> None:
        steps.append(f"sync {path.name}")
        sync_path(path)

    def unlink(path: Path, missing_ok: bool = False) -> None:
        steps.append(f"unlink {path.parent.name}")
        real_unlink(path, missing_ok)

    monkeypatch.setattr("cache.recovery.sync_path", synced)
    monkeypatch.setattr(Path, "unlink", unlink)
    again = bench.open("crashed")
    assert not list(again.staging.paths())
    assert steps.index("sync journal.db-wal") < steps.index("unlink staging")


def test_one_that_cannot_be_rolled_back_is_the_last(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing joins it as if it were a transaction that goes on: that would be accepted, and kept nowhere."""
    made = make(local, 10)
    real = local.journal._database._execute

    def refusing(sql: str, bindings: Any = ()) -> Any:
        if sql == "ROLLBACK":
            raise apsw.IOError("as if")
        return real(sql, bindings)

    monkeypatch.setattr(local.journal._database, "_execute", refusing)
    fail(local.journal)
    for again in (lambda: make(local, 1, 20), lambda: trio.run(local.barrier)):
        with pytest.raises(Poisoned):
            again()
    killed(bench)
    assert names(bench.open("crashed")) == made


@pytest.mark.parametrize("kind", [apsw.IOError, apsw.FullError, apsw.NoMemError])
def test_a_start_that_cannot_run_it_again_leaves_all_as_it_was(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch, kind: type[apsw.Error]
) -> None:
    """What it names in staging is not put aside: the next start has both."""
    bench.flush()
    inode, _ = create(local.journal, b"long", content=b"x")
    stage(local, inode, 1, bytes(300_000))
    killed(bench)

    def failing(transaction: bytes) -> Any:
        raise kind("no")

    with monkeypatch.context() as patch:
        patch.setattr("cache.database.statements_of", failing)
        with pytest.raises((DiskFull, Poisoned)):
            bench.open("crashed")
    again = bench.open("crashed")
    assert again.report == []
    assert content_of(again, inode) == b"x" + bytes(300_000)
    assert bench.close(again, "crashed") == []


def test_a_file_that_does_not_fit_is_found_by_the_check(bench: Bench, local: LocalState) -> None:
    trio.run(local.barrier)
    make(local, 3)
    image = killed(bench)
    with closing(sqlite3.connect(image / "journal.db")) as connection, connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        n = local.journal.unsettled(1)[0].n
        connection.execute("INSERT INTO mutations VALUES (?, 0, 1, 0, 0, 0, '', '', x'00', 0, 0)", (n,))
    found = check(image, image.parent / "cache")
    assert any("does not fit" in each.what for each in found)
    assert Severity.DAMAGE in {each.severity for each in bench.open("crashed").report}
