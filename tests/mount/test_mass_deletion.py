"""Mass deletions on real mounts: held until someone decides, on this device only, and nothing else waits for that.

Owns the promises about deletions in SEMANTICS.md.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest

from drivefs.cli.exit_codes import ExitCode
from tests.mount.conftest import mount_options, opened
from tests.mount.oracle import write_file
from tests.support.link import Link
from tests.support.mounts import Device, Watchdog, wait_until

FILES = 1100
DIRECTORIES = 10
OTHERS = 50


def tree(root: Path, files: int = FILES) -> dict[Path, bytes]:
    """A tree of directories with small files."""
    return {
        root / "tree" / str(number % DIRECTORIES) / f"file{number}": b"content %d" % number for number in range(files)
    }


def plant(files: dict[Path, bytes]) -> None:
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def furnish(device: Device) -> None:
    """The drive has the tree and some other files, and nothing else."""
    root = device.mountpoint
    wanted = tree(root) | {root / f"other{number}": b"other" for number in range(OTHERS)}
    there = {root / name for name in names(root)}
    plant({path: content for path, content in wanted.items() if path not in there})
    device.sync()
    # Now what goes is no large share of the drive.
    for path in there - wanted.keys():
        path.unlink()
    for name in set(os.listdir(root)) - {"tree", *(f"other{number}" for number in range(OTHERS))}:
        shutil.rmtree(root / name)
    device.sync()


def names(root: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(directory, name), root) for directory, _, files in os.walk(root) for name in files
    }


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


class Devices(NamedTuple):
    """One that removes, one that sees it, and the network of the first."""

    first: Device
    second: Device
    link: Link


@pytest.fixture(scope="module")
def devices(pytestconfig: pytest.Config, watchdog: Watchdog, server_home: Path) -> Iterator[Devices]:
    """Two devices of one drive, mounted; making new ones for each test would take most of the time."""
    for workbench in opened(pytestconfig, watchdog, server_home):
        server = workbench.server()
        link = workbench.link(server)
        yield Devices(workbench.device(server, link=link), workbench.device(server), link)


@pytest.fixture
def first(devices: Devices) -> Device:
    """A device that remembers neither what it made nor what it removed; the drive has the tree and some others."""
    first, second, _ = devices
    if first.process is not None:
        first.command("held", "restore")
        first.umount()
    if second.process is None:
        second.mount(*mount_options())
    furnish(second)
    first.mount(*mount_options())
    wait_until("both show the same", lambda: names(first.mountpoint) == names(second.mountpoint), 60)
    return first


@pytest.fixture
def second(devices: Devices, first: Device) -> Device:
    return devices.second


@pytest.fixture
def link(devices: Devices) -> Link:
    return devices.link


def assert_same(first: Device, second: Device) -> None:
    """The same names everywhere, once the other has heard of all, and the same contents in some of the files."""
    wait_until("both show the same", lambda: names(second.mountpoint) == names(first.mountpoint), 60)
    for part in ("tree/0", "moved"):
        assert contents(second.mountpoint / part) == contents(first.mountpoint / part)


def synced(device: Device) -> subprocess.CompletedProcess[str]:
    return device.command("sync", str(device.mountpoint), "--wait", "--timeout", "60")


def soon(what: str, is_so: Callable[[], bool]) -> None:
    wait_until(what, is_so)


@contextmanager
def unsent(device: Device, link: Link) -> Iterator[None]:
    """What is done meanwhile waits, and is decided about as a whole: a slow machine may send the first of it before."""
    link.cut()
    soon("it is known to be offline", lambda: not device.status()["online"])
    yield
    link.restore()
    soon("it is online again", lambda: bool(device.status()["online"]))


def delete_tree(device: Device, link: Link | None = None) -> None:
    with nullcontext() if link is None else unsent(device, link):
        shutil.rmtree(device.mountpoint / "tree")
    ended = synced(device)
    assert ended.returncode == ExitCode.HELD, ended.stdout + ended.stderr
    assert "held" in ended.stderr


def assert_held(first: Device, second: Device) -> None:
    """All of the tree is held, and still there for others."""
    assert first.status()["held"]["files"] == FILES
    assert len(names(second.mountpoint / "tree")) == FILES


def test_a_mass_deletion_is_held_and_asked_about(first: Device, second: Device, link: Link) -> None:
    """[deletion-held]"""
    delete_tree(first, link)
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
    assert len(names(second.mountpoint / "tree")) == FILES


def test_released_it_reaches_other_devices(first: Device, second: Device, link: Link) -> None:
    """[deletion-held]"""
    delete_tree(first, link)
    assert_held(first, second)
    assert str(FILES) in first.run("held", "release").replace(",", "")
    first.sync()
    soon("the tree is gone", lambda: not (second.mountpoint / "tree").exists())
    assert first.status()["held"] is None
    assert first.run("held", "show") == "no deletions are held\n"
    assert first.command("held", "release").returncode == ExitCode.FAILED
    first.umount()
    first.assert_sound()
    first.server.assert_sound()


def test_restored_the_files_are_here_again(first: Device, second: Device, link: Link) -> None:
    """[deletion-held]"""
    before = names(first.mountpoint)
    times = {path: path.stat().st_mtime_ns for path in (first.mountpoint / "tree").rglob("*") if path.is_file()}
    delete_tree(first, link)
    write_file(first.mountpoint / "new", b"new")
    assert json.loads(first.run("held", "restore", "--json")) == {"files": FILES}
    assert names(first.mountpoint) == {*before, "new"}
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert (first.mountpoint / "tree").stat().st_nlink == 2 + DIRECTORIES
    first.sync()
    soon("the rest arrives", lambda: (second.mountpoint / "new").exists())
    assert_same(first, second)
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


def test_it_stays_held_over_umount_and_kill(first: Device, second: Device, link: Link) -> None:
    """[deletion-held]"""
    delete_tree(first, link)
    ended = first.command("umount", str(first.mountpoint))
    assert ended.returncode == ExitCode.HELD, ended.stderr
    assert first.process is not None
    assert first.process.wait(30) == 0
    first.ended()
    first.mount(*mount_options())
    assert_held(first, second)
    first.kill()
    first.clear()
    first.mount(*mount_options())
    assert_held(first, second)
    assert synced(first).returncode == ExitCode.HELD
    first.run("held", "restore")
    assert len(names(first.mountpoint / "tree")) == FILES
    first.sync()


def test_made_again_under_their_names_they_are_replaced(first: Device, second: Device) -> None:
    """[deletion-replaced]"""
    shutil.rmtree(first.mountpoint / "tree")
    plant(tree(first.mountpoint, 50))
    first.sync()
    assert first.status()["held"] is None
    soon("the replacement arrives", lambda: len(names(second.mountpoint / "tree")) == 50)
    assert_same(first, second)


def test_made_again_later_they_are_replaced_too(first: Device, second: Device) -> None:
    """[deletion-replaced]"""
    delete_tree(first)
    plant(tree(first.mountpoint, 50))
    first.sync()
    assert first.status()["held"] is None
    assert_same(first, second)
    first.umount()
    first.assert_sound()


def test_a_single_file_made_again_goes_alone(first: Device, second: Device, link: Link) -> None:
    """[deletion-replaced]"""
    directory = first.mountpoint / "tree/0"
    with unsent(first, link):
        for path in (first.mountpoint / "tree").rglob("file*"):
            path.unlink()
    assert synced(first).returncode == ExitCode.HELD
    write_file(directory / "file0", b"again")
    assert synced(first).returncode == ExitCode.HELD
    assert first.status()["held"]["files"] == FILES - 1
    soon("it arrives", lambda: (second.mountpoint / "tree/0/file0").read_bytes() == b"again")
    assert len(names(second.mountpoint / "tree")) == FILES


def test_a_directory_with_held_files_waits_with_them(first: Device, second: Device, link: Link) -> None:
    """[deletion-held]"""
    with unsent(first, link):
        for path in (first.mountpoint / "tree").rglob("file*"):
            path.unlink()
    assert synced(first).returncode == ExitCode.HELD
    os.rmdir(first.mountpoint / "tree/0")
    os.rename(first.mountpoint / "tree/1", first.mountpoint / "moved")
    assert synced(first).returncode == ExitCode.HELD
    soon("the move arrives", lambda: (second.mountpoint / "moved").is_dir())
    assert len(os.listdir(second.mountpoint / "tree/0")) == FILES // DIRECTORIES
    first.run("held", "restore")
    assert (
        len(os.listdir(first.mountpoint / "tree/0"))
        == len(os.listdir(first.mountpoint / "moved"))
        == FILES // DIRECTORIES
    )
    first.sync()
    assert_same(first, second)


def test_offline_it_is_decided_when_the_server_is_back(first: Device, second: Device) -> None:
    """[deletion-held]"""
    first.server.stop()
    shutil.rmtree(first.mountpoint / "tree")
    first.umount("--now")
    first.server.start()
    first.mount(*mount_options())
    soon("it is asked about", lambda: first.status()["held"] is not None)
    assert first.status()["held"]["files"] == FILES
    assert len(names(second.mountpoint / "tree")) == FILES


def test_a_smaller_share_goes_unasked(first: Device, second: Device) -> None:
    """[deletion-held]"""
    for number in range(FILES):
        write_file(first.mountpoint / f"more{number}", b"more")
    first.sync()
    shutil.rmtree(first.mountpoint / "tree")
    first.sync()
    soon("the tree is gone", lambda: not (second.mountpoint / "tree").exists())


def test_temporary_files_are_nobodys_loss(first: Device, second: Device) -> None:
    """[deletion-held]"""
    root = first.mountpoint
    (root / "tmp").mkdir()
    for number in range(FILES):
        (root / "tmp" / str(number)).write_bytes(b"temporary")
    shutil.rmtree(root / "tmp")
    first.sync()
    assert first.status()["held"] is None
    soon("they are gone there too", lambda: len(names(second.mountpoint)) == FILES + OTHERS)


@pytest.fixture
def turned_off(first: Device) -> Iterator[None]:
    """The first device asks nothing, until it is mounted for another test."""
    settings = first.directories["XDG_CONFIG_HOME"] / "drivefs/config.toml"
    before = settings.read_text()
    first.umount()
    first.configure("mass_deletion_guard = false")
    first.mount(*mount_options())
    yield
    settings.write_text(before)


@pytest.mark.usefixtures("turned_off")
def test_turned_off_it_asks_nothing(first: Device, second: Device) -> None:
    """[deletion-held]"""
    shutil.rmtree(first.mountpoint / "tree")
    first.sync()
    assert first.status()["held"] is None
    soon("the tree is gone", lambda: not (second.mountpoint / "tree").exists())
