"""Devices of an account, and what becomes of one that is revoked: by another device, and by the server's operator.

Owns the lines about devices of SEMANTICS.md.
"""

import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import mount_options
from tests.mount.oracle import snapshot, write_file
from tests.support.mounts import Device, Server, Workbench, wait_until

MEBIBYTE = 2**20


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


@pytest.fixture
def lost(workbench: Workbench, server: Server) -> Device:
    """The device that will be revoked."""
    device = workbench.device(server)
    device.mount(*mount_options())
    return device


@pytest.fixture
def other(workbench: Workbench, server: Server) -> Device:
    return workbench.device(server)


def devices(asking: Device) -> dict[str, dict[str, Any]]:
    """The devices that are not revoked, by name."""
    found = json.loads(asking.run("devices", "--json"))
    return {each["name"]: each for each in found if not each["revoked"]}


def fails(call: Callable[[], object]) -> int:
    with pytest.raises(OSError, match=r".") as raised:
        call()
    assert raised.value.errno is not None
    return raised.value.errno


def wait_revoked(device: Device) -> None:
    wait_until(f"{device.name} knows that it is revoked", lambda: bool(device.status()["revoked"]))


def test_devices_are_listed_with_who_is_here_and_what_is_still_to_be_sent(
    workbench: Workbench, server: Server, lost: Device, other: Device
) -> None:
    """[devices]"""
    wait_until("the mounted one is online", lambda: devices(other)[lost.name]["online"])
    listed = devices(other)
    assert listed[other.name]["this_device"]
    assert not listed[other.name]["online"]
    assert not listed[lost.name]["this_device"]
    assert "online" in other.run("devices")
    link = workbench.link(server)
    slow = workbench.new_device(server)
    slow.url = link.url
    slow.login()
    slow.mount(*mount_options())
    link.trickle(MEBIBYTE)
    write_file(slow.mountpoint / "large", random.Random(1).randbytes(20 * MEBIBYTE))
    wait_until(
        "others see what it has to send", lambda: (devices(other)[slow.name]["pending"] or {}).get("bytes", 0) > 0
    )
    link.restore()
    slow.sync()
    wait_until("and that it is done", lambda: devices(other)[slow.name]["pending"] == {"mutations": 0, "bytes": 0})
    lost.umount()
    wait_until("the one that was unmounted is away", lambda: not devices(other)[lost.name]["online"])
    assert devices(other)[lost.name]["last_seen_ns"]


@pytest.mark.fault(53)
def test_a_revoked_device_goes_on_reading_and_takes_no_changes(lost: Device, other: Device) -> None:
    """[revoked-at-once] [revoked-reading] [revoked-read-only]"""
    root = lost.mountpoint
    write_file(root / "known", b"known")
    write_file(root / "changed", b"before")
    lost.sync()
    assert lost.command("devices", "revoke", lost.name, "--yes").returncode == 5
    assert other.command("devices", "revoke", "nobody", "--yes").returncode == 1
    wait_until("it polls", lambda: devices(other)[lost.name]["online"])
    other.run("devices", "revoke", lost.name)
    wait_until("its poll is ended", lambda: bool(lost.status()["revoked"]), 40)
    assert lost.name not in devices(other)
    assert "revoked" in lost.run("status")
    assert "read-only" in lost.run("status")
    assert (root / "known").read_bytes() == b"known"
    assert fails(lambda: (root / "new").write_bytes(b"x")) == errno.EROFS
    assert fails(lambda: (root / "known").open("r+b")) == errno.EROFS
    assert fails(lambda: os.unlink(root / "known")) == errno.EROFS
    assert fails(lambda: os.mkdir(root / "directory")) == errno.EROFS
    assert fails(lambda: os.chmod(root / "known", 0o600)) == errno.EROFS
    refused = lost.command("devices")
    assert (refused.returncode, "revoked" in refused.stderr) == (5, True)
    lost.umount()
    mounted = lost.mount(*mount_options())
    assert fails(lambda: (mounted / "new").write_bytes(b"x")) == errno.EROFS, "after a remount too"
    assert (mounted / "known").read_bytes() == b"known"
    lost.umount()


