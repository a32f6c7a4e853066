"""Mounts in whose life the server's history changes: a part of it is forgotten, or it was put back to an older state.

Owns what programs see then: nothing stays stale, nothing that was written is lost, and nobody has to mount again.
"""

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import mount_options
from tests.mount.oracle import snapshot, write_file
from tests.support.mounts import Device, Server, Workbench, wait_until

pytestmark = pytest.mark.long


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


@pytest.fixture
def device(workbench: Workbench, server: Server) -> Device:
    device = workbench.device(server)
    device.mount(*mount_options())
    return device


class Saved:
    """The data of a server as it was at one moment, to be put back."""

    def __init__(self, server: Server) -> None:
        self.server, self.copy = server, server.home / "saved"
        server.stop()
        shutil.copytree(server.data, self.copy)
        server.start()

    def put_back(self) -> None:
        self.server.stop()
        shutil.rmtree(self.server.data)
        shutil.copytree(self.copy, self.server.data)


def tell(server: Server, statement: str) -> None:
    """Change the server's database while it is stopped."""
    with sqlite3.connect(next(server.data.glob("*.db"))) as database:
        database.execute(statement)
    database.close()


def furnish(root: Path) -> None:
    (root / "kept/inner").mkdir(parents=True)
    (root / "emptied").mkdir()
    write_file(root / "kept/file", b"first")
    write_file(root / "kept/inner/leaf", b"leaf")
    write_file(root / "emptied/gone", b"gone")
    write_file(root / "changed", b"before")


def know(root: Path) -> None:
    """Let the kernel know all of it, and that some names are not there."""
    snapshot(root)
    for name in ("kept/new", "new", "emptied/new"):
        assert not (root / name).exists()


def equal(first: Path, second: Path) -> Callable[[], bool]:
    return lambda: snapshot(first, times=True) == snapshot(second, times=True)


def fresh(workbench: Workbench, server: Server) -> Path:
    """The drive as a device sees it that has never seen anything else."""
    return workbench.device(server).mount(*mount_options())


