"""Reads that wait for the server, and what programs do to the file meanwhile."""

import os

from drivefs.fs.attributes import Wanted
from drivefs.protocol.ids import InodeId, RevisionNumber
from tests.fs.bench import FsBench
from tests.fs.test_files import read, written_elsewhere


def test_a_read_that_waits_while_the_file_is_emptied_shows_what_there_was(bench: FsBench) -> None:
    """What was written is dropped while the block list of what it was written over is fetched."""
    inode = bench.file(b"file", bytes(200_000))
    bench.publish(inode, block_bytes=1000)
    bench.reopen()
    number = bench.open_file(inode)
    bench.fs.write(number, 0, b"here")

    def empty() -> None:
        bench.fs.set_attributes(inode, Wanted(size=0))
        bench.fs.write(number, 0, b"anew")

    bench.backend.during = empty
    assert read(bench, number, 0, 200_000) == b"here" + bytes(199_996)
    assert read(bench, number) == b"anew"
    assert not (bench.place / "state" / "suspect").exists()


def test_a_block_list_that_comes_late_is_not_taken_for_that_of_a_newer_content(bench: FsBench) -> None:
    inode = bench.file(b"file", b"a" * 20_000)
    bench.publish(inode, block_bytes=100)
    bench.reopen()
    number = bench.open_file(inode, os.O_RDONLY)
    bench.backend.during = written_elsewhere(bench, inode, b"b" * 20_000)
    (_, revision), packed = list(bench.backend.contents.items())[-1]
    bench.backend.contents[inode, RevisionNumber(revision + 100)] = packed
    assert read(bench, number, 0, 20_000) == b"b" * 20_000
    bench.fs.release(number)


def test_what_is_given_up_while_its_block_list_is_fetched_is_not_published(bench: FsBench) -> None:
    inode = bench.file(b"file", b"a" * 20_000)
    bench.publish(inode, block_bytes=100)
    bench.reopen()
    number = bench.open_file(inode)
    bench.fs.write(number, 0, b"here")
    bench.fs.release(number)

    def give_up() -> None:
        with bench.local.journal.transaction():
            bench.fs.contents.given_up(inode)

    bench.backend.during = give_up
    assert bench.freeze(inode) is None
    assert bench.local.journal.drafts.draft(inode) is None


def test_only_a_read_that_waits_for_the_server_is_told_of(bench: FsBench) -> None:
    """What is in the cache on the disk may take a moment too: nothing is fetched ahead because of that."""
    inode = bench.file(b"file", b"a" * 20_000)
    bench.publish(inode, block_bytes=20_000)
    told: list[InodeId] = []
    for _ in range(2):
        bench.reopen()
        bench.fs.reader.waiting = told.append
        number = bench.open_file(inode, os.O_RDONLY)
        assert read(bench, number, 0, 20_000) == b"a" * 20_000
        assert told == [inode]
