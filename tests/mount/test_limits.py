"""Where space ends: file size, quota, and the disk of the journal.

Owns the section "Limits" of SEMANTICS.md.
"""

import errno
import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import mount_options
from tests.mount.oracle import Pair, write_file
from tests.support.mounts import Device, Workbench, wait_until

MEBIBYTE = 2**20
LARGEST = 10 * 10**9


def test_files_end_at_ten_gigabytes(both: Pair) -> None:
    """[efbig]"""
    path = write_file(both.drive / "file", b"content")
    descriptor = os.open(path, os.O_RDWR)
    os.ftruncate(descriptor, LARGEST)
    assert os.fstat(descriptor).st_size == LARGEST
    for attempt in (
        lambda: os.ftruncate(descriptor, LARGEST + 1),
        lambda: os.truncate(path, 2**50),
        lambda: os.pwrite(descriptor, b"x", LARGEST),
        lambda: os.pwrite(descriptor, b"x", 2**45),
    ):
        with pytest.raises(OSError, match="File too large") as refused:
            attempt()
        assert refused.value.errno == errno.EFBIG
    assert os.fstat(descriptor).st_size == LARGEST
    assert os.pwrite(descriptor, b"end", LARGEST - 3) == 3
    assert os.pread(descriptor, 10, LARGEST - 5) == b"\0\0end"
    os.ftruncate(descriptor, 7)
    os.close(descriptor)
    assert path.read_bytes() == b"content"


def write_until_refused(root: Path, most: int, called: str = "file") -> tuple[dict[str, bytes], int]:
    """Write files of 1 MiB until one is refused; those that were accepted whole, and the errno."""
    accepted: dict[str, bytes] = {}
    chance = random.Random(called)
    for number in range(most):
        content = chance.randbytes(MEBIBYTE)
        try:
            with open(root / f"{called}{number}", "xb", buffering=0) as file:
                place = 0
                while place < len(content):
                    place += file.write(content[place : place + 65536]) or 0
        except OSError as error:
            return accepted, error.errno or 0
        accepted[f"{called}{number}"] = content
    return accepted, 0


def is_accepted(path: Path) -> bool:
    """Write a file of 1 MiB, if there is room."""
    try:
        path.write_bytes(b"y" * MEBIBYTE)
    except OSError as error:
        assert error.errno == errno.ENOSPC  # noqa: PT017
        return False
    return True


def says_full(device: Device) -> bool:
    """Whether people are told that the disk has no room."""
    return any("ENOSPC" in each for each in device.status()["attention"])


def assert_all_there(root: Path, accepted: dict[str, bytes]) -> None:
    for name, content in accepted.items():
        assert (root / name).read_bytes() == content, name


@pytest.mark.fault(55)
def test_writes_over_quota_are_refused_and_nothing_is_lost(workbench: Workbench) -> None:
    """[edquot] [statfs]"""
    server = workbench.server("--quota", "20M")
    device = workbench.device(server)
    root = device.mount(*mount_options())
    write_file(root / "first", b"x")
    device.sync()
    found = os.statvfs(root)
    assert abs(found.f_blocks * found.f_frsize - 20 * MEBIBYTE) < found.f_frsize
    accepted, number = write_until_refused(root, 40)
    assert number == errno.EDQUOT
    os.unlink(root / f"file{len(accepted)}")
    for part in range(9):
        # What is on its way counts on both sides for a moment.
        device.sync()
        more, number = write_until_refused(root, 40, f"{part} more ")
        assert number == errno.EDQUOT
        accepted |= more
        if not more:
            break
    assert 10 <= len(accepted) <= 20
    assert_all_there(root, accepted)
    assert os.statvfs(root).f_bavail * os.statvfs(root).f_frsize < 2 * MEBIBYTE
    device.sync()
    os.mkdir(root / "directory")
    os.rename(root / "file0", root / "directory/file0")
    accepted["directory/file0"] = accepted.pop("file0")
    os.unlink(root / "file1")
    del accepted["file1"]
    device.umount()
    device.assert_sound()
    server.assert_sound()
    second = workbench.device(server)
    assert_all_there(second.mount(*mount_options()), accepted)
    assert sorted(os.listdir(second.mountpoint / "directory")) == ["file0"]


