"""Published content stays on the device: staging files become cached blocks as they are."""

import os
import random
from pathlib import Path

import pytest

from drivefs.protocol.ids import InodeId
from tests.fs.bench import FsBench

SIZE = 300_000
BLOCK = 100_000
DATA = random.Random(7).randbytes(SIZE)


def written(bench: FsBench, pieces: list[tuple[int, bytes]]) -> InodeId:
    """A file made by these writes, closed."""
    inode = bench.file(b"f")
    number = bench.open_file(inode, os.O_WRONLY)
    for offset, data in pieces:
        bench.fs.write(number, offset, data)
    bench.fs.release(number)
    return inode


def in_order(data: bytes, piece_bytes: int = 100_000) -> list[tuple[int, bytes]]:
    return [(start, data[start : start + piece_bytes]) for start in range(0, len(data), piece_bytes)]


def adopted(bench: FsBench) -> list[Path]:
    return list((bench.place / "cache" / "blocks" / "adopted").iterdir())


def test_a_file_written_in_order_is_read_without_the_server_after_it_was_published(bench: FsBench) -> None:
    inode = written(bench, in_order(DATA))
    bench.publish(inode, block_bytes=BLOCK)
    bench.backend.is_online = False
    assert bench.read(inode) == DATA
    bench.run(bench.local.barrier)
    bench.reopen()
    assert bench.read(inode) == DATA
    assert bench.backend.fetched == []
    assert [path.stat().st_nlink for path in adopted(bench)] == [1]


def test_nothing_is_copied_when_a_file_is_handed_over(bench: FsBench) -> None:
    inode = written(bench, in_order(DATA))
    (staged,) = bench.local.staging.paths()
    bench.publish(inode, block_bytes=BLOCK)
    (path,) = adopted(bench)
    assert path.samefile(staged)


def test_blocks_that_lie_in_pieces_are_left_to_the_uploader(bench: FsBench) -> None:
    small, *rest = in_order(DATA[:BLOCK], 10_000)
    inode = written(bench, [small, *rest, (BLOCK, DATA[BLOCK : 2 * BLOCK]), (2 * BLOCK, DATA[2 * BLOCK :])])
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    assert [snapshot.is_staged(start, start + BLOCK) for start in range(0, SIZE, BLOCK)] == [False, True, True]
    bench.publish(inode, block_bytes=BLOCK)
    assert bench.read(inode) == DATA
    assert len(bench.backend.fetched) == 1


def test_what_is_written_on_goes_to_another_file_than_what_is_published(bench: FsBench) -> None:
    inode = bench.file(b"f", DATA)
    (first,) = bench.local.staging.paths()
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    number = bench.open_file(inode, os.O_WRONLY)
    bench.fs.write(number, SIZE, DATA)
    op = bench.store(snapshot, block_bytes=BLOCK)
    assert op is not None
    bench.commit(op)
    bench.run(bench.local.barrier)
    assert not first.exists(), "what is left of it is in the cache"
    assert [path.stat().st_size for path in bench.local.staging.paths()] == [SIZE]
    assert bench.read(inode) == DATA * 2
    bench.fs.release(number)


def test_writing_on_leaves_the_blocks_of_the_revision_as_they_are(bench: FsBench) -> None:
    inode = written(bench, in_order(DATA))
    bench.publish(inode, block_bytes=BLOCK)
    number = bench.open_file(inode, os.O_WRONLY)
    bench.fs.write(number, 50_000, b"x" * 30_000)
    bench.fs.release(number)
    expected = DATA[:50_000] + b"x" * 30_000 + DATA[80_000:]
    assert bench.read(inode) == expected
    bench.reopen()
    assert bench.read(inode) == expected
    bench.publish(inode, block_bytes=BLOCK)
    assert bench.read(inode) == expected


@pytest.mark.fault(15)
def test_what_has_rotted_since_an_earlier_mount_sent_it_is_fetched_again(bench: FsBench) -> None:
    inode = written(bench, in_order(DATA))
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    op = bench.store(snapshot, block_bytes=BLOCK)
    assert op is not None
    (staged,) = bench.local.staging.paths()
    bench.reopen()
    with staged.open("r+b") as file:
        file.seek(BLOCK)
        file.write(bytes(10))
    bench.commit(op)
    assert bench.read(inode) == DATA
    assert bench.local.blocks.damaged_count == 1


def test_a_file_in_a_full_cache_is_published_all_the_same(bench: FsBench) -> None:
    inode = written(bench, in_order(DATA))
    bench.local.blocks.limit_bytes = 1000
    bench.publish(inode, block_bytes=BLOCK)
    assert adopted(bench) == []
    assert bench.read(inode) == DATA
    assert bench.backend.fetched
