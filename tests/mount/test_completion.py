"""The whole drive becomes known on each device in the background, and a mount begins with what is new.

Owns the lines about that in the section "Other devices" of SEMANTICS.md.
"""

import os
from pathlib import Path

import pytest

from tests.mount.conftest import mount_options
from tests.mount.oracle import snapshot
from tests.support.mounts import READY_SECONDS, Device, Server, Workbench, wait_until


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


@pytest.fixture
def writer(workbench: Workbench, server: Server) -> Device:
    writer = workbench.device(server)
    writer.mount(*mount_options())
    return writer


def plant(root: Path, directory_count: int, file_count: int) -> None:
    """A tree of directories, each in the one with half its number, and files in all of them."""
    places = [root]
    for number in range(1, directory_count):
        places.append(places[number // 2] / f"d{number}")
        places[-1].mkdir()
    for place in places:
        for number in range(file_count):
            (place / f"f{number}").touch()


def wait_until_complete(device: Device) -> None:
    wait_until("all directories are listed", lambda: device.status()["unlisted_directories"] == 0)


def test_a_drive_becomes_known_without_anyone_looking(workbench: Workbench, writer: Device) -> None:
    """[background-listing]"""
    plant(writer.mountpoint, 150, 4)
    (writer.mountpoint / "wide").mkdir()
    for number in range(2300):
        (writer.mountpoint / "wide" / f"{number:05}").touch()
    writer.sync()
    reader = workbench.device(writer.server)
    reader.mount(*mount_options())
    wait_until_complete(reader)
    writer.server.stop()
    assert snapshot(reader.mountpoint, times=True) == snapshot(writer.mountpoint, times=True)
    assert not (reader.mountpoint / "d1" / "nothing").exists()


def test_what_is_known_stays_known(workbench: Workbench, writer: Device) -> None:
    """[background-listing]"""
    plant(writer.mountpoint, 60, 2)
    writer.sync()
    reader = workbench.device(writer.server)
    reader.mount(*mount_options())
    wait_until_complete(reader)
    reader.kill()
    writer.server.stop()
    reader.mount(*mount_options())
    assert reader.status()["unlisted_directories"] == 0
    assert snapshot(reader.mountpoint) == snapshot(writer.mountpoint)
    reader.umount("--now")
    reader.assert_sound()


def test_new_directories_come_whole_with_the_feed(workbench: Workbench, writer: Device) -> None:
    """[background-listing]"""
    reader = workbench.device(writer.server)
    reader.mount(*mount_options())
    wait_until_complete(reader)
    os.listdir(reader.mountpoint)
    plant(writer.mountpoint, 40, 3)
    os.rename(writer.mountpoint / "d1", writer.mountpoint / "renamed")
    writer.sync()
    (writer.mountpoint / "last").touch()
    writer.sync()
    wait_until("the last file is there", (reader.mountpoint / "last").exists)
    writer.server.stop()
    assert snapshot(reader.mountpoint) == snapshot(writer.mountpoint)


def test_a_mount_that_is_announced_shows_what_is_new(workbench: Workbench, writer: Device) -> None:
    """[fresh-mount]"""
    reader = workbench.device(writer.server)
    # It is promised where the server answers soon, which on a busy machine it may not.
    reader.haste = {"drivefs.mount.FRESH_SECONDS": READY_SECONDS, "drivefs.mount.CAUGHT_UP_SECONDS": READY_SECONDS}
    reader.mount(*mount_options())
    (writer.mountpoint / "before").touch()
    wait_until("the file is there", (reader.mountpoint / "before").exists)
    reader.umount()
    for number in range(20):
        (writer.mountpoint / "before").rename(writer.mountpoint / f"after{number}")
        (writer.mountpoint / f"after{number}").rename(writer.mountpoint / "before")
    (writer.mountpoint / "new").mkdir()
    (writer.mountpoint / "new" / "file").write_bytes(b"content")
    (writer.mountpoint / "before").unlink()
    writer.sync()
    reader.mount(*mount_options())
    assert os.listdir(reader.mountpoint) == ["new"]
    assert (reader.mountpoint / "new" / "file").read_bytes() == b"content"
