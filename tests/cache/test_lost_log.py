"""The log of a journal is lost, cut, or another file: only a power cut may tear a tail, all else is told."""

from pathlib import Path

import pytest

from cache.check import check
from cache.database import FRAME_BYTES
from cache.findings import Severity
from cache.wal import HEADER_BYTES
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
        write_over(log, end_of(log) - 500, b"garbage")
    else:
        log.write_bytes({"cut": log.read_bytes()[: end_of(log) // 2], "foreign": b"text" * 2**22}.get(loss, b""))
    if loss == "gone":
        log.unlink()
    before = log.read_bytes() if log.exists() else b""
    local = bench.open("crashed")
    (told,) = local.report
    assert "log of the journal" in told.what
    assert told.severity is (Severity.NOTE if loss == "last change" else Severity.DAMAGE)
    kept = [path.read_bytes() for path in (image / "lost+found").rglob("journal.db-wal")]
    assert loss == "gone" or kept == [before]
    assert bench.close(local, "crashed") == []
    assert not bench.open("crashed").report


@pytest.mark.fault(10)
def test_what_a_power_cut_left_behind_a_gap_is_no_part_of_the_journal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = bench.open()
    for index in range(60):
        create(local.journal, b"%d" % index, content=b"content of %d" % index)
    image = bench.crash()
    log = image / "journal.db-wal"
    gap = HEADER_BYTES + (end_of(log) // FRAME_BYTES // 2) * FRAME_BYTES
    behind = log.read_bytes()[gap + FRAME_BYTES : end_of(log)]
    write_over(log, gap, bytes(FRAME_BYTES))
    power_cut(monkeypatch)
    assert check(image, image.parent / "cache") == []
    local = bench.open("crashed")
    assert [finding.severity for finding in local.report] == [Severity.NOTE]
    names = {name for name, _ in local.journal.overlay.children(ROOT)}
    assert names == {b"%d" % index for index in range(len(names))}
    assert 10 < len(names) < 50
    assert bench.close(local, "crashed") == []
    (aside,) = (image / "lost+found").iterdir()
    assert aside.read_bytes()[FRAME_BYTES:] == behind