def unsent(device: Device) -> dict[str, bytes]:
    """Make changes while the server is away; gives the contents that have to come out."""
    root = device.mountpoint
    (root / "made/inner").mkdir(parents=True)
    contents = {
        "made/inner/small": b"small",
        "made/inner/large": random.Random(2).randbytes(3 * MEBIBYTE),
        "changed": b"BEFORE and after",
        "made/empty": b"",
    }
    write_file(root / "made/inner/small", contents["made/inner/small"])
    write_file(root / "made/inner/large", contents["made/inner/large"])
    with (root / "changed").open("r+b") as file:
        file.write(b"BEFORE")
    (root / "made/empty").touch()
    (root / "made/link").symlink_to("inner/small")
    os.rename(root / "old name", root / "new name")
    shutil.rmtree(root / "gone")
    os.chmod(root / "new name", 0o600)
    return contents


def prepared(device: Device) -> dict[str, bytes]:
    """A device with unsent changes whose server is away."""
    write_file(device.mountpoint / "changed", b"before and after")
    write_file(device.mountpoint / "old name", b"old")
    (device.mountpoint / "gone/inner").mkdir(parents=True)
    write_file(device.mountpoint / "gone/inner/file", b"gone")
    device.sync()
    device.server.stop()
    return unsent(device)


