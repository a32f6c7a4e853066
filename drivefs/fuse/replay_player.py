"""The program that a mount runs beside itself to do again, in the mounted tree, what another device did.

Owns its system calls; it decides nothing. It reads orders from standard input and answers each on standard output, as
marshalled tuples behind their length, and ends with its input. The mount knows it by its process id and answers it from
a stage of its own (`replay_stage`): to the kernel, and so to inotify, its calls are like any other program's.

Invariants: it holds nothing open on the mount between two orders, so that it never keeps it from being unmounted. It
changes a name only in a directory of which it has seen that it is the one meant, on the very device that is served, and
gets there without following a link: whatever stands in the tree, it never leaves it.

It imports next to nothing and runs with `-I -S`, since each mount may have one.
"""

import ctypes
import marshal
import os
import re
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

HEADER = struct.Struct(">I")
PROC = Path("/proc")
INOTIFY = "anon_inode:inotify"
UTIME_OMIT = (1 << 30) - 2
AT_SYMLINK_NOFOLLOW = 0x100
SECOND_NS = 1_000_000_000
WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
WRITE = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Times = tuple[int | None, int | None]
"""atime and mtime in nanoseconds; None: left as it is."""
Place = tuple[list[bytes], int]
"""The names on the way from the root to a directory, and its inode number."""


class Player:
    """Carries out orders in one mount; each method is one."""

    def __init__(self, mountpoint: bytes, device: int) -> None:
        self._mountpoint = mountpoint
        self._device = device
        self._utimensat = ctypes.CDLL(None, use_errno=True).utimensat

    def find(self, name: bytes) -> int:
        """The inode number of a name in the root, which only a stage has."""
        with self._directory(([], 0)) as root:
            return os.stat(name, dir_fd=root, follow_symlinks=False).st_ino

    def watched(self) -> list[int]:
        """The inodes of this mount that somebody watches by inotify, as far as we may look."""
        return sorted(watched(PROC, self._device))

    def create(self, place: Place, name: bytes, mode: int, target: bytes, times: Times | None) -> None:
        """Make a name of the kind in `mode`; `times` says that a file is then written to, and closed."""
        with self._directory(place) as directory:
            if stat.S_ISDIR(mode):
                os.mkdir(name, mode & 0o7777, dir_fd=directory)
            elif stat.S_ISLNK(mode):
                os.symlink(target, name, dir_fd=directory)
            elif stat.S_ISREG(mode):
                file = os.open(name, WRITE | os.O_CREAT | os.O_EXCL, mode & 0o7777, dir_fd=directory)
                try:
                    if times is not None:
                        self._set_times(directory, name, times)
                finally:
                    os.close(file)
            else:
                os.mknod(name, mode, dir_fd=directory)

    def remove(self, place: Place, name: bytes, is_directory: bool) -> None:
        """Remove a name."""
        with self._directory(place) as directory:
            (os.rmdir if is_directory else os.unlink)(name, dir_fd=directory)

    def rename(self, place: Place, name: bytes, new_place: Place, new_name: bytes) -> None:
        """Move a name."""
        with self._directory(place) as directory, self._directory(new_place) as new_directory:
            os.rename(name, new_name, src_dir_fd=directory, dst_dir_fd=new_directory)

    def touch(self, place: Place, name: bytes, inode: int, times: Times, is_written: bool) -> None:
        """Set times; with `is_written`, open the file for writing and close it."""
        with self._directory(place) as directory:
            # Looking at it first makes the kernel see that the content has changed, and drop what it has of it.
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if found.st_ino != inode or found.st_dev != self._device:
                raise FileNotFoundError
            self._set_times(directory, name, times)
            if is_written and stat.S_ISREG(found.st_mode):
                os.close(os.open(name, WRITE, dir_fd=directory))

    def _set_times(self, directory: int, name: bytes, times: Times) -> None:
        """Unlike `os.utime`, one of the two alone: that is a modification to inotify, both are none."""
        fields = [part for time_ns in times for part in _timespec(time_ns)]
        if self._utimensat(directory, name, (ctypes.c_long * 4)(*fields), AT_SYMLINK_NOFOLLOW):
            raise OSError(ctypes.get_errno(), "the times cannot be set")

    @contextmanager
    def _directory(self, place: Place) -> Iterator[int]:
        """Open a directory of the mount."""
        way, inode = place
        directory = os.open(self._mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in way:
                below = os.open(name, WALK, dir_fd=directory)
                os.close(directory)
                directory = below
            found = os.fstat(directory)
            if found.st_dev != self._device or (way and found.st_ino != inode):
                raise FileNotFoundError
            yield directory
        finally:
            os.close(directory)


def _timespec(time_ns: int | None) -> tuple[int, int]:
    return (0, UTIME_OMIT) if time_ns is None else (time_ns // SECOND_NS, time_ns % SECOND_NS)


def watched(proc: Path, device: int) -> set[int]:
    """The inodes of a device that are watched by inotify; processes that we may not look into are left out."""
    found: set[int] = set()
    for process in os.listdir(proc):
        if not process.isdigit():
            continue
        descriptors = f"{proc}/{process}/fd"
        with suppress(OSError):  # it has ended, or is somebody else's
            for number in os.listdir(descriptors):
                with suppress(OSError):  # it has been closed: a program that watches opens what it finds, and closes it
                    if os.readlink(f"{descriptors}/{number}") == INOTIFY:
                        found |= _marks(Path(f"{proc}/{process}/fdinfo/{number}"), device)
    return found


def _marks(fdinfo: Path, device: int) -> set[int]:
    """What one inotify descriptor watches: lines such as `inotify wd:1 ino:2a sdev:30 mask:…`, numbers in hex.

    The device is the kernel's own number, which is the minor one for file systems without a device. There may be tens
    of thousands of lines.
    """
    return {int(inode, 16) for inode in re.findall(rf"ino:([0-9a-f]+) sdev:{os.minor(device):x} ", fdinfo.read_text())}


def serve(player: Player, orders: BinaryIO, answers: BinaryIO) -> None:
    """Carry out orders until there are no more; the answer is what it gave, or the number of the error."""
    while len(header := orders.read(HEADER.size)) == HEADER.size:
        body = orders.read(HEADER.unpack(header)[0])
        name, *arguments = marshal.loads(body)
        answer: tuple[bool, Any]
        try:
            answer = (True, getattr(player, name)(*arguments))
        except OSError as error:
            answer = (False, error.errno or 0)
        packed = marshal.dumps(answer)
        answers.write(HEADER.pack(len(packed)) + packed)


if __name__ == "__main__":
    serve(
        Player(os.fsencode(sys.argv[1]), int(sys.argv[2])),
        os.fdopen(0, "rb"),
        os.fdopen(1, "wb", buffering=0),
    )
