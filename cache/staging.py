"""Append-only files that hold written bytes until a revision has them.

Owns the files below `staging/`, named by a number that is never given out twice; knows nothing of what their bytes
mean (that is in the records). Invariants: bytes are only ever appended; a range that was handed out does not change
until its file is removed; a file is removed only after a barrier that came after its retirement.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from cache.durable import make_directory, sync_path
from cache.errors import CacheError, Corrupt, DiskFull, Poisoned
from cache.reserve import Reserve
from cache.sealing import digest
from drivefs.protocol.ids import InodeId

_T = TypeVar("_T")
MAX_OPEN_FILES = 128


class StagedRange(NamedTuple):
    """So many bytes at an offset of a staging file."""

    file: int
    offset: int
    length: int


class StagedFile:
    """An open staging file; `size` is where the next bytes go."""

    __slots__ = ("descriptor", "number", "size")

    def __init__(self, number: int, descriptor: int) -> None:
        self.number = number
        self.descriptor = descriptor
        self.size = 0


class Staging:
    """The files of one device.

    `used_bytes` counts all that were not removed yet; `on_rot` is called, from any thread, when bytes do not verify.
    """

    def __init__(
        self, directory: Path, *, take_number: Callable[[], int], reserve: Reserve, on_rot: Callable[[], None]
    ) -> None:
        self.directory = directory
        """Where the files are."""
        self._take_number = take_number
        self._reserve = reserve
        self._on_rot = on_rot
        self._appending: dict[InodeId, StagedFile] = {}
        self._begun: list[int] = []
        """Files begun since the last transaction of the journal began: no other one can have a record of them."""
        self._reading: dict[int, int] = {}
        self._dirty: set[int] = set()
        self._has_new_names = False
        self._comes_first = False
        self._under_way: list[PendingSync] = []
        self._retired: list[int] = []
        make_directory(directory)
        self._earlier = {path.name for path in self.paths()}
        self.used_bytes = 0
        self.recount()

    def paths(self) -> Iterator[Path]:
        """All staging files."""
        return self.directory.iterdir()

    def recount(self) -> None:
        """Count again what is there, after files were taken away from outside."""
        self.used_bytes = sum(path.stat().st_size for path in self.paths())

    def sync_earlier(self) -> None:
        """Make durable what a process left that died: nobody knows any more which of its bytes were, and which names.

        Comes before the log that names them is synced, as in each barrier; for a start, which may wait for the disk.
        """
        for path in self.paths():
            sync_path(path)
        sync_path(self.directory)

    @property
    def is_dirty(self) -> bool:
        """Whether bytes or names wait for a sync, or files to be removed after one."""
        return bool(self._dirty) or self._has_new_names or bool(self._retired)

    @property
    def comes_first(self) -> bool:
        """Whether what is not durable yet has to be before the log is; see `come_first`."""
        return self._comes_first or any(each.comes_first for each in self._under_way)

    def come_first(self) -> None:
        """Bytes that may not be durable yet stand in for others that are lost with the next sync of the log.

        That is to sync them too: a file that was replaced, or cut and written anew, is the old or the new one then.
        """
        self._comes_first = self._comes_first or bool(self._dirty or self._under_way)

    def path(self, file: int) -> Path:
        """Where a staging file lies."""
        return self.directory / f"{file:016x}"

    def is_earlier(self, file: int) -> bool:
        """Whether a file was there before this process: what was written then may have rotted since."""
        return self.path(file).name in self._earlier

    def current_file(self, inode: InodeId) -> int:
        """The file that takes the next bytes of an inode; 0: a new one."""
        found = self._appending.get(inode)
        return found.number if found else 0

    def append(self, inode: InodeId, data: bytes | memoryview) -> StagedRange:
        """Append bytes for an inode; they survive the death of the process, and a power cut after the next barrier.

        Raises:
            DiskFull: no room; nothing was kept.
            Poisoned: the disk failed.
        """
        self._reserve.admit(len(data))
        file = self._appending.get(inode) or self._begin_file(inode)
        try:
            write_all(file.descriptor, data, file.size)
        except OSError as error:
            self.roll(inode)
            raise refused(error) from error
        staged = StagedRange(file.number, file.size, len(data))
        file.size += len(data)
        self.used_bytes += len(data)
        self._dirty.add(file.number)
        return staged

    def _begin_file(self, inode: InodeId) -> StagedFile:
        while True:
            number = self._take_number()
            try:
                descriptor = os.open(self.path(number), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            except FileExistsError:
                continue
            except OSError as error:
                raise refused(error) from error
            break
        self._has_new_names = True
        self._begun.append(number)
        file = self._appending[inode] = StagedFile(number, descriptor)
        if len(self._appending) > MAX_OPEN_FILES:
            self.roll(next(iter(self._appending)))
        return file

    def keep_begun(self) -> None:
        """A transaction of the journal begins, or went well: what was begun until now stays."""
        self._begun.clear()

    def remove_begun(self) -> None:
        """The transaction was rolled back, and with it all that could name the files begun in it."""
        begun, self._begun = self._begun, []
        for file in begun:
            self.remove(file)

    def roll(self, inode: InodeId) -> None:
        """Let later bytes of an inode go to a new file, so that this one can be removed as a whole."""
        file = self._appending.pop(inode, None)
        if file is not None:
            os.close(file.descriptor)

    def read(self, staged: StagedRange, start: int, length: int) -> bytes:
        """Bytes `start` to `start + length` of a range, as they are: for serving what was just written.

        Raises:
            Corrupt: the file is gone or shorter than the range.
        """
        length = min(length, staged.length - start)
        descriptor = self._reading.get(staged.file)
        if descriptor is None:
            descriptor = self._open_for_reading(staged.file)
        data = os.pread(descriptor, length, staged.offset + start)
        if len(data) != length:
            raise Corrupt(f"staging file {staged.file:016x} is shorter than what was written to it")
        return data

    def _open_for_reading(self, file: int) -> int:
        try:
            descriptor = os.open(self.path(file), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Corrupt(f"staging file {file:016x} is gone") from error
        self._reading[file] = descriptor
        if len(self._reading) > MAX_OPEN_FILES:
            os.close(self._reading.pop(next(iter(self._reading))))
        return descriptor

    def load(self, staged: StagedRange, content: int) -> bytes:
        """The whole range, verified against its digest; uses no shared descriptor, so any thread may call it.

        Raises:
            Corrupt: the bytes are not those that were written.
        """
        data = self.peek(staged)
        self._verify(staged, data, content)
        assert data is not None, "it was verified"
        return data

    def load_into(self, staged: StagedRange, content: int, target: memoryview) -> None:
        """The same into memory that has just the room for it; what is there after a failure is of no meaning."""
        self._verify(staged, target if read_into(self.path(staged.file), staged, target) else None, content)

    def _verify(self, staged: StagedRange, data: bytes | memoryview | None, content: int) -> None:
        if data is None:
            self._on_rot()
            raise Corrupt(f"staging file {staged.file:016x} is gone, too short, or cannot be read")
        if digest(data) != content:
            self._on_rot()
            raise Corrupt(
                f"bytes at offset {staged.offset} of staging file {staged.file:016x} do not match their checksum"
            )

    def peek(self, staged: StagedRange) -> bytes | None:
        """The whole range as it is, or None if the file is gone or too short; for any thread."""
        return read_range(self.path(staged.file), staged)

    def remove(self, file: int) -> None:
        """Remove a file after the next barrier: until then a power cut could bring back records that need it."""
        for inode, appended in self._appending.items():
            if appended.number == file:
                self.roll(inode)
                break
        self._retired.append(file)
        # Nothing needs its bytes any more: syncing them would only keep the disk busy.
        self._dirty.discard(file)

    @property
    def has_retired(self) -> bool:
        """Whether files wait for a barrier to be removed."""
        return bool(self._retired)

    def nothing_to_sync(self) -> "PendingSync":
        """What a barrier of the WAL alone has to do with staging."""
        return PendingSync(self.directory, set(), has_new_names=False, comes_first=False, retired=[])

    def begin_sync(self) -> "PendingSync":
        """What a barrier that begins now has to sync, and what it may remove then.

        What another barrier is about to sync is not durable yet, and who waits for this one may have written it.
        """
        pending = PendingSync(
            self.directory,
            self._dirty.union(*(each.files for each in self._under_way)),
            has_new_names=self._has_new_names or any(each.has_new_names for each in self._under_way),
            comes_first=self.comes_first,
            retired=self._retired,
        )
        self._dirty = set()
        self._has_new_names = self._comes_first = False
        self._retired = []
        self._under_way.append(pending)
        return pending

    def _ended(self, pending: "PendingSync") -> None:
        self._under_way = [each for each in self._under_way if each is not pending]

    def sync_ended(self, pending: "PendingSync", removed_bytes: int) -> None:
        """The barrier went well."""
        self._ended(pending)
        for file in pending.retired:
            descriptor = self._reading.pop(file, None)
            if descriptor is not None:
                os.close(descriptor)
        self.used_bytes -= removed_bytes
        self._has_new_names |= bool(pending.retired)

    def sync_cancelled(self, pending: "PendingSync") -> None:
        """The barrier never ran: the next one has to do its work."""
        self._ended(pending)
        self._dirty |= pending.files
        self._comes_first = bool(self._dirty)
        self._has_new_names |= pending.has_new_names
        self._retired = pending.retired + self._retired

    def close(self) -> None:
        """Close all descriptors; the files stay."""
        for inode in list(self._appending):
            self.roll(inode)
        for descriptor in self._reading.values():
            os.close(descriptor)
        self._reading.clear()


class PendingSync(NamedTuple):
    """The part of a barrier that concerns staging; its methods are for a thread."""

    directory: Path
    files: set[int]
    has_new_names: bool
    comes_first: bool
    retired: list[int]

    def sync(self) -> None:
        """Make all bytes and names durable; comes before the sync of the WAL, whose records name them."""
        for file in sorted(self.files):
            sync_path(self.directory / f"{file:016x}")
        if self.has_new_names:
            sync_path(self.directory)

    def remove_retired(self) -> int:
        """Remove what nothing needs any more, and give its size; comes after the sync of the WAL."""
        removed_bytes = 0
        for file in self.retired:
            path = self.directory / f"{file:016x}"
            if path.exists():
                removed_bytes += path.stat().st_size
                path.unlink()
        return removed_bytes


def number_of(path: Path) -> int | None:
    """The number of a staging file, or None: it is not one."""
    name = path.name
    is_one = len(name) == 16 and set(name) <= set("0123456789abcdef") and stat.S_ISREG(path.lstat().st_mode)
    return int(name, 16) if is_one else None


def refused(error: OSError) -> CacheError:
    """Our error for a write that the disk refused."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE):
        return DiskFull(f"Written bytes could not be kept: {error.strerror}. Nothing was changed. Free some space.")
    return Poisoned(f"Written bytes could not be kept: {error.strerror}. Check the disk.")


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at an offset; a short write goes on or raises what stopped it."""
    written = os.pwrite(descriptor, data, offset)
    while written < len(data):
        written += os.pwrite(descriptor, memoryview(data)[written:], offset + written)


def read_range(path: Path, staged: StagedRange) -> bytes | None:
    """The bytes of a range, or None if the file is gone or too short, or the disk does not give them."""
    data = _read(path, lambda descriptor: os.pread(descriptor, staged.length, staged.offset))
    return data if data is not None and len(data) == staged.length else None


def read_into(path: Path, staged: StagedRange, target: memoryview) -> bool:
    """Read a range into memory of its length; False: the file is gone or too short, or the disk does not give it."""
    return _read(path, lambda descriptor: os.preadv(descriptor, [target], staged.offset)) == staged.length


def _read(path: Path, read: Callable[[int], _T]) -> _T | None:
    """What is read of a file; None: it is gone, or the disk fails to give it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return read(descriptor)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
    finally:
        os.close(descriptor)
