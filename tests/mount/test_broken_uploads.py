"""Uploads and commits that break off: what has arrived is not sent again, and what was done is not done twice."""

import os
import random
from pathlib import Path

import pytest

from tests.mount.conftest import mount_options
from tests.mount.oracle import write_file
from tests.support.link import REQUESTS, Link
from tests.support.mounts import Device, Server, Workbench, wait_until

MEBIBYTE = 2**20
SIZE = 32 * MEBIBYTE
IN_FLIGHT = 16 * MEBIBYTE
"""Three requests travel at once, each with a block of up to 4 MiB under way and what the sockets hold."""


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


@pytest.fixture
def link(workbench: Workbench, server: Server) -> Link:
    return workbench.link(server)


@pytest.fixture
def device(workbench: Workbench, server: Server, link: Link) -> Device:
    device = workbench.device(server, link=link)
    device.mount(*mount_options())
    return device


@pytest.fixture
def other(workbench: Workbench, server: Server) -> Device:
    """Another device, whose network is sound."""
    other = workbench.device(server)
    other.mount(*mount_options())
    return other


def settled(*devices: Device) -> None:
    for device in devices:
        device.umount()
        device.assert_sound()
    devices[0].server.assert_sound()


@pytest.mark.fault(6, 23, 50)
@pytest.mark.parametrize(("how", "part"), [("killed", 0.75), ("connections broken", 0.95)])
def test_what_has_arrived_of_an_upload_is_not_sent_again(device: Device, link: Link, how: str, part: float) -> None:
    content = random.Random(3).randbytes(SIZE)
    link.trickle(20 * MEBIBYTE)
    before = link.seen()[REQUESTS]
    write_file(device.mountpoint / "large", content)
    wait_until("most of it was sent", lambda: link.seen()[REQUESTS] - before > part * SIZE)
    if how == "killed":
        device.kill()
        device.mount(*mount_options())
    else:
        link.reset()
    link.restore()
    device.sync()
    assert SIZE <= link.seen()[REQUESTS] - before < SIZE + IN_FLIGHT
    assert (device.mountpoint / "large").read_bytes() == content
    settled(device)


def revision(path: Path) -> bytes:
    return os.getxattr(path, "user.drivefs.revision")


@pytest.mark.fault(7, 27, 28, 32)
def test_what_the_server_has_done_is_not_done_again_after_a_crash(device: Device, link: Link, other: Device) -> None:
    """The answer to the commit is on its way when the mount is killed."""
    root, there = device.mountpoint, other.mountpoint
    for name in ("kept", "replaced", "removed"):
        write_file(root / name, name.encode() * 1000)
    device.sync()
    wait_until("both have it", lambda: (there / "removed").exists())
    # Without a server first, so that all of it is one commit.
    link.cut()
    wait_until("it is known to be offline", lambda: not device.status()["online"])
    (root / "made").mkdir()
    os.rename(root / "kept", root / "made/moved")
    os.rename(root / "made/moved", root / "replaced")
    os.unlink(root / "removed")
    os.link(root / "replaced", root / "made/linked")
    link.delay(0.7)
    wait_until("the server has done it", lambda: (there / "made/linked").exists())
    device.kill()
    write_file(there / "removed", b"made anew elsewhere")
    os.rename(there / "made", there / "moved on")
    other.sync()
    link.restore()
    device.mount(*mount_options())
    device.sync()
    wait_until("both show the same", lambda: sorted(os.listdir(root)) == sorted(os.listdir(there)))
    assert sorted(os.listdir(root)) == ["moved on", "removed", "replaced"]
    assert os.listdir(root / "moved on") == ["linked"]
    assert (root / "removed").read_bytes() == b"made anew elsewhere"
    assert (root / "replaced").read_bytes() == b"kept" * 1000
    assert revision(root / "replaced") == revision(there / "replaced")
    settled(device, other)
