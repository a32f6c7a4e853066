"""Drafts that are written to without end: what was overwritten goes, and what is left has room and ids."""

import gc
import os
from unittest.mock import Mock

import pytest

from cache import drafts
from cache import errors as cache_errors
from drivefs.fs import compaction, contents
from drivefs.fs.attributes import Wanted
from drivefs.protocol.ids import InodeId
from tests.fs.bench import FsBench


def test_what_is_overwritten_again_and_again_does_not_pile_up(bench: FsBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "LEAST_WRITTEN_BYTES", 300_000)
    inode = bench.file(b"database", b"x" * 200_000)
    number = bench.open_file(inode)
    for index in range(600):
        bench.fs.write(number, index * 4096 % 100_000, bytes([index % 256]) * 4096)
        bench.run(bench.fs.sync, number)
    expected = bench.read(inode)
    assert bench.local.staging.used_bytes < 1_300_000
    assert bench.local.journal.pending_bytes < 1_200_000
    bench.fs.release(number)
    bench.reopen()
    assert bench.read(inode) == expected
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    assert bench.content_of(snapshot) == expected


@pytest.mark.parametrize("is_cut", [False, True])
def test_nor_does_it_after_a_publication_that_came_to_nothing(
    bench: FsBench, monkeypatch: pytest.MonkeyPatch, is_cut: bool
) -> None:
    """The network was lost meanwhile, and nothing is frozen anew as long as it is."""
    monkeypatch.setattr(compaction, "LEAST_WRITTEN_BYTES", 300_000)
    inode = bench.file(b"database", b"x" * 200_000)
    number = bench.open_file(inode)
    snapshot = bench.freeze(inode)
    for index in range(600):
        if index == 20:
            assert snapshot is not None
            assert bench.content_of(snapshot) == b"x" * 200_000, "it is read as long as somebody has it"
            del snapshot
            gc.collect()
        if is_cut and not index % 10:
            bench.fs.set_attributes(inode, Wanted(size=0))
        bench.fs.write(number, index * 4096 % 100_000, bytes([index % 256]) * 4096)
        bench.run(bench.fs.sync, number)
    assert bench.local.staging.used_bytes < 1_300_000
    assert bench.local.journal.pending_bytes < 1_200_000
    expected = bench.read(inode)
    bench.fs.release(number)
    bench.reopen()
    assert bench.read(inode) == expected


def test_what_a_store_on_its_way_has_stays(bench: FsBench) -> None:
    """Its blocks may be asked for again, and nobody has a snapshot any more."""
    inode = bench.file(b"file", b"x" * 100_000)
    number, snapshot = bench.open_file(inode), bench.freeze(inode)
    assert snapshot is not None
    bench.store(snapshot, block_bytes=50_000)
    del snapshot
    gc.collect()
    bench.fs.set_attributes(inode, Wanted(size=0))
    bench.fs.write(number, 0, b"y")
    bench.run(bench.fs.sync, number)
    found = bench.fs.contents.frozen(inode)
    assert found is not None
    assert bench.content_of(found[0]) == b"x" * 100_000
    assert bench.read(inode) == b"y"


def crowd(bench: FsBench, inode: InodeId, left: int) -> None:
    """Let a draft have so many ids left for its records, as if it had been written to for days."""
    place = bench.local.journal.drafts._cached[inode]
    place.next = place.end - left


@pytest.mark.parametrize("inline_bytes", [0, contents.MAX_INLINE_BYTES])
def test_a_log_that_never_comes_clean_is_written_to_without_end(
    bench: FsBench, monkeypatch: pytest.MonkeyPatch, inline_bytes: int
) -> None:
    """In rows of the journal, or in staging."""
    monkeypatch.setattr(contents, "MAX_INLINE_BYTES", inline_bytes)
    inode, other, expected = bench.file(b"log"), bench.file(b"other", b"x"), b""
    number = bench.open_file(inode)
    for index in range(700):
        line = b"%d\n" % index
        bench.fs.write(number, len(expected), line)
        expected += line
        if index % 300 == 10:
            crowd(bench, inode, 3)
            bench.run(bench.fs.sync, number)
    assert (bench.read(inode), bench.read(other)) == (expected, b"x")
    assert bench.local.journal.pending_bytes == len(expected) + 1
    bench.fs.release(number)
    bench.reopen()
    assert (bench.read(inode), bench.read(other)) == (expected, b"x")