def assert_exported(target: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        assert (target / name).read_bytes() == content
    assert os.readlink(target / "made/link") == "inner/small"
    assert not (target / "old name").exists()
    listed = json.loads((target / "drivefs-export.json").read_text())
    assert {each["path"] for each in listed["files"]} == {*contents, "made", "made/inner", "made/link"}
    changes = listed["changes"]
    assert [(each["path"], each["new_path"]) for each in changes if each["kind"] == "rename"] == [
        ("old name", "new name")
    ]
    gone = [each["path"] for each in changes if each["kind"] == "unlink"]
    assert gone == ["gone/inner/file", "gone/inner", "gone"]
    modes = [(each["paths"], each["mode"]) for each in changes if each["kind"] == "set_attributes" and "mode" in each]
    assert modes == [(["new name"], 0o600)]


@pytest.mark.fault(53)
def test_what_was_not_sent_is_exported_mounted_or_not_and_sent_after_a_new_login(
    workbench: Workbench, server: Server, lost: Device, other: Device
) -> None:
    """[export] [revoked-login]"""
    contents = prepared(lost)
    expected = snapshot(lost.mountpoint)
    done = server.command("device", "revoke", "ada", lost.name)
    assert done.returncode == 0, done.stderr
    server.start()
    wait_revoked(lost)
    stuck = lost.command("sync", str(lost.mountpoint), "--wait")
    assert (stuck.returncode, "revoked" in stuck.stderr) == (5, True)
    assert snapshot(lost.mountpoint) == expected
    targets = [workbench.home / name for name in ("mounted", "unmounted")]
    done = lost.command("export", str(lost.mountpoint / "inside"))
    assert done.returncode == 1
    lost.run("export", str(targets[0]))
    assert_exported(targets[0], contents)
    assert lost.command("export", str(targets[0])).returncode == 1, "nothing there is replaced"
    assert lost.command("umount", str(lost.mountpoint)).returncode == 3
    assert lost.process is not None
    lost.process.wait(60)
    lost.ended()
    server.stop()
    assert json.loads(lost.run("export", str(targets[1]), "--json"))["incomplete"] == 0
    assert_exported(targets[1], contents)
    lost.assert_sound()
    server.start()
    lost.login()
    lost.mount(*mount_options())
    lost.sync()
    assert snapshot(lost.mountpoint) == expected
    other.mount(*mount_options())
    assert snapshot(other.mountpoint) == expected
    write_file(lost.mountpoint / "later", b"it may write again")
    assert sorted(devices(other)) == sorted([lost.name, other.name])


def test_bytes_that_were_never_fetched_are_missing_from_an_export_and_it_says_so(
    workbench: Workbench, server: Server, lost: Device, other: Device
) -> None:
    """[export]"""
    content = random.Random(3).randbytes(20 * MEBIBYTE)
    write_file(lost.mountpoint / "large", content)
    lost.sync()
    root = other.mount(*mount_options())
    wait_until("it is listed", lambda: (root / "large").exists())
    server.stop()
    with (root / "large").open("r+b") as file:
        file.seek(10 * MEBIBYTE)
        file.write(b"changed here")
    target = workbench.home / "target"
    assert other.command("export", str(target)).returncode == 3
    (listed,) = json.loads((target / "drivefs-export.json").read_text())["files"]
    got = (target / "large.incomplete").read_bytes()
    assert got[10 * MEBIBYTE : 10 * MEBIBYTE + 12] == b"changed here"
    assert len(got) == len(content)
    assert sum(end - start for start, end in listed["missing"]) == len(content) - 12
    server.start()


def test_logging_in_again_ends_the_device_that_it_was(lost: Device, other: Device) -> None:
    """[devices]"""
    before = devices(other)[lost.name]["id"]
    lost.umount()
    lost.login()
    assert devices(other)[lost.name]["id"] != before


@pytest.mark.fault(53)
def test_a_large_upload_ends_with_its_device(workbench: Workbench, server: Server, lost: Device, other: Device) -> None:
    """[revoked-at-once]"""
    link = workbench.link(server)
    slow = workbench.new_device(server)
    slow.url = link.url
    slow.login()
    slow.mount(*mount_options())
    link.trickle(MEBIBYTE / 2)
    content = random.Random(4).randbytes(40 * MEBIBYTE)
    write_file(slow.mountpoint / "film", content)
    wait_until("it is coming", lambda: bool(lost.status()["incoming"]))
    other.run("devices", "revoke", slow.name, "--yes")
    wait_until("it does not come any more", lambda: not lost.status()["incoming"], 40)
    wait_revoked(slow)
    assert (slow.mountpoint / "film").read_bytes() == content
    assert os.listdir(lost.mountpoint) == []


@pytest.mark.fault(52)
def test_passes_that_run_out_in_the_middle_of_an_upload_are_renewed_unseen(
    workbench: Workbench, server: Server, other: Device
) -> None:
    """[passes]"""
    server.stop()
    (server.data / "server.toml").write_text("pass_seconds = 2\n")
    server.start()
    link = workbench.link(server)
    slow = workbench.device(server, link=link)
    slow.mount(*mount_options())
    link.trickle(MEBIBYTE)
    content = random.Random(5).randbytes(6 * MEBIBYTE)
    write_file(slow.mountpoint / "film", content)
    slow.sync()
    link.restore()
    write_file(slow.mountpoint / "more", b"more")
    slow.sync()
    shown = other.mount(*mount_options())
    assert (shown / "film").read_bytes() == content
    assert (shown / "more").read_bytes() == b"more"
    other.run("devices", "revoke", slow.name, "--yes")
    wait_revoked(slow)
    assert fails(lambda: (slow.mountpoint / "new").write_bytes(b"x")) == errno.EROFS


def test_devices_of_a_removed_user_end_and_go_on_when_the_user_is_restored(server: Server, lost: Device) -> None:
    """[removed-back] [revoked-at-once] [revoked-read-only]"""
    root = lost.mountpoint
    write_file(root / "file", b"content")
    lost.sync()
    assert server.command("user", "remove", "ada", "--yes").returncode == 0
    wait_revoked(lost)
    assert "ada was removed" in lost.run("status")
    assert fails(lambda: write_file(root / "new", b"x")) == errno.EROFS
    assert (root / "file").read_bytes() == b"content"
    server.command("user", "restore", "ada")
    wait_until("it goes on", lambda: not lost.status()["revoked"])
    write_file(root / "new", b"x")
    lost.sync()
