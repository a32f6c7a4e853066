"""Back after a long time without a network: many changes here, as many elsewhere, and how calls fare meanwhile.

Owns a device of its own, whose cable it pulls. Both sides make `reconnect_count` changes: new files, edits,
renames, removals. Measured: from the cable's return until this device has sent everything and shows everything; and
single calls on it, in turns of a stat, a read and a small new file, idle and until then. Nobody asks it to hurry.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import processes
from benchmarks.cable import Cable
from benchmarks.devices_report import Samples
from benchmarks.devices_work import Work
from benchmarks.drives import Device
from benchmarks.workloads import timed

PER_DIRECTORY = 500
CONTENT_BYTES = 1024
TURN_SECONDS = 0.02
IDLE_SECONDS = 5.0
LONGEST_SECONDS = 300.0
LOOK_SECONDS = 0.05
LAST = "the last change"


def reconnect(work: Work) -> Samples:
    """The whole of it, on a device that is thrown away afterwards."""
    base = work.scratch / f"{work.place} device"
    cable = Cable(work.server.port)
    device = Device(base, base / "mount", f"cable-{work.place}")
    try:
        device.login(cable.url)
        device.mount()
        return _measure(work, device, cable)
    finally:
        device.abandon()
        cable.close()


def _measure(work: Work, device: Device, cable: Cable) -> Samples:
    count = work.settings.reconnect_count
    elsewhere, here = work.here.directory / work.place, device.directory / work.place
    for side in ("elsewhere", "here"):
        _furnish(elsewhere / side, count)
    work.here.wait_synced()
    _wait(lambda: _has_all(here / "here", count) and _has_all(here / "elsewhere", count), "what was there before")
    (here / "calls").mkdir()
    calls = Calls(here / "calls")
    device.wait_synced()
    time.sleep(1.0)
    with calls:
        time.sleep(IDLE_SECONDS)
    idle = calls.take()
    cable.pull()
    _change(here / "here", count)
    _change(elsewhere / "elsewhere", count)
    work.here.wait_synced()
    begin = time.perf_counter()
    cable.plug()
    with calls:
        _wait(lambda: (here / "elsewhere" / LAST).exists(), "the last change of the other device")
        shown = time.perf_counter() - begin
        _wait(lambda: (elsewhere / "here" / LAST).exists(), "the last change of this device")
    device.wait_synced()
    seconds = time.perf_counter() - begin
    busy = calls.take()
    found: Samples = {"reconnect": [seconds], "reconnect_shown": [shown]}
    for kind in idle:
        found[f"reconnect_idle_{kind}"] = idle[kind]
        found[f"reconnect_busy_{kind}"] = busy[kind]
    return found


def _furnish(place: Path, count: int) -> None:
    """A quarter as many files as there will be changes: they are edited, renamed and removed."""
    for number in range(count // 4):
        directory = place / f"old {number // PER_DIRECTORY}"
        if number % PER_DIRECTORY == 0:
            directory.mkdir(parents=True)
        (directory / f"file {number}").write_bytes(os.urandom(CONTENT_BYTES))


def _has_all(place: Path, count: int) -> bool:
    last = count // 4 - 1
    return (place / f"old {last // PER_DIRECTORY}" / f"file {last}").exists()


def _change(place: Path, count: int) -> None:
    """Half of all changes are new files; of the others, half are edits, and the rest renames and removals."""
    quarter = count // 4
    for number in range(2 * quarter):
        directory = place / f"new {number // PER_DIRECTORY}"
        if number % PER_DIRECTORY == 0:
            directory.mkdir()
        (directory / f"file {number}").write_bytes(os.urandom(CONTENT_BYTES))
    old = [place / f"old {number // PER_DIRECTORY}" / f"file {number}" for number in range(quarter)]
    for path in old:
        path.write_bytes(os.urandom(CONTENT_BYTES))
    for number, path in enumerate(old):
        if number % 2:
            path.rename(path.with_name(f"renamed {number}"))
        else:
            path.unlink()
    (place / LAST).write_bytes(b"")


def _wait(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise processes.BenchmarkError(f"not within {LONGEST_SECONDS:.0f} s: {what}")
        time.sleep(LOOK_SECONDS)


class Calls:
    """Single calls, timed one by one, in a thread, while the context is entered."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._file = place / "read again and again"
        self._file.write_bytes(bytes(CONTENT_BYTES))
        self._taken: Samples = {"stat": [], "read": [], "write": []}
        self._made = 0

    def take(self) -> Samples:
        """What was timed since the last time, in seconds by kind."""
        taken, self._taken = self._taken, {kind: [] for kind in self._taken}
        return taken

    def _run(self) -> None:
        while not self._is_over.is_set():
            new = self._place / f"new {self._made}"
            self._made += 1
            self._taken["stat"].append(timed(lambda: (self._place / "absent").exists()))
            self._taken["read"].append(timed(self._file.read_bytes))
            self._taken["write"].append(timed(lambda: new.write_bytes(bytes(CONTENT_BYTES))))  # noqa: B023
            self._is_over.wait(TURN_SECONDS)

    def __enter__(self) -> None:
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
