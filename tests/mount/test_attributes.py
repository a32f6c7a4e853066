"""Modes, owners, times and statfs, held against ext4.

Owns the section "Attributes" of SEMANTICS.md.
Invariant: to see a time move, a test first sets it to the distant past; it never waits for a clock.
"""

import mmap
import os
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.oracle import ALICE, BOB, CREW, Operation, Pair, Refused, call, write_file
from tests.support.mounts import Device

PAST = 10**18
"""Nanoseconds since 1970: the year 2001."""


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("mode", [0o000, 0o111, 0o644, 0o700, 0o1777, 0o2755, 0o4755, 0o6711, 0o7777])
def test_chmod_sets_the_twelve_bits(both: Pair, mode: int) -> None:
    """[chmod]"""

    def work(root: Path) -> list[int]:
        write_file(root / "file")
        (root / "directory").mkdir()
        (root / "file").chmod(mode)
        (root / "directory").chmod(mode)
        descriptor = os.open(root / "file", os.O_RDONLY) if os.geteuid() == 0 or mode & 0o400 else -1
        if descriptor >= 0:
            os.fchmod(descriptor, mode ^ 0o022)
            os.close(descriptor)
        return [mode_of(root / "file"), mode_of(root / "directory")]

    both(work)
    assert mode_of(both.drive / "directory") == mode


def test_chmod_follows_links(both: Pair) -> None:
    """[chmod]"""

    def work(root: Path) -> tuple[int, int]:
        write_file(root / "file")
        (root / "link").symlink_to("file")
        os.chmod(root / "link", 0o604)
        return mode_of(root / "file"), mode_of(root / "link")

    assert both(work) == (0o604, 0o777)


@pytest.mark.needs_root
@pytest.mark.parametrize(("uid", "gid"), [(61001, 61002), (-1, 61002), (61001, -1), (-1, -1), (0, 0), (2**32 - 2, 5)])
def test_chown_sets_owner_and_group(both: Pair, uid: int, gid: int) -> None:
    """[chown]"""

    def work(root: Path) -> list[tuple[int, int]]:
        write_file(root / "file")
        (root / "link").symlink_to("file")
        (root / "directory").mkdir()
        os.chown(root / "file", 1234, 5678)
        os.chown(root / "file", uid, gid)
        os.lchown(root / "link", uid, gid)
        os.chown(root / "directory", uid, gid)
        found = [(root / name).lstat() for name in ("file", "link", "directory")]
        return [(each.st_uid, each.st_gid) for each in found]

    both(work)


@pytest.mark.needs_root
@pytest.mark.parametrize("mode", [0o6755, 0o6644, 0o2755, 0o2644, 0o4711, 0o7777])
@pytest.mark.parametrize("who", ["root", "owner"])
def test_chown_clears_set_id_bits(both: Pair, mode: int, who: str) -> None:
    """[setid-chown]"""

    def prepare(root: Path) -> None:
        write_file(root / "file")
        os.chown(root / "file", BOB.uid, BOB.gid)
        (root / "file").chmod(mode)

    def change(root: Path) -> None:
        os.chown(root / "file", -1, CREW)

    both(prepare)
    both(change) if who == "root" else both.as_user(BOB, change)
    both.assert_same_tree()


@pytest.mark.needs_root
@pytest.mark.parametrize("mode", [0o6777, 0o4777, 0o2777, 0o4666])
@pytest.mark.parametrize("change", ["write", "truncate", "ftruncate", "open"])
@pytest.mark.parametrize("who", ["root", "other"])
def test_writes_clear_set_id_bits(both: Pair, mode: int, change: str, who: str) -> None:
    """[setid-write]"""

    def prepare(root: Path) -> None:
        write_file(root / "file", mode=mode)

    def work(root: Path) -> None:
        if change == "truncate":
            os.truncate(root / "file", 3)
            return
        flags = os.O_WRONLY | (os.O_TRUNC if change == "open" else 0)
        descriptor = os.open(root / "file", flags)
        if change == "write":
            os.write(descriptor, b"x")
        elif change == "ftruncate":
            os.ftruncate(descriptor, 3)
        os.close(descriptor)

    both(prepare)
    both(work) if who == "root" else both.as_user(ALICE, work)
    both.assert_same_tree()


@pytest.mark.needs_root
@pytest.mark.parametrize("flag", [0, os.O_DIRECT])
def test_who_asks_for_the_mode_alone_sees_set_id_bits_cleared(both: Pair, flag: int) -> None:
    """[setid-write] The kernel believes what it has, and `execve` goes by it too, unless it may not keep it."""

    def modes(root: Path) -> list[str]:
        path = write_file(root / "file", mode=0o6777)
        shown = ["stat", "-c", "%a", str(path)]

        def write(root: Path) -> None:
            descriptor = os.open(path, os.O_WRONLY | flag)
            with mmap.mmap(-1, 4096) as page:
                os.write(descriptor, page)
            os.close(descriptor)

        before = subprocess.check_output(shown, text=True)
        ALICE.run(write, root)
        return [before, subprocess.check_output(shown, text=True)]

    assert both(modes) == ["6777\n", "777\n"]


