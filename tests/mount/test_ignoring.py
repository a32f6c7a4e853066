"""Ignored files on real mounts: on their device as any file, for everybody else not there.

Owns the lines about ignored files of SEMANTICS.md; `tests/sync/test_ignoring.py` has the combinations.
"""

import errno
import json
import os

import pytest

from tests.mount.conftest import mount_options
from tests.mount.oracle import write_file
from tests.support.mounts import READY_SECONDS, Device, Server, Workbench, wait_until

UNFINISHED = 3


@pytest.fixture
def devices(workbench: Workbench, server: Server) -> tuple[Device, Device]:
    first, second = workbench.device(server), workbench.device(server)
    for device in (first, second):
        device.mount(*mount_options())
    return first, second


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


def ignored(device: Device) -> dict[str, int]:
    found: dict[str, int] = device.status()["ignored"]
    return found


def read(device: Device, name: str) -> bytes:
    path = device.mountpoint / name
    return path.read_bytes() if path.exists() else b""


def is_ignored(device: Device, name: str) -> bool:
    """Make a directory and see what becomes of it; if it is not to be ignored, it goes again."""
    path = device.mountpoint / name
    path.mkdir()
    if "ignored" in device.run("file-status", str(path)):
        return True
    path.rmdir()
    return False


def test_ignored_files_stay_on_their_device_and_last(workbench: Workbench, server: Server) -> None:
    """[ignored-here] [ignored-rules] [ignored-names] [ignored-mixed]"""
    first, second = workbench.device(server), workbench.device(server)
    here, there = first.mountpoint, second.mountpoint
    first.mount(*mount_options())
    (here / "logs").mkdir()
    (here / "logs/.drivefsignore").write_text("*.log\n")
    first.sync()
    # On a busy machine the rules that are there may come later than they are waited for.
    second.haste = {"drivefs.fs.ignoring.READY_SECONDS": READY_SECONDS}
    second.mount(*mount_options())
    write_file(there / "logs/a.log", b"theirs")
    assert ignored(second)["files"] == 1
    (there / ".drivefsignore").write_text("build/\n!keep~\n")
    second.sync()
    wait_until("the rules are here", lambda: (here / ".drivefsignore").exists())
    wait_until("they hold", lambda: is_ignored(first, "build"))
    (here / "build/deep").mkdir()
    large = os.urandom(300_000)
    write_file(here / "build/deep/object", large)
    write_file(here / "a~", b"backup")
    write_file(here / "keep~", b"kept")
    write_file(here / "a", b"ours")
    with pytest.raises(OSError, match="cross-device") as refused:
        os.rename(here / "a", here / "build/a")
    assert refused.value.errno == errno.EXDEV
    first.sync()
    wait_until("the other device has the rest", lambda: (there / "keep~").exists() and (there / "a").exists())
    assert sorted(os.listdir(there)) == [".drivefsignore", "a", "keep~", "logs"]
    assert ignored(first) == {"files": 4, "bytes": 300_006}
    assert "ignored, only on this device" in first.run("file-status", str(here / "build/deep/object"))
    first.kill()
    first.mount(*mount_options())
    assert (here / "build/deep/object").read_bytes() == large
    assert (here / "a~").read_bytes() == b"backup"
    first.umount()
    first.assert_sound()
    assert first.command("logout").returncode == UNFINISHED
    first.run("export", str(first.home / "copy"))
    assert (first.home / "copy/build/deep/object").read_bytes() == large
    first.mount(*mount_options())
    os.rename(here / "build", here / "result")
    wait_until("a directory of another name is in the drive", lambda: (there / "result/deep/object").exists())
    assert (there / "result/deep/object").read_bytes() == large


def test_saving_through_ignored_names_is_seen_as_any_save(devices: tuple[Device, Device]) -> None:
    """[ignored-save]"""
    first, second = devices
    document = first.mountpoint / "report"
    write_file(document, b"0")
    wait_until("the other device has it", lambda: read(second, "report") == b"0")
    for number in range(1, 4):
        write_file(first.mountpoint / ".goutputstream-ABC", b"%d" % number)
        os.rename(first.mountpoint / ".goutputstream-ABC", document)
        wait_until("the other device has it", lambda: read(second, "report") == b"%d" % number)  # noqa: B023
    assert os.listdir(second.mountpoint) == ["report"]
    revisions = json.loads(second.run("revisions", str(second.mountpoint / "report"), "--json"))
    assert len(revisions) == 4, revisions


def test_ignored_files_of_a_removed_directory_are_kept(devices: tuple[Device, Device]) -> None:
    """[ignored-left]"""
    first, second = devices
    (first.mountpoint / "d").mkdir()
    write_file(first.mountpoint / "d/ours", b"ours")
    write_file(first.mountpoint / "d/.notes.swp", b"what was not saved")
    wait_until("the other device has it", lambda: read(second, "d/ours") == b"ours")
    os.unlink(second.mountpoint / "d/ours")
    os.rmdir(second.mountpoint / "d")
    wait_until("the directory is gone here", lambda: not (first.mountpoint / "d").exists())
    wait_until("people are told", lambda: "lost its place" in first.run("status"))
    kept = [path for path in first.directories["XDG_STATE_HOME"].rglob("lost+found/*") if path.is_file()]
    assert [path.read_bytes() for path in kept] == [b"what was not saved"]
    assert ignored(first) == {"files": 0, "bytes": 0}
    assert os.listdir(second.mountpoint) == []
