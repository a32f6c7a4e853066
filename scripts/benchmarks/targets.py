"""What can be measured: the interface, a plain directory, and the trivial file system. Others have their own modules.

A target owns its processes and everything below its base directory, and nothing outside of it.
Invariant: between `start` and `stop`, `directory` is a directory in which workloads may do what they want.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import processes
from benchmarks.filling import Shape


class Target:
    """One place to measure. Not every target can do everything: see the return values."""

    name = ""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.log = base / "log"
        self.directory = base / "mount"
        base.mkdir(parents=True, exist_ok=True)
        self.directory.mkdir(exist_ok=True)

    def start(self) -> None:
        """Makes `directory` usable. Raises: BenchmarkError with the reason where it cannot."""

    def stop(self) -> None:
        """Ends all processes and mounts; also after a `start` that failed halfway."""

    def wait_synced(self) -> bool:
        """Returns when the backend has everything. False where there is no backend."""
        return False

    def forget_pages(self, path: Path) -> None:
        """The next read of the file is not answered from the kernel's page cache (nor, as root, those behind it)."""
        if not processes.drop_kernel_caches():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)

    def forget_local(self) -> bool:
        """The next read of anything comes from the backend. False where there is none."""
        return False

    def remount(self) -> float | None:
        """Seconds from mounting again to the first listing. None where there is nothing to mount."""
        return None

    def status(self) -> float | None:
        """Seconds that a question about the state takes."""
        return None

    def memory_bytes(self) -> int | None:
        """Resident memory of the mount process and its children now."""
        return None


class PlainDirectory(Target):
    """A directory of the disk itself."""

    name = "plain"


class MountedTarget(Target):
    """A target whose directory is served by a foreground process that we started."""

    process: subprocess.Popen[bytes] | None = None

    def mount_command(self) -> list[object]:
        raise NotImplementedError

    def mount_environment(self) -> dict[str, str]:
        return {}

    def mount(self) -> None:
        self.process = processes.start(*self.mount_command(), log=self.log, env=self.mount_environment())
        processes.wait_for_mount(self.directory, self.process, self.log)

    def unmount(self) -> None:
        processes.unmount(self.directory)
        if self.process is not None:
            try:
                self.process.wait(processes.START_SECONDS)
            except subprocess.TimeoutExpired:
                processes.stop(self.process)
        self.process = None

    def start(self) -> None:
        self.mount()

    def stop(self) -> None:
        self.unmount()

    def remount(self) -> float | None:
        self.unmount()
        begin = time.perf_counter()
        self.mount()
        return time.perf_counter() - begin

    def memory_bytes(self) -> int | None:
        return processes.memory_bytes(processes.family(self.process.pid)) if self.process else None


class TrivialMount(MountedTarget):
    """The trivial pyfuse3 file system; mounted again it has forgotten all names but those of a tree it begins with."""

    name = "trivial"

    def __init__(self, base: Path, shape: Shape | None = None) -> None:
        super().__init__(base)
        self.shape = shape

    def mount_command(self) -> list[object]:
        backing = self.base / "backing"
        backing.mkdir(exist_ok=True)
        shape = self.shape
        tree = [] if shape is None else [shape.file_count, shape.directory_count, shape.wide_count]
        return [sys.executable, "-P", "-m", "benchmarks.trivial", self.directory, backing, *tree]

    def mount_environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
