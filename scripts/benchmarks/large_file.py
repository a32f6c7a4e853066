"""One large, incompressible file: what moving bytes costs. Also the memory that moving many of them takes."""

import os
from collections.abc import Iterable
from pathlib import Path

from benchmarks.settings import MEBIBYTE
from benchmarks.workloads import Figures, Stopwatch, Work, timed

SMALL_READ_BYTES = 4096


def large_file(work: Work) -> Figures:
    """Sequential and random reads and writes; MB are 10^6 bytes."""
    path = work.place / "large"
    pieces = work.round.large_pieces
    megabytes = work.settings.large_bytes / 1e6
    watch = Stopwatch()
    write(path, pieces)
    figures = {"write": megabytes / watch.seconds}
    if work.target.wait_synced():
        figures["write_synced"] = watch.seconds
    read(path)
    figures["read_warm"] = megabytes / timed(lambda: read(path))
    work.target.forget_pages(path)
    figures["read_cold"] = megabytes / timed(lambda: read(path))
    figures |= random_access(work, path)
    work.target.wait_synced()
    if work.target.forget_local():
        work.target.forget_pages(path)
        figures["read_server"] = megabytes / timed(lambda: read(path))
    return figures


def random_access(work: Work, path: Path) -> Figures:
    source = work.round.random("offsets")
    count = work.settings.random_count
    slots = work.settings.large_bytes // SMALL_READ_BYTES
    offsets = [source.randrange(slots) * SMALL_READ_BYTES for _ in range(count)]
    content = source.randbytes(SMALL_READ_BYTES)
    work.target.forget_pages(path)
    reading = timed(lambda: read_at(path, offsets))
    writing = timed(lambda: write_at(path, offsets, content))
    return {"random_read": count / reading, "random_write": count / writing}


def write(path: Path, pieces: Iterable[bytes]) -> None:
    with path.open("wb", buffering=0) as file:
        for piece in pieces:
            file.write(piece)


def read(path: Path) -> None:
    buffer = bytearray(MEBIBYTE)
    total = 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            total += count
    if total != path.stat().st_size:
        raise OSError(f"{path}: read {total} bytes of {path.stat().st_size}")


def read_at(path: Path, offsets: list[int]) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    for offset in offsets:
        os.pread(descriptor, SMALL_READ_BYTES, offset)
    os.close(descriptor)


def write_at(path: Path, offsets: list[int], content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    for offset in offsets:
        os.pwrite(descriptor, content, offset)
    os.fsync(descriptor)
    os.close(descriptor)


def huge_file(work: Work) -> Figures:
    """Writes and reads back `huge_bytes`, and compares what the mount process holds with the same after a twelfth."""
    write_and_read_back(work, work.place / "part", work.settings.huge_bytes // 12)
    before = work.target.memory_bytes()
    write_and_read_back(work, work.place / "huge", work.settings.huge_bytes)
    after = work.target.memory_bytes()
    if before is None or after is None:
        return {}
    return {"memory_huge": after / MEBIBYTE, "memory_growth": max(0, after - before) / MEBIBYTE}


def write_and_read_back(work: Work, path: Path, size_bytes: int) -> None:
    source = work.round.random(path.name)
    write(path, (source.randbytes(MEBIBYTE) for _ in range(size_bytes // MEBIBYTE)))
    work.target.wait_synced()
    work.target.forget_pages(path)
    read(path)
