"""Directories and listing them, held against ext4.

Owns the directory lines of the section "Directories and names" of SEMANTICS.md.
"""

import ctypes
import os
import random
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.oracle import LIBC, Pair, Refused, write_file
from tests.support.mounts import Device

NAMES_OF_ONE_FILE = 50_000
"""Some file systems allow 65,000 names of one file."""


class Dirent(ctypes.Structure):
    """struct dirent64 of Linux."""

    _fields_ = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_ushort),
        ("d_type", ctypes.c_ubyte),
        ("d_name", ctypes.c_char * 256),
    )


LIBC.opendir.restype = ctypes.c_void_p
LIBC.readdir64.restype = ctypes.POINTER(Dirent)
LIBC.telldir.restype = ctypes.c_long


class Stream:
    """A directory stream of the C library, which can be told, sought and rewound."""

    def __init__(self, handle: int) -> None:
        self.handle = ctypes.c_void_p(handle)

    def read(self) -> bytes | None:
        entry = LIBC.readdir64(self.handle)
        return bytes(entry.contents.d_name) if entry else None

    def rest(self) -> list[bytes]:
        return list(iter(self.read, None))

    def tell(self) -> int:
        return int(LIBC.telldir(self.handle))

    def seek(self, place: int) -> None:
        LIBC.seekdir(self.handle, ctypes.c_long(place))

    def rewind(self) -> None:
        LIBC.rewinddir(self.handle)


@contextmanager
def stream(path: Path) -> Iterator[Stream]:
    opened = Stream(LIBC.opendir(os.fsencode(path)))
    try:
        yield opened
    finally:
        LIBC.closedir(opened.handle)


def fill(root: Path, count: int) -> set[bytes]:
    """`count` names, most of them of a few files: a name is what a listing is about, and cheap that way."""
    for number in range(count):
        source = root / f"source{number // NAMES_OF_ONE_FILE}"
        if not number % NAMES_OF_ONE_FILE:
            write_file(source)
        os.link(source, root / f"entry{number:06}")
    return set(os.listdir(os.fsencode(root)))


def test_mkdir_makes_an_empty_directory(both: Pair) -> None:
    """[mkdir]"""

    def work(root: Path) -> tuple[int, list[str], bool]:
        os.mkdir(root / "new", 0o750)
        found = (root / "new").stat()
        return found.st_nlink, os.listdir(root / "new"), stat.S_ISDIR(found.st_mode)

    assert both(work) == (2, [], True)
    both.assert_same_tree()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("file", "EEXIST"),
        ("directory", "EEXIST"),
        ("dangling", "EEXIST"),
        (".", "EEXIST"),
        ("missing/x", "ENOENT"),
        ("file/x", "ENOTDIR"),
    ],
)
def test_mkdir_over_what_is_there(both: Pair, name: str, expected: str) -> None:
    """[mkdir]"""

    def work(root: Path) -> None:
        write_file(root / "file")
        (root / "directory").mkdir()
        (root / "dangling").symlink_to("nowhere")
        os.mkdir(f"{root}/{name}")

    assert both(work) == Refused(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("empty", None),
        ("full", Refused("ENOTEMPTY")),
        ("empty/.", Refused("EINVAL")),
        ("full/..", Refused("ENOTEMPTY")),
    ],
)
def test_rmdir_removes_empty_directories_only(both: Pair, name: str, expected: object) -> None:
    """[rmdir]"""

    def work(root: Path) -> None:
        (root / "empty").mkdir()
        (root / "full").mkdir()
        write_file(root / "full/file")
        os.rmdir(f"{root}/{name}")

    assert both(work) == expected
    both.assert_same_tree()


def test_directory_can_be_removed_when_its_last_entry_went(both: Pair) -> None:
    """[rmdir]"""

    def work(root: Path) -> list[str]:
        (root / "directory").mkdir()
        with open(write_file(root / "directory/file"), "rb"):
            os.unlink(root / "directory/file")
            os.rmdir(root / "directory")
        return os.listdir(root)

    assert both(work) == []


def test_nothing_can_be_made_in_a_removed_directory(both: Pair) -> None:
    """[removed-directory]"""

    def work(root: Path) -> list[object]:
        (root / "directory").mkdir()
        place = os.open(root / "directory", os.O_RDONLY | os.O_DIRECTORY)
        os.rmdir(root / "directory")
        found: list[object] = [os.listdir(place), os.fstat(place).st_nlink]
        for attempt in (
            lambda: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=place),
            lambda: os.mkdir("x", dir_fd=place),
            lambda: os.symlink("y", "x", dir_fd=place),
            lambda: os.stat("x", dir_fd=place),
        ):
            try:
                found.append(attempt())
            except OSError as error:
                found.append(error.strerror)
        os.close(place)
        return found

    assert both(work) == [[], 0] + ["No such file or directory"] * 4


