"""ext4 as the oracle: one operation on the drive and on a plain directory must come out the same.

Owns how outcomes and trees are compared and how an operation is run as another user. Knows nothing of mounts.
Invariant: an outcome holds only what both sides can share: no inode numbers, no times, no absolute paths.
"""

import ctypes
import errno
import hashlib
import os
import pickle
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4

Operation = Callable[[Path], Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """A system call that failed, by the name of its errno."""

    name: str


def outcome(operation: Operation, root: Path) -> Any:
    """What the operation returns, or how the kernel refused it."""
    try:
        return operation(root)
    except OSError as error:
        return Refused(errno.errorcode[error.errno or 0])


@dataclass(frozen=True, slots=True)
class Pair:
    """A directory of the drive and one of the oracle, alike at the start of each test."""

    drive: Path
    oracle: Path

    def __call__(self, operation: Operation) -> Any:
        """Run the operation on both, require the same outcome, and return it."""
        expected = outcome(operation, self.oracle)
        seen = outcome(operation, self.drive)
        assert seen == expected, f"the drive: {seen!r}; the oracle: {expected!r}"
        return seen

    def as_user(self, user: "User", operation: Operation) -> Any:
        """The same, as another user."""
        return self(lambda root: user.run(operation, root))

    def assert_same_tree(self) -> None:
        assert snapshot(self.drive) == snapshot(self.oracle)


@dataclass(frozen=True, slots=True)
class Entry:
    """All that a tree comparison looks at in one entry."""

    mode: int
    owner: tuple[int, int]
    links: int
    device: int
    mtime_ns: int
    content: str
    xattrs: tuple[tuple[str, bytes], ...]


def snapshot(root: Path, *, times: bool = False, seen: Callable[[], None] = lambda: None) -> dict[bytes, Entry]:
    """Every entry below `root` by its path; mtimes only where asked, since the two sides were not written at once.

    `seen` is called for each: where the tree may be so large that a watchdog would take it for a hanging mount.
    """
    found = {}
    for path in walk(os.fsencode(root)):
        seen()
        found[os.path.relpath(path, os.fsencode(root))] = describe(path, times=times)
    return found


def walk(root: bytes) -> Iterator[bytes]:
    """Every path below `root`, no link followed; an unreadable directory is an error and not an empty one."""
    with os.scandir(root) as entries:
        children = sorted(entries, key=lambda entry: entry.name)
    for entry in children:
        yield entry.path
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path)


def describe(path: bytes, *, times: bool) -> Entry:
    found = os.lstat(path)
    content = ""
    if stat.S_ISREG(found.st_mode):
        with open(path, "rb") as source:
            content = hashlib.file_digest(source, "sha256").hexdigest()
    elif stat.S_ISLNK(found.st_mode):
        content = os.readlink(path).hex()
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return Entry(
        mode=found.st_mode,
        owner=(found.st_uid, found.st_gid),
        links=1 if stat.S_ISDIR(found.st_mode) else found.st_nlink,
        device=found.st_rdev,
        mtime_ns=found.st_mtime_ns if times and not stat.S_ISDIR(found.st_mode) else 0,
        content=content,
        xattrs=tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names),
    )


@dataclass(frozen=True, slots=True)
class User:
    """Another user of this machine: needs no account, only numbers."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def run(self, operation: Operation, root: Path) -> Any:
        """Run the operation in a child process with this user's rights; return its result or raise its OSError."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._report(operation, root, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as source:
            reply = source.read()
        os.waitpid(child, 0)
        result = pickle.loads(reply)
        if isinstance(result, BaseException):
            raise result
        return result

    def _report(self, operation: Operation, root: Path, writing: int) -> None:
        """Send the result through the pipe and end the process, whatever happens."""
        try:
            os.setgroups(self.groups)
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
            result = operation(root)
        except BaseException as error:
            result = error
        try:
            os.write(writing, pickle.dumps(result))
        finally:
            os._exit(0)


ALICE = User(uid=61001, gid=61001)
BOB = User(uid=61002, gid=61002, groups=(61500,))
CREW = 61500
"""A group that only BOB is in, as a supplementary one."""


def call(function: str, *arguments: Any) -> int:
    """A function of the C library that Python does not offer; a failure is an OSError."""
    result = int(getattr(LIBC, function)(*arguments))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def rename2(source: Path, target: Path, flags: int) -> None:
    call("renameat2", AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags)


def write_file(path: Path, content: bytes = b"content", mode: int = 0o644) -> Path:
    """Create a file whatever the umask; return its path."""
    path.write_bytes(content)
    path.chmod(mode)
    return path