@pytest.mark.needs_root
@pytest.mark.parametrize(("mode", "left"), [(0o2666, 0o2666), (0o6666, 0o2666)])
def test_set_group_id_that_gives_no_right_stays(both: Pair, mode: int, left: int) -> None:
    """[setgid-without-execution]"""
    path = write_file(both.drive / "file", mode=mode)
    ALICE.run(lambda root: os.truncate(root / "file", 3), both.drive)
    assert stat.S_IMODE(path.stat().st_mode) == left


@pytest.mark.needs_root
def test_setgid_needs_membership(both: Pair) -> None:
    """[setgid-chmod]"""

    def work(root: Path) -> None:
        for name, group in [("member", CREW), ("stranger", 61999)]:
            write_file(root / name)
            os.chown(root / name, BOB.uid, group)

    both(work)
    both.as_user(BOB, lambda root: (root / "member").chmod(0o2755))
    both.as_user(BOB, lambda root: (root / "stranger").chmod(0o2755))
    assert both(lambda root: [mode_of(root / "member"), mode_of(root / "stranger")]) == [0o2755, 0o755]


@pytest.mark.parametrize("seconds", [0, 1, -1, 10**9, 2**31 + 5, 2**32 + 7, -(2**30)])
@pytest.mark.parametrize("name", ["file", "directory", "fifo"])
def test_times_are_kept_to_the_nanosecond(both: Pair, seconds: int, name: str) -> None:
    """[utimens]"""

    def work(root: Path) -> tuple[int, int]:
        write_file(root / "file")
        (root / "directory").mkdir()
        os.mkfifo(root / "fifo")
        os.utime(root / name, ns=(seconds * 10**9 + 123_456_789, seconds * 10**9 + 987_654_321))
        found = (root / name).stat()
        return found.st_atime_ns, found.st_mtime_ns

    assert both(work) == (seconds * 10**9 + 123_456_789, seconds * 10**9 + 987_654_321)


def test_times_of_links_themselves(both: Pair) -> None:
    """[utimens]"""

    def work(root: Path) -> tuple[int, int]:
        write_file(root / "file")
        os.utime(root / "file", ns=(PAST, PAST))
        (root / "link").symlink_to("file")
        os.utime(root / "link", ns=(PAST + 1, PAST + 2), follow_symlinks=False)
        return (root / "link").lstat().st_mtime_ns, (root / "file").stat().st_mtime_ns

    assert both(work) == (PAST + 2, PAST)


@pytest.mark.parametrize(("omitted", "expected"), [("atime", (PAST, 7)), ("mtime", (7, PAST)), ("both", (PAST, PAST))])
def test_omitted_times_stay(both: Pair, omitted: str, expected: tuple[int, int]) -> None:
    """[utimens]"""
    omit = (1 << 30) - 2
    atime = omit if omitted in ("atime", "both") else 7
    mtime = omit if omitted in ("mtime", "both") else 7

    def work(root: Path) -> tuple[int, int]:
        path = write_file(root / "file")
        os.utime(path, ns=(PAST, PAST))
        call("utimensat", -100, os.fsencode(path), struct.pack("qqqq", 0, atime, 0, mtime), 0)
        found = path.stat()
        return found.st_atime_ns, found.st_mtime_ns

    assert both(work) == expected


def test_now_sets_both_times(both: Pair) -> None:
    """[utimens]"""

    def work(root: Path) -> tuple[bool, bool]:
        path = write_file(root / "file")
        os.utime(path, ns=(PAST, PAST))
        os.utime(path)
        found = path.stat()
        return found.st_mtime_ns > PAST, found.st_atime_ns > PAST

    assert both(work) == (True, True)


@pytest.mark.needs_root
@pytest.mark.parametrize("mode", [0o666, 0o644])
def test_who_may_set_times(both: Pair, mode: int) -> None:
    """[utimens-permission]"""
    both(lambda root: write_file(root / "file", mode=mode).name)
    explicit = both.as_user(ALICE, lambda root: os.utime(root / "file", ns=(1, 1)))
    now = both.as_user(ALICE, lambda root: os.utime(root / "file"))
    assert (explicit, now) == (Refused("EPERM"), None if mode == 0o666 else Refused("EACCES"))


def moved(change: Callable[[Path], object], watched: str = "file") -> Operation:
    """Which times of `watched` the change moves, as letters; the ctime by having to be later than before."""

    def work(root: Path) -> str:
        write_file(root / "file", b"0123456789")
        os.link(root / "file", root / "second")
        (root / "directory").mkdir()
        write_file(root / "directory/inner")
        os.utime(root / watched, ns=(PAST, PAST))
        before = (root / watched).stat()
        wait_for_a_later_clock(root)
        change(root)
        after = (root / watched).stat()
        letters = ""
        for letter in "amc":
            name = f"st_{letter}time_ns"
            letters += letter if getattr(after, name) != getattr(before, name) else ""
        return letters

    return work