def test_removed_directory_that_is_back_can_be_entered_while_somebody_is_in_what_it_was(
    both: Pair, shared_device: Device
) -> None:
    """[removed-directory]"""
    directory = both.drive / "directory"
    directory.mkdir()
    write_file(directory / "note", b"text")
    shared_device.sync()
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        shutil.rmtree(directory)
        shared_device.run("trash", "restore", str(directory))
        assert os.listdir(directory) == ["note"]
        write_file(directory / "new", b"new")
        assert (directory / "note").read_bytes() == b"text"
    finally:
        os.close(place)
    assert sorted(os.listdir(directory)) == ["new", "note"]


def test_each_directory_has_dots(both: Pair) -> None:
    """[readdir-dots]"""

    def work(root: Path) -> tuple[list[bytes], bool, bool]:
        (root / "inner").mkdir()
        with stream(root / "inner") as entries:
            names = entries.rest()
        here = os.stat(root / "inner/.").st_ino == os.stat(root / "inner").st_ino
        return sorted(names), here, os.stat(root / "inner/..").st_ino == root.stat().st_ino

    assert both(work) == ([b".", b".."], True, True)


@pytest.mark.parametrize("count", [15_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_listing_names_every_entry_once_while_others_come_and_go(both: Pair, count: int) -> None:
    """[readdir-once]"""
    steady = fill(both.drive, count)
    assert len(steady) == count + -(-count // NAMES_OF_ONE_FILE)
    chance = random.Random(3)
    seen: list[bytes] = []
    passing = 0
    with os.scandir(os.fsencode(both.drive)) as entries:
        for entry in entries:
            if entry.name.startswith(b"passing"):
                continue
            seen.append(entry.name)
            assert entry.is_file(follow_symlinks=False)
            if len(seen) % 1000 == 0:
                for _ in range(5):
                    write_file(both.drive / f"passing{passing}", b"")
                    passing += 1
                os.unlink(both.drive / f"passing{passing - chance.randrange(1, 5)}")
    assert len(seen) == len(steady)
    assert set(seen) == steady


@pytest.mark.parametrize("count", [10, 1500])
def test_removing_while_reading_skips_nobody(both: Pair, count: int) -> None:
    """[readdir-remove]"""
    fill(both.drive, count)
    removed = 0
    with os.scandir(both.drive) as entries:
        for entry in entries:
            os.unlink(entry.path)
            removed += 1
    assert removed == count + 1
    assert os.listdir(both.drive) == []


def test_rewinding_shows_what_changed(both: Pair) -> None:
    """[readdir-rewind]"""

    def work(root: Path) -> tuple[list[bytes], list[bytes]]:
        write_file(root / "old")
        with stream(root) as entries:
            before = entries.rest()
            write_file(root / "new")
            os.unlink(root / "old")
            entries.rewind()
            return sorted(before), sorted(entries.rest())

    assert both(work) == ([b".", b"..", b"old"], [b".", b"..", b"new"])


def test_seeking_returns_to_the_place_told(both: Pair) -> None:
    """[readdir-rewind]"""
    fill(both.drive, 500)
    with stream(both.drive) as entries:
        places = []
        names = []
        place = entries.tell()
        while name := entries.read():
            places.append(place)
            names.append(name)
            place = entries.tell()
        chance = random.Random(5)
        for index in chance.sample(range(len(names)), 40):
            entries.seek(places[index])
            assert entries.read() == names[index]
        entries.seek(places[0])
        assert entries.rest() == names


def test_open_streams_do_not_disturb_each_other(both: Pair) -> None:
    """[readdir-once]"""
    names = fill(both.drive, 300)
    with stream(both.drive) as one, stream(both.drive) as two:
        first = [one.read() for _ in range(100)]
        assert set(two.rest()) - {b".", b".."} == names
        assert set(first + one.rest()) - {b".", b".."} == names


def test_directories_nest_deep(both: Pair) -> None:
    """[directory-deep]"""

    def work(root: Path) -> tuple[int, bytes]:
        place = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        for level in range(300):
            os.mkdir(f"level{level:03}", dir_fd=place)
            inner = os.open(f"level{level:03}", os.O_RDONLY | os.O_DIRECTORY, dir_fd=place)
            os.close(place)
            place = inner
        file = os.open("leaf", os.O_CREAT | os.O_RDWR, 0o644, dir_fd=place)
        os.write(file, b"deep down")
        content = os.pread(file, 100, 0)
        os.close(file)
        os.close(place)
        return sum(1 for _ in root.rglob("level*")), content

    assert both(work) == (300, b"deep down")


def test_trees_are_removed_whole(both: Pair) -> None:
    """[readdir-remove]"""

    def work(root: Path) -> list[str]:
        for branch in range(5):
            for twig in range(5):
                (root / f"tree/{branch}/{twig}").mkdir(parents=True)
                for leaf in range(10):
                    write_file(root / f"tree/{branch}/{twig}/{leaf}")
        shutil.rmtree(root / "tree")
        return os.listdir(root)

    assert both(work) == []
