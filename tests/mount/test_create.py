"""Creating files and opening them, with every flag, held against ext4.

Owns the section "Creating and opening" of SEMANTICS.md.
"""

import errno
import mmap
import os
import stat
from pathlib import Path

import pytest

from tests.mount.oracle import ALICE, Pair, Refused, User, write_file


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def close_after(descriptor: int) -> str:
    os.close(descriptor)
    return "opened"


def test_created_file_is_there_and_empty(both: Pair) -> None:
    """[create-new]"""

    def create(root: Path) -> tuple[object, ...]:
        os.close(os.open(root / "new", os.O_CREAT | os.O_WRONLY, 0o640))
        found = (root / "new").lstat()
        return stat.S_IFMT(found.st_mode), found.st_size, found.st_nlink, found.st_uid, found.st_gid, os.listdir(root)

    assert both(create) == (stat.S_IFREG, 0, 1, os.geteuid(), os.getegid(), ["new"])


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_umask_takes_bits_away(both: Pair, umask: int) -> None:
    """[create-umask]"""

    def create(root: Path) -> tuple[int, int]:
        before = os.umask(umask)
        try:
            os.close(os.open(root / "file", os.O_CREAT | os.O_WRONLY, 0o666))
            os.mkdir(root / "directory", 0o777)
        finally:
            os.umask(before)
        return mode_of(root / "file"), mode_of(root / "directory")

    assert both(create) == (0o666 & ~umask, 0o777 & ~umask)


@pytest.mark.parametrize("there", ["file", "directory", "fifo", "dangling", "link"])
def test_exclusive_create_refuses_any_existing_name(both: Pair, there: str) -> None:
    """[create-excl]"""

    def create(root: Path) -> str:
        write_file(root / "file")
        (root / "directory").mkdir()
        os.mkfifo(root / "fifo")
        (root / "dangling").symlink_to("nowhere")
        (root / "link").symlink_to("file")
        return close_after(os.open(root / there, os.O_CREAT | os.O_EXCL | os.O_WRONLY))

    assert both(create) == Refused("EEXIST")


def test_exclusive_create_makes_what_is_missing(both: Pair) -> None:
    """[create-excl]"""
    assert both(lambda root: close_after(os.open(root / "x", os.O_CREAT | os.O_EXCL | os.O_RDWR))) == "opened"


def test_create_of_existing_file_leaves_it_alone(both: Pair) -> None:
    """[create-existing]"""

    def create(root: Path) -> tuple[bytes, int]:
        path = write_file(root / "file", b"kept", mode=0o600)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o777))
        return path.read_bytes(), mode_of(path)

    assert both(create) == (b"kept", 0o600)


def test_create_through_dangling_link_makes_its_target(both: Pair) -> None:
    """[create-existing]"""

    def create(root: Path) -> bytes:
        (root / "link").symlink_to("target")
        (root / "link").write_bytes(b"through the link")
        return (root / "target").read_bytes()

    assert both(create) == b"through the link"


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o400])
@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR])
def test_file_created_read_only_is_writable_by_its_creator(both: Pair, mode: int, flags: int) -> None:
    """[create-readonly-mode]"""

    def create(root: Path) -> tuple[int, int]:
        descriptor = os.open(root / "object", os.O_CREAT | os.O_EXCL | flags, mode)
        os.write(descriptor, b"content")
        os.ftruncate(descriptor, 4)
        os.fsync(descriptor)
        os.close(descriptor)
        found = (root / "object").stat()
        return stat.S_IMODE(found.st_mode), found.st_size

    assert both(create) == (mode, 4)


@pytest.mark.needs_root
def test_file_created_read_only_is_writable_by_a_plain_user(both: Pair) -> None:
    """[create-readonly-mode]"""

    def create(root: Path) -> tuple[int, bytes]:
        descriptor = os.open(root / "object", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o444)
        os.write(descriptor, b"content")
        os.close(descriptor)
        found = (root / "object").stat()
        return found.st_uid, (root / "object").read_bytes()

    assert both.as_user(ALICE, create) == (ALICE.uid, b"content")
    assert both.as_user(ALICE, lambda root: (root / "object").write_bytes(b"x")) == Refused("EACCES")


