"""Damage that SQLite finds sound: a schema that is not the one that was made, and values of types that nobody wrote."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cache.check import check
from cache.errors import Unusable
from cache.schema import JOURNAL_VERSION
from cache.verification import RECORDS, TABLES
from cache.workspace import LocalState
from drivefs.protocol.ids import InodeId, WorkspaceId
from tests.cache.states import ROOT, Bench, content_of, create
from tests.cache.test_repair import mend

NAMES = {b"a": b"first", b"b": b"second"}


def make(bench: Bench) -> Path:
    """A journal that was closed, with something in most tables; gives its path."""
    local = bench.open()
    for name, content in NAMES.items():
        inode, _ = create(local.journal, name, content=content)
        local.journal.drafts.put_base_blocks(inode, b"")
    local.pins.put(inode, b"b")
    with local.journal.transaction():
        local.journal.aliases.add(InodeId(7), inode)
        local.journal.set_meta("shares", b"\x90")
    bench.close(local)
    return bench.places()[0] / "journal.db"


def contents(local: LocalState) -> dict[bytes, bytes]:
    children = dict(local.journal.overlay.children(ROOT))
    return {name: content_of(local, inode) for name, inode in children.items() if inode}


def swap(path: Path, wanted: bytes, other: bytes) -> None:
    """Where some bytes stand in a file, let others stand."""
    data = path.read_bytes()
    assert wanted in data
    assert len(wanted) == len(other)
    path.write_bytes(data.replace(wanted, other))


@pytest.mark.parametrize(
    ("wanted", "other"),
    [
        (b"    place INTEGER NOT NULL,   -- its records", b"    plabe INTEGER NOT NULL,   -- its records"),
        (b"CREATE TABLE retired (", b"CREATE TABLE retirad ("),
        (b"tabledraftsdrafts", b"tabledraftzdrafts"),
        (b"tablepinspins", b"tablepinrpins"),
        (b"(seq) WHERE state = 2", b"(seq) WHERE state = 3"),
        (b"data BLOB                 -- up to", b"data BLOC                 -- up to"),
        (b"mutations_by_inode ON mutations (inode)", b"mutations_by_inode ON mutations (other)"),
    ],
)
def test_a_schema_that_is_not_the_one_that_was_made_is_refused_and_mended_without_a_loss(
    bench: Bench, wanted: bytes, other: bytes
) -> None:
    path = make(bench)
    swap(path, wanted, other)
    broken = path.read_bytes()
    with pytest.raises(Unusable, match="check --repair"):
        bench.open()
    assert path.read_bytes() == broken
    assert check(*bench.places())
    assert path.read_bytes() == broken
    done = mend(bench)
    assert done.found
    assert not done.left
    local = bench.open()
    assert contents(local) == NAMES
    assert len(local.journal.unsettled(100)) == len(NAMES)
    assert list(local.pins.roots.values()) == [b"b"]
    assert not bench.close(local)


def test_a_schema_of_a_program_with_other_comments_is_the_same(bench: Bench) -> None:
    path = make(bench)
    swap(path, b"-- 0: a tombstone, the name is gone\n", b"\n-- 0 a tombstone, the name is gone\n")
    assert not check(*bench.places())
    assert not bench.open().report


def test_a_database_that_has_lost_its_version_is_refused_and_mended(bench: Bench) -> None:
    path = make(bench)
    data = path.read_bytes()
    assert data[60:64] == JOURNAL_VERSION.to_bytes(4, "big")
    path.write_bytes(data[:60] + bytes(4) + data[64:])
    with pytest.raises(Unusable, match="check --repair"):
        bench.open()
    assert check(*bench.places())
    assert not mend(bench).left
    assert contents(bench.open()) == NAMES


def test_a_replica_with_another_schema_begins_anew(bench: Bench) -> None:
    make(bench)
    path = bench.places()[1] / "replica.db"
    swap(path, b"    cursor BLOB NOT NULL ", b"    cursos BLOB NOT NULL ")
    assert check(*bench.places())
    assert bench.open().replica.cursor(WorkspaceId(1)) is None


STRANGE = {"INTEGER": ("x'ff'", "'text'"), "TEXT": ("x'ff'",), "BLOB": ("17", "CAST(x'ff' AS TEXT)")}
"""What no column of a type was ever given; text need not be any."""


def strange_values(path: Path) -> Iterator[tuple[str, str, str]]:
    """All columns of all tables that have rows, each with a value of another type; row numbers can have no other."""
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        for table in tables:
            if connection.execute(f"SELECT 1 FROM {table}").fetchone() is None:
                continue
            for at, column, kind, _, _, key in connection.execute(f"PRAGMA table_info({table})"):
                if not (key and kind == "INTEGER" and table != "dentries"):
                    yield table, column, STRANGE[kind][at % len(STRANGE[kind])]


def test_a_value_of_another_type_in_any_column_is_told_or_refused_and_mended(bench: Bench) -> None:
    path = make(bench)
    whole = path.read_bytes()
    seen = set()
    for table, column, value in list(strange_values(path)):
        for name in ("redo", "journal.db-wal", "journal.db-shm"):
            path.with_name(name).unlink(missing_ok=True)
        path.write_bytes(whole)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"UPDATE OR REPLACE {table} SET {column} = {value}")
        told: list[object] = []
        try:
            local = bench.open()
            told += [*local.report, *range(local.pins.damaged_count)]
            bench.close(local)
        except Unusable as error:
            told.append(error)
        done = mend(bench)
        assert done.found or told, (table, column, value)
        assert not done.left, (table, column, value)
        seen.add(table)
    assert seen == {*(table.name for table in (*TABLES, RECORDS)), "meta", "counters", "aliases", "pins"}
