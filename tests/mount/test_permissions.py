"""What other users may do, held against ext4: each operation runs in a process of that user.

Owns the section "Permissions" of SEMANTICS.md.
"""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.mount.oracle import ALICE, BOB, CREW, Operation, Pair, Refused, User, write_file

pytestmark = pytest.mark.needs_root

ROOT = User(uid=0, gid=0)
STRANGER = User(uid=61003, gid=61003)


def give(path: Path, user: User, mode: int, group: int | None = None) -> Path:
    os.chown(path, user.uid, user.gid if group is None else group)
    path.chmod(mode)
    return path


def read_it(root: Path) -> bytes:
    return (root / "file").read_bytes()


def write_it(root: Path) -> None:
    os.close(os.open(root / "file", os.O_WRONLY))


def execute_it(root: Path) -> int:
    return subprocess.run([root / "file"], check=False).returncode


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o200, 0o100, 0o040, 0o020, 0o004, 0o002, 0o755, 0o511, 0o077, 0o640])
@pytest.mark.parametrize("operation", [read_it, write_it, execute_it])
@pytest.mark.parametrize("user", [ALICE, BOB, STRANGER, ROOT], ids=["owner", "member", "stranger", "root"])
def test_file_mode_decides(both: Pair, mode: int, operation: Operation, user: User) -> None:
    """[permission-file] [permission-groups] [permission-root]"""
    both(lambda root: give(write_file(root / "file", b"#!/bin/true\n"), ALICE, mode, CREW).name)
    both.as_user(user, operation)


def test_a_few_of_these_by_value(both: Pair) -> None:
    """[permission-file] [permission-groups] [permission-root]"""
    both(lambda root: give(write_file(root / "file"), ALICE, 0o040, CREW).name)
    assert both.as_user(BOB, read_it) == b"content"
    assert both.as_user(ALICE, read_it) == Refused("EACCES")
    assert both.as_user(ROOT, read_it) == b"content"
    assert both.as_user(ROOT, execute_it) == Refused("EACCES")


@pytest.mark.parametrize("mode", [0o0, 0o1, 0o2, 0o3, 0o4, 0o5, 0o6, 0o7])
@pytest.mark.parametrize("kind", ["list", "pass", "create", "remove", "rename", "stat inner"])
def test_directory_mode_decides(both: Pair, mode: int, kind: str) -> None:
    """[permission-directory]"""

    def prepare(root: Path) -> None:
        directory = root / "directory"
        directory.mkdir()
        write_file(directory / "inner", mode=0o666)
        directory.chmod(0o700 | mode)

    operations: dict[str, Operation] = {
        "list": lambda root: os.listdir(root / "directory"),
        "pass": lambda root: (root / "directory/inner").read_bytes(),
        "create": lambda root: os.mkdir(root / "directory/new"),
        "remove": lambda root: os.unlink(root / "directory/inner"),
        "rename": lambda root: os.rename(root / "directory/inner", root / "directory/other"),
        "stat inner": lambda root: (root / "directory/inner").stat().st_size,
    }
    both(prepare)
    both.as_user(ALICE, operations[kind])
    both.assert_same_tree()


@pytest.mark.parametrize("user", [ALICE, BOB, STRANGER], ids=["owner", "directory owner", "stranger"])
@pytest.mark.parametrize("kind", ["unlink", "rename", "replace", "rmdir"])
def test_sticky_directory_protects_entries(both: Pair, user: User, kind: str) -> None:
    """[permission-sticky]"""

    def prepare(root: Path) -> None:
        (root / "sticky").mkdir()
        give(write_file(root / "sticky/file"), ALICE, 0o666)
        (root / "sticky/directory").mkdir()
        give(root / "sticky/directory", ALICE, 0o777)
        give(root / "sticky", BOB, 0o1777)

    def work(root: Path) -> None:
        place = root / "sticky"
        if kind == "unlink":
            os.unlink(place / "file")
        elif kind == "rename":
            os.rename(place / "file", place / "renamed")
        elif kind == "rmdir":
            os.rmdir(place / "directory")
        else:
            write_file(place / f"mine{user.uid}")
            os.rename(place / f"mine{user.uid}", place / "file")

    both(prepare)
    expected = Refused("EPERM") if user is STRANGER else None
    assert both.as_user(user, work) == expected
    both.assert_same_tree()


def test_only_the_owner_changes_the_mode(both: Pair) -> None:
    """[permission-owner]"""
    both(lambda root: give(write_file(root / "file"), ALICE, 0o666, CREW).name)
    assert both.as_user(BOB, lambda root: (root / "file").chmod(0o777)) == Refused("EPERM")
    assert both.as_user(ALICE, lambda root: (root / "file").chmod(0o600)) is None
    assert both.as_user(ROOT, lambda root: (root / "file").chmod(0o640)) is None


def test_only_root_changes_the_owner(both: Pair) -> None:
    """[permission-owner]"""
    both(lambda root: give(write_file(root / "file"), BOB, 0o666).name)
    assert both.as_user(BOB, lambda root: os.chown(root / "file", ALICE.uid, -1)) == Refused("EPERM")
    assert both.as_user(BOB, lambda root: os.chown(root / "file", -1, CREW)) is None
    assert both.as_user(BOB, lambda root: os.chown(root / "file", -1, ALICE.gid)) == Refused("EPERM")
    assert both.as_user(ALICE, lambda root: os.chown(root / "file", -1, ALICE.gid)) == Refused("EPERM")
    assert both(lambda root: (root / "file").stat().st_gid) == CREW


@pytest.mark.parametrize("mode", [0o640, 0o754, 0o111])
@pytest.mark.parametrize("user", [ALICE, BOB, STRANGER, ROOT], ids=["owner", "member", "stranger", "root"])
def test_access_answers_as_the_calls_do(both: Pair, mode: int, user: User) -> None:
    """[permission-access]"""
    both(lambda root: give(write_file(root / "file"), ALICE, mode, CREW).name)
    answers = both.as_user(user, lambda root: [os.access(root / "file", ask) for ask in (os.R_OK, os.W_OK, os.X_OK)])
    assert len(answers) == 3


def test_new_files_of_others_are_theirs(both: Pair) -> None:
    """[permission-directory] [create-new]"""

    def work(root: Path) -> list[tuple[int, int]]:
        write_file(root / "file")
        (root / "directory").mkdir()
        (root / "link").symlink_to("file")
        os.mkfifo(root / "fifo")
        found = [(root / name).lstat() for name in ("file", "directory", "link", "fifo")]
        return [(each.st_uid, each.st_gid) for each in found]

    assert both.as_user(BOB, work) == [(BOB.uid, BOB.gid)] * 4
    both.assert_same_tree()


def test_xattrs_follow_the_mode(both: Pair) -> None:
    """[permission-file]"""
    both(lambda root: give(write_file(root / "file"), ALICE, 0o604).name)
    assert both.as_user(ALICE, lambda root: os.setxattr(root / "file", "user.x", b"1")) is None
    assert both.as_user(BOB, lambda root: os.getxattr(root / "file", "user.x")) == b"1"
    assert both.as_user(BOB, lambda root: os.setxattr(root / "file", "user.x", b"2")) == Refused("EACCES")
    assert both.as_user(BOB, lambda root: os.removexattr(root / "file", "user.x")) == Refused("EACCES")


def test_device_files_are_roots_to_make(both: Pair) -> None:
    """[permission-root]"""
    made = both.as_user(ALICE, lambda root: os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3)))
    assert made == Refused("EPERM")
