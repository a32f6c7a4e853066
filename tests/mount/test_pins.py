"""What is pinned is on the device: fetched, current, never evicted, over remounts and without a network.

Owns the lines about pins of SEMANTICS.md.
"""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import mount_options
from tests.mount.oracle import write_file
from tests.support.link import Link
from tests.support.mounts import Device, Server, Workbench, wait_until

RANDOM = random.Random(7)
MEBIBYTE = 2**20
UNFINISHED = 3


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


@pytest.fixture
def link(workbench: Workbench, server: Server) -> Link:
    return workbench.link(server)


@pytest.fixture
def writer(workbench: Workbench, server: Server) -> Device:
    """Another device, which makes what is there and changes it."""
    device = workbench.device(server)
    device.mount(*mount_options())
    return device


@pytest.fixture
def device(workbench: Workbench, server: Server, writer: Device, link: Link) -> Device:
    """The device that pins: over a link that can fail."""
    return workbench.device(server, link=link)


def furnish(root: Path) -> dict[str, bytes]:
    """A tree of small and large files below `tree`; gives all contents by path."""
    made = {f"tree/a/b/small{number}": RANDOM.randbytes(3000 + number) for number in range(20)}
    made |= {"tree/large": RANDOM.randbytes(9 * MEBIBYTE), "tree/empty": b""}
    for path, content in made.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return made


def assert_reads(root: Path, contents: dict[str, bytes]) -> None:
    assert {path: (root / path).read_bytes() for path in contents} == contents


def pins(device: Device) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(device.run("pins", str(device.mountpoint), "--json"))
    return found


def wait_until_here(device: Device, file_count: int) -> None:
    """Wait until all pins are whole, with so many files."""

    def is_here() -> bool:
        found = pins(device)
        counted = sum(each["files"] for each in found["pins"])
        return not found["busy"] and counted == file_count and all(each["complete"] for each in found["pins"])

    wait_until(f"{file_count} pinned files are here", is_here)


def test_a_pinned_tree_is_read_without_a_network(device: Device, writer: Device, link: Link) -> None:
    """[pin-offline]"""
    contents = furnish(writer.mountpoint)
    writer.sync()
    root = device.mount(*mount_options())
    device.run("pin", str(root / "tree"), "--wait")
    link.cut()
    assert_reads(root, contents)
    assert sorted(os.listdir(root / "tree/a/b")) == sorted(f"small{number}" for number in range(20))
    device.umount("--now")
    device.mount(*mount_options())
    assert_reads(root, contents)
    (pin,) = pins(device)["pins"]
    assert pin["complete"]
    assert pin["path"] == str(root / "tree")
    assert (pin["files"], pin["here_bytes"]) == (len(contents), sum(map(len, contents.values())))


def test_what_others_make_and_change_below_a_pin_comes_here(device: Device, writer: Device, link: Link) -> None:
    """[pin-current]"""
    contents = furnish(writer.mountpoint)
    writer.sync()
    root = device.mount(*mount_options())
    device.run("pin", str(root / "tree"), "--wait")
    there = writer.mountpoint
    changes = {"tree/large": RANDOM.randbytes(2 * MEBIBYTE), "tree/new/deep/file": RANDOM.randbytes(100_000)}
    (there / "tree/new/deep").mkdir(parents=True)
    for path, content in changes.items():
        (there / path).write_bytes(content)
    (there / "elsewhere").mkdir()
    write_file(there / "elsewhere/moved", moved := RANDOM.randbytes(50_000))
    writer.sync()
    os.rename(there / "elsewhere", there / "tree/from elsewhere")
    writer.sync()
    wait_until_here(device, len(contents) + 2)
    link.cut()
    assert_reads(root, contents | changes | {"tree/from elsewhere/moved": moved})


def test_a_pin_stays_with_what_it_was_set_on(device: Device, writer: Device, link: Link) -> None:
    """[pin-renamed] [xattr-pinned]"""
    contents = furnish(writer.mountpoint)
    writer.sync()
    root = device.mount(*mount_options())
    device.run("pin", str(root / "tree"), "--wait")
    os.rename(writer.mountpoint / "tree", writer.mountpoint / "forest")
    (writer.mountpoint / "forest/later").write_bytes(later := RANDOM.randbytes(70_000))
    writer.sync()
    wait_until_here(device, len(contents) + 1)
    assert os.getxattr(root / "forest", "user.drivefs.pinned") == b"pinned"
    assert os.getxattr(root / "forest/a/b/small3", "user.drivefs.pinned") == b"inherited"
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(root, "user.drivefs.pinned")
    device.umount()
    device.mount(*mount_options())
    wait_until("the pin has its new path", lambda: pins(device)["pins"][0]["path"] == str(root / "forest"))
    link.cut()
    assert (root / "forest/later").read_bytes() == later


def test_a_pinned_file_that_is_saved_by_renaming_stays_pinned(device: Device, writer: Device, link: Link) -> None:
    """[pin-renamed]"""
    write_file(writer.mountpoint / "report", b"first")
    writer.sync()
    root = device.mount(*mount_options())
    device.run("pin", str(root / "report"), "--wait")
    write_file(writer.mountpoint / "report.new", RANDOM.randbytes(200_000))
    os.rename(writer.mountpoint / "report.new", writer.mountpoint / "report")
    writer.sync()
    wait_until("the new content is pinned", lambda: (pins(device)["pins"] or [{"bytes": 0}])[0]["bytes"] == 200_000)
    wait_until_here(device, 1)
    link.cut()
    assert (root / "report").read_bytes() == (writer.mountpoint / "report").read_bytes()