def standing_in(directory: Path) -> "subprocess.Popen[str]":
    """A shell that stays in a directory, and runs what it is told."""
    return subprocess.Popen(
        ["sh"], cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ask(shell: "subprocess.Popen[str]", command: str) -> list[str]:
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(command + "; echo; echo done\n")
    shell.stdin.flush()
    lines = []
    while (line := shell.stdout.readline().rstrip("\n")) != "done":
        lines.append(line)
    return [line for line in lines if line]


@pytest.mark.fault(43)
def test_a_forgotten_part_of_the_history_leaves_nothing_stale(workbench: Workbench, server: Server) -> None:
    """[history-forgotten]: what changed while this device was away is no longer in the feed."""
    there = workbench.device(server)
    furnish(there.mount(*mount_options()))
    there.sync()
    link = workbench.link(server)
    here = workbench.device(server, link=link)
    root = here.mount(*mount_options())
    know(root)
    shell = standing_in(root / "kept")
    reader = os.open(root / "changed", os.O_RDONLY)
    link.cut()
    write_file(root / "kept/mine", b"written offline")
    other = there.mountpoint
    write_file(other / "changed", b"changed there")
    write_file(other / "kept/new", b"new")
    write_file(other / "new", b"new")
    (other / "kept/file").unlink()
    (other / "emptied/gone").unlink()
    (other / "emptied").rmdir()
    os.rename(other / "kept/inner", other / "moved")
    there.sync()
    server.stop()
    tell(server, "UPDATE workspaces SET feed_floor = head_seq")
    server.start()
    link.restore()
    here.sync()
    there.sync()
    wait_until("both show the same", equal(root, other), 60)
    assert ask(shell, "ls") == ["mine", "new"]
    assert ask(shell, "cat new; echo; cat mine") == ["new", "written offline"]
    assert os.pread(reader, 100, 0) == b"changed there"
    os.close(reader)
    end(shell)
    for device in (here, there):
        device.umount()
        device.assert_sound()


def end(shell: "subprocess.Popen[str]") -> None:
    shell.communicate("exit\n")


@pytest.mark.fault(40)
def test_a_server_that_was_put_back_leaves_nothing_stale(workbench: Workbench, server: Server, device: Device) -> None:
    """[history-other]: names and attributes are those that the server has now; nothing waits for a new mount."""
    root = device.mountpoint
    furnish(root)
    device.sync()
    saved = Saved(server)
    wait_until("online", lambda: bool(device.status()["online"]))
    another = workbench.device(server)
    there = another.mount(*mount_options())
    (there / "kept/inner/leaf").chmod(0o600)
    os.rename(there / "kept/inner", there / "moved")
    (there / "emptied/gone").unlink()
    another.sync()
    wait_until("all of it is here", equal(root, there), 60)
    another.umount()
    know(root)
    shell = standing_in(root / "kept")
    assert ask(shell, "ls") == ["file"]
    saved.put_back()
    server.start()
    wait_until("the old state shows", lambda: ask(shell, "ls") == ["file", "inner"], 60)
    assert ask(shell, "cat inner/leaf") == ["leaf"]
    wait_until("its old attributes too", lambda: ask(shell, "stat -c %a inner/leaf") == ["644"])
    wait_until("all of it", equal(root, fresh(workbench, server)), 60)
    assert not (root / "moved").exists()
    write_file(root / "kept/new", b"and on it goes")
    device.sync()
    other = workbench.devices[-1].mountpoint
    wait_until("it goes on", equal(root, other), 60)
    end(shell)
    device.umount()
    device.assert_sound()
    server.assert_sound()


def test_files_that_are_open_over_a_new_history_go_on(workbench: Workbench, server: Server, device: Device) -> None:
    """[history-other]"""
    root = device.mountpoint
    furnish(root)
    device.sync()
    saved = Saved(server)
    wait_until("online", lambda: bool(device.status()["online"]))
    saved.put_back()
    (root / "made").mkdir()
    descriptor = os.open(root / "made/file", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"begun offline")
    reader = os.open(root / "kept/file", os.O_RDONLY)
    before = os.fstat(descriptor).st_ino, (root / "made").stat().st_ino
    shell = standing_in(root / "made")
    tell(server, "UPDATE lives SET nonce = x'00'")
    server.start()
    wait_until("online", lambda: bool(device.status()["online"]), 60)
    os.write(descriptor, b", and finished")
    assert os.pread(descriptor, 100, 0) == b"begun offline, and finished"
    assert (os.fstat(descriptor).st_ino, (root / "made").stat().st_ino) == before
    os.close(descriptor)
    assert ask(shell, "cat file; echo; echo x > another; ls") == ["begun offline, and finished", "another", "file"]
    assert os.pread(reader, 100, 0) == b"first"
    os.close(reader)
    device.sync()
    other = fresh(workbench, server)
    wait_until("the other device has it", lambda: (other / "made/another").exists(), 60)
    assert (other / "made/file").read_bytes() == b"begun offline, and finished"
    assert sorted(os.listdir(other)) == sorted(os.listdir(root)) == ["changed", "emptied", "kept", "made"]
    end(shell)
    device.umount()
    device.assert_sound()
    server.assert_sound()


@pytest.mark.fault(40)
@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.8])
def test_a_crash_while_the_history_changes_loses_nothing(
    workbench: Workbench, server: Server, device: Device, seconds: float
) -> None:
    """[history-other] [crash-write]: wherever between the old history and the new one the mount is killed."""
    root = device.mountpoint
    furnish(root)
    device.sync()
    saved = Saved(server)
    wait_until("online", lambda: bool(device.status()["online"]))
    write_file(root / "changed", b"acknowledged")
    device.sync()
    saved.put_back()
    write_file(root / "new", b"waiting")
    (root / "made").mkdir()
    write_file(root / "made/file", os.urandom(300_000))
    expected = (root / "made/file").read_bytes()
    tell(server, "UPDATE lives SET nonce = x'00'")
    server.start()
    time.sleep(seconds)
    device.kill()
    device.mount(*mount_options())
    device.sync()
    other = fresh(workbench, server)
    wait_until("both show the same", equal(root, other), 60)
    assert (other / "new").read_bytes() == b"waiting"
    assert (other / "made/file").read_bytes() == expected
    assert sorted(os.listdir(other)) == ["changed", "emptied", "kept", "made", "new"]
    device.umount()
    device.assert_sound()
    server.assert_sound()


