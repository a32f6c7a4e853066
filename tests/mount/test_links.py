"""Hard links, symbolic links and unlinking, held against ext4.

Owns the section "Links" of SEMANTICS.md.
"""

import os
from pathlib import Path

import pytest

from tests.mount.oracle import AT_FDCWD, Pair, Refused, call, write_file

AT_SYMLINK_FOLLOW = 0x400


def test_links_are_counted(both: Pair) -> None:
    """[link-count]"""

    def work(root: Path) -> list[int]:
        write_file(root / "one")
        (root / "directory").mkdir()
        counts = []
        for step in (
            lambda: os.link(root / "one", root / "two"),
            lambda: os.link(root / "two", root / "directory/three"),
            lambda: os.unlink(root / "one"),
            lambda: os.rename(root / "two", root / "directory/three"),
            lambda: write_file(root / "new"),
            lambda: os.rename(root / "new", root / "two"),
        ):
            step()
            counts.append((root / "directory/three" if len(counts) > 1 else root / "two").stat().st_nlink)
        return counts

    assert both(work) == [2, 3, 2, 2, 2, 1]
    both.assert_same_tree()


def test_subdirectories_are_counted(both: Pair) -> None:
    """[link-count]"""

    def work(root: Path) -> list[int]:
        counts = [root.stat().st_nlink]
        for name in "abc":
            (root / name).mkdir()
            counts.append(root.stat().st_nlink)
        write_file(root / "file")
        (root / "a").rmdir()
        os.rename(root / "b", root / "c/b")
        return [*counts, root.stat().st_nlink, (root / "c").stat().st_nlink]

    assert both(work) == [2, 3, 4, 5, 3, 3]


def test_all_names_are_one_file(both: Pair) -> None:
    """[link-same-file]"""

    def work(root: Path) -> tuple[bool, bytes, int]:
        write_file(root / "one", b"first")
        os.link(root / "one", root / "two")
        with open(root / "two", "ab") as file:
            file.write(b" and second")
        (root / "two").chmod(0o751)
        same = (root / "one").stat().st_ino == (root / "two").stat().st_ino
        os.unlink(root / "two")
        return same, (root / "one").read_bytes(), (root / "one").stat().st_mode & 0o777

    assert both(work) == (True, b"first and second", 0o751)


def test_links_to_links_and_special_files(both: Pair) -> None:
    """[link-same-file]"""

    def work(root: Path) -> tuple[str, int, int]:
        (root / "symlink").symlink_to("nowhere")
        os.mkfifo(root / "fifo")
        os.link(root / "symlink", root / "symlink2", follow_symlinks=False)
        os.link(root / "fifo", root / "fifo2")
        return os.readlink(root / "symlink2"), (root / "symlink").lstat().st_nlink, (root / "fifo").stat().st_nlink

    assert both(work) == ("nowhere", 2, 2)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("directory", "new", "EPERM"),
        ("file", "directory", "EEXIST"),
        ("file", "file", "EEXIST"),
        ("file", "dangling", "EEXIST"),
        ("missing", "new", "ENOENT"),
        ("file", "missing/new", "ENOENT"),
        ("file", "file/new", "ENOTDIR"),
        ("dangling/x", "new", "ENOENT"),
    ],
)
def test_links_that_are_refused(both: Pair, source: str, target: str, expected: str) -> None:
    """[link-errors]"""

    def work(root: Path) -> None:
        write_file(root / "file")
        (root / "directory").mkdir()
        (root / "dangling").symlink_to("nowhere")
        os.link(root / source, root / target)

    assert both(work) == Refused(expected)
    both.assert_same_tree()


def test_unlinked_open_file_cannot_be_linked_again(both: Pair) -> None:
    """[link-errors]"""

    def work(root: Path) -> None:
        with open(write_file(root / "file"), "rb") as file:
            os.unlink(root / "file")
            source = f"/proc/self/fd/{file.fileno()}".encode()
            call("linkat", AT_FDCWD, source, AT_FDCWD, os.fsencode(root / "again"), AT_SYMLINK_FOLLOW)

    assert both(work) == Refused("ENOENT")


def test_a_file_can_have_thousands_of_names(both: Pair) -> None:
    """[link-many]"""

    def work(root: Path) -> list[int]:
        write_file(root / "file")
        for number in range(2000):
            os.link(root / "file", root / str(number))
        counts = [(root / "file").stat().st_nlink]
        for number in range(200):
            os.unlink(root / str(number))
        return [*counts, (root / "1999").stat().st_nlink, len(os.listdir(root))]

    assert both(work) == [2001, 1801, 1801]


def test_unlinked_file_stays_whole_while_it_is_open(both: Pair) -> None:
    """[unlink-open]"""

    def work(root: Path) -> tuple[object, ...]:
        path = write_file(root / "file", b"0123456789")
        descriptor = os.open(path, os.O_RDWR)
        os.unlink(path)
        links, names = os.fstat(descriptor).st_nlink, os.listdir(root)
        os.pwrite(descriptor, b"x" * 100_000, 5)
        os.ftruncate(descriptor, 50_000)
        os.fchmod(descriptor, 0o600)
        os.fsync(descriptor)
        content = os.pread(descriptor, 200_000, 0)
        mode = os.fstat(descriptor).st_mode & 0o777
        os.close(descriptor)
        return links, names, content == b"01234" + b"x" * 49_995, mode, path.exists()

    assert both(work) == (0, [], True, 0o600, False)


