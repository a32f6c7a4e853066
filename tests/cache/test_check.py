"""The local check: finds each broken invariant, finds nothing in a sound state, and changes nothing."""

import os
import sqlite3
from pathlib import Path

import pytest
from msgspec import structs

from cache.check import check
from cache.findings import Finding, Severity
from cache.sealing import row_digest
from cache.workspace import LocalState
from drivefs.protocol import wire
from drivefs.protocol.changes import Base, Store
from drivefs.protocol.ids import InodeId, Seq
from drivefs.protocol.messages import Entry
from drivefs.protocol.model import InodeKind, InodeState
from tests.cache.states import ROOT, Bench, change_mode, create, draft_of


class Closed:
    """A closed state to be damaged."""

    def __init__(self, bench: Bench, inode: InodeId) -> None:
        self.state, self.cache = bench.places()
        self.inode = inode

    def change(self, sql: str, *values: object, database: str = "journal") -> None:
        place = self.state / "journal.db" if database == "journal" else self.cache / "replica.db"
        connection = sqlite3.connect(place)
        with connection:
            connection.execute(sql, values)
        connection.close()

    def row(self, sql: str) -> tuple[object, ...]:
        connection = sqlite3.connect(self.state / "journal.db")
        found: tuple[object, ...] = connection.execute(sql).fetchone()
        connection.close()
        return found

    def check(self) -> list[Finding]:
        return check(self.state, self.cache)

    def images(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.state.rglob("*") if path.is_file()}


@pytest.fixture
def closed(bench: Bench, local: LocalState) -> Closed:
    inode, _ = create(local.journal, b"a", content=b"12345")
    create(local.journal, b"b", content=b"12345")
    staged = local.staging.append(inode, b"6" * 100_000)
    local.journal.drafts.add_record(inode, 0, b"6" * 100_000, staged)
    state = local.journal.overlay.inode(inode)
    assert state is not None
    state.size = 100_000
    local.journal.overlay.put_inode(state, local.journal.last_op())
    local.replica.apply_listing(
        InodeState(ROOT, InodeKind.DIRECTORY, 0o755, nlink=2),
        [Entry(name=b"r", inode=InodeState(InodeId(9), InodeKind.FILE, 0o644))],
        Seq(4),
        complete=True,
    )
    assert bench.close(local) == []
    return Closed(bench, inode)


def test_a_check_changes_nothing(closed: Closed) -> None:
    before = closed.images()
    assert closed.check() == []
    assert closed.images() == before


def test_a_check_leaves_a_crashed_state_as_it_is(bench: Bench, local: LocalState) -> None:
    create(local.journal, b"a", content=b"12345")
    image = bench.crash()
    before = (image / "journal.db").read_bytes(), (image / "journal.db-wal").read_bytes()
    assert check(*bench.places("crashed")) == []
    assert ((image / "journal.db").read_bytes(), (image / "journal.db-wal").read_bytes()) == before


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("UPDATE mutations SET inode = 5 WHERE n = (SELECT min(n) FROM mutations)", "not its own"),
        ("DELETE FROM dentries", "does not show the entry"),
        ("DELETE FROM mutations", "for no change"),
        ("DELETE FROM drafts", "belong to no draft"),
        ("DELETE FROM records WHERE staging_file = 0", "with 5 bytes, its draft has 0"),
        ("DELETE FROM records WHERE staging_file != 0", "No record names"),
        ("DELETE FROM inodes", "which is not known"),
        ("UPDATE counters SET reserved = 1 WHERE name = 'op'", "given out twice"),
        ("UPDATE counters SET reserved = 0 WHERE name = 'file'", "given out twice"),
        ("UPDATE records SET length = length + 1", "do not match"),
        ("UPDATE records SET content = content + 1", "do not match"),
        ("UPDATE inodes SET digest = digest + 1", "does not match its checksum"),
        ("UPDATE bases SET digest = 0", ""),
    ],
)
def test_a_broken_invariant_of_the_journal_is_found(closed: Closed, sql: str, expected: str) -> None:
    closed.change(sql)
    found = [finding.what for finding in closed.check()]
    assert any(expected in what for what in found) == bool(expected)


