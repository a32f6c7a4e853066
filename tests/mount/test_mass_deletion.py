"""Mass deletions on real mounts: held until someone decides, on this device only, and nothing else waits for that.

Owns the promises about deletions in SEMANTICS.md.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from drivefs.cli.exit_codes import ExitCode
from tests.mount.conftest import mount_options
from tests.mount.oracle import write_file
from tests.support.mounts import Device, Server, Workbench, wait_until

pytestmark = pytest.mark.long

FILES = 1500
DIRECTORIES = 10
OTHERS = 200


def furnish(root: Path, files: int = FILES) -> None:
    """A tree of directories with one small file each time."""
    for number in range(DIRECTORIES):
        (root / "tree" / str(number)).mkdir(parents=True)
    for number in range(files):
        (root / "tree" / str(number % DIRECTORIES) / f"file{number}").write_bytes(b"content %d" % number)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


@pytest.fixture
def first(workbench: Workbench, server: Server) -> Device:
    """A device whose drive has the tree and some other files, all of them on the server."""
    device = workbench.device(server)
    root = device.mount(*mount_options())
    furnish(root)
    for number in range(OTHERS):
        write_file(root / f"other{number}", b"other")
    device.sync()
    return device


@pytest.fixture
def second(workbench: Workbench, first: Device) -> Device:
    device = workbench.device(first.server)
    device.mount(*mount_options())
    assert len(contents(device.mountpoint)) == FILES + OTHERS
    return device


def synced(device: Device) -> subprocess.CompletedProcess[str]:
    return device.command("sync", str(device.mountpoint), "--wait", "--timeout", "60")


def soon(what: str, is_so: Callable[[], bool]) -> None:
    wait_until(what, is_so, 20.0)


def delete_tree(device: Device) -> None:
    shutil.rmtree(device.mountpoint / "tree")
    ended = synced(device)
    assert ended.returncode == ExitCode.HELD, ended.stdout + ended.stderr
    assert "held" in ended.stderr


def test_a_mass_deletion_is_held_and_asked_about(first: Device, second: Device) -> None:
    """[deletion-held]"""
    delete_tree(first)
    status = first.status()
    assert status["held"]["files"] == FILES
    assert status["held"]["drive_files"] == FILES + OTHERS
    assert any("drivefs held release" in notice for notice in status["attention"])
    shown = first.command("held", "show", "--json")
    assert (shown.returncode, json.loads(shown.stdout)) == (ExitCode.HELD, status["held"])
    assert sorted(os.listdir(first.mountpoint)) == sorted(f"other{number}" for number in range(OTHERS))
    # Everything else goes on, and a few deletions are no mass of them.
    write_file(first.mountpoint / "new", b"new")
    os.unlink(first.mountpoint / "other0")
    assert synced(first).returncode == ExitCode.HELD
    soon("the rest arrives", lambda: (second.mountpoint / "new").exists())
    soon("the single deletion arrives", lambda: not (second.mountpoint / "other0").exists())
    assert len(contents(second.mountpoint / "tree")) == FILES


def test_released_it_reaches_other_devices(first: Device, second: Device) -> None:
    """[deletion-held]"""
    delete_tree(first)
    assert str(FILES) in first.run("held", "release").replace(",", "")
    first.sync()
    soon("the tree is gone", lambda: not (second.mountpoint / "tree").exists())
    assert first.status()["held"] is None
    assert first.run("held", "show") == "no deletions are held\n"
    assert first.command("held", "release").returncode == ExitCode.FAILED
    first.umount()
    first.assert_sound()
    first.server.assert_sound()


def test_restored_the_files_are_here_again(first: Device, second: Device) -> None:
    """[deletion-held]"""
    before = contents(first.mountpoint)
    times = {path: path.stat().st_mtime_ns for path in (first.mountpoint / "tree").rglob("*") if path.is_file()}
    delete_tree(first)
    write_file(first.mountpoint / "new", b"new")
    assert json.loads(first.run("held", "restore", "--json")) == {"files": FILES}
    assert contents(first.mountpoint) == {**before, "new": b"new"}
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert (first.mountpoint / "tree").stat().st_nlink == 2 + DIRECTORIES
    first.sync()
    soon("the rest arrives", lambda: (second.mountpoint / "new").exists())
    assert contents(second.mountpoint) == contents(first.mountpoint)
    # What is back is as alive as before.
    (first.mountpoint / "tree/0/file0").write_bytes(b"written again")
    shutil.rmtree(first.mountpoint / "tree/1")
    first.sync()
    soon("changes in it arrive", lambda: (second.mountpoint / "tree/0/file0").read_bytes() == b"written again")
    soon("deletions in it arrive", lambda: not (second.mountpoint / "tree/1").exists())
    for device in (first, second):
        device.umount()
        device.assert_sound()
    first.server.assert_sound()


def test_it_stays_held_over_umount_and_kill(first: Device, second: Device) -> None:
    """[deletion-held]"""
    delete_tree(first)
    ended = first.command("umount", str(first.mountpoint))
    assert ended.returncode == ExitCode.HELD, ended.stderr
    assert first.process is not None
    assert first.process.wait(30) == 0
    first.ended()
    first.mount(*mount_options())
    assert first.status()["held"]["files"] == FILES
    first.kill()
    first.clear()
    first.mount(*mount_options())
    assert first.status()["held"]["files"] == FILES
    assert synced(first).returncode == ExitCode.HELD
    assert len(contents(second.mountpoint / "tree")) == FILES
    first.run("held", "restore")
    assert len(contents(first.mountpoint / "tree")) == FILES
    first.sync()


def test_made_again_under_their_names_they_are_replaced(first: Device, second: Device) -> None:
    """[deletion-replaced]"""
    shutil.rmtree(first.mountpoint / "tree")
    furnish(first.mountpoint, 50)
    first.sync()
    assert first.status()["held"] is None
    soon("the replacement arrives", lambda: len(contents(second.mountpoint / "tree")) == 50)
    assert contents(second.mountpoint) == contents(first.mountpoint)


def test_made_again_later_they_are_replaced_too(first: Device, second: Device) -> None:
    """[deletion-replaced]"""
    delete_tree(first)
    furnish(first.mountpoint, 50)
    first.sync()
    assert first.status()["held"] is None
    assert contents(second.mountpoint) == contents(first.mountpoint)
    first.umount()
    first.assert_sound()


def test_a_single_file_made_again_goes_alone(first: Device, second: Device) -> None:
    """[deletion-replaced]"""
    directory = first.mountpoint / "tree/0"
    for path in (first.mountpoint / "tree").rglob("file*"):
        path.unlink()
    assert synced(first).returncode == ExitCode.HELD
    write_file(directory / "file0", b"again")
    assert synced(first).returncode == ExitCode.HELD
    assert first.status()["held"]["files"] == FILES - 1
    soon("it arrives", lambda: (second.mountpoint / "tree/0/file0").read_bytes() == b"again")
    assert len(contents(second.mountpoint / "tree")) == FILES


def test_a_directory_with_held_files_waits_with_them(first: Device, second: Device) -> None:
    """[deletion-held]"""
    for path in (first.mountpoint / "tree").rglob("file*"):
        path.unlink()
    assert synced(first).returncode == ExitCode.HELD
    os.rmdir(first.mountpoint / "tree/0")
    os.rename(first.mountpoint / "tree/1", first.mountpoint / "moved")
    assert synced(first).returncode == ExitCode.HELD
    soon("the move arrives", lambda: (second.mountpoint / "moved").is_dir())
    assert len(os.listdir(second.mountpoint / "tree/0")) == FILES // DIRECTORIES
    first.run("held", "restore")
    assert len(os.listdir(first.mountpoint / "tree/0")) == len(os.listdir(first.mountpoint / "moved")) == 150
    first.sync()
    assert contents(second.mountpoint) == contents(first.mountpoint)


def test_offline_it_is_decided_when_the_server_is_back(first: Device, second: Device) -> None:
    """[deletion-held]"""
    first.server.stop()
    shutil.rmtree(first.mountpoint / "tree")
    first.umount("--now")
    first.server.start()
    first.mount(*mount_options())
    soon("it is asked about", lambda: first.status()["held"] is not None)
    assert first.status()["held"]["files"] == FILES
    assert len(contents(second.mountpoint / "tree")) == FILES


def test_a_smaller_share_goes_unasked(workbench: Workbench, first: Device, second: Device) -> None:
    """[deletion-held]"""
    for number in range(FILES):
        write_file(first.mountpoint / f"more{number}", b"more")
    first.sync()
    shutil.rmtree(first.mountpoint / "tree")
    first.sync()
    soon("the tree is gone", lambda: not (second.mountpoint / "tree").exists())


def test_turned_off_it_asks_nothing(first: Device, second: Device) -> None:
    """[deletion-held]"""
    first.umount()
    first.configure("mass_deletion_guard = false")
    first.mount(*mount_options())
    shutil.rmtree(first.mountpoint / "tree")
    first.sync()
    assert first.status()["held"] is None
    soon("the tree is gone", lambda: not (second.mountpoint / "tree").exists())
