"""Reading, writing and sizes, held against ext4 and against a model of random operations.

Owns the section "Reading, writing, size" of SEMANTICS.md and the calls that fall back to something simpler.
"""

import ctypes
import errno
import fcntl
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.oracle import Operation, Pair, Refused, call, write_file

MEBIBYTE = 2**20


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_other_descriptors_read_what_was_just_written(both: Pair) -> None:
    """[write-read]"""

    def work(root: Path) -> list[bytes]:
        with opened(root / "file") as one, opened(root / "file") as two:
            os.write(one, b"first")
            seen = [os.pread(two, 100, 0)]
            os.pwrite(two, b"SECOND", 2)
            seen.append(os.pread(one, 100, 0))
            seen.append((root / "file").read_bytes())
            return seen

    assert both(work) == [b"first", b"fiSECOND", b"fiSECOND"]


def test_other_processes_read_what_was_just_written(both: Pair) -> None:
    """[write-read]"""
    path = both.drive / "file"
    with opened(path) as descriptor:
        for number in range(20):
            os.pwrite(descriptor, b"%08d" % number, 0)
            child = os.fork()
            if child == 0:
                os._exit(0 if path.read_bytes() == b"%08d" % number else 1)
            assert os.waitpid(child, 0)[1] == 0


def test_positioned_calls_leave_the_offset(both: Pair) -> None:
    """[write-positions]"""

    def work(root: Path) -> tuple[int, int, bytes, int, list[bytes]]:
        with opened(root / "file") as descriptor:
            written = os.writev(descriptor, [b"ab", b"", b"cdef"])
            os.pwrite(descriptor, b"XY", 1)
            place = os.lseek(descriptor, 0, os.SEEK_CUR)
            middle = os.pread(descriptor, 3, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
            pieces = [bytearray(4), bytearray(8)]
            read = os.readv(descriptor, pieces)
            return written, place, middle, read, [bytes(each) for each in pieces]

    assert both(work) == (6, 6, b"XYd", 6, [b"aXYd", b"ef\0\0\0\0\0\0"])


def test_reads_at_the_end(both: Pair) -> None:
    """[read-end]"""

    def work(root: Path) -> list[bytes]:
        with opened(root / "file") as descriptor:
            os.write(descriptor, b"0123456789")
            return [os.pread(descriptor, count, place) for count, place in [(100, 5), (1, 10), (1, 10**9), (0, 3)]]

    assert both(work) == [b"56789", b"", b"", b""]


def test_empty_write_changes_nothing(both: Pair) -> None:
    """[read-end]"""

    def work(root: Path) -> tuple[int, int]:
        with opened(root / "file") as descriptor:
            return os.pwrite(descriptor, b"", 100), os.fstat(descriptor).st_size

    assert both(work) == (0, 0)


@pytest.mark.parametrize("hole", [1, 4095, 4096, 65536, 3 * MEBIBYTE + 17])
def test_write_past_the_end_leaves_zeros(both: Pair, hole: int) -> None:
    """[write-hole]"""

    def work(root: Path) -> tuple[int, bool]:
        with opened(root / "file") as descriptor:
            os.write(descriptor, b"head")
            os.pwrite(descriptor, b"tail", 4 + hole)
        content = (root / "file").read_bytes()
        return len(content), content == b"head" + bytes(hole) + b"tail"

    assert both(work) == (hole + 8, True)


def test_huge_sparse_file_reads_as_zeros_but_where_written(both: Pair) -> None:
    """[write-hole]"""

    def work(root: Path) -> tuple[int, list[bytes]]:
        with opened(root / "sparse") as descriptor:
            os.truncate(root / "sparse", 3 * 2**30)
            os.pwrite(descriptor, b"island", 2**31)
            places = [0, 2**31 - 3, 2**31 + 4, 3 * 2**30 - 8]
            seen = [os.pread(descriptor, 8, place) for place in places]
            os.ftruncate(descriptor, 10)
            return os.fstat(descriptor).st_size, seen

    assert both(work) == (10, [bytes(8), b"\0\0\0islan", b"nd" + bytes(6), bytes(8)])


@pytest.mark.parametrize("size", [0, 1, 4096, 5000, 70_000])
def test_shrinking_loses_the_old_bytes_for_good(both: Pair, size: int) -> None:
    """[truncate-shrink]"""

    def work(root: Path) -> tuple[int, bool]:
        path = write_file(root / "file", b"x" * 100_000)
        os.truncate(path, size)
        cut = path.stat().st_size
        os.truncate(path, 100_000)
        return cut, path.read_bytes() == b"x" * size + bytes(100_000 - size)

    assert both(work) == (size, True)


def test_shrinking_while_open_and_writing_again(both: Pair) -> None:
    """[truncate-shrink]"""

    def work(root: Path) -> tuple[bytes, int]:
        with opened(root / "file") as descriptor:
            os.write(descriptor, b"0123456789")
            os.ftruncate(descriptor, 2)
            os.write(descriptor, b"z")
            return os.pread(descriptor, 100, 0), os.fstat(descriptor).st_size

    assert both(work) == (b"01" + bytes(8) + b"z", 11)


def test_growing_adds_zeros(both: Pair) -> None:
    """[truncate-grow]"""

    def work(root: Path) -> bytes:
        path = write_file(root / "file", b"abc")
        os.truncate(path, 4200)
        return path.read_bytes()

    assert both(work) == b"abc" + bytes(4197)


def test_truncate_refuses_what_it_should(both: Pair) -> None:
    """[truncate-errors]"""

    def prepare(root: Path) -> None:
        write_file(root / "file")
        (root / "directory").mkdir()

    def through_read_only(root: Path) -> None:
        with opened(root / "file", os.O_RDONLY) as descriptor:
            os.ftruncate(descriptor, 0)

    both(prepare)
    assert both(lambda root: os.truncate(root / "directory", 0)) == Refused("EISDIR")
    assert both(lambda root: os.truncate(root / "missing", 0)) == Refused("ENOENT")
    assert both(lambda root: os.truncate(root / "file", -1)) == Refused("EINVAL")
    assert both(through_read_only) == Refused("EINVAL")


@pytest.mark.parametrize("seed", range(6))
def test_random_operations_give_the_bytes_that_ext4_gives(both: Pair, seed: int) -> None:
    """[write-any-pattern]"""
    chance = random.Random(seed)
    largest = [3_000, 200_000, 2_500_000][seed % 3]
    for _ in range(150):
        both(random_operation(chance, largest))
    both(lambda root: (root / "file").read_bytes())


def random_operation(chance: random.Random, largest: int) -> Operation:
    """One operation on `file`, drawn once and then done on both sides alike."""
    kind = chance.choice(["write", "write", "write", "read", "read", "truncate", "append", "rewrite", "sync"])
    place = chance.randrange(largest)
    data = chance.randbytes(chance.randrange(1, max(2, largest // 8)))

    def operate(root: Path) -> object:
        with opened(root / "file") as descriptor:
            if kind == "write":
                os.pwrite(descriptor, data, place)
            elif kind == "read":
                return os.pread(descriptor, len(data), place)
            elif kind == "truncate":
                os.ftruncate(descriptor, place)
            elif kind == "append":
                size = os.fstat(descriptor).st_size
                os.pwrite(descriptor, data, size if size < largest else 0)
            elif kind == "rewrite" and place % 4 == 0:
                (root / "file").write_bytes(data)
            else:
                os.fsync(descriptor)
            return os.fstat(descriptor).st_size

    return operate


def test_large_file_in_odd_pieces_reads_back_in_any_order(both: Pair) -> None:
    """[write-large]"""
    chance = random.Random(1)
    content = chance.randbytes(24 * MEBIBYTE + 12345)
    path = both.drive / "large"
    place = 0
    with opened(path) as descriptor:
        while place < len(content):
            step = chance.choice([1, 511, 4096, 65537, 131072, MEBIBYTE + 1])
            place += os.write(descriptor, content[place : place + step])
        assert os.fstat(descriptor).st_size == len(content)
    with opened(path, os.O_RDONLY) as descriptor:
        for _ in range(200):
            start, length = chance.randrange(len(content)), chance.randrange(1, 300_000)
            assert os.pread(descriptor, length, start) == content[start : start + length]
    assert path.read_bytes() == content


def test_every_kind_of_sync_succeeds(both: Pair) -> None:
    """[fsync]"""

    def work(root: Path) -> bytes:
        with opened(root / "file", os.O_RDWR | os.O_CREAT | os.O_SYNC) as descriptor:
            os.write(descriptor, b"synced")
            os.fsync(descriptor)
            os.fdatasync(descriptor)
            call("syncfs", descriptor)
        with opened(root, os.O_RDONLY | os.O_DIRECTORY) as directory:
            os.fsync(directory)
            os.fdatasync(directory)
        return (root / "file").read_bytes()

    assert both(work) == b"synced"


def test_seeks(both: Pair) -> None:
    """[seek]"""

    def work(root: Path) -> list[int]:
        with opened(root / "file") as descriptor:
            os.write(descriptor, b"0123456789")
            steps = [(3, os.SEEK_SET), (2, os.SEEK_CUR), (-4, os.SEEK_END), (90, os.SEEK_END)]
            return [os.lseek(descriptor, place, how) for place, how in steps]

    def before_begin(root: Path) -> int:
        with opened(root / "file") as descriptor:
            return os.lseek(descriptor, -1, os.SEEK_SET)

    assert both(work) == [3, 5, 6, 100]
    assert both(before_begin) == Refused("EINVAL")


def test_blocks_cover_the_size(both: Pair) -> None:
    """[stat-blocks]"""

    def work(root: Path) -> bool:
        found = write_file(root / "file", b"x" * 50_000).stat()
        return found.st_blocks * 512 >= 50_000 and found.st_blksize >= 512

    assert both(work) is True


def test_data_and_hole_seeks_take_the_file_as_one_stretch(both: Pair) -> None:
    """[no-seek-data]"""
    path = write_file(both.drive / "file", b"x" * 10_000)
    with opened(path) as descriptor:
        os.ftruncate(descriptor, 20_000)
        assert os.lseek(descriptor, 50, os.SEEK_DATA) == 50
        assert os.lseek(descriptor, 50, os.SEEK_HOLE) == 20_000
        with pytest.raises(OSError, match="No such device") as refused:
            os.lseek(descriptor, 20_000, os.SEEK_DATA)
    assert refused.value.errno == errno.ENXIO


def test_space_cannot_be_reserved_or_punched_but_posix_fallocate_works(both: Pair) -> None:
    """[no-fallocate]"""
    with opened(write_file(both.drive / "file", b"content")) as descriptor:
        for mode in (0, 1, 3):  # allocate, keep size, punch a hole
            with pytest.raises(OSError, match="not supported") as refused:
                call("fallocate64", descriptor, mode, ctypes.c_int64(0), ctypes.c_int64(4096))
            assert refused.value.errno == errno.EOPNOTSUPP
        os.posix_fallocate(descriptor, 0, 10_000)
        assert os.fstat(descriptor).st_size == 10_000
        assert os.pread(descriptor, 10, 0) == b"content" + bytes(3)


def test_copy_file_range_copies(both: Pair) -> None:
    """[no-copy-range]"""

    def work(root: Path) -> tuple[int, bool]:
        content = bytes(range(256)) * 3000
        write_file(root / "source", content)
        with opened(root / "source", os.O_RDONLY) as source, opened(root / "target") as target:
            copied = 0
            while step := os.copy_file_range(source, target, len(content)):
                copied += step
        return copied, (root / "target").read_bytes() == content

    assert both(work) == (768_000, True)


def test_sendfile_copies(both: Pair) -> None:
    """[no-copy-range]"""

    def work(root: Path) -> tuple[int, bool]:
        content = bytes(range(256)) * 100
        write_file(root / "source", content)
        with opened(root / "source", os.O_RDONLY) as source, opened(root / "target") as target:
            sent = os.sendfile(target, source, 0, len(content))
        return sent, (root / "target").read_bytes() == content

    assert both(work) == (25_600, True)


def test_clones_and_flags_are_refused(both: Pair) -> None:
    """[no-reflink] [no-ioctl]"""
    ficlone, get_flags = 0x40049409, 0x80086601
    with opened(write_file(both.drive / "source")) as source, opened(both.drive / "target") as target:
        with pytest.raises(OSError, match="not supported") as clone:
            fcntl.ioctl(target, ficlone, source)
        with pytest.raises(OSError, match="Inappropriate ioctl") as flags:
            fcntl.ioctl(source, get_flags, bytes(8))
    assert (clone.value.errno, flags.value.errno) == (errno.EOPNOTSUPP, errno.ENOTTY)
