"""Any calls in any order come out as on ext4: over remounts and `kill -9`, and as another device sees it.

Owns the state machine that makes the same calls on a drive and on a plain directory, and compares each outcome; a few
short runs by default, as many long ones as `--any-calls` asks for (with `--hypothesis-seed` others each time).
"""

import mmap
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.mount.conftest import mount_options
from tests.mount.oracle import RENAME_EXCHANGE, RENAME_NOREPLACE, Entry, outcome, rename2, snapshot, walk
from tests.support.mounts import Device, Workbench, wait_until

PATHS = ("a", "b", "c", "d", "d/a", "d/b", "d/d", "d/d/a", "e", "e/a", "e/d")
DEFAULT_RUNS, DEFAULT_STEPS, LONG_STEPS = 8, 40, 120
MOST_OPEN = 6
OFFSETS = (0, 1, 100, 4095, 4096, 65_536, 70_000, 262_144, 900_000, 5_000_000)
SIZES = (0, 1, 50, 4096, 5000, 65_536, 65_537, 300_000)
FLAGS = (
    os.O_RDONLY,
    os.O_RDWR,
    os.O_RDWR | os.O_CREAT,
    os.O_RDWR | os.O_CREAT | os.O_EXCL,
    os.O_RDWR | os.O_CREAT | os.O_TRUNC,
    os.O_WRONLY | os.O_TRUNC,
    os.O_RDWR | os.O_APPEND,
    os.O_RDWR | os.O_NOFOLLOW,
    os.O_RDONLY | os.O_DIRECTORY,
)
BEGIN_NS = 10**18
"""Times that the machine sets are before this, all others after it."""
SEEN_SECONDS = 60.0

new_paths = st.sampled_from(PATHS)
"""Whatever is there, or not."""
paths = st.sampled_from(range(1000))
"""Mostly something that is there: `Machine._path` says what."""
offsets, sizes = st.sampled_from(OFFSETS), st.sampled_from(SIZES)
fills = st.integers(1, 255)
xattr_names = st.sampled_from(["user.one", "user.two"])
which = st.sampled_from(range(60))


class Both(NamedTuple):
    """The same file, open on both sides."""

    drive: int
    oracle: int


