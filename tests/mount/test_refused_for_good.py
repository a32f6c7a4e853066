"""What the server will never take, on real mounts: its content is in `lost+found`, people are told, and nothing waits.

Owns the promise about it in SEMANTICS.md.
"""

import os
import re
import sqlite3

import pytest

from drivefs.cli.exit_codes import ExitCode
from tests.mount.conftest import mount_options
from tests.mount.oracle import write_file
from tests.support.mounts import Device, Server, Workbench, wait_until


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


@pytest.fixture
def device(workbench: Workbench, server: Server) -> Device:
    device = workbench.device(server)
    device.mount(*mount_options())
    write_file(device.mountpoint / "known", b"before and after")
    device.sync()
    return device


def change_account(server: Server, statement: str) -> None:
    """As its operator might."""
    with sqlite3.connect(server.data / "metadata.db") as database:
        database.execute(statement)
    database.close()


def lost(device: Device) -> dict[str, bytes]:
    """What is in `lost+found`, by the name that it had."""
    found = device.home / "state/drivefs"
    paths = [path for path in found.rglob("lost+found/*") if path.is_file()]
    return {re.sub(r" \(not taken, [0-9a-f]+\)", "", path.name): path.read_bytes() for path in paths}


def told(device: Device) -> list[str]:
    return [each for each in device.status()["attention"] if "server does not take" in each]


@pytest.mark.fault(54)
def test_when_the_right_to_write_is_taken_away_all_that_waited_is_kept(device: Device) -> None:
    """[refused-for-good]"""
    server, root = device.server, device.mountpoint
    server.stop()
    (root / "made/inner").mkdir(parents=True)
    write_file(root / "made/inner/new", b"new")
    write_file(root / "made/large", b"l" * 2_000_000)
    (root / "made/link").symlink_to("inner/new")
    with (root / "known").open("r+b") as file:
        file.write(b"BEFORE")
    change_account(server, "UPDATE members SET role = 'viewer'")
    server.start()
    ended = device.command("sync", str(root), "--wait", "--timeout", "60")
    assert ended.returncode == ExitCode.REFUSED, ended.stderr
    assert "lost+found" in ended.stderr
    assert lost(device) == {"new": b"new", "large": b"l" * 2_000_000, "known": b"BEFORE and after"}
    links = [path for path in (device.home / "state/drivefs").rglob("lost+found/*") if path.is_symlink()]
    assert [os.readlink(path) for path in links] == ["inner/new"]
    assert os.listdir(root) == ["known"]
    assert (root / "known").read_bytes() == b"before and after"
    notes = told(device)
    for path in ("made/inner/new", "made/large", "known", "made/link", "made/inner", "made"):
        assert any(f"'{path}'" in each for each in notes), path
    assert device.status()["pending"] == {"mutations": 0, "bytes": 0}
    assert device.command("sync", str(root), "--wait").returncode == ExitCode.OK
    device.umount()
    device.mount(*mount_options())
    assert len(told(device)) == 4, "of what is kept it is told for as long as it is there"
    device.umount()
    device.assert_sound()
    server.assert_sound()


def test_a_file_that_is_larger_than_the_server_allows_now_is_kept(device: Device, workbench: Workbench) -> None:
    """[refused-for-good]"""
    server, root = device.server, device.mountpoint
    server.stop()
    write_file(root / "large", b"l" * 2_000_000)
    write_file(root / "tmp", b"k" * 1_500_000)
    os.rename(root / "tmp", root / "known")
    write_file(root / "small", b"small")
    change_account(server, "UPDATE accounts SET file_bytes = 1000000")
    server.start()
    assert device.command("sync", str(root), "--wait", "--timeout", "60").returncode == ExitCode.REFUSED
    assert lost(device) == {"large": b"l" * 2_000_000, "known": b"k" * 1_500_000}
    assert sorted(os.listdir(root)) == ["known", "small"]
    assert (root / "known").read_bytes() == b"before and after"
    other = workbench.device(server)
    other.mount(*mount_options())
    assert sorted(os.listdir(other.mountpoint)) == ["known", "small"]
    device.umount()
    device.assert_sound()


def test_what_a_program_has_open_goes_there_when_it_is_closed(device: Device) -> None:
    """[refused-for-good]"""
    server, root = device.server, device.mountpoint
    server.stop()
    with (root / "known").open("r+b", buffering=0) as file:
        file.write(b"BEFORE")
        os.fsync(file.fileno())
        change_account(server, "UPDATE members SET role = 'viewer'")
        server.start()
        wait_until("it is told", lambda: any("has it open" in each for each in told(device)))
        file.write(b" AND")
        assert (root / "known").read_bytes() == b"BEFORE AND after"
    wait_until("it is put aside", lambda: lost(device) == {"known": b"BEFORE AND after"})
    wait_until("the drive shows the server's", lambda: (root / "known").read_bytes() == b"before and after")
    device.umount()
