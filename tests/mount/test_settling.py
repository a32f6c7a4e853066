"""Conflict copies as people find and settle them, on real mounts: commands, xattr, and files for merging by hand.

Owns the promises about settling conflicts in SEMANTICS.md.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from drivefs.cli.exit_codes import ExitCode
from tests.mount.conftest import mount_options
from tests.mount.oracle import write_file
from tests.support.mounts import Device, Workbench, wait_until

pytestmark = pytest.mark.long

BASE = b"one\ntwo\nthree\nfour\nfive\n"
THEIRS = b"ONE\ntwo\nthree\nfour\nfive\n"
MINE = b"one\ntwo\nthree\nfour\nFIVE\n"
MERGED = b"ONE\ntwo\nthree\nfour\nFIVE\n"


@pytest.fixture
def devices(workbench: Workbench) -> tuple[Device, Device, Device]:
    """Three devices: the second lost a conflict about `papers/note.txt` to the first, and all know of it."""
    server = workbench.server()
    first, second, third = (workbench.device(server) for _ in range(3))
    root = first.mount(*mount_options())
    (root / "papers").mkdir()
    write_file(root / "papers/note.txt", BASE)
    first.sync()
    second.mount(*mount_options())
    assert (second.mountpoint / "papers/note.txt").read_bytes() == BASE
    server.stop()
    (root / "papers/note.txt").write_bytes(THEIRS)
    (second.mountpoint / "papers/note.txt").write_bytes(MINE)
    second.umount("--now")
    server.start()
    first.sync()
    second.mount(*mount_options())
    second.sync()
    third.mount(*mount_options())
    for device in (first, second, third):
        os.listdir(device.mountpoint / "papers")
        wait_until("the copy is known", lambda device=device: bool(listed(device)))
    return first, second, third


def listed(device: Device) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(device.run("conflicts", "list", "--json"))
    return found


def copy_of(device: Device) -> Path:
    (conflict,) = listed(device)
    return Path(conflict["path"])


def note(device: Device) -> Path:
    return device.mountpoint / "papers/note.txt"


def settled(device: Device, content: bytes) -> bool:
    return note(device).read_bytes() == content and len(os.listdir(device.mountpoint / "papers")) == 1


def test_every_device_lists_the_copy(devices: tuple[Device, Device, Device]) -> None:
    """[conflict-list] [conflict-xattr]"""
    _, second, third = devices
    for device in devices:
        (conflict,) = listed(device)
        assert conflict["original"] == str(note(device))
        assert conflict["device"] == second.name
        copy = Path(conflict["path"])
        assert copy.parent == device.mountpoint / "papers"
        assert "conflicted copy" in copy.name
        assert copy.read_bytes() == MINE
        assert note(device).read_bytes() == THEIRS
        about = json.loads(os.getxattr(copy, "user.drivefs.conflict"))
        assert (about["original"], about["device"]) == ("papers/note.txt", second.name)
        assert os.listxattr(copy) == []
        with pytest.raises(PermissionError):
            os.setxattr(copy, "user.drivefs.conflict", b"x")
        with pytest.raises(OSError, match="not supported"):
            os.setxattr(copy, "drivefs.conflict", b"x")
        status = device.status()
        assert status["conflicts"] == 1
        assert any("drivefs conflicts list" in notice for notice in status["attention"])
    assert str(note(third)) in third.run("conflicts", "list", str(third.mountpoint))


def test_the_three_sides_merge_by_hand(devices: tuple[Device, Device, Device]) -> None:
    """[conflict-entries]"""
    for device in devices:
        (conflict,) = listed(device)
        entry = Path(conflict["entry"])
        assert os.listdir(entry.parent) == [entry.name] == [Path(conflict["path"]).name]
        assert sorted(os.listdir(entry)) == ["base", "mine", "theirs"]
        assert (entry / "base").read_bytes() == BASE
        assert (entry / "base").stat().st_size == len(BASE)
        merged = subprocess.run(
            ["git", "merge-file", "-p", "mine", "base", "theirs"], cwd=entry, capture_output=True, check=False
        )
        assert (merged.returncode, merged.stdout) == (0, MERGED), merged.stderr
        for name in ("base", "mine", "theirs"):
            with pytest.raises(PermissionError):
                (entry / name).open("r+b")
    (devices[0].mountpoint / "papers/note.txt").write_bytes(MERGED)
    entry = Path(listed(devices[0])[0]["entry"])
    assert (entry / "theirs").read_bytes() == MERGED


def test_diff_shows_what_differs(devices: tuple[Device, Device, Device]) -> None:
    """[conflict-list]"""
    for device in devices:
        shown = device.run("conflicts", "diff", str(copy_of(device)))
        assert {"-ONE", "+one", "-five", "+FIVE"} < set(shown.splitlines())
        # The file that kept the name will do, while there is one copy only.
        assert device.run("conflicts", "diff", str(note(device))) == shown
        from_base = json.loads(device.run("conflicts", "diff", "--base", "--json", str(note(device))))["diff"]
        assert {"-one", "+ONE", "-five", "+FIVE"} < set(from_base.splitlines())
    refused = devices[0].command("conflicts", "diff", str(devices[0].mountpoint / "papers"))
    assert refused.returncode == ExitCode.FAILED
    assert "no conflict" in refused.stderr


@pytest.mark.parametrize(
    ("way", "content", "where"), [("keep-mine", MINE, 2), ("keep-theirs", THEIRS, 0), ("keep-mine", MINE, 1)]
)
def test_one_side_is_kept_from_any_device(
    devices: tuple[Device, Device, Device], way: str, content: bytes, where: int
) -> None:
    """[conflict-settle]"""
    device = devices[where]
    done = json.loads(device.run("conflicts", way, "--json", str(note(device))))
    assert done["settled"] == way
    wait_until("it shows here", lambda: settled(device, content), 5.0)
    device.sync()
    for each in devices:
        wait_until("it is settled there too", lambda each=each: settled(each, content))
        assert listed(each) == []
    for each in devices:
        each.umount()
        each.assert_sound()
    device.server.assert_sound()


def test_both_are_kept_as_ordinary_files(devices: tuple[Device, Device, Device]) -> None:
    """[conflict-settle]"""
    device = devices[2]
    copy = copy_of(device)
    device.run("conflicts", "keep-both", str(copy))
    device.sync()
    for each in devices:
        wait_until("it is settled there too", lambda each=each: not listed(each))
        assert (each.mountpoint / "papers" / copy.name).read_bytes() == MINE
        assert note(each).read_bytes() == THEIRS
        with pytest.raises(OSError, match="No data"):
            os.getxattr(each.mountpoint / "papers" / copy.name, "user.drivefs.conflict")


def test_ordinary_tools_settle_it_too(devices: tuple[Device, Device, Device]) -> None:
    """[conflict-settle]"""
    first = devices[0]
    os.replace(copy_of(first), note(first))
    first.sync()
    for each in devices:
        wait_until("it is settled there too", lambda each=each: settled(each, MINE))
        assert listed(each) == []


def test_it_is_settled_without_a_server_too(devices: tuple[Device, Device, Device]) -> None:
    """[conflict-settle]"""
    first, second, _ = devices
    first.server.stop()
    second.run("conflicts", "keep-mine", str(copy_of(second)))
    wait_until("it shows here", lambda: settled(second, MINE), 5.0)
    first.server.start()
    second.sync()
    wait_until("it is settled there too", lambda: settled(first, MINE))