@pytest.mark.fault(63)
def test_name_can_be_used_again_while_the_old_file_is_open(both: Pair) -> None:
    """[unlink-open]"""

    def work(root: Path) -> tuple[bytes, bytes]:
        path = write_file(root / "file", b"old")
        with open(path, "r+b") as old:
            os.unlink(path)
            write_file(path, b"new")
            old.seek(0, os.SEEK_END)
            old.write(b" and on")
            old.seek(0)
            return old.read(), path.read_bytes()

    assert both(work) == (b"old and on", b"new")


def test_file_created_and_unlinked_at_once_works_as_scratch_space(both: Pair) -> None:
    """[unlink-open]"""

    def work(root: Path) -> bytes:
        descriptor = os.open(root / "scratch", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        os.unlink(root / "scratch")
        os.write(descriptor, b"scratch")
        content = os.pread(descriptor, 10, 0)
        os.close(descriptor)
        return content

    assert both(work) == b"scratch"


@pytest.mark.parametrize(
    ("remove", "name", "expected"),
    [
        (os.unlink, "directory", "EISDIR"),
        (os.rmdir, "file", "ENOTDIR"),
        (os.rmdir, "link", "ENOTDIR"),
        (os.unlink, "missing", "ENOENT"),
        (os.rmdir, "missing", "ENOENT"),
        (os.unlink, "file/x", "ENOTDIR"),
        (os.unlink, "file/", "ENOTDIR"),
    ],
)
def test_removals_that_are_refused(both: Pair, remove: object, name: str, expected: str) -> None:
    """[unlink-errors]"""

    def work(root: Path) -> None:
        write_file(root / "file")
        (root / "directory").mkdir()
        (root / "link").symlink_to("directory")
        remove(f"{root}/{name}")  # type: ignore[operator]

    assert both(work) == Refused(expected)
    both.assert_same_tree()


@pytest.mark.parametrize("target", [b"x", b"/absolute/../path", b"../..", b"not \xff utf-8", "ünï".encode(), b"a" * 99])
def test_links_keep_their_target_byte_for_byte(both: Pair, target: bytes) -> None:
    """[symlink]"""

    def work(root: Path) -> tuple[bytes, int]:
        os.symlink(target, os.fsencode(root / "link"))
        return os.readlink(os.fsencode(root / "link")), (root / "link").lstat().st_size

    assert both(work) == (target, len(target))


def test_links_lead_to_files_and_directories(both: Pair) -> None:
    """[symlink]"""

    def work(root: Path) -> tuple[bytes, list[str], bool, object]:
        (root / "directory").mkdir()
        write_file(root / "directory/file", b"found")
        (root / "way").symlink_to("directory")
        (root / "link").symlink_to("way/file")
        (root / "dangling").symlink_to("missing")
        return (
            (root / "link").read_bytes(),
            os.listdir(root / "way"),
            (root / "link").is_symlink(),
            (root / "dangling").exists(),
        )

    assert both(work) == (b"found", ["file"], True, False)


def test_link_over_existing_name_is_refused(both: Pair) -> None:
    """[symlink]"""

    def work(root: Path) -> None:
        write_file(root / "file")
        os.symlink("x", root / "file")

    assert both(work) == Refused("EEXIST")


@pytest.mark.parametrize("follow", [os.stat, os.listdir, lambda path: os.open(path, os.O_RDONLY), os.chmod])
def test_circles_are_refused(both: Pair, follow: object) -> None:
    """[symlink-loop]"""

    def work(root: Path) -> object:
        (root / "one").symlink_to("two")
        (root / "two").symlink_to("one")
        arguments = [0o600] if follow is os.chmod else []
        return follow(root / "one", *arguments)  # type: ignore[operator]

    assert both(work) == Refused("ELOOP")


def test_targets_up_to_4095_bytes(both: Pair) -> None:
    """[symlink-length]"""
    longest = "/".join(["x" * 254] * 16) + "/" + "y" * 15
    assert len(longest) == 4095
    both(lambda root: os.symlink(longest, root / "link"))
    assert both(lambda root: os.readlink(root / "link")) == longest
    assert both(lambda root: os.symlink(longest + "z", root / "longer")) == Refused("ENAMETOOLONG")
    assert both(lambda root: os.symlink("", root / "empty")) == Refused("ENOENT")


@pytest.mark.parametrize(("name", "expected"), [("file", "EINVAL"), ("directory", "EINVAL"), ("missing", "ENOENT")])
def test_readlink_of_what_is_no_link(both: Pair, name: str, expected: str) -> None:
    """[readlink-errors]"""

    def work(root: Path) -> str:
        write_file(root / "file")
        (root / "directory").mkdir()
        return os.readlink(root / name)

    assert both(work) == Refused(expected)