def test_an_earlier_change_may_wait_for_the_first_store_of_its_file(bench: Bench, local: LocalState) -> None:
    journal = local.journal
    inode, _ = create(journal, b"a", content=b"12345")
    mode = change_mode(journal, inode, 0o600)
    with journal.transaction():
        state = journal.overlay.inode(inode)
        assert state is not None
        state.size = 5
        store = journal.next_op()
        journal.append(Store(n=store, time_ns=1, inode=inode, base=Base(), size=5, runs=[], mtime_ns=1))
        journal.overlay.put_inode(state, store)
    row = journal.get(mode)
    assert row is not None
    journal.replace(structs.replace(row.mutation, after=[store]))
    assert bench.close(local) == []


def test_a_change_that_waits_for_another_later_one_is_found(bench: Bench, local: LocalState) -> None:
    journal = local.journal
    inode, created = create(journal, b"a")
    mode = change_mode(journal, inode, 0o600)
    row = journal.get(created)
    assert row is not None
    journal.replace(structs.replace(row.mutation, after=[mode]))
    assert ["waits for one" in finding.what for finding in bench.close(local)] == [True]


def test_a_size_that_is_not_the_drafts_is_found(closed: Closed) -> None:
    state = InodeState(closed.inode, InodeKind.FILE, 0o644, size=3)
    body = wire.encode(state)
    closed.change("UPDATE inodes SET state = ?, digest = ?, op = 2 WHERE inode = ?",
                  body, row_digest(body, closed.inode, 2), closed.inode)  # fmt: skip
    (finding,) = closed.check()
    assert "shown with 3 bytes" in finding.what


def test_a_draft_with_a_frozen_record_that_is_not_there_is_found(closed: Closed) -> None:
    ((place,),) = [closed.row(f"SELECT place FROM drafts WHERE inode = {closed.inode}")]
    assert isinstance(place, int)
    draft = draft_of(closed.inode)
    body = wire.encode(type(draft)(draft.inode, draft.base, 0, 0, 0, 0, frozen=(place << 28) + 99))
    closed.change("UPDATE drafts SET state = ?, digest = ? WHERE inode = ?",
                  body, row_digest(body, closed.inode, place), closed.inode)  # fmt: skip
    assert any("on its way that is not there" in finding.what for finding in closed.check())


def test_staging_rot_is_damage(closed: Closed) -> None:
    (path,) = (closed.state / "staging").iterdir()
    path.write_bytes(b"rot" + path.read_bytes()[3:])
    (finding,) = closed.check()
    assert finding.severity is Severity.DAMAGE


def test_a_lost_staging_file_is_damage(closed: Closed) -> None:
    (path,) = (closed.state / "staging").iterdir()
    path.unlink()
    (finding,) = closed.check()
    assert finding.severity is Severity.DAMAGE


def test_files_that_others_can_read_are_found(closed: Closed) -> None:
    os.chmod(closed.state / "journal.db", 0o644)
    (finding,) = closed.check()
    assert "can be read by others" in finding.what


def test_a_journal_that_is_no_database_is_damage(closed: Closed) -> None:
    (closed.state / "journal.db").write_bytes(b"rot" * 10_000)
    assert any(finding.severity is Severity.DAMAGE for finding in closed.check())


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM inodes WHERE inode = 9",
        "UPDATE dentries SET inode = 0",
        "INSERT INTO dentries VALUES (9, x'61', 9, 4)",
    ],
)
def test_a_broken_invariant_of_the_replica_is_found(closed: Closed, sql: str) -> None:
    closed.change(sql, database="replica")
    found = closed.check()
    assert found
    assert {finding.severity for finding in found} == {Severity.WARNING}


def test_a_damaged_replica_is_found_and_costs_nothing(closed: Closed) -> None:
    (closed.cache / "replica.db").write_bytes(b"rot" * 10_000)
    (finding,) = closed.check()
    assert "Nothing is lost" in finding.meaning
