"""Damage of the journal's structure, which no checksum of a row covers: indexes, and chains of pages."""

import errno
import sqlite3
from pathlib import Path
from typing import NoReturn

import pytest

from cache.check import check
from cache.database import Database
from cache.errors import Corrupt, DiskFull, Unusable
from cache.recovery import Recovery
from cache.staging import Staging
from cache.workspace import LocalState
from tests.cache.states import Bench, content_of, create, damage, damage_row, power_cut
from tests.cache.writer import pattern


@pytest.mark.parametrize("after", ["a power cut", "a death of the process"])
def test_a_damaged_index_is_made_again(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    inode, n = create(local.journal, b"one")
    image = bench.crash()
    damage_row(image, "UPDATE meta SET value = value WHERE key = 'open'")
    connection = sqlite3.connect(image / "journal.db")
    (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'mutations_by_inode'").fetchone()
    connection.close()
    database = image / "journal.db"
    at = (page - 1) * 2048
    content = database.read_bytes()[at : at + 2048]
    entry = content.rindex(inode.to_bytes(3, "big"))
    damage(database, at + entry, (inode + 5).to_bytes(3, "big"))
    if after == "a power cut":
        power_cut(monkeypatch)
    again = bench.open("crashed")
    assert "index" in again.report[0].what
    assert [row.n for row in again.journal.touching(inode)] == [n]
    assert bench.close(again, "crashed") == []


@pytest.mark.parametrize("index", ["mutations_ignored", "mutations_failed"])
def test_an_index_whose_page_is_an_empty_one_of_something_else_is_refused_before_anything_is_changed(
    bench: Bench, local: LocalState, index: str
) -> None:
    create(local.journal, b"one")
    image = bench.crash()
    damage_row(image, "UPDATE meta SET value = value WHERE key = 'open'")
    connection = sqlite3.connect(image / "journal.db")
    (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (index,)).fetchone()
    connection.close()
    database = image / "journal.db"
    # The kind of page stands in its first byte: 10 is a leaf of an index, 13 one of a table.
    damage(database, (page - 1) * 2048, bytes([13]))
    before = database.read_bytes()
    assert before[(page - 1) * 2048] == 13
    with pytest.raises(Unusable, match="check --repair"):
        bench.open("crashed")
    assert database.read_bytes() == before


def test_a_structure_that_cannot_be_mended_is_told_at_every_start(bench: Bench, local: LocalState) -> None:
    inode, _ = create(local.journal, b"one", content=b"12345")
    create(local.journal, b"two", content=pattern(4_000) + b"the end")
    image = bench.crash()
    damage_row(image, "UPDATE meta SET value = value WHERE key = 'open'")
    database = image / "journal.db"
    content = database.read_bytes()
    # The last page of a content's chain begins with the number of a next one, which is none.
    at = content.index(b"the end") // 2048 * 2048
    assert content[at : at + 4] == bytes(4)
    damage(database, at, (2**31 - 2).to_bytes(4, "big"))
    again = bench.open("crashed")
    assert "structure" in again.report[0].what
    assert content_of(again, inode) == b"12345"
    bench.close(again, "crashed")


@pytest.mark.parametrize("has_log", [True, False])
def test_a_journal_that_cannot_be_opened_is_left_as_it_is(bench: Bench, local: LocalState, has_log: bool) -> None:
    local.pins.put(create(local.journal, b"one", content=pattern(4_000))[0], b"one")
    image = bench.crash()
    damage_row(image, "UPDATE meta SET value = value WHERE key = 'open'")
    connection = sqlite3.connect(image / "journal.db")
    (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'pins'").fetchone()
    connection.close()
    damage(image / "journal.db", (page - 1) * 2048, bytes(2048))
    log = image / "journal.db-wal"
    log.touch() if has_log else log.unlink(missing_ok=True)
    before = (image / "journal.db").read_bytes()
    with pytest.raises(Unusable, match="check --repair"):
        bench.open("crashed")
    assert (image / "journal.db").read_bytes() == before
    assert log.exists() == has_log
    assert not has_log or not log.stat().st_size


@pytest.mark.parametrize("left", [None, b"", b"{"])
def test_a_journal_that_is_lost_is_not_begun_anew_over_what_it_named(
    bench: Bench, local: LocalState, left: bytes | None
) -> None:
    create(local.journal, b"one")
    path = bench.crash() / "journal.db"
    (path.parent / "reserve").touch(0o600)
    path.unlink() if left is None else path.write_bytes(left)
    log = Path(f"{path}-wal").read_bytes()
    assert check(*bench.places("crashed"))
    with pytest.raises(Unusable, match="gone" if left is None else "empty"):
        bench.open("crashed")
    assert path.exists() != (left is None)
    assert Path(f"{path}-wal").read_bytes() == log


@pytest.mark.parametrize("why", ["damage", "disk", "killed"])
def test_a_log_that_was_mended_is_as_it_was_if_the_start_is_refused(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    for number in range(60):
        create(local.journal, b"%d" % number)
    image = bench.crash()
    damage(image / "journal.db-wal", 12, b"rot")  # in its header
    before = (image / "journal.db-wal").read_bytes()

    def refused(recovery: Recovery, *_first: object) -> NoReturn:
        if why == "killed":
            bench.crash("killed", "crashed")
        raise OSError(errno.ENOSPC, "no room left") if why == "disk" else Corrupt("it cannot be read after all")

    errors, words = (DiskFull, "no room left") if why == "disk" else (Unusable, "it cannot be read after all")
    with monkeypatch.context() as patch:
        patch.setattr(Recovery, "run", refused)
        for _ in range(1 if why == "killed" else 2):
            with pytest.raises(errors, match=words):
                bench.open("crashed")
            assert (image / "journal.db-wal").read_bytes() == before
            assert not list(image.glob("journal.db-wal?*"))
    again = bench.open("killed" if why == "killed" else "crashed")
    assert len(again.journal.unsettled(100)) == 60
    assert "had rotted" in again.report[0].what


@pytest.mark.parametrize("step", ["empty_log", "shrink"])
def test_a_log_that_is_in_the_database_already_does_not_come_back_when_the_start_is_refused_then(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """What recovery changed, as it does here, is there without the pages that belong to it otherwise."""
    inodes = [create(local.journal, b"%d" % number, content=b"%d" % number)[0] for number in range(60)]
    image = bench.crash()
    log = image / "journal.db-wal"
    damage(log, 12, b"rot")  # in its header

    take = getattr(Database, step)

    def full(database: Database) -> NoReturn:
        take(database)
        raise DiskFull("no room to make it smaller")

    with monkeypatch.context() as patch:
        patch.setattr(Database, step, full)
        with pytest.raises(DiskFull, match="no room to make it smaller"):
            bench.open("crashed")
    assert not log.exists() or not log.stat().st_size
    again = bench.open("crashed")
    assert [content_of(again, inode) for inode in inodes] == [b"%d" % number for number in range(60)]
    assert again.report == []
    assert bench.close(again, "crashed") == []


def test_a_disk_without_room_for_what_was_staged_before_a_crash_is_full_and_not_broken(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode, _ = create(local.journal, b"one", content=b"one")
    bench.crash()

    def full(staging: Staging) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "sync_earlier", full)
        with pytest.raises(DiskFull, match="Free some space and mount again"):
            bench.open("crashed")
    again = bench.open("crashed")
    assert again.report == []
    assert content_of(again, inode) == b"one"
    assert bench.close(again, "crashed") == []