def test_what_was_removed_keeps_counting_until_the_quota_grows(workbench: Workbench) -> None:
    """[edquot] [edquot-history] [quota]"""
    server = workbench.server("--quota", "8M")
    device = workbench.device(server)
    root = device.mount(*mount_options())
    accepted, number = write_until_refused(root, 20)
    assert number == errno.EDQUOT
    device.sync()
    for name in accepted:
        os.unlink(root / name)
    device.sync()
    assert write_until_refused(root, 4)[1] == errno.EDQUOT
    figures = json.loads(device.run("quota", "--json"))
    assert figures["used_bytes"] >= figures["trash_bytes"] >= (len(accepted) - 1) * MEBIBYTE > figures["current_bytes"]
    assert any("EDQUOT" in each for each in device.status()["attention"])
    told = json.loads(server.command("user", "set", "ada", "--quota", "40M", "--json").stdout)
    assert told["quota"] == 40 * MEBIBYTE
    write_until_refused(root, 1, "asked")
    wait_until("the device knows of the larger quota", lambda: device.status()["quota"]["limit_bytes"] == 40 * MEBIBYTE)
    assert not any("EDQUOT" in each for each in device.status()["attention"])
    content = write_file(root / "more", random.Random(9).randbytes(5 * MEBIBYTE)).read_bytes()
    device.umount()
    server.assert_sound()
    second = workbench.device(server)
    assert (second.mount(*mount_options()) / "more").read_bytes() == content


@pytest.fixture
def device_on_small_disk(workbench: Workbench, request: pytest.FixtureRequest) -> Iterator[Device]:
    """A mounted device whose state directory has 160 MiB, in memory or on a loop device."""
    device = workbench.new_device(workbench.server())
    state = device.directories["XDG_STATE_HOME"]
    if request.param == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m,mode=0700", "drivefs-test", state], check=True)
    else:
        image = workbench.home / "disk.img"
        with image.open("wb") as file:
            file.truncate(160 * MEBIBYTE)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, state], check=True)
        state.chmod(0o700)
    device.login()
    device.mount(*mount_options())
    yield device
    device.clear()
    subprocess.run(["umount", state], check=True)


@pytest.mark.fault(14)
@pytest.mark.parametrize("device_on_small_disk", ["ext4"], indirect=True)
@pytest.mark.needs_root
def test_full_journal_disk_refuses_before_it_accepts(device_on_small_disk: Device, workbench: Workbench) -> None:
    """[enospc]"""
    device = device_on_small_disk
    root = device.mountpoint
    write_file(root / "first", b"before")
    device.sync()
    device.server.stop()
    accepted, number = write_until_refused(root, 300)
    assert number == errno.ENOSPC
    assert 20 <= len(accepted) < 200
    assert says_full(device)
    assert_all_there(root, accepted)
    # Removing, renaming and reading go on, offline and without room.
    os.unlink(root / f"file{len(accepted)}")
    os.unlink(root / "file0")
    del accepted["file0"]
    os.rename(root / "file1", root / "renamed")
    accepted["renamed"] = accepted.pop("file1")
    device.server.start()
    device.sync()
    assert_all_there(root, accepted)
    # What is sent leaves the disk a moment after.
    wait_until("there is room again", lambda: is_accepted(root / "again"))
    wait_until("people are told so", lambda: not says_full(device))
    accepted["again"] = b"y" * MEBIBYTE
    device.umount()
    device.assert_sound()
    device.server.assert_sound()
    second = workbench.device(device.server)
    assert_all_there(second.mount(*mount_options()), accepted)


@pytest.mark.fault(14)
@pytest.mark.parametrize("device_on_small_disk", ["tmpfs"], indirect=True)
@pytest.mark.needs_root
def test_full_journal_disk_survives_a_kill(device_on_small_disk: Device) -> None:
    """[enospc] [crash-write]"""
    device = device_on_small_disk
    device.server.stop()
    accepted, number = write_until_refused(device.mountpoint, 300)
    assert number == errno.ENOSPC
    device.kill()
    root = device.mount(*mount_options())
    assert_all_there(root, accepted)
    device.server.start()
    device.sync()
    assert_all_there(root, accepted)
