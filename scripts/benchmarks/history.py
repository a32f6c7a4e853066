"""scripts/bench history: what looking back, a small change of a large file, sharing and collecting cost.

Owns the command line of it and its rows; each can be left out by a size of 0. The drive of many files is the one that
scripts/bench large keeps: it is made where there is none of that shape.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import collecting, drives, large_drive, processes, settings, sharing_folder
from benchmarks.direct import DirectDevice
from benchmarks.filling import Shape
from benchmarks.large_drive import Figures, Say
from benchmarks.settings import MEBIBYTE
from drivefs.protocol.changes import Base, Create, Store
from drivefs.protocol.ids import RevisionNumber
from drivefs.protocol.model import InodeKind


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; exits with a message where it is wrong."""
    parser = argparse.ArgumentParser("scripts/bench history", description=__doc__)
    add = parser.add_argument
    add("--revisions", type=int, default=1000, metavar="N", help="revisions of one file (default: %(default)s)")
    add("--large", type=int, default=1024, metavar="MIB", help="size of the large file (default: %(default)s)")
    add("--files", type=int, default=1_000_000, metavar="N", help="files of the drive (default: %(default)s)")
    add("--directories", type=int, default=50_000, metavar="N", help="its directories (default: %(default)s)")
    add("--wide", type=int, default=200_000, metavar="N", help="entries of its wide one (default: %(default)s)")
    add("--shared", type=int, default=100_000, metavar="N", help="files of a shared folder (default: %(default)s)")
    add("--blocks", type=int, default=1_000_000, metavar="N", help="blocks to be collected (default: %(default)s)")
    add("--directory", type=Path, default=settings.work_directory(), help="default: %(default)s")
    add("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args(arguments)


def main(arguments: list[str], say: Say) -> int:
    """Exit code 0 when all was measured."""
    given = parse(arguments)
    given.directory.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix="history-", dir=given.directory))
    figures: Figures = {}
    try:
        if given.revisions or given.large:
            figures |= on_small_drive(base, given, say)
        if given.files:
            figures |= on_large_drive(base, Shape(given.files, given.directories, given.wide), given.directory, say)
        if given.shared:
            figures |= sharing_folder.measure(base / "sharing", given.shared, say)
        if given.blocks:
            figures |= collecting.measure(base / "collecting", given.blocks, say)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    if given.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:60} {value:14,.3f}" for name, value in figures.items()))
    return 0


def on_small_drive(base: Path, given: argparse.Namespace, say: Say) -> Figures:
    """One file of many revisions, and a large one with a small change."""
    server, figures = drives.Server(base / "server"), dict[str, float]()
    device = drives.Device(base / "device", base / "mount", "bench")
    server.start()
    try:
        device.base.mkdir()
        device.login(server.url)
        device.mount()
        if given.revisions:
            figures |= listing(server, device, given.revisions)
        if given.large:
            figures |= small_change(device, given.large, say)
    finally:
        device.abandon()
        server.stop()
    return figures


def listing(server: drives.Server, device: drives.Device, count: int) -> Figures:
    """How long it takes to list the revisions of a file; they are empty, since nobody looks into them."""
    file = device.directory / "saved often"
    save_often(DirectDevice(server.port, "saver"), file.name.encode(), count)
    shown = device.directory / ".drivefs/revisions" / file.name
    processes.wait_until(file.exists, f"{file} on the mount")
    seconds, found = timed(lambda: len(os.listdir(shown)))
    again, _ = timed(lambda: len(os.listdir(shown)))
    if found != count:
        raise processes.BenchmarkError(f"{found} revisions are listed of {count}")
    command, _ = timed(lambda: len(device.command("revisions", file, "--json")))
    return {
        f"ls of {count} revisions: ms": seconds * 1000,
        f"ls of {count} revisions, again: ms": again * 1000,
        f"drivefs revisions of {count}, the program's start included: ms": command * 1000,
    }


def save_often(device: DirectDevice, name: bytes, count: int) -> None:
    """Make a file of so many revisions, each with a commit of its own."""
    inode, kind = device.id_range(), InodeKind.FILE
    n = device.next_n()
    device.commit([Create(n=n, time_ns=1, inode=inode, parent=device.root, name=name, kind=kind, mode=0o644)])
    for number in range(count):
        base = Base(revision=RevisionNumber(number))
        content = {"size": 0, "runs": [], "new_runs": [], "mtime_ns": number}
        device.commit([Store(n=device.next_n(), time_ns=number, inode=inode, base=base, **content)])
    device.close()


def small_change(device: drives.Device, size: int, say: Say) -> Figures:
    """What is stored more after four KiB in the middle of a large file were written over."""
    file = device.directory / "large"
    say(f"writing a file of {size} MiB")
    with file.open("wb") as written:
        for _ in range(size):
            written.write(os.urandom(MEBIBYTE))
    device.wait_synced()
    before = stored(device)
    with file.open("r+b") as written:
        written.seek(size * MEBIBYTE // 2)
        written.write(os.urandom(4096))
    device.wait_synced()
    return {f"stored by a revision of {size} MiB with 4 KiB changed: MiB": (stored(device) - before) / MEBIBYTE}


def stored(device: drives.Device) -> int:
    """Bytes of content that the account stores."""
    return int(json.loads(device.command("quota", device.directory, "--json"))["used_bytes"])


def on_large_drive(base: Path, shape: Shape, kept: Path, say: Say) -> Figures:
    """The first look at a past time of a drive with many files, from a device that has just been mounted."""
    server = drives.Server(kept.absolute() / shape.name)
    device = drives.Device(base / "looking", base / "looking at", f"bench-{base.name}")
    try:
        large_drive.make(server, shape, say)
        device.base.mkdir()
        device.login(server.url)
        device.mount()
        then = device.directory / ".drivefs/at" / time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        first, count = timed(lambda: len(os.listdir(then)))
        below, found = timed(lambda: len(os.listdir(then / "tree")))
        wide, entries = timed(lambda: len(os.listdir(then / "wide")))
        if not count or not found or entries != shape.wide_count:
            raise processes.BenchmarkError(f"the drive of then shows {count}, {found} and {entries} entries")
        made, _ = timed(lambda: len(device.command("snapshot", "create", f"bench {base.name}")))
        device.command("snapshot", "delete", f"bench {base.name}")
    finally:
        device.abandon()
        server.stop()
    return {
        f"first ls of .drivefs/at/TIME of {shape.inode_count} inodes: s": first,
        "ls of a directory in it: s": below,
        f"ls of {shape.wide_count} entries in it: s": wide,
        "drivefs snapshot create, the program's start included: s": made,
    }


def timed(work: Callable[[], int]) -> tuple[float, int]:
    """Seconds, and what came of it."""
    begin = time.perf_counter()
    found = work()
    return time.perf_counter() - begin, found