def pattern(fill: int, size: int) -> bytes:
    """Bytes that tell where they were written, and by which call."""
    return b"".join(bytes([(fill + at // 512) % 256]) * min(512, size - at) for at in range(0, size, 512))


def time_of(ns: int) -> int:
    """A time that can be compared: the two sides are not written at one moment."""
    return min(ns, BEGIN_NS)


def looks(found: os.stat_result) -> tuple[int, ...]:
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return found.st_mode, found.st_nlink, found.st_uid, found.st_gid, size, time_of(found.st_mtime_ns)


class Machine(RuleBasedStateMachine):
    """One directory of the drive, and one beside it."""

    def __init__(self, workbench: Workbench, devices: tuple[Device, Device]) -> None:
        super().__init__()
        self._workbench = workbench
        self._device, self._other = devices
        self._open: list[Both] = []

    @initialize()
    def begin(self) -> None:
        self._workbench.watchdog.restart()
        self._drive = Path(tempfile.mkdtemp(dir=self._device.mountpoint))
        self._oracle = Path(tempfile.mkdtemp(dir=self._workbench.home))
        self._steps_since = 0
        for root in (self._drive, self._oracle):
            furnish(root)
        self._open = [
            Both(*(os.open(root / name, os.O_RDWR) for root in (self._drive, self._oracle))) for name in ("a", "d/a")
        ]

    def teardown(self) -> None:
        if hasattr(self, "_drive"):
            self._close_all()
            self._compare()
            self._meet()
            shutil.rmtree(self._drive)
            shutil.rmtree(self._oracle)

    def _path(self, number: int) -> str:
        """One that is there, or, now and then, one that may be."""
        there = sorted(os.path.relpath(path, os.fsencode(self._oracle)) for path in walk(os.fsencode(self._oracle)))
        return os.fsdecode(there[number % len(there)]) if there and number % 7 else PATHS[number % len(PATHS)]

    # What is compared

    def _call(self, operation: Callable[[Path], Any]) -> None:
        self._steps_since += 1
        expected, seen = outcome(operation, self._oracle), outcome(operation, self._drive)
        assert seen == expected, f"the drive: {seen!r:.300}; ext4: {expected!r:.300}"

    def _call_open(self, number: int, operation: Callable[[int], Any]) -> None:
        """The same through a descriptor."""
        both = self._open[number % len(self._open)]
        expected = outcome(lambda _: operation(both.oracle), self._oracle)
        seen = outcome(lambda _: operation(both.drive), self._drive)
        assert seen == expected, f"the drive: {seen!r:.300}; ext4: {expected!r:.300}"

    def _compare(self) -> None:
        seen, expected = tree(self._drive), tree(self._oracle)
        for path in seen.keys() | expected.keys():
            assert seen.get(path) == expected.get(path), f"{path!r}: {seen.get(path)}; ext4: {expected.get(path)}"

    def _meet(self) -> None:
        """What another device shows is the same, times included."""
        self._device.sync()
        there = self._other.mountpoint / self._drive.name

        def is_same() -> bool:
            return snapshot(there, times=True) == snapshot(self._drive, times=True)

        wait_until("another device shows the same", is_same, SEEN_SECONDS)
        assert links(there) == links(self._drive)

    def _close_all(self) -> None:
        while self._open:
            self._close(0)

    def _close(self, number: int) -> None:
        both = self._open.pop(number)
        os.close(both.drive)
        os.close(both.oracle)

    # Descriptors

    @rule(at=paths, flags=st.sampled_from(FLAGS), mode=st.sampled_from([0o644, 0o600]))
    def open(self, at: int, flags: int, mode: int) -> None:
        path = self._path(at)
        opened = [outcome(lambda root: os.open(root / path, flags, mode), root) for root in (self._drive, self._oracle)]
        if all(isinstance(each, int) for each in opened):
            self._open.append(Both(*opened))
            if len(self._open) > MOST_OPEN:
                self._close(0)
        else:
            assert opened[0] == opened[1], f"the drive: {opened[0]}; ext4: {opened[1]}"

    @precondition(lambda self: self._open)
    @rule(number=which)
    def close(self, number: int) -> None:
        self._close(number % len(self._open))

    @precondition(lambda self: self._open)
    @rule(number=which, offset=offsets, size=sizes, fill=fills)
    def write(self, number: int, offset: int, size: int, fill: int) -> None:
        self._call_open(number, lambda descriptor: os.pwrite(descriptor, pattern(fill, size), offset))

    @precondition(lambda self: self._open)
    @rule(number=which, size=sizes, fill=fills)
    def write_on(self, number: int, size: int, fill: int) -> None:
        self._call_open(number, lambda descriptor: os.write(descriptor, pattern(fill, size)))

    @precondition(lambda self: self._open)
    @rule(number=which, offset=offsets, size=sizes)
    def read(self, number: int, offset: int, size: int) -> None:
        self._call_open(number, lambda descriptor: os.pread(descriptor, size, offset))

    @precondition(lambda self: self._open)
    @rule(number=which, size=st.sampled_from(OFFSETS))
    def truncate_open(self, number: int, size: int) -> None:
        self._call_open(number, lambda descriptor: os.ftruncate(descriptor, size))

    @precondition(lambda self: self._open)
    @rule(number=which)
    def sync(self, number: int) -> None:
        self._call_open(number, os.fsync)

    @precondition(lambda self: self._open)
    @rule(number=which)
    def stat_open(self, number: int) -> None:
        self._call_open(number, lambda descriptor: looks(os.fstat(descriptor)))

    @precondition(lambda self: self._open)
    @rule(number=which, fill=fills)
    def write_mapped(self, number: int, fill: int) -> None:
        def change(descriptor: int) -> object:
            size = os.fstat(descriptor).st_size
            if not size or stat.S_ISDIR(os.fstat(descriptor).st_mode):
                return "nothing to map"
            with mmap.mmap(descriptor, size) as mapped:
                mapped[size // 2 :] = pattern(fill, size - size // 2)
                mapped.flush()
                return mapped[: 2 * 4096]

        self._call_open(number, change)

    @precondition(lambda self: self._open)
    @rule(number=which, other=which, offset=offsets, size=sizes)
    def copy_range(self, number: int, other: int, offset: int, size: int) -> None:
        target = self._open[other % len(self._open)]
        source = self._open[number % len(self._open)]
        if source is target:
            return
        self._call(
            lambda root: os.copy_file_range(source[root is self._oracle], target[root is self._oracle], size, 0, offset)
        )

    # Names

    @rule(path=new_paths, mode=st.sampled_from([0o755, 0o700]))
    def mkdir(self, path: str, mode: int) -> None:
        self._call(lambda root: os.mkdir(root / path, mode))

    @rule(at=paths)
    def rmdir(self, at: int) -> None:
        path = self._path(at)
        self._call(lambda root: os.rmdir(root / path))

    @rule(at=paths)
    def unlink(self, at: int) -> None:
        path = self._path(at)
        self._call(lambda root: os.unlink(root / path))

    @rule(at=paths, new=new_paths)
    def rename(self, at: int, new: str) -> None:
        old = self._path(at)
        self._call(lambda root: os.rename(root / old, root / new))

    @rule(at=paths, new=new_paths, flags=st.sampled_from([RENAME_NOREPLACE, RENAME_EXCHANGE]))
    def rename_with(self, at: int, new: str, flags: int) -> None:
        old = self._path(at)
        self._call(lambda root: rename2(root / old, root / new, flags))

    @rule(at=paths, new=new_paths)
    def link(self, at: int, new: str) -> None:
        old = self._path(at)
        self._call(lambda root: os.link(root / old, root / new, follow_symlinks=False))

    @rule(to=new_paths, path=new_paths)
    def symlink(self, to: str, path: str) -> None:
        self._call(lambda root: os.symlink(to, root / path))

    @rule(path=new_paths, kind=st.sampled_from([stat.S_IFIFO, stat.S_IFREG, stat.S_IFSOCK]))
    def mknod(self, path: str, kind: int) -> None:
        self._call(lambda root: os.mknod(root / path, kind | 0o640))

    @rule(at=paths)
    def list(self, at: int) -> None:
        path = self._path(at)
        self._call(lambda root: sorted(os.listdir(root / path)))

    @rule(at=paths)
    def stat(self, at: int) -> None:
        path = self._path(at)
        self._call(lambda root: looks(os.lstat(root / path)))

    # Whole saves, as programs make them

    @rule(path=new_paths, size=sizes, fill=fills)
    def save_by_rename(self, path: str, size: int, fill: int) -> None:
        def save(root: Path) -> None:
            (root / "new").write_bytes(pattern(fill, size))
            os.rename(root / "new", root / path)

        self._call(save)
        self._call(lambda root: (root / "new").unlink(missing_ok=True))

    @rule(at=paths, size=sizes, fill=fills)
    def save_by_exchange(self, at: int, size: int, fill: int) -> None:
        path = self._path(at)

        def save(root: Path) -> None:
            (root / "new").write_bytes(pattern(fill, size))
            rename2(root / "new", root / path, RENAME_EXCHANGE)

        self._call(save)
        self._call(lambda root: (root / "new").unlink(missing_ok=True))

    @rule(at=paths, size=sizes, fill=fills)
    def save_aside(self, at: int, size: int, fill: int) -> None:
        path = self._path(at)

        def save(root: Path) -> None:
            os.rename(root / path, root / f"{path}~")
            (root / path).write_bytes(pattern(fill, size))
            os.unlink(root / f"{path}~")

        self._call(save)

    # Attributes

    @rule(at=paths, size=st.sampled_from(OFFSETS))
    def truncate(self, at: int, size: int) -> None:
        path = self._path(at)
        self._call(lambda root: os.truncate(root / path, size))

    @rule(at=paths, mode=st.sampled_from([0o700, 0o644, 0o2755, 0o4711, 0o1777]))
    def chmod(self, at: int, mode: int) -> None:
        path = self._path(at)
        self._call(lambda root: os.chmod(root / path, mode))

    @rule(at=paths, owner=st.sampled_from([-1, 0, 61001]), group=st.sampled_from([-1, 0, 61002]))
    def chown(self, at: int, owner: int, group: int) -> None:
        path = self._path(at)
        self._call(lambda root: os.lchown(root / path, owner, group))

    @rule(at=paths, seconds=st.integers(0, 10**9 - 1), nanoseconds=st.sampled_from([0, 1, 999_999_999]))
    def set_times(self, at: int, seconds: int, nanoseconds: int) -> None:
        path = self._path(at)
        times = (1, seconds * 10**9 + nanoseconds)
        self._call(lambda root: os.utime(root / path, ns=times, follow_symlinks=False))

    @rule(at=paths, name=xattr_names, value=st.binary(max_size=40), flags=st.sampled_from([0, 1, 2]))
    def set_xattr(self, at: int, name: str, value: bytes, flags: int) -> None:
        path = self._path(at)
        self._call(lambda root: os.setxattr(root / path, name, value, flags))

    @rule(at=paths, name=xattr_names)
    def get_xattr(self, at: int, name: str) -> None:
        path = self._path(at)
        self._call(lambda root: os.getxattr(root / path, name))

    @rule(at=paths, name=xattr_names)
    def remove_xattr(self, at: int, name: str) -> None:
        path = self._path(at)
        self._call(lambda root: os.removexattr(root / path, name))

    # The whole

    @rule()
    def compare(self) -> None:
        self._compare()

    @rule(seconds=st.sampled_from([0.05, 0.3]))
    def wait(self, seconds: float) -> None:
        """What was closed is published meanwhile."""
        time.sleep(seconds)

    @precondition(lambda self: self._steps_since >= 20)
    @rule(how=st.sampled_from(["kill", "kill", "umount", "cache deleted"]))
    def remount(self, how: str) -> None:
        self._close_all()
        if how == "kill":
            self._device.kill()
        else:
            self._device.umount("--now")
        if how == "cache deleted":
            shutil.rmtree(self._device.directories["XDG_CACHE_HOME"] / "drivefs")
        self._device.mount(*mount_options())
        self._compare()
        self._steps_since = 0

    @precondition(lambda self: self._steps_since >= 20)
    @rule()
    def meet(self) -> None:
        self._meet()
        self._steps_since = 0


def furnish(root: Path) -> None:
    (root / "a").write_bytes(pattern(1, 5000))
    (root / "b").write_bytes(b"b")
    (root / "d/d").mkdir(parents=True)
    (root / "d/a").write_bytes(pattern(2, 100_000))
    (root / "c").symlink_to("d/a")
    (root / "e").mkdir()
    os.link(root / "b", root / "e/a")


def tree(root: Path) -> dict[bytes, tuple[Entry, int]]:
    """All entries with their times, as far as those can be compared."""
    times = {os.path.relpath(path, os.fsencode(root)): os.lstat(path).st_mtime_ns for path in walk(os.fsencode(root))}
    return {path: (entry, time_of(times[path])) for path, entry in snapshot(root).items()}


def links(root: Path) -> list[list[bytes]]:
    """Which names are one inode."""
    names: dict[int, list[bytes]] = {}
    for path in walk(os.fsencode(root)):
        names.setdefault(os.lstat(path).st_ino, []).append(os.path.relpath(path, os.fsencode(root)))
    return sorted(sorted(each) for each in names.values() if len(each) > 1)


@pytest.fixture
def two_devices(workbench: Workbench) -> tuple[Device, Device]:
    server = workbench.server()
    first, second = workbench.device(server), workbench.device(server)
    first.mount(*mount_options())
    second.mount(*mount_options())
    return first, second


def test_any_calls_come_out_as_on_ext4(
    workbench: Workbench, two_devices: tuple[Device, Device], request: pytest.FixtureRequest
) -> None:
    """[any-calls]"""
    runs = request.config.getoption("--any-calls")
    settled = settings(
        max_examples=runs or DEFAULT_RUNS,
        stateful_step_count=LONG_STEPS if runs else DEFAULT_STEPS,
        derandomize=not runs,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    run_state_machine_as_test(lambda: Machine(workbench, two_devices), settings=settled)
    for device in two_devices:
        device.umount()
        device.assert_sound()
    two_devices[0].server.assert_sound()