def test_too_many_records_stay_where_they_are(bench: FsBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """To number them anew would hold up everything else."""
    monkeypatch.setattr(drafts, "MAX_MOVED_RECORDS", 10)
    inode = bench.file(b"log")
    number = bench.open_file(inode)
    for index in range(20):
        bench.fs.write(number, 3 * index, b"x")
    before = bench.local.journal.drafts.number(inode)
    crowd(bench, inode, 2**20)
    reads = Mock(wraps=bench.local.journal.drafts.records)
    monkeypatch.setattr(bench.local.journal.drafts, "records", reads)
    for index in range(20):
        bench.fs.write(number, 3 * index, b"y")
    assert (bench.local.journal.drafts.number(inode), reads.call_count) == (before, 1)


def test_a_database_that_is_fsynced_again_and_again_stays_in_the_log(
    bench: FsBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "MAX_SYNCED_INLINE_BYTES", 80_000)
    monkeypatch.setattr(compaction, "LOG_BYTES", 60_000)
    inode = bench.file(b"database", b"x" * 10_000)
    number = bench.open_file(inode)
    bench.run(bench.fs.sync, number)
    snapshot = None
    for index in range(100):
        bench.fs.write(number, index % 3 * 4096, bytes([index]) * 4096)
        bench.run(bench.fs.sync, number)
        assert bench.local.journal.pending_bytes <= 80_000 + 12_288
        if index == 50:
            snapshot = bench.freeze(inode)
        elif index == 60:
            assert snapshot is not None
            op = bench.store(snapshot)
            assert op is not None
            bench.commit(op)
    assert bench.local.staging.used_bytes == 0
    expected = b"".join(bytes([index]) * 4096 for index in (99, 97, 98))
    assert bench.read(inode) == expected
    bench.reopen()
    assert bench.read(inode) == expected


def test_a_file_rewritten_again_and_again_does_not_pile_up(bench: FsBench) -> None:
    inode = bench.file(b"settings", b"x" * 10_000)
    for _ in range(100):
        number = bench.open_file(inode, os.O_WRONLY | os.O_TRUNC)
        bench.fs.write(number, 0, b"y" * 10_000)
        bench.fs.release(number)
    assert bench.local.journal.pending_bytes == 10_000
    assert list((bench.place / "state" / "staging").iterdir()) == []
    bench.reopen()
    assert bench.read(inode) == b"y" * 10_000


@pytest.mark.fault(16)
def test_bytes_that_rotted_are_not_written_anew(
    bench: FsBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compaction, "LEAST_WRITTEN_BYTES", 300_000)
    inode = bench.file(b"database", b"x" * 200_000)
    for staged in (bench.place / "state" / "staging").iterdir():
        staged.write_bytes(b"y" * staged.stat().st_size)
    number = bench.open_file(inode)
    for index in range(200):
        bench.fs.write(number, 0, bytes([index]) * 4096)
    assert caplog.records
    bench.fs.release(number)
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    with pytest.raises(cache_errors.Corrupt):
        bench.content_of(snapshot)
    bench.unlink(b"database")


def test_without_room_a_draft_stays_as_it_is(bench: FsBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "LEAST_WRITTEN_BYTES", 300_000)
    inode = bench.file(b"database", b"x" * 200_000)
    number = bench.open_file(inode)
    append, refused = bench.local.staging.append, []

    def full(about: InodeId, data: bytes) -> object:
        if len(data) > 4096:
            refused.append(about)
            raise cache_errors.DiskFull("no room")
        return append(about, data)

    monkeypatch.setattr(bench.local.staging, "append", full)
    for index in range(200):
        bench.fs.write(number, 0, bytes([index]) * 4096)
    assert refused
    assert bench.read(inode) == bytes([199]) * 4096 + b"x" * (200_000 - 4096)
    bench.fs.release(number)
    bench.reopen()
    assert bench.read(inode) == bytes([199]) * 4096 + b"x" * (200_000 - 4096)