@pytest.mark.needs_root
def test_setgid_directory_hands_its_group_on(both: Pair) -> None:
    """[create-setgid-directory]"""

    def create(root: Path) -> list[tuple[int, int]]:
        parent = root / "parent"
        parent.mkdir()
        os.chown(parent, 0, 4711)
        parent.chmod(0o2777)
        member = User(uid=ALICE.uid, gid=ALICE.gid)

        def make(place: Path) -> None:
            os.close(os.open(place / "file", os.O_CREAT | os.O_WRONLY, 0o644))
            os.mkdir(place / "directory", 0o755)
            os.symlink("x", place / "link")
            os.mkfifo(place / "fifo")

        member.run(make, parent)
        found = [(parent / name).lstat() for name in ("file", "directory", "link", "fifo")]
        return [(each.st_gid, each.st_mode & stat.S_ISGID) for each in found]

    assert both(create) == [(4711, 0), (4711, stat.S_ISGID), (4711, 0), (4711, 0)]


def test_only_one_of_many_processes_creates_a_name(both: Pair) -> None:
    """[create-concurrent]"""
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            won = 0
            for number in range(50):
                try:
                    os.close(os.open(both.drive / f"lock{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                    won += 1
                except OSError as error:
                    if error.errno != errno.EEXIST:
                        os._exit(255)
            os._exit(won)
        children.append(child)
    won = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sum(won) == 50


@pytest.mark.parametrize(
    ("path", "expected"), [("missing", "ENOENT"), ("missing/x", "ENOENT"), ("file/x", "ENOTDIR"), ("file/", "ENOTDIR")]
)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDONLY | os.O_DIRECTORY])
def test_open_of_what_is_not_there(both: Pair, path: str, expected: str, flags: int) -> None:
    """[open-missing]"""

    def open_it(root: Path) -> str:
        write_file(root / "file")
        return close_after(os.open(f"{root}/{path}", flags))

    assert both(open_it) == Refused(expected)


def test_open_with_truncate_empties_and_moves_times(both: Pair) -> None:
    """[open-truncate]"""

    def empty(root: Path) -> tuple[int, bool, bool]:
        path = write_file(root / "file", b"x" * 100_000)
        os.utime(path, ns=(10**9, 10**9))
        before = path.stat().st_ctime_ns
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
        found = path.stat()
        return found.st_size, found.st_mtime_ns > 10**9, found.st_ctime_ns >= before

    assert both(empty) == (0, True, True)


def test_truncated_on_open_then_written_holds_only_the_new(both: Pair) -> None:
    """[open-truncate]"""

    def rewrite(root: Path) -> bytes:
        path = write_file(root / "file", b"old content, which is the longer one")
        path.write_bytes(b"new")
        return path.read_bytes()

    assert both(rewrite) == b"new"


def test_appends_of_many_processes_are_whole_and_none_is_lost(both: Pair) -> None:
    """[open-append]"""
    path = both.drive / "log"
    children = []
    for writer in range(6):
        child = os.fork()
        if child == 0:
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
            for line in range(100):
                os.write(descriptor, f"{writer}:{line}:{'x' * (line % 37)}\n".encode())
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    expected = {f"{writer}:{line}:{'x' * (line % 37)}" for writer in range(6) for line in range(100)}
    lines = path.read_text().splitlines()
    assert len(lines) == 600
    assert set(lines) == expected


def test_append_ignores_the_offset(both: Pair) -> None:
    """[open-append]"""

    def append(root: Path) -> tuple[bytes, int]:
        path = write_file(root / "file", b"begin ")
        other = os.open(path, os.O_WRONLY)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        os.pwrite(other, b"middle ", 6)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, b"end")
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.close(descriptor)
        os.close(other)
        return path.read_bytes(), place

    assert both(append) == (b"begin middle end", 16)


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        ("file", os.O_RDONLY | os.O_DIRECTORY, Refused("ENOTDIR")),
        ("directory", os.O_RDONLY | os.O_DIRECTORY, "opened"),
        ("directory", os.O_WRONLY, Refused("EISDIR")),
        ("directory", os.O_RDWR, Refused("EISDIR")),
        ("directory", os.O_RDONLY | os.O_CREAT, Refused("EISDIR")),
    ],
)
def test_directories_and_files_open_as_what_they_are(both: Pair, name: str, flags: int, expected: object) -> None:
    """[open-directory]"""

    def open_it(root: Path) -> str:
        write_file(root / "file")
        (root / "directory").mkdir()
        return close_after(os.open(root / name, flags))

    assert both(open_it) == expected


