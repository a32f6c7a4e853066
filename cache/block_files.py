"""The files of the block cache: the part of the work that blocks, for threads.

Owns how blocks lie on disk and what is verified when they are read; knows no index and no limit. A block has a file of
its own (`own/` and its id in hexadecimal), lies in a segment with many small ones (`segments/`, by number), or in a
file taken over from staging (`adopted/`, by number). Nothing is synced: what a power cut leaves is found out by
verifying. Invariant: bytes that do not verify are never given to anyone.
"""

import ctypes
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import xxhash
from blake3 import blake3

from drivefs.protocol.ids import BlockId

OWN, SEGMENT, ADOPTED = 0, 1, 2
"""Kinds of units, as they stand in the index."""

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2


class Layout:
    """Where the files are."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.index = directory / "blocks.db"
        self.folders = {
            kind: directory / name for kind, name in ((OWN, "own"), (SEGMENT, "segments"), (ADOPTED, "adopted"))
        }

    def create(self) -> None:
        """Make the folders, for the owner only."""
        for folder in self.folders.values():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def own(self, block: BlockId) -> str:
        """The file of a block that has one of its own."""
        return f"{self.folders[OWN]}/{block.hex()}"

    def numbered(self, kind: int, number: int) -> str:
        """A segment, or an adopted file."""
        return f"{self.folders[kind]}/{number}"


class Write(NamedTuple):
    """Plaintexts to write one after the other into a file at an offset."""

    path: str
    offset: int
    plaintexts: list[bytes | memoryview]


class Removal(NamedTuple):
    """Space to release: a range of a file, or (`length` 0) all of it; `fd` is to be closed first, if there is one."""

    path: str
    offset: int = 0
    length: int = 0
    fd: int | None = None


class Stored(NamedTuple):
    """What became of a `Write`: the XXH3-64 of each plaintext, or the errno of its failure."""

    checksums: list[int]
    failure: int = 0


class Wanted(NamedTuple):
    """A range of a block to read; `length` 0 and `is_verified` False together only verify.

    `start` and `size` say where the block lies in its file, `offset` and `length` which part of it is wanted.
    """

    block: BlockId
    start: int
    size: int
    checksum: int | None
    offset: int
    length: int
    is_verified: bool


def checksum(data: bytes | memoryview) -> int:
    """XXH3-64 as a signed integer, as a column holds it."""
    return xxhash.xxh3_64_intdigest(data) - 2**63


def store(removals: Sequence[Removal], writes: Sequence[Write]) -> tuple[list[str], list[Stored]]:
    """Release space, then write; gives the files in which no hole could be made, and what became of each write."""
    return release(removals), [_store_one(write) for write in writes]


def _store_one(write: Write) -> Stored:
    checksums = [checksum(plaintext) for plaintext in write.plaintexts]
    try:
        fd = os.open(write.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            whole = write.plaintexts[0] if len(write.plaintexts) == 1 else b"".join(write.plaintexts)
            _write_all(fd, memoryview(whole), write.offset)
        finally:
            os.close(fd)
    except OSError as error:
        if not write.offset:
            remove(write.path)
        return Stored([], error.errno or errno.EIO)
    return Stored(checksums)


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def release(removals: Sequence[Removal]) -> list[str]:
    """Give space back to the disk; gives the files in which no hole could be made."""
    solid = []
    for removal in removals:
        if removal.fd is not None:
            os.close(removal.fd)
        if not removal.length:
            remove(removal.path)
        elif not punch(removal):
            solid.append(removal.path)
    return solid


def remove(path: str) -> None:
    """Remove a file, if it is there; one that cannot be removed is found again when the cache is opened."""
    try:
        os.unlink(path)
    except OSError:
        return


def punch(removal: Removal) -> bool:
    """Make a hole; False if this file system cannot, or if someone else still has a name for the file."""
    try:
        fd = os.open(removal.path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if os.fstat(fd).st_nlink != 1:
            return False
        libc = ctypes.CDLL(None, use_errno=True)
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        offset, length = ctypes.c_int64(removal.offset), ctypes.c_int64(removal.length)
        return bool(libc.fallocate64(fd, mode, offset, length) == 0)
    finally:
        os.close(fd)


def open_and_read(path: str, wanted: Wanted) -> tuple[int | None, bytes | None]:
    """Open a file and read from it; gives the descriptor too, unless the file is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None, None
    return fd, read(fd, wanted)


def read(fd: int, wanted: Wanted) -> bytes | None:
    """The range that is wanted, or None if the block does not verify or cannot be read."""
    try:
        if wanted.is_verified:
            data = os.pread(fd, wanted.length, wanted.start + wanted.offset)
            return data if len(data) == wanted.length else None
        whole = os.pread(fd, wanted.size, wanted.start)
    except OSError:
        return None
    if not verifies(whole, wanted):
        return None
    if wanted.length == wanted.size:
        return whole
    return whole[wanted.offset : wanted.offset + wanted.length]


def verifies(whole: bytes, wanted: Wanted) -> bool:
    """Whether these are the block's bytes: by its checksum or, where there is none yet, by its id."""
    if wanted.checksum is None:
        return blake3(whole).digest() == wanted.block
    return checksum(whole) == wanted.checksum


def take_over(source: str, target: str) -> int | None:
    """Give a file one more name in the cache; its allocated bytes, or None if that is not possible there."""
    try:
        os.link(source, target)
        return os.stat(target).st_blocks * 512
    except OSError:
        return None


def own_files(layout: Layout) -> list[tuple[BlockId, int]]:
    """All files named by a block id, with their sizes."""
    found = []
    with os.scandir(layout.folders[OWN]) as entries:
        for entry in entries:
            try:
                block = bytes.fromhex(entry.name)
            except ValueError:
                continue
            if len(block) == 32:
                found.append((BlockId(block), entry.stat(follow_symlinks=False).st_size))
    return found


def numbered_files(layout: Layout, kind: int) -> list[int]:
    """The numbers of all segments, or of all adopted files."""
    return [int(name) for name in os.listdir(layout.folders[kind]) if name.isdecimal()]
