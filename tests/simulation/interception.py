"""Stands between the code and the disk: what it does to files below the root of a `SimDisk` is told to that disk.

Owns the replacement of the calls of `os` that write, sync or name files, and of the same within SQLite
(`sqlite_files`). Files themselves are real, so that nothing has to know that it is watched; a file object of Python
writes past this, and shows in what the files then hold. What lies below no root, as what is left of a process after its
machine has crashed, is let through. A sync does nothing but to tell the disk: the test's own files need none.
"""

import errno
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

from backend.service import garbage
from cache import redo, reserve, workspace
from tests.simulation.disk import ALONE, NO_SPACE, SimDisk
from tests.simulation.sqlite_files import gated

LOG_SUFFIXES = ("-wal", "-journal")

SMALL_SIZES = {
    redo: {"SIZE_BYTES": 128 * 2**10, "MOST_SYNCED_BYTES": 64 * 2**10},
    reserve: {
        "RESERVE_BYTES": 2**20,
        "FLOOR_BYTES": 128 * 2**10,
        "LOW_BYTES": 64 * 2**10,
        "CREDIT_BYTES": 4096,
        "LOOK_EVERY": 1,
    },
    workspace: {"CHECKPOINT_BYTES": 128 * 2**10, "FINISH_BYTES": 512 * 2**10, "REST_BYTES": 16 * 2**10},
}


@contextmanager
def watching(*disks: SimDisk) -> Iterator[None]:
    """Within it, what is done below the roots of these disks reaches them as their files, and is told to them."""
    with ExitStack() as patched:
        watch = _Watch(disks)
        for name in watch.replaced:
            replacement = functools.partial(getattr(watch, name), getattr(os, name))
            patched.enter_context(mock.patch.object(os, name, replacement))
        patched.enter_context(gated(watch))
        yield


@contextmanager
def small_sizes() -> Iterator[None]:
    """Within it, a local state sets aside little, and copies its log often: it is quick to make, copy and crash."""
    with ExitStack() as patched:
        for module, sizes in SMALL_SIZES.items():
            for name, size in sizes.items():
                patched.enter_context(mock.patch.object(module, name, size))
        yield


@contextmanager
def hasty_collector(seconds: int) -> Iterator[None]:
    """Within it, blocks that nothing needs are condemned after so long, and deleted after as long again; 0: as ever."""
    changed = {"CONDEMN_SECONDS": seconds, "DELETE_SECONDS": seconds} if seconds else {}
    with mock.patch.multiple(garbage, **changed) if changed else nullcontext():
        yield


