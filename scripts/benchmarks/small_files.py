"""Many small files in one directory: what metadata costs. Also the memory that 100,000 of them take."""

import os
from pathlib import Path

from benchmarks.workloads import Figures, Stopwatch, Work, timed

SMALL_BYTES = 1024
FILES_PER_DIRECTORY = 1000


def small_files(work: Work) -> Figures:
    """Creates, looks at, reads, renames and removes `small_file_count` files of 1 KiB."""
    count = work.settings.small_file_count
    source = work.round.random("small")
    contents = [source.randbytes(SMALL_BYTES) for _ in range(count)]
    old = [f"{work.place}/file-{number:05}" for number in range(count)]
    new = [f"{work.place}/renamed-{number:05}" for number in range(count)]
    watch = Stopwatch()
    create(old, contents)
    figures = {"create": count / watch.seconds}
    if work.target.wait_synced():
        figures["create_synced"] = watch.seconds
    figures["stat"] = count / timed(lambda: [os.stat(path) for path in old])
    figures["scandir"] = count / timed(lambda: scan(work.place))
    read(old)
    figures["small_read"] = count / timed(lambda: read(old))
    figures["rename"] = count / timed(lambda: rename(old, new))
    work.target.wait_synced()
    figures["unlink"] = count / timed(lambda: unlink(new))
    return figures | from_server(work, old, contents)


def from_server(work: Work, paths: list[str], contents: list[bytes]) -> Figures:
    """Reads small files that are not on this machine, one after the other."""
    create(paths, contents)
    work.target.wait_synced()
    return {"small_server": len(paths) / timed(lambda: read(paths))} if work.target.forget_local() else {}


def create(paths: list[str], contents: list[bytes]) -> None:
    for path, content in zip(paths, contents, strict=True):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.write(descriptor, content)
        os.close(descriptor)


def scan(directory: Path) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            entry.stat(follow_symlinks=False)


def read(paths: list[str]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        content = os.read(descriptor, 2 * SMALL_BYTES)
        os.close(descriptor)
        if len(content) != SMALL_BYTES:
            raise OSError(f"{path}: read {len(content)} bytes instead of {SMALL_BYTES}")


def rename(old: list[str], new: list[str]) -> None:
    for source, destination in zip(old, new, strict=True):
        os.rename(source, destination)


def unlink(paths: list[str]) -> None:
    for path in paths:
        os.unlink(path)


def many_files(work: Work) -> Figures:
    """Creates `many_file_count` files and lists them all, looks at the mount process, and mounts again."""
    source = work.round.random("many")
    for first in range(0, work.settings.many_file_count, FILES_PER_DIRECTORY):
        directory = work.place / f"directory-{first:06}"
        directory.mkdir()
        paths = [f"{directory}/file-{number:04}" for number in range(FILES_PER_DIRECTORY)]
        create(paths, [source.randbytes(SMALL_BYTES) for _ in paths])
    work.target.wait_synced()
    for directory in sorted(work.place.iterdir()):
        scan(directory)
    used = work.target.memory_bytes()
    remounted = work.target.remount()
    if used is None or remounted is None:
        return {}
    return {"memory_many": used / 2**20, "mount_many": remounted}
