"""How soon one device sees what another did: from the return of the last call there until the new state is read here.

Owns the kinds of changes. The watching device looks every `LOOK_SECONDS`, as a program would, with stat, open and read.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import processes, source_tree
from benchmarks.devices_report import Samples
from benchmarks.devices_work import Work
from benchmarks.processes import BenchmarkError
from benchmarks.workloads import timed

LOOK_SECONDS = 0.002
LONGEST_SECONDS = 30.0
PAUSE_SECONDS = (0.1, 0.3)
"""Between two samples, drawn anew each time, so that none rides on the wake-up of the one before."""
FILE_BYTES = 4096
TREES = 4


def seen_after(is_seen: Callable[[], bool], what: str) -> float:
    """Seconds until `is_seen`."""
    begin = time.perf_counter()
    while not is_seen():
        if time.perf_counter() > begin + LONGEST_SECONDS:
            raise BenchmarkError(f"not seen on the other device after {LONGEST_SECONDS:.0f} s: {what}")
        time.sleep(LOOK_SECONDS)
    return time.perf_counter() - begin


def shows(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False


class Changes:
    """One change of each kind, on demand: done `here`, watched `there`."""

    def __init__(self, work: Work) -> None:
        self.here, self.there = (device.directory / work.place / "watched" for device in (work.here, work.there))
        self.random = work.chance
        self.count = 0

    def prepare(self) -> None:
        """What is changed later exists on both sides."""
        (self.here / "directory 0").mkdir(parents=True)
        for name in ("edited", "saved", "directory 0/inner"):
            (self.here / name).write_bytes(self.content())
        inner = self.here / "directory 0/inner"
        seen_after(lambda: shows(self.there / "directory 0/inner", inner.read_bytes()), "the first files")

    def content(self) -> bytes:
        self.count += 1
        return b"%8d" % self.count + self.random.randbytes(FILE_BYTES - 8)

    def edit(self) -> float:
        content = self.content()
        descriptor = os.open(self.here / "edited", os.O_WRONLY)
        os.pwrite(descriptor, content, 0)
        os.close(descriptor)
        return seen_after(lambda: shows(self.there / "edited", content), "an edit in place")

    def create(self) -> float:
        content = self.content()
        name = f"new {self.count}"
        (self.here / name).write_bytes(content)
        return seen_after(lambda: shows(self.there / name, content), "a new file")

    def save(self) -> float:
        content = self.content()
        (self.here / ".saved~").write_bytes(content)
        os.rename(self.here / ".saved~", self.here / "saved")
        return seen_after(lambda: shows(self.there / "saved", content), "a save by rename")

    def remove(self) -> float:
        name = f"removed {self.count}"
        content = self.content()
        (self.here / name).write_bytes(content)
        seen_after(lambda: shows(self.there / name, content), "a file to be removed")
        time.sleep(self.random.uniform(*PAUSE_SECONDS))
        os.unlink(self.here / name)
        return seen_after(lambda: not (self.there / name).exists(), "a removal")

    def move(self) -> float:
        old = next(self.here.glob("directory *")).name
        self.count += 1
        new = f"directory {self.count}"
        os.rename(self.here / old, self.here / new)
        there = self.there
        return seen_after(
            lambda: (there / new / "inner").exists() and not (there / old).exists(), "a renamed directory"
        )


KINDS: dict[str, Callable[[Changes], float]] = {
    "edit": Changes.edit,
    "create": Changes.create,
    "save": Changes.save,
    "remove": Changes.remove,
    "move": Changes.move,
}
CONTENT = {"edit", "create", "save"}
"""The kinds that bring new content; a removal may be the first of many, and is never hurried."""


def watch(work: Work, changes: Changes, state: str) -> Samples:
    """`sample_count` of each kind, in random order; the row `state` has all those of new content."""
    found: Samples = {}
    kinds = list(KINDS) * work.settings.sample_count
    work.chance.shuffle(kinds)
    for kind in kinds:
        time.sleep(work.chance.uniform(*PAUSE_SECONDS))
        seconds = KINDS[kind](changes)
        if kind in CONTENT:
            found.setdefault(state, []).append(seconds)
        found.setdefault(f"{state}_{kind}", []).append(seconds)
    return found


class Unpacking:
    """Unpacks source trees of different content one after the other, removing each again, until told to end."""

    def __init__(self, work: Work) -> None:
        self.tars = [work.scratch / f"{work.place}-{number}.tar" for number in range(TREES)]
        for tar in self.tars:
            source_tree.make_tar(tar, work.chance, work.settings.tree_file_count)
        self.place = work.here.directory / work.place
        self.seconds: list[float] = []
        self.failure: BenchmarkError | None = None
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        try:
            for tar in itertools.cycle(self.tars):
                directory = self.place / tar.stem
                directory.mkdir()
                self.seconds.append(timed(lambda: processes.run("tar", "-xf", tar, "-C", directory)))  # noqa: B023
                processes.run("rm", "-rf", directory)
                if self.is_over.is_set():
                    return
        except BenchmarkError as error:
            self.failure = error

    def __enter__(self) -> "Unpacking":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self.thread.join()
        for tar in self.tars:
            tar.unlink()
        if self.failure is not None:
            raise self.failure


def freshness(work: Work) -> Samples:
    """Idle, then under an untar on the device that makes the changes."""
    changes = Changes(work)
    changes.prepare()
    work.here.wait_synced()
    time.sleep(1.0)
    found = watch(work, changes, "idle")
    with Unpacking(work) as unpacking:
        time.sleep(0.5)
        found |= watch(work, changes, "busy")
    return found | {"untar_busy": unpacking.seconds}