class _Watch:
    """The calls of `os`, each with the real one as its first argument, and the gate for SQLite."""

    replaced = (
        "fsync",
        "fdatasync",
        "open",
        "write",
        "pwrite",
        "truncate",
        "ftruncate",
        "posix_fallocate",
        "statvfs",
        "rename",
        "replace",
        "link",
        "mkdir",
        "unlink",
        "remove",
        "rmdir",
    )

    def __init__(self, disks: tuple[SimDisk, ...]) -> None:
        self._disks = disks

    def _disk(self, path: str) -> SimDisk | None:
        for disk in self._disks:
            root = str(disk.root)
            if path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
                return disk
        return None

    def _opened(self, descriptor: Any) -> tuple[SimDisk | None, str]:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        try:
            path = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            return None, ""
        disk = self._disk(path)
        return (disk if os.path.exists(path) else None), path

    def _named(self, path: Any, directory: int | None = None) -> tuple[SimDisk | None, str]:
        if isinstance(path, int):
            return self._opened(path)
        text = os.fsdecode(path)
        if directory is not None:
            text = os.path.join(self._opened(directory)[1], text)
        text = os.path.abspath(text)
        return self._disk(text), text

    # -- bytes -------------------------------------------------------------------------------------------------------

    def fsync(self, real: Callable[..., None], descriptor: Any) -> None:
        disk, path = self._opened(descriptor)
        if disk is None:
            return real(descriptor)
        with disk.doing("sync", path):
            disk.synced(path)
        return None

    fdatasync = fsync

    def write(self, real: Callable[..., int], descriptor: int, data: Any) -> int:
        return self._write(real, descriptor, data, lambda: os.lseek(descriptor, 0, os.SEEK_CUR), ())

    def pwrite(self, real: Callable[..., int], descriptor: int, data: Any, offset: int) -> int:
        return self._write(real, descriptor, data, lambda: offset, (offset,))

    def _write(
        self, real: Callable[..., int], descriptor: int, data: Any, offset: Callable[[], int], rest: tuple[int, ...]
    ) -> int:
        disk, path = self._opened(descriptor)
        if disk is None:
            return real(descriptor, data, *rest)
        with disk.doing("write", path):
            size, start, view = os.fstat(descriptor).st_size, offset(), memoryview(data).cast("B")
            growth = max(0, start + len(view) - size)
            admitted = disk.admit(growth)
            kept = len(view) - (growth - admitted)
            if kept <= 0 < len(view):
                raise OSError(*NO_SPACE.args)
            return real(descriptor, view[:kept], *rest)

    def truncate(self, real: Callable[..., None], path: Any, length: int) -> None:
        disk, name = self._named(path)
        if disk is None:
            return real(path, length)
        with disk.doing("resize", name):
            disk.admit(min(0, length - os.stat(name).st_size))
            return real(path, length)

    ftruncate = truncate

    def posix_fallocate(self, real: Callable[..., None], descriptor: int, offset: int, length: int) -> None:
        disk, path = self._opened(descriptor)
        if disk is None:
            return real(descriptor, offset, length)
        with disk.doing("resize", path):
            growth = max(0, offset + length - os.fstat(descriptor).st_size)
            if disk.admit(growth) < growth:
                raise OSError(*NO_SPACE.args)
            return real(descriptor, offset, length)

    def statvfs(self, real: Callable[..., os.statvfs_result], path: Any) -> os.statvfs_result:
        disk, found = self._named(path)[0], real(path)
        if disk is None or disk.room_bytes is None:
            return found
        fields = list(found)
        fields[3] = fields[4] = max(0, disk.room_bytes) // found.f_frsize
        return os.statvfs_result(fields)

    # -- names -------------------------------------------------------------------------------------------------------

    def open(self, real: Callable[..., int], path: Any, flags: int, *args: Any, **options: Any) -> int:
        disk, name = self._named(path, options.get("dir_fd"))
        if disk is None or not flags & os.O_CREAT or os.path.lexists(name):
            return real(path, flags, *args, **options)
        with disk.doing("create", name):
            return real(path, flags, *args, **options)

    def rename(self, real: Callable[..., None], source: Any, target: Any, **options: Any) -> None:
        disk, name = self._named(target, options.get("dst_dir_fd"))
        if disk is None:
            return real(source, target, **options)
        with disk.doing("rename to", name):
            is_same = os.path.lexists(name) and os.path.samefile(self._named(source)[1], name)
            self._forget(disk, name, is_going=not is_same)
            return real(source, target, **options)

    replace = rename

    def link(self, real: Callable[..., None], source: Any, target: Any, **options: Any) -> None:
        disk, name = self._named(target, options.get("dst_dir_fd"))
        if disk is None:
            return real(source, target, **options)
        if self._disk(os.path.realpath(self._named(source)[1])) is not disk:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        with disk.doing("link", name):
            return real(source, target, **options)

    def mkdir(self, real: Callable[..., None], path: Any, *args: Any, **options: Any) -> None:
        disk, name = self._named(path, options.get("dir_fd"))
        if disk is None or os.path.lexists(name):
            return real(path, *args, **options)
        with disk.doing("mkdir", name):
            return real(path, *args, **options)

    def unlink(self, real: Callable[..., None], path: Any, **options: Any) -> None:
        disk, name = self._named(path, options.get("dir_fd"))
        if disk is None or not os.path.lexists(name):
            return real(path, **options)
        with disk.doing("remove", name):
            self._forget(disk, name)
            return real(path, **options)

    remove = unlink
    rmdir = unlink

    def _forget(self, disk: SimDisk, path: str, *, is_going: bool = True) -> None:
        """The name is about to go: if it is the file's last one, so does its number, and its room."""
        if is_going and os.path.lexists(path):
            found = os.lstat(path)
            if found.st_nlink == 1 or os.path.isdir(path):
                disk.forget(found.st_ino)
                disk.admit(-found.st_size)

    # -- SQLite ------------------------------------------------------------------------------------------------------

    def wrote(self, path: str, end: int, work: Callable[[], None]) -> None:
        disk = self._disk(path)
        if disk is None or disk.is_indifferent:
            return work()
        with self._doing(disk, "write", path):
            growth = max(0, end - os.stat(path).st_size) if os.path.exists(path) else 0
            if disk.admit(growth) < growth:
                raise OSError(*NO_SPACE.args)
            return work()

    def resized(self, path: str, size: int, work: Callable[[], None]) -> None:
        disk = self._disk(path)
        if disk is None or disk.is_indifferent:
            return work()
        with self._doing(disk, "resize", path):
            if os.path.exists(path):
                disk.admit(min(0, size - os.stat(path).st_size))
            return work()

    def synced(self, path: str, work: Callable[[], None]) -> None:
        disk = self._disk(path)
        if disk is None:
            return work()
        with self._doing(disk, "sync", path):
            if os.path.exists(path):
                disk.synced(path)
                if path.endswith(LOG_SUFFIXES):
                    self._sync_name(disk, path)
        return None

    def _sync_name(self, disk: SimDisk, path: str) -> None:
        """SQLite syncs the directory of a log together with the log, the first time."""
        if not disk.has_durable_name(path):
            disk.synced(os.path.dirname(path))

    def removed(self, path: str, work: Callable[[], None], *, is_durable: bool) -> None:
        disk = self._disk(path)
        if disk is None or not os.path.exists(path):
            return work()
        with self._doing(disk, "remove", path):
            self._forget(disk, path)
            work()
            if is_durable:
                disk.synced(os.path.dirname(path))
        return None

    def _doing(self, disk: SimDisk, what: str, path: str) -> AbstractContextManager[None]:
        """As `SimDisk.doing`; what a test raises there cannot pass through SQLite's own code, and is kept."""
        return ALONE if disk.on_boundary is None else self._kept(disk, disk.doing(what, path))

    @contextmanager
    def _kept(self, disk: SimDisk, doing: AbstractContextManager[None]) -> Iterator[None]:
        try:
            with doing:
                yield
        except OSError:
            raise
        except BaseException as error:
            disk.pending = error
            raise OSError(errno.EIO, "the test raised something within SQLite") from error