def test_what_only_this_device_has_is_offered_again(workbench: Workbench, server: Server, device: Device) -> None:
    """[history-other]: newer contents, and changes that wait, survive a server that was put back."""
    root = device.mountpoint
    furnish(root)
    device.sync()
    saved = Saved(server)
    wait_until("online", lambda: bool(device.status()["online"]))
    write_file(root / "changed", b"acknowledged, and then lost by the server")
    large = os.urandom(3_000_000)
    write_file(root / "kept/file", large)
    device.sync()
    write_file(root / "changed", b"acknowledged twice, and then lost by the server")
    device.sync()
    saved.put_back()
    write_file(root / "new", b"written meanwhile")
    with (root / "kept/inner/leaf").open("ab") as file:
        file.write(b" that grew")
    server.start()
    wait_until("online", lambda: bool(device.status()["online"]), 60)
    newest = b"acknowledged twice, and then lost by the server"
    wait_until("the newest is back", lambda: (root / "changed").read_bytes() == newest, 60)
    device.sync()
    other = fresh(workbench, server)
    wait_until("both show the same", equal(root, other), 60)
    assert (other / "changed").read_bytes() == newest
    assert (other / "kept/file").read_bytes() == large
    assert (other / "new").read_bytes() == b"written meanwhile"
    assert (other / "kept/inner/leaf").read_bytes() == b"leaf that grew"
    assert not [name for name in os.listdir(other) if "conflicted" in name]
    device.umount()
    device.assert_sound()
    server.assert_sound()


@pytest.mark.fault(40)
def test_what_a_restored_backup_lacks_comes_back_from_the_devices(workbench: Workbench, server: Server) -> None:
    """[history-other]: with two devices that both know all of it, and a program that has a file open meanwhile."""
    devices = [workbench.device(server) for _ in range(2)]
    root, other = [device.mount(*mount_options()) for device in devices]
    furnish(root)
    devices[0].sync()
    wait_until("both have it", equal(root, other), 60)
    backup = server.home / "backup"
    done = server.command("backup", str(backup))
    assert done.returncode == 0, done.stderr
    (root / "made/deep").mkdir(parents=True)
    large = os.urandom(2_000_000)
    write_file(root / "made/deep/large", large)
    os.link(root / "made/deep/large", root / "kept/linked")
    os.symlink("deep/large", root / "made/link")
    write_file(root / "saved", b"in place of another")
    os.rename(root / "saved", root / "kept/file")
    devices[0].sync()
    write_file(other / "of the other", b"and changed there")
    devices[1].sync()
    wait_until("both have that too", equal(root, other), 60)
    reader = os.open(root / "made/deep/large", os.O_RDONLY)
    expected = snapshot(root)
    server.stop()
    done = server.command("restore", str(backup), "--replace")
    assert done.returncode == 0, done.stderr
    server.start()
    new = fresh(workbench, server)
    wait_until("all of it is back", lambda: snapshot(new) == expected, 90)
    wait_until("and as it was", lambda: snapshot(root) == snapshot(other) == expected, 60)
    assert os.pread(reader, 3_000_000, 0) == large
    os.close(reader)
    for device in devices:
        device.sync()
        device.umount()
        device.assert_sound()
    server.assert_sound()
