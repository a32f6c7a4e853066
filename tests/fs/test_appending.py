"""Descriptors that append: the kernel says where it takes the end to be, which may have moved elsewhere."""

import os

import pytest

from drivefs.fs import files
from tests.fs.bench import FsBench
from tests.fs.test_files import arrives_from_elsewhere


def test_appending_descriptors_write_at_the_present_end(bench: FsBench) -> None:
    inode = bench.file(b"log", b"one\n")
    number = bench.open_file(inode, os.O_WRONLY | os.O_APPEND)
    bench.fs.write(number, 4, b"two\n")
    bench.fs.write(number, 100, b"three\n")
    bench.fs.release(number)
    assert bench.read(inode) == b"one\ntwo\nthree\n"


def test_an_append_at_an_end_that_another_device_moved_goes_to_the_new_end(bench: FsBench) -> None:
    inode = bench.file(b"log", b"one\n")
    bench.publish(inode)
    number = bench.open_file(inode, os.O_WRONLY | os.O_APPEND)
    arrives_from_elsewhere(bench, inode, b"one\ntwo\n")
    bench.fs.write(number, 4, b"three\n")
    bench.fs.release(number)
    assert bench.read(inode) == b"one\ntwo\nthree\n"


def test_what_follows_an_append_at_an_end_that_had_moved_stands_behind_it(
    bench: FsBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel goes on from the end that it knew, and a large write comes in parts that begin where pages do."""
    monkeypatch.setattr(files, "PAGE_BYTES", 4)
    inode = bench.file(b"log", b"aaaa")
    bench.publish(inode)
    number = bench.open_file(inode, os.O_WRONLY | os.O_APPEND)
    arrives_from_elsewhere(bench, inode, b"aaaathere")
    for place, part in [(4, b"bbbb"), (8, b"cccc"), (12, b"d")]:
        bench.fs.write(number, place, part)
    bench.fs.release(number)
    assert bench.read(inode) == b"aaaatherebbbbccccd"


def test_an_append_at_an_end_that_moved_before_the_file_was_opened_goes_to_the_new_end(bench: FsBench) -> None:
    inode = bench.file(b"log", b"one\n")
    bench.publish(inode)
    bench.reopen()
    arrives_from_elsewhere(bench, inode, b"one\ntwo\n")
    number = bench.open_file(inode, os.O_WRONLY | os.O_APPEND)
    bench.fs.write(number, 4, b"three\n")
    bench.fs.release(number)
    assert bench.read(inode) == b"one\ntwo\nthree\n"


def test_so_does_one_at_an_end_of_which_the_kernel_is_not_told_yet(
    bench: FsBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where pages begin, it looks like a mapped page, and what the other device added would be written over."""
    monkeypatch.setattr(files, "PAGE_BYTES", 4)
    inode = bench.file(b"log", b"one\n")
    bench.publish(inode)
    bench.reopen()
    assert bench.fs.inode(inode).size == 4
    arrives_from_elsewhere(bench, inode, b"one\ntwo\n")
    number = bench.open_file(inode, os.O_WRONLY | os.O_APPEND)
    bench.fs.write(number, 4, b"three\n")
    bench.fs.release(number)
    assert bench.read(inode) == b"one\ntwo\nthree\n"


def test_a_mapped_page_written_back_through_an_appending_descriptor_stays_in_its_place(bench: FsBench) -> None:
    inode = bench.file(b"file", b"a" * 5000)
    number = bench.open_file(inode, os.O_RDWR | os.O_APPEND)
    bench.fs.write(number, 0, b"b" * 4096)
    bench.fs.release(number)
    assert bench.read(inode) == b"b" * 4096 + b"a" * 904
