"""The log of a journal is lost, cut, or another file: only a power cut may tear a tail, all else is told."""

import errno
import os
import shutil
from pathlib import Path

import apsw
import pytest
import trio

from cache import workspace
from cache.check import check
from cache.database import FRAME_BYTES
from cache.errors import Poisoned
from cache.findings import Severity
from cache.workspace import LocalState
from drivefs.protocol.wal import HEADER_BYTES
from tests.cache.states import ROOT, Bench, create, power_cut


def end_of(log: Path) -> int:
    """Where the frames end; zeros follow."""
    data = log.read_bytes()
    starts = [at for at in range(HEADER_BYTES, len(data), FRAME_BYTES) if any(data[at : at + 4])]
    return starts[-1] + FRAME_BYTES


def write_over(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("loss", ["cut", "empty", "gone", "foreign", "last change"])
def test_without_a_power_cut_nothing_can_lack_in_the_log(bench: Bench, loss: str) -> None:
    local = bench.open()
    for index in range(60):
        create(local.journal, b"%d" % index, content=b"content of %d" % index)
    image = bench.crash()
    log = image / "journal.db-wal"
    if loss == "last change":
        create(local.journal, b"after it")
        shutil.copy(bench.places()[0] / "redo", image)
        write_over(log, end_of(log) - 500, b"garbage")
    else:
        log.write_bytes({"cut": log.read_bytes()[: end_of(log) // 2], "foreign": b"text" * 2**22}.get(loss, b""))
    if loss == "gone":
        log.unlink()
    before = log.read_bytes() if log.exists() else b""
    local = bench.open("crashed")
    told, *more = local.report
    assert "log of the journal" in told.what
    # What came after the last change is not in the log yet, and cannot be there without it.
    assert [finding.severity for finding in more] == [Severity.DAMAGE] * (loss == "last change")
    assert told.severity is (Severity.NOTE if loss == "last change" else Severity.DAMAGE)
    kept = [path.read_bytes() for path in (image / "lost+found").rglob("journal.db-wal")]
    assert loss == "gone" or kept == [before]
    assert bench.close(local, "crashed") == []
    assert not bench.open("crashed").report


def test_what_a_kill_tore_of_a_commit_is_run_again_and_nothing_is_told(bench: Bench) -> None:
    local = bench.open()
    for index in range(60):
        create(local.journal, b"%d" % index, content=b"content of %d" % index)
    image = bench.crash()
    log = image / "journal.db-wal"
    write_over(log, end_of(log) - 500, b"garbage")
    local = bench.open("crashed")
    assert local.report == []
    assert {name for name, _ in local.journal.overlay.children(ROOT)} == {b"%d" % index for index in range(60)}
    assert bench.close(local, "crashed") == []


def frames_of(log: Path) -> int:
    return end_of(log) // FRAME_BYTES


def fail_a_sync(local: LocalState, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(Poisoned):
            trio.run(local.barrier)


@pytest.mark.fault(10)
@pytest.mark.fault(12)
@pytest.mark.parametrize("has_power", [False, True])
def test_what_is_behind_a_gap_that_was_never_synced_is_no_part_of_the_journal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, has_power: bool
) -> None:
    local = bench.open()
    for index in range(60):
        create(local.journal, b"%d" % index, content=b"content of %d" % index)
        bench.flush()
    if has_power:
        fail_a_sync(local, monkeypatch)
    else:
        power_cut(monkeypatch)
    image = bench.crash()
    log = image / "journal.db-wal"
    gap = HEADER_BYTES + frames_of(log) // 2 * FRAME_BYTES
    behind = log.read_bytes()[gap + FRAME_BYTES : end_of(log)]
    write_over(log, gap, bytes(FRAME_BYTES))
    assert check(image, image.parent / "cache") == []
    local = bench.open("crashed")
    assert [finding.severity for finding in local.report] == [Severity.NOTE]
    names = {name for name, _ in local.journal.overlay.children(ROOT)}
    assert names == {b"%d" % index for index in range(len(names))}
    assert 10 < len(names) < 50
    assert bench.close(local, "crashed") == []
    (aside,) = (image / "lost+found").glob("log-*")
    assert aside.read_bytes()[FRAME_BYTES:] == behind
    assert not bench.open("crashed").report


@pytest.mark.fault(11)
@pytest.mark.parametrize("is_torn", [False, True])
def test_rot_in_what_was_copied_into_the_database_is_closed_after_a_power_cut_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, is_torn: bool
) -> None:
    monkeypatch.setattr(workspace, "CHECKPOINT_BYTES", 0)
    local = bench.open()
    for index in range(60):
        create(local.journal, b"%d" % index, content=b"content of %d" % index)
        bench.flush()
        if index == 40:
            # Somebody who reads keeps the log from being begun anew.
            reader = apsw.Connection(str(bench.places()[0] / "journal.db"))
            reader.execute("BEGIN; SELECT count(*) FROM inodes").fetchall()
            copied = frames_of(local._database.wal_path)
            trio.run(local.checkpoint)
    power_cut(monkeypatch)
    image = bench.crash()
    reader.close()
    log = image / "journal.db-wal"
    write_over(log, HEADER_BYTES + copied // 3 * FRAME_BYTES + 900, b"rot")
    if is_torn:
        write_over(log, HEADER_BYTES + (copied + 20) * FRAME_BYTES, bytes(FRAME_BYTES))
    local = bench.open("crashed")
    names = {name for name, _ in local.journal.overlay.children(ROOT)}
    assert names == {b"%d" % index for index in range(len(names))}
    assert 40 < len(names) < 60 if is_torn else len(names) == 60
    assert Severity.WARNING in [finding.severity for finding in local.report]
    assert any("gap" in finding.what for finding in local.report) == is_torn
    assert bench.close(local, "crashed") == []


def test_what_was_copied_once_is_not_synced_again_while_nothing_comes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "CHECKPOINT_BYTES", 0)
    local = bench.open()
    create(local.journal, b"one", content=b"one")
    trio.run(local.checkpoint)
    synced: list[int] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, synced.append)
    trio.run(local.checkpoint)
    assert synced == []
