"""What takes the place of durable content is durable before the log that lets go of it: after a power cut one is there.

What a power cut then leaves of files that are replaced, or cut and written anew, is in `tests/simulation`.
"""

import os

import pytest

from drivefs.fs import compaction
from drivefs.protocol.changes import Base
from tests.cache.test_barrier import Syncs
from tests.fs.bench import ME, FsBench


def synced_with_the_log(bench: FsBench, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a barrier of the log syncs before the log, in order."""
    syncs = Syncs(monkeypatch)
    bench.run(bench.local.journal.log_barrier)
    return syncs.names[:-1]


@pytest.mark.fault(3)
def test_what_is_written_anew_since_much_was_overwritten(bench: FsBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "LEAST_WRITTEN_BYTES", 300_000)
    number = bench.open_file(bench.file(b"database", b"x" * 200_000))
    bench.run(bench.fs.sync, number)
    before = set(bench.local.staging.paths())
    while not bench.local.staging.has_retired:
        bench.fs.write(number, 0, b"y" * 4096)
    (anew,) = set(bench.local.staging.paths()) - before
    assert synced_with_the_log(bench, monkeypatch) == [anew.name, "staging"]
    bench.fs.release(number)


@pytest.mark.fault(2)
@pytest.mark.parametrize("name", [b"new.o", b"new"])
def test_what_is_renamed_over_an_ignored_file(bench: FsBench, monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
    bench.file(b".drivefsignore", b"*.o\n")
    bench.file(b"file.o", b"x" * 100_000)
    bench.run(bench.local.barrier)
    before = set(bench.local.staging.paths())
    bench.file(name, b"y" * 100_000)
    (anew,) = set(bench.local.staging.paths()) - before
    bench.rename(name, b"file.o")
    assert synced_with_the_log(bench, monkeypatch) == [anew.name, "staging"]


def test_what_a_server_that_was_put_back_has_lost(bench: FsBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a draft again, of bytes that the cache had."""
    inode = bench.file(b"file", b"x" * 100_000)
    bench.publish(inode, block_bytes=50_000)
    bench.run(bench.local.barrier)
    assert bench.run(bench.fs.offering.offer_again, bench.fs.inode(inode), Base())
    (anew,) = bench.local.staging.paths()
    assert synced_with_the_log(bench, monkeypatch) == [anew.name, "staging"]


@pytest.mark.fault(2)
@pytest.mark.parametrize("way", ["renamed over it", "it is cut", "it is moved aside"])
def test_what_takes_the_place_of_a_file(bench: FsBench, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    inode = bench.file(b"file", b"x" * 100_000)
    bench.run(bench.local.barrier)
    before = set(bench.local.staging.paths())
    if way == "it is cut":
        number = bench.fs.open(inode, os.O_WRONLY | os.O_TRUNC, ME)
        bench.fs.write(number, 0, b"y" * 100_000)
        bench.fs.release(number)
    elif way == "renamed over it":
        bench.file(b"new", b"y" * 100_000)
        bench.rename(b"new", b"file")
    else:
        bench.rename(b"file", b"aside")
        bench.file(b"file", b"y" * 100_000)
        bench.unlink(b"aside")
    (anew,) = set(bench.local.staging.paths()) - before
    assert synced_with_the_log(bench, monkeypatch) == [anew.name, "staging"]
