"""A block device that remembers every write and every flush, so that any power cut in its life can be looked at.

Owns a FUSE file system with one file, `disk`; a loop device over it turns what a file system on that device writes
and flushes into calls here. The bytes go to `image`, the history to `log`: for each write its offset, length and bytes,
for each flush an offset of -1. A disk may lose what was written after the last flush, all or any part of it.

Run as a process of its own: python -m tests.support.flush_log MOUNTPOINT IMAGE LOG
"""

import errno
import os
import random
import stat
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyfuse3
import trio

NAME = b"disk"
INODE = pyfuse3.ROOT_INODE + 1
FLUSH = -1
_HEAD = struct.Struct("<qq")


class Operations(pyfuse3.Operations):
    """One file, written through."""

    def __init__(self, image: Path, log: Path) -> None:
        super().__init__()
        self._image = os.open(image, os.O_RDWR)
        self._size = os.fstat(self._image).st_size
        self._log = log.open("ab", buffering=0)

    async def getattr(self, inode: int, ctx: Any = None) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        is_root = inode == pyfuse3.ROOT_INODE
        entry.st_mode = stat.S_IFDIR | 0o700 if is_root else stat.S_IFREG | 0o600
        entry.st_nlink = 2 if is_root else 1
        entry.st_size = 0 if is_root else self._size
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        return entry

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        if name != NAME:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(INODE)

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> pyfuse3.EntryAttributes:
        return await self.getattr(inode)

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=INODE)

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        return os.pread(self._image, size, offset)

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        self._log.write(_HEAD.pack(offset, len(data)) + data)
        return os.pwrite(self._image, data, offset)

    async def fsync(self, fh: int, datasync: bool) -> None:
        self._log.write(_HEAD.pack(FLUSH, 0))

    async def flush(self, fh: int) -> None:
        pass

    async def release(self, fh: int) -> None:
        pass


class Step(NamedTuple):
    """A write, or a flush (`data` is empty then); `end` is where the log goes on behind it."""

    offset: int
    data: bytes
    end: int


def steps(log: BinaryIO) -> list[Step]:
    """All that happened, in order."""
    found = []
    while len(head := log.read(_HEAD.size)) == _HEAD.size:
        offset, length = _HEAD.unpack(head)
        found.append(Step(offset, log.read(length), log.tell()))
    return found


def replay(history: list[Step], image: BinaryIO, chance: random.Random | None) -> None:
    """Make of an image what a cut after this history leaves: of what was not flushed nothing, or what chance keeps."""
    last = max((number for number, step in enumerate(history) if step.offset == FLUSH), default=-1)
    for number, step in enumerate(history):
        if step.offset != FLUSH and (number < last or (chance is not None and chance.random() < 0.5)):
            image.seek(step.offset)
            image.write(step.data)


def main(mountpoint: str, image: str, log: str) -> None:
    """Serve until it is unmounted."""
    options = {*pyfuse3.default_options, "fsname=drivefs-flush-log"}
    pyfuse3.init(Operations(Path(image), Path(log)), mountpoint, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