def test_pinned_blocks_are_never_evicted(device: Device, writer: Device, link: Link) -> None:
    """[pin-kept]"""
    pinned, other = RANDOM.randbytes(20 * MEBIBYTE), RANDOM.randbytes(80 * MEBIBYTE)
    write_file(writer.mountpoint / "pinned", pinned)
    write_file(writer.mountpoint / "other", other)
    writer.sync()
    root = device.mount("--cache-size", "64M", *mount_options())
    device.run("pin", str(root / "pinned"), "--wait")
    for _ in range(2):
        assert (root / "other").read_bytes() == other
    device.run("cache", "clear", str(root))
    link.cut()
    assert (root / "pinned").read_bytes() == pinned


def test_what_does_not_fit_is_said_and_reads_as_before(device: Device, writer: Device) -> None:
    """[pin-limit]"""
    (writer.mountpoint / "tree").mkdir()
    contents = {f"tree/file{number}": RANDOM.randbytes(5 * MEBIBYTE) for number in range(12)}
    for path, content in contents.items():
        (writer.mountpoint / path).write_bytes(content)
    writer.sync()
    root = device.mount("--cache-size", "64M", *mount_options())
    refused = device.command("pin", str(root / "tree"), "--wait")
    assert refused.returncode == UNFINISHED
    assert "pin_size" in refused.stderr
    assert any("pin_size" in notice for notice in device.status()["attention"])
    found = pins(device)
    assert 30 * MEBIBYTE < found["kept_bytes"] <= found["limit_bytes"] == 48 * MEBIBYTE
    assert not found["pins"][0]["complete"]
    assert_reads(root, contents)
    device.run("unpin", str(root / "tree"))
    wait_until("the room is free again", lambda: pins(device)["kept_bytes"] == 0)
    assert not device.status()["attention"]


def test_unpinning_lets_go(device: Device, writer: Device) -> None:
    """[pin-kept]"""
    furnish(writer.mountpoint)
    writer.sync()
    root = device.mount(*mount_options())
    device.run("pin", str(root / "tree"), "--wait")
    device.run("pin", str(root / "tree/large"), "--wait")
    covered = device.command("unpin", str(root / "tree/large"))
    assert covered.returncode == 1
    assert "above it" in covered.stderr
    device.run("unpin", str(root / "tree"))
    wait_until("nothing is kept", lambda: pins(device)["kept_bytes"] == 0)
    assert pins(device)["pins"] == []
    twice = device.command("unpin", str(root / "tree"))
    assert twice.returncode == 1
    assert "not pinned" in twice.stderr


def test_a_pin_outlives_a_cache_that_was_deleted(device: Device, writer: Device, link: Link) -> None:
    """[pin-offline]"""
    contents = furnish(writer.mountpoint)
    writer.sync()
    root = device.mount(*mount_options())
    device.run("pin", str(root / "tree"), "--wait")
    device.umount()
    for path in sorted(device.directories["XDG_CACHE_HOME"].rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    device.mount(*mount_options())
    wait_until_here(device, len(contents))
    link.cut()
    assert_reads(root, contents)


def test_what_is_pinned_before_it_was_sent_comes_back_under_its_id(device: Device, link: Link) -> None:
    """[pin-offline]"""
    root = device.mount(*mount_options())
    link.cut()
    (root / "made").mkdir()
    write_file(root / "made/file", content := RANDOM.randbytes(300_000))
    device.run("pin", str(root / "made"))
    assert os.getxattr(root / "made/file", "user.drivefs.pinned") == b"inherited"
    link.restore()
    device.sync()
    wait_until("the content is kept", lambda: pins(device)["kept_bytes"] >= len(content))
    device.umount()
    link.cut()
    device.mount(*mount_options())
    assert (root / "made/file").read_bytes() == content


def test_files_in_use_here_that_others_change_are_fetched_ahead(device: Device, writer: Device, link: Link) -> None:
    """[fetched-ahead]"""
    write_file(writer.mountpoint / "used", RANDOM.randbytes(300_000))
    write_file(writer.mountpoint / "unused", RANDOM.randbytes(300_000))
    writer.sync()
    root = device.mount(*mount_options())
    assert len((root / "used").read_bytes()) == 300_000
    for name in ("used", "unused"):
        write_file(writer.mountpoint / name, RANDOM.randbytes(400_000))
    writer.sync()

    def cached_bytes(name: str) -> int:
        found: int = json.loads(device.run("file-status", str(root / name), "--json"))["cached_bytes"]
        return found

    wait_until("it is here before anyone asks", lambda: cached_bytes("used") == 400_000)
    link.cut()
    assert (root / "used").read_bytes() == (writer.mountpoint / "used").read_bytes()
    assert cached_bytes("unused") == 0


def test_small_files_behind_those_that_were_read_are_fetched_ahead(device: Device, writer: Device, link: Link) -> None:
    """[neighbours-ahead]"""
    contents = {f"{number:02}": RANDOM.randbytes(2000) for number in range(40)}
    for name, content in contents.items():
        write_file(writer.mountpoint / name, content)
    writer.sync()
    root = device.mount(*mount_options())
    assert [(root / name).read_bytes() for name in ("00", "01")] == [contents["00"], contents["01"]]

    def is_here(name: str) -> bool:
        return bool(json.loads(device.run("file-status", str(root / name), "--json"))["cached_bytes"])

    wait_until("what lies behind is here", lambda: is_here("08"))
    assert not is_here("39")
    link.cut()
    for number in range(2, 9):
        assert (root / f"{number:02}").read_bytes() == contents[f"{number:02}"]
