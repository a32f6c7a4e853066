"""Two devices of one account: each sees what the other has written, and only what changed travels.

Owns the line about other devices of SEMANTICS.md, and the bounds on what is sent, measured from `drivefs status`.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.conftest import mount_options
from tests.mount.oracle import snapshot, write_file
from tests.mount.test_remount import furnish, inodes
from tests.support.mounts import Device, Server, Workbench, wait_until

MEBIBYTE = 2**20
FEW_BLOCKS = 8 * MEBIBYTE
"""At most two blocks of the largest size: what one change in one place may cost."""


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


@pytest.fixture
def device(workbench: Workbench, server: Server) -> Device:
    device = workbench.device(server)
    device.mount(*mount_options())
    return device


@contextmanager
def sent(device: Device, direction: str = "upload") -> Iterator[list[int]]:
    """How many bytes travel inside the block, appended to the list at its end."""
    before = device.status()["transfers"][direction]["bytes"]
    counted: list[int] = []
    yield counted
    device.sync()
    counted.append(device.status()["transfers"][direction]["bytes"] - before)


def test_second_device_sees_every_byte_and_attribute(workbench: Workbench, device: Device) -> None:
    """[second-device] [remount-inodes]"""
    furnish(device.mountpoint)
    device.sync()
    second = workbench.device(device.server)
    second.mount(*mount_options())
    assert snapshot(second.mountpoint, times=True) == snapshot(device.mountpoint, times=True)
    assert [*inodes(second.mountpoint).values()] == [*inodes(device.mountpoint).values()]


def test_devices_take_turns(workbench: Workbench, device: Device) -> None:
    """[second-device]"""
    furnish(device.mountpoint)
    device.umount()
    second = workbench.device(device.server)
    root = second.mount(*mount_options())
    (root / "small").write_bytes(b"changed by the second")
    os.rename(root / "directory/inner", root / "inner")
    os.unlink(root / "link")
    os.setxattr(root / "small", "user.note", b"changed")
    write_file(root / "new", b"n" * 100_000)
    second.umount()
    device.mount(*mount_options())
    third = workbench.device(device.server)
    third.mount(*mount_options())
    expected = snapshot(third.mountpoint, times=True)
    wait_until("it is seen", lambda: snapshot(device.mountpoint, times=True) == expected)
    assert (device.mountpoint / "small").read_bytes() == b"changed by the second"
    assert sorted(os.listdir(device.mountpoint / "inner")) == ["leaf"]


def test_another_user_sees_nothing_of_it(workbench: Workbench, device: Device) -> None:
    """[second-device]"""
    write_file(device.mountpoint / "mine")
    device.sync()
    device.server.add_user("bob")
    other = workbench.device(device.server, user="bob")
    root = other.mount(*mount_options())
    assert os.listdir(root) == []
    write_file(root / "his")
    other.sync()
    assert os.listdir(device.mountpoint) == ["mine"]


def test_changed_byte_costs_few_blocks(device: Device) -> None:
    """[second-device]"""
    path = write_file(device.mountpoint / "large", random.Random(1).randbytes(64 * MEBIBYTE))
    device.sync()
    with sent(device) as counted, path.open("r+b") as file:
        file.seek(40 * MEBIBYTE)
        file.write(b"!")
    assert 0 < counted[0] <= FEW_BLOCKS


def test_bytes_inserted_at_the_head_cost_few_blocks(device: Device) -> None:
    """[second-device]"""
    content = random.Random(2).randbytes(64 * MEBIBYTE)
    path = write_file(device.mountpoint / "large", content)
    device.sync()
    with sent(device) as counted:
        path.write_bytes(b"0123456789" + content)
    assert 0 < counted[0] <= FEW_BLOCKS


def test_copies_and_renames_send_no_content(device: Device) -> None:
    """[second-device]"""
    content = random.Random(3).randbytes(16 * MEBIBYTE)
    path = write_file(device.mountpoint / "original", content)
    device.sync()
    with sent(device) as counted:
        write_file(device.mountpoint / "copy", content)
        os.rename(path, device.mountpoint / "renamed")
    assert counted[0] <= MEBIBYTE


def test_text_is_compressed(device: Device) -> None:
    """[second-device]"""
    with sent(device) as counted:
        write_file(device.mountpoint / "text", b"the same line again and again\n" * 300_000)
    assert counted[0] <= MEBIBYTE


def test_reading_a_little_fetches_a_little(workbench: Workbench, device: Device) -> None:
    """[second-device]"""
    content = random.Random(4).randbytes(64 * MEBIBYTE)
    write_file(device.mountpoint / "large", content)
    device.sync()
    second = workbench.device(device.server)
    root = second.mount(*mount_options())
    with sent(second, "download") as counted, (root / "large").open("rb") as file:
        for place in (50 * MEBIBYTE, 3 * MEBIBYTE):
            assert os.pread(file.fileno(), 4096, place) == content[place : place + 4096]
    assert 0 < counted[0] <= 2 * FEW_BLOCKS
    assert (root / "large").read_bytes() == content
    with sent(second, "download") as counted:
        assert (root / "large").read_bytes() == content
    assert counted[0] == 0


@pytest.mark.fault(13)
def test_bounded_cache_serves_more_than_it_holds(workbench: Workbench, device: Device) -> None:
    """[remount-content]"""
    chance = random.Random(5)
    contents = {f"file{number}": chance.randbytes(10 * MEBIBYTE) for number in range(9)}
    for name, content in contents.items():
        write_file(device.mountpoint / name, content)
    device.sync()
    second = workbench.device(device.server)
    root = second.mount("--cache-size", "64M", *mount_options())
    for _ in range(2):
        for name, content in contents.items():
            assert (root / name).read_bytes() == content
        cache = second.status()["cache"]
        assert cache["used_bytes"] <= cache["limit_bytes"] == 64 * MEBIBYTE
        assert disk_use(second.directories["XDG_CACHE_HOME"]) <= 80 * MEBIBYTE


def disk_use(root: Path) -> int:
    """Bytes that the files below a directory take, with what their databases need."""
    return sum(path.stat().st_blocks * 512 for path in root.rglob("*") if path.is_file())


def test_small_file_overtakes_a_large_one(workbench: Workbench) -> None:
    """[second-device]"""
    server = workbench.server()
    link = workbench.link(server)
    device, second = workbench.device(server, link=link), workbench.device(server)
    for each in (device, second):
        each.mount(*mount_options())
    link.trickle(MEBIBYTE / 4)
    write_file(device.mountpoint / "large", random.Random(6).randbytes(20 * MEBIBYTE))
    write_file(device.mountpoint / "small", b"small")
    wait_until("the small one is there", (second.mountpoint / "small").exists)
    assert not (second.mountpoint / "large").exists()
    link.restore()
    device.sync()
    wait_until("the large one is there", (second.mountpoint / "large").exists)