def test_nofollow_refuses_links_at_the_end_only(both: Pair) -> None:
    """[open-nofollow]"""

    def prepare(root: Path) -> None:
        (root / "directory").mkdir()
        write_file(root / "directory" / "file")
        (root / "link").symlink_to("directory/file")
        (root / "way").symlink_to("directory")

    both(prepare)
    assert both(lambda root: close_after(os.open(root / "link", os.O_RDONLY | os.O_NOFOLLOW))) == Refused("ELOOP")
    assert both(lambda root: close_after(os.open(root / "way/file", os.O_RDONLY | os.O_NOFOLLOW))) == "opened"


def test_descriptor_does_only_what_it_was_opened_for(both: Pair) -> None:
    """[open-access-mode]"""
    both(lambda root: write_file(root / "file").name)

    def read_write_only(root: Path) -> bytes:
        descriptor = os.open(root / "file", os.O_WRONLY)
        try:
            return os.read(descriptor, 10)
        finally:
            os.close(descriptor)

    def write_read_only(root: Path) -> int:
        descriptor = os.open(root / "file", os.O_RDONLY)
        try:
            return os.write(descriptor, b"x")
        finally:
            os.close(descriptor)

    assert both(read_write_only) == Refused("EBADF")
    assert both(write_read_only) == Refused("EBADF")


def test_direct_descriptor_reads_and_writes_the_same_bytes(both: Pair) -> None:
    """[open-direct]"""
    path = write_file(both.drive / "file", b"a" * 8192)
    with mmap.mmap(-1, 8192) as aligned:
        descriptor = os.open(path, os.O_RDWR | os.O_DIRECT)
        assert os.readv(descriptor, [aligned]) == 8192
        assert aligned[:] == b"a" * 8192
        aligned[:4096] = b"b" * 4096
        assert os.pwritev(descriptor, [memoryview(aligned)[:4096]], 4096) == 4096
        os.close(descriptor)
    assert path.read_bytes() == b"a" * 4096 + b"b" * 4096


def test_path_descriptor_is_a_place_and_not_read(both: Pair) -> None:
    """[open-path]"""

    def use(root: Path) -> tuple[int, object]:
        write_file(root / "file", b"12345")
        descriptor = os.open(root / "file", os.O_PATH)
        size = os.fstat(descriptor).st_size
        try:
            read: object = os.read(descriptor, 5)
        except OSError as error:
            read = error.errno
        os.close(descriptor)
        return size, read

    assert both(use) == (5, errno.EBADF)


def test_calls_relative_to_a_renamed_directory_find_it(both: Pair) -> None:
    """[open-relative]"""

    def work(root: Path) -> tuple[list[str], bytes]:
        (root / "before").mkdir()
        place = os.open(root / "before", os.O_RDONLY | os.O_DIRECTORY)
        (root / "before").rename(root / "after")
        file = os.open("file", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=place)
        os.write(file, b"found")
        os.close(file)
        os.mkdir("inner", dir_fd=place)
        os.rename("file", "inner/moved", src_dir_fd=place, dst_dir_fd=place)
        os.close(place)
        return sorted(os.listdir(root / "after")), (root / "after/inner/moved").read_bytes()

    assert both(work) == (["inner"], b"found")


def test_unnamed_temporary_files_are_cleanly_refused(both: Pair) -> None:
    """[no-tmpfile]"""
    with pytest.raises(OSError, match="not supported") as refused:
        os.open(both.drive, os.O_TMPFILE | os.O_RDWR, 0o600)
    assert refused.value.errno == errno.EOPNOTSUPP
    assert os.listdir(both.drive) == []
