"""What stays the same when a drive is unmounted and mounted again, with and without its cache.

Owns the remount lines of the section "Staying the same" of SEMANTICS.md.
"""

import ctypes
import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from tests.mount.conftest import mount_options
from tests.mount.oracle import snapshot, walk, write_file
from tests.support.mounts import Device, Workbench


def furnish(root: Path) -> None:
    """Something of every kind, with all that can be kept about it."""
    chance = bytes(range(256))
    write_file(root / "small", b"small")
    write_file(root / "empty", b"")
    write_file(root / "large", chance * 20_000)
    write_file(root / "script", b"#!/bin/sh\n", mode=0o4755)
    (root / "directory/inner").mkdir(parents=True)
    (root / "directory").chmod(0o2775)
    write_file(root / "directory/inner/leaf", b"leaf")
    os.link(root / "small", root / "directory/second name")
    (root / "link").symlink_to("directory/inner/leaf")
    os.mkfifo(root / "fifo")
    write_file(Path(os.fsdecode(os.fsencode(root) + b"/\xff odd \n name")), b"odd")
    os.setxattr(root / "small", "user.note", b"kept \0")
    os.setxattr(root / "directory", "user.note", b"too")
    descriptor = os.open(root / "sparse", os.O_CREAT | os.O_WRONLY, 0o600)
    os.pwrite(descriptor, b"end", 1_000_000)
    os.close(descriptor)
    os.rename(root / "large", root / "directory/large")
    os.unlink(root / "empty")
    if os.geteuid() == 0:
        os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.chown(root / "script", 61001, 61002)
    os.utime(root / "small", ns=(1, 1_234_567_890_123_456_789))


def inodes(root: Path) -> dict[bytes, int]:
    return {path: os.lstat(path).st_ino for path in walk(os.fsencode(root))}


@pytest.fixture
def device(workbench: Workbench) -> Device:
    device = workbench.device(workbench.server())
    device.mount(*mount_options())
    return device


@pytest.mark.parametrize("cache", ["kept", "deleted"])
def test_everything_is_the_same_after_a_remount(device: Device, cache: str) -> None:
    """[remount-inodes] [remount-content]"""
    root = device.mountpoint
    furnish(root)
    before = snapshot(root, times=True), inodes(root)
    for _ in range(2):
        device.umount()
        device.assert_sound()
        if cache == "deleted":
            shutil.rmtree(device.directories["XDG_CACHE_HOME"])
            device.directories["XDG_CACHE_HOME"].mkdir()
        device.mount(*mount_options())
        assert (snapshot(root, times=True), inodes(root)) == before


def test_times_do_not_move_when_the_upload_comes(device: Device) -> None:
    """[times-not-later]"""
    root = device.mountpoint
    for number in range(20):
        write_file(root / f"file{number}", b"x" * 1000 * number)
    before = {name: (root / name).stat().st_mtime_ns for name in os.listdir(root)}
    device.sync()
    assert {name: (root / name).stat().st_mtime_ns for name in os.listdir(root)} == before
    device.umount()
    device.mount(*mount_options())
    assert {name: (root / name).stat().st_mtime_ns for name in os.listdir(root)} == before


class Handle(ctypes.Structure):
    """`struct file_handle` with room for the largest one."""

    _fields_ = (("size", ctypes.c_uint), ("type", ctypes.c_int), ("bytes", ctypes.c_ubyte * 128))


@pytest.mark.needs_root
def test_file_handles_are_good_until_the_kernel_forgets_the_file(device: Device) -> None:
    """[no-handles]"""
    libc = ctypes.CDLL(None, use_errno=True)

    def read_by(handle: Handle) -> bytes:
        place = os.open(device.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        descriptor = libc.open_by_handle_at(place, ctypes.byref(handle), os.O_RDONLY)
        os.close(place)
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), "open_by_handle_at")
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    path = write_file(device.mountpoint / "file", b"content")
    handle = Handle(size=128)
    at_cwd = -100
    assert not libc.name_to_handle_at(at_cwd, os.fsencode(path), ctypes.byref(handle), ctypes.byref(ctypes.c_int()), 0)
    with path.open("rb"):
        assert read_by(handle) == b"content"
    device.umount()
    device.mount(*mount_options())
    with pytest.raises(OSError, match="open_by_handle_at") as refused:
        read_by(handle)
    assert refused.value.errno == errno.ESTALE


def test_unsent_changes_go_on_after_a_remount(device: Device) -> None:
    """[remount-content]"""
    root = device.mountpoint
    write_file(root / "first", b"sent")
    device.sync()
    device.server.stop()
    furnish(root)
    (root / "first").write_bytes(b"changed offline")
    before = snapshot(root, times=True), inodes(root)
    device.umount("--now")
    device.mount(*mount_options())
    assert (snapshot(root, times=True), inodes(root)) == before
    device.server.start()
    device.sync()
    assert (snapshot(root, times=True), inodes(root)) == before
    device.umount()
    device.assert_sound()
    device.server.assert_sound()


def test_read_only_mount_refuses_every_change(device: Device) -> None:
    """[remount-content]"""
    root = device.mountpoint
    write_file(root / "file", b"content")
    device.umount()
    device.mount("--read-only")
    assert (root / "file").read_bytes() == b"content"
    for change in (
        lambda: (root / "file").write_bytes(b"x"),
        lambda: os.unlink(root / "file"),
        lambda: os.mkdir(root / "directory"),
        lambda: os.chmod(root / "file", 0o600),
        lambda: os.rename(root / "file", root / "other"),
        lambda: os.setxattr(root / "file", "user.x", b"1"),
    ):
        with pytest.raises(OSError, match="Read-only file system"):
            change()
    assert os.listdir(root) == ["file"]
