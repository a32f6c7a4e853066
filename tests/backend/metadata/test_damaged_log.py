"""A log that lacks what was committed is noticed before SQLite drops the rest; one that lacks nothing is left alone."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backend.metadata import damaged_log
from drivefs.protocol.wal import HEADER_BYTES

FRAME_BYTES = 4096 + 24
COMMITS = 40
Damage = Callable[[bytearray], None]


def committed(path: Path) -> int:
    """How many rows there are; the table and its index agree."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = [number for (number,) in connection.execute("SELECT n FROM t ORDER BY n")]
    assert found == list(range(len(found)))
    return len(found)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """One who has committed rows, and goes on until it is killed."""
    with closing(sqlite3.connect(tmp_path / "live.db", isolation_level=None)) as connection:
        connection.executescript("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t (n, text)")
        connection.executescript("CREATE INDEX by_text ON t (text); PRAGMA wal_checkpoint(TRUNCATE)")
        for number in range(COMMITS):
            connection.execute("INSERT INTO t VALUES (?, ?)", (number, f"{number}" * 50))
        yield connection


def killed(tmp_path: Path, *, keeps_shared: bool = True) -> Path:
    """What the death of the process leaves."""
    for suffix in ("", "-wal", "-shm")[: 3 if keeps_shared else 2]:
        shutil.copy(tmp_path / f"live.db{suffix}", tmp_path / f"m.db{suffix}")
    return tmp_path / "m.db"


def mended(path: Path) -> bool:
    """Whether the log was found to lack something that is lost."""
    calls: list[int] = []
    damaged_log.mend(path, lambda: calls.append(1))
    return bool(calls)


def at(path: Path, damage: Damage) -> bytes:
    """Damage the log; gives what it was then."""
    log = path.with_name(f"{path.name}-wal")
    data = bytearray(log.read_bytes())
    damage(data)
    log.write_bytes(data)
    return bytes(data)


def flipped(data: bytearray) -> None:
    data[HEADER_BYTES + FRAME_BYTES * 10 + 3000] ^= 1


def zeroed(data: bytearray) -> None:
    data[8 * 4096 : 9 * 4096] = bytes(4096)


def cut(data: bytearray) -> None:
    del data[HEADER_BYTES + FRAME_BYTES * 10 :]


def emptied(data: bytearray) -> None:
    data.clear()


def exchanged(data: bytearray) -> None:
    data[:] = b"text" * (len(data) // 4)


DAMAGES = [flipped, zeroed, cut, emptied, exchanged]


@pytest.mark.usefixtures("writer")
def test_a_log_that_lacks_nothing_is_left_alone(tmp_path: Path) -> None:
    path = killed(tmp_path)
    before = at(path, lambda data: None)
    assert not mended(path)
    assert at(path, lambda data: None) == before
    # What was being written when the process died is nothing that was committed.
    at(path, lambda data: data.extend(data[-FRAME_BYTES * 2 :]))
    assert not mended(path)
    assert committed(path) == COMMITS
    assert damaged_log.lost_logs(path) == []


@pytest.mark.usefixtures("writer")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_log_that_lacks_commits_is_told_of_and_kept(tmp_path: Path, damage: Damage) -> None:
    path = killed(tmp_path)
    damaged = at(path, damage)
    assert mended(path)
    assert committed(path) < COMMITS // 2
    assert [path.with_name(name).read_bytes() for name in damaged_log.lost_logs(path)] == [damaged]
    assert not mended(path)


@pytest.mark.usefixtures("writer")
def test_a_damaged_header_of_a_log_costs_nothing(tmp_path: Path) -> None:
    path = killed(tmp_path)
    at(path, lambda data: data.__setitem__(5, 9))
    assert not mended(path)
    assert committed(path) == COMMITS


@pytest.mark.usefixtures("writer")
def test_after_a_power_cut_a_gap_is_damage_unless_only_the_last_commit_is_torn(tmp_path: Path) -> None:
    for torn, is_loss in ((-2, False), (-8, True)):
        path = killed(tmp_path, keeps_shared=False)
        at(path, lambda data, torn=torn: data.__setitem__(len(data) + torn * FRAME_BYTES + 900, 1))  # type: ignore[misc]
        assert mended(path) is is_loss
        assert committed(path) == COMMITS - (1 if not is_loss else 4)
        path.unlink()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("later", [0, 5])
def test_what_was_copied_into_the_database_is_not_put_back_to_what_it_was(
    tmp_path: Path, writer: sqlite3.Connection, damage: Damage, later: int
) -> None:
    """SQLite would take the frames before the damage for newer than the database."""
    with closing(sqlite3.connect(tmp_path / "live.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchone()
        writer.execute("PRAGMA wal_checkpoint")
        for number in range(COMMITS, COMMITS + later):
            writer.execute("INSERT INTO t VALUES (?, ?)", (number, f"{number}" * 50))
        path = killed(tmp_path)
    at(path, damage)
    is_loss = mended(path)
    left = committed(path)
    assert left >= COMMITS
    assert is_loss is (left < COMMITS + later)
    assert is_loss is (bool(later) and damage in (cut, emptied, exchanged))
