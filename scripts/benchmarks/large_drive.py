"""scripts/bench large: a drive of a million files, and what a mount of it costs.

Owns the command line of it, the kept server directory and the figures. The drive is made once, through the API, and
lies below the work directory until it is removed by hand or with --remove; each run logs a fresh device in.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import processes, settings
from benchmarks.direct import DirectDevice
from benchmarks.drives import Device, Server
from benchmarks.filling import Filler, Shape
from benchmarks.settings import MEBIBYTE
from benchmarks.targets import TrivialMount

MADE = "made.json"
"""Stands beside the server's data when the drive is whole."""
COMPLETE_SECONDS = 3600.0
SAMPLE_PAUSE_SECONDS = 0.02
LEAST_SAMPLES = 200

Figures = dict[str, float]
Say = Callable[[str], None]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; exits with a message where it is wrong."""
    parser = argparse.ArgumentParser("scripts/bench large", description=__doc__)
    add = parser.add_argument
    add("--files", type=int, default=1_000_000, metavar="N", help="files of the tree (default: %(default)s)")
    add("--directories", type=int, default=50_000, metavar="N", help="directories of the tree (default: %(default)s)")
    add("--wide", type=int, default=200_000, metavar="N", help="entries of the wide directory (default: %(default)s)")
    add("--trivial", action="store_true", help="walk the same tree on the trivial file system too (0.5 KiB each file)")
    add("--make-only", action="store_true", help="make the drive and stop")
    add("--remove", action="store_true", help="remove the kept drive at the end")
    add("--directory", type=Path, default=settings.work_directory(), help="default: %(default)s")
    add("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args(arguments)


def main(arguments: list[str], say: Say) -> int:
    """Exit code 0 when all was measured."""
    given = parse(arguments)
    shape = Shape(given.files, given.directories, given.wide)
    kept = given.directory.absolute() / shape.name
    server = Server(kept)
    try:
        figures = make(server, shape, say)
        if not given.make_only:
            base = Path(tempfile.mkdtemp(prefix="large-", dir=kept.parent))
            try:
                figures |= Measurement(Device(base / "device", base / "mount", f"bench-{base.name}"), shape, say).run(
                    server.url
                )
                if given.trivial:
                    figures |= measure_trivial(shape, base / "trivial")
            finally:
                shutil.rmtree(base, ignore_errors=True)
    finally:
        server.stop()
        if given.remove:
            shutil.rmtree(kept, ignore_errors=True)
    if given.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:52} {value:14,.3f}" for name, value in figures.items()))
    return 0


def make(server: Server, shape: Shape, say: Say) -> Figures:
    """Serve the drive, made first if no earlier run left it whole; gives what making it took."""
    made = server.base / MADE
    if not made.exists():
        shutil.rmtree(server.base, ignore_errors=True)
    server.start()
    if made.exists():
        return {}
    say(f"making {shape.inode_count} inodes in {server.base}")
    device = DirectDevice(server.port, "filler")
    seconds = Filler(device, shape, say).fill()
    device.close()
    # Started afresh, so that making the drive leaves nothing in what is measured.
    server.stop()
    server.start()
    size = sum(path.stat().st_size for path in server.base.rglob("*") if path.is_file())
    made.write_text(json.dumps({"seconds": seconds}))
    return {"made: seconds": seconds, "made: inodes/s": shape.inode_count / seconds, "made: MiB": size / MEBIBYTE}


class Measurement:
    """One fresh device of the drive, from its first mount to a complete replica."""

    def __init__(self, device: Device, shape: Shape, say: Say) -> None:
        self._device = device
        self._shape = shape
        self._say = say

    def run(self, url: str) -> Figures:
        """All figures; ends the mount."""
        self._device.login(url)
        try:
            figures = {"first mount to first ls: s": self._device.mount()}
            figures |= self._complete()
            self._device.unmount()
            figures["second mount to first ls: s"] = self._device.mount()
            figures |= self._walk()
            figures["memory at the end: MiB"] = self._memory()
        finally:
            self._device.abandon()
        size = sum(path.stat().st_size for path in self._device.base.rglob("*") if path.is_file())
        return figures | {"replica: MiB": size / MEBIBYTE}

    def _memory(self) -> float:
        pid = self._device.pid
        return 0.0 if pid is None else processes.memory_bytes(processes.family(pid)) / MEBIBYTE

    def _left(self) -> int:
        return int(self._device.status()["unlisted_directories"])

    def _complete(self) -> Figures:
        """Call while the replica is being completed, then again when nothing goes on."""
        begin = time.perf_counter()
        during: list[float] = []
        peak = 0.0
        while (left := self._left()) or len(during) < LEAST_SAMPLES:
            peak = max(peak, self._memory())
            during += self._samples(50, f"during-{len(during)}")
            self._say(f"{left} directories to be listed, {self._memory():.0f} MiB")
            time.sleep(2.0)
            if time.perf_counter() - begin > COMPLETE_SECONDS:
                raise processes.BenchmarkError("the replica was not completed in time")
        seconds = time.perf_counter() - begin
        after = self._samples(LEAST_SAMPLES, "after")
        return {
            "completed after: s": seconds,
            "memory while completing, most: MiB": peak,
            "memory when complete: MiB": self._memory(),
            **_percentiles("create and unlink while completing", during),
            **_percentiles("create and unlink when complete", after),
        }

    def _samples(self, count: int, name: str) -> list[float]:
        """How long making and removing a file takes, in milliseconds."""
        found = []
        for number in range(count):
            path = self._device.directory / f"{name}-{number}"
            begin = time.perf_counter()
            path.touch()
            path.unlink()
            found.append((time.perf_counter() - begin) * 1000)
            time.sleep(SAMPLE_PAUSE_SECONDS)
        return found

    def _walk(self) -> Figures:
        return walked("drivefs", self._device.directory, self._shape)


def walked(name: str, mountpoint: Path, shape: Shape) -> Figures:
    """Entries each second of the wide directory and of the tree, both as the kernel sees them for the first time."""
    wide = _timed(lambda: len(os.listdir(mountpoint / "wide")))
    tree = _timed(lambda: _find(mountpoint / "tree"))
    again = _timed(lambda: _find(mountpoint / "tree"))
    expected = (shape.wide_count, shape.file_count + shape.directory_count)
    if (wide[0], tree[0]) != expected:
        raise processes.BenchmarkError(f"{name} shows {wide[0]} and {tree[0]} entries instead of {expected}")
    return {
        f"{name}: wide directory, entries/s": wide[0] / wide[1],
        f"{name}: find, entries/s": tree[0] / tree[1],
        f"{name}: find again, entries/s": again[0] / again[1],
    }


def _find(directory: Path) -> int:
    listed = subprocess.run(["find", directory, "-printf", "."], check=True, stdout=subprocess.PIPE)
    return len(listed.stdout)


def _timed(work: Callable[[], int]) -> tuple[int, float]:
    begin = time.perf_counter()
    return work(), time.perf_counter() - begin


def _percentiles(name: str, milliseconds: list[float]) -> Figures:
    cuts = statistics.quantiles(milliseconds, n=100)
    return {f"{name}, p50: ms": cuts[49], f"{name}, p99: ms": cuts[98]}


def measure_trivial(shape: Shape, base: Path) -> Figures:
    """The same tree on the trivial file system, which has it in memory from the start."""
    target = TrivialMount(base, shape)
    try:
        target.start()
        return walked("trivial", target.directory, shape)
    finally:
        target.stop()