def wait_for_a_later_clock(root: Path) -> None:
    """The kernel's clock for file times is coarse: go on when it has ticked."""
    probe = root.parent / "probe"
    probe.mkdir(exist_ok=True)
    write_file(probe / "one")
    first = (probe / "one").stat().st_ctime_ns
    while write_file(probe / "one").stat().st_ctime_ns == first:
        pass


def write_bytes(root: Path) -> None:
    descriptor = os.open(root / "file", os.O_WRONLY)
    os.write(descriptor, b"x")
    os.close(descriptor)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (write_bytes, "mc"),
        (lambda root: os.truncate(root / "file", 3), "mc"),
        (lambda root: os.truncate(root / "file", 100), "mc"),
        (lambda root: os.truncate(root / "file", 10), "mc"),
        (lambda root: os.close(os.open(root / "file", os.O_WRONLY)), ""),
        (lambda root: os.close(os.open(root / "file", os.O_WRONLY | os.O_TRUNC)), "mc"),
    ],
    ids=["write", "shrink", "grow", "same size", "open only", "open and truncate"],
)
def test_writes_move_mtime_and_ctime(both: Pair, change: Callable[[Path], object], expected: str) -> None:
    """[times-write]"""
    assert both(moved(change)) == expected


def test_reads_move_nothing(both: Pair) -> None:
    """[times-write] [atime]"""
    assert moved(lambda root: (root / "file").read_bytes())(both.drive) == ""


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "file").chmod(0o600),
        lambda root: os.chown(root / "file", os.getuid(), os.getgid()),
        lambda root: os.link(root / "file", root / "third"),
        lambda root: os.unlink(root / "second"),
        lambda root: os.rename(write_file(root / "new"), root / "second"),
        lambda root: os.rename(root / "second", root / "renamed"),
        lambda root: os.setxattr(root / "file", "user.x", b"x"),
    ],
    ids=["chmod", "chown", "link", "unlink", "replace", "rename", "setxattr"],
)
def test_changes_of_the_inode_move_ctime_only(both: Pair, change: Callable[[Path], object]) -> None:
    """[times-change]"""
    assert both(moved(change)) == "c"


@pytest.mark.parametrize(
    "change",
    [
        lambda root: write_file(root / "directory/new"),
        lambda root: os.mkdir(root / "directory/new"),
        lambda root: os.symlink("x", root / "directory/new"),
        lambda root: os.mkfifo(root / "directory/new"),
        lambda root: os.link(root / "file", root / "directory/new"),
        lambda root: os.unlink(root / "directory/inner"),
        lambda root: os.rename(root / "directory/inner", root / "directory/renamed"),
        lambda root: os.rename(root / "directory/inner", root / "out"),
        lambda root: os.rename(root / "file", root / "directory/in"),
        lambda root: os.rename(root / "file", root / "directory/inner"),
    ],
    ids=["create", "mkdir", "symlink", "mkfifo", "link", "unlink", "rename", "move out", "move in", "replace"],
)
def test_changes_of_entries_move_the_times_of_their_directory(both: Pair, change: Callable[[Path], object]) -> None:
    """[times-directory]"""
    assert both(moved(change, "directory")) == "mc"


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "directory/inner").write_bytes(b"changed"),
        lambda root: (root / "directory/inner").chmod(0o600),
        lambda root: (root / "directory/inner").stat(),
    ],
    ids=["write", "chmod", "stat"],
)
def test_changes_inside_an_entry_leave_its_directory(both: Pair, change: Callable[[Path], object]) -> None:
    """[times-directory]"""
    assert both(moved(change, "directory")) == ""


def test_stat_by_path_descriptor_and_listing_agree(both: Pair) -> None:
    """[stat-same]"""
    write_file(both.drive / "file")
    (both.drive / "directory").mkdir()
    (both.drive / "link").symlink_to("file")
    os.mkfifo(both.drive / "fifo")
    with os.scandir(both.drive) as entries:
        for entry in entries:
            found = os.lstat(entry.path)
            assert entry.inode() == found.st_ino
            assert (entry.is_file(follow_symlinks=False), entry.is_dir(follow_symlinks=False), entry.is_symlink()) == (
                stat.S_ISREG(found.st_mode),
                stat.S_ISDIR(found.st_mode),
                stat.S_ISLNK(found.st_mode),
            )
    descriptor = os.open(both.drive / "file", os.O_RDONLY)
    assert os.fstat(descriptor) == os.stat(both.drive / "file")
    os.close(descriptor)


def test_statvfs_is_the_quota(both: Pair, shared_device: Device) -> None:
    """[statfs]"""
    write_file(both.drive / "file")
    shared_device.sync()
    found = os.statvfs(both.drive)
    assert found.f_namemax == 255
    assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks
    assert abs(found.f_blocks * found.f_frsize - shared_device.status()["quota"]["limit_bytes"]) < found.f_frsize
