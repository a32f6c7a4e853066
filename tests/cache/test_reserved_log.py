"""The log of the journal has its size before it is filled."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import workspace
from cache.workspace import CHECKPOINT_BYTES
from tests.cache.states import ROOT, Bench, create


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close_all()


def log_bytes(bench: Bench, name: str = "one") -> int:
    return (bench.places(name)[0] / "journal.db-wal").stat().st_size


def test_what_is_written_does_not_make_the_log_grow(bench: Bench) -> None:
    local = bench.open()
    before = log_bytes(bench)
    for number in range(50):
        create(local.journal, b"file %d" % number, content=bytes(1000))
    assert before == log_bytes(bench) == CHECKPOINT_BYTES


@pytest.mark.fault(10)
def test_after_a_crash_all_is_there_and_no_zero_counts_as_damage(bench: Bench) -> None:
    local = bench.open()
    inode, _ = create(local.journal, b"thesis", content=b"the only copy")
    bench.crash()
    found = bench.open("crashed")
    assert found.report == []
    assert found.journal.overlay.dentry(ROOT, b"thesis") == inode
    assert bench.close(found, "crashed") == []


def test_a_crash_before_the_first_write_is_no_damage(bench: Bench) -> None:
    bench.close(bench.open())
    state = bench.places()[0]
    (state / "journal.db-wal").write_bytes(bytes(100_000))
    local = bench.open()
    assert local.report == []


def test_a_disk_without_room_for_it_is_no_reason_to_stop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "CHECKPOINT_BYTES", 2**62)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**23, before[1]))
    try:
        local = bench.open()
        create(local.journal, b"a name")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert log_bytes(bench) == 2**23
