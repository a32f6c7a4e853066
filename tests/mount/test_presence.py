"""What devices are told of each other: large contents on their way, and who is here.

Owns the lines about presence of SEMANTICS.md. A slow link between a device and the server makes time to look.
"""

import json
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from drivefs.sync.presence import BEAT_SECONDS
from tests.mount.conftest import mount_options
from tests.mount.oracle import write_file
from tests.support.link import Link
from tests.support.mounts import DRIVEFS, Device, Server, Workbench, wait_until
from tests.support.watching import Watcher

MEBIBYTE = 2**20
SLOW = 2 * MEBIBYTE
"""Bytes in a second of each connection, over a link that gives time to look."""
CRAWL = 64 * 1024
"""The same where hardly anything goes on, and nobody gives up."""


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


@pytest.fixture
def link(workbench: Workbench, server: Server) -> Link:
    return workbench.link(server)


@pytest.fixture
def sender(workbench: Workbench, server: Server, link: Link) -> Device:
    """A device behind a slow link."""
    device = workbench.device(server, link=link)
    device.mount(*mount_options())
    link.trickle(SLOW)
    return device


@pytest.fixture
def reader(workbench: Workbench, server: Server, sender: Device) -> Device:
    """A device that says sooner than others that nothing is heard of something, but not between two beats."""
    device = workbench.device(server)
    device.haste = {"drivefs.sync.incoming.STALLED_SECONDS": BEAT_SECONDS + 4.0}
    device.mount(*mount_options())
    return device


def noise(seed: int, mebibytes: int) -> bytes:
    return random.Random(seed).randbytes(mebibytes * MEBIBYTE)


def incoming(device: Device) -> dict[str, dict[str, Any]]:
    """What is on its way to a device, by its path on the drive, or its name in brackets where that is not known."""
    shown = json.loads((device.mountpoint / ".drivefs/status").read_text())["incoming"]
    return {each["path"] or f"[{each['name']}]": each for each in shown}


def wait_for(device: Device, is_so: Callable[[dict[str, dict[str, Any]]], bool]) -> dict[str, dict[str, Any]]:
    """What is on its way to a device once that is as wanted."""
    found: dict[str, dict[str, Any]] = {}

    def look() -> bool:
        nonlocal found
        found = incoming(device)
        return is_so(found)

    wait_until(f"what is on its way to {device.name}", look, 60)
    return found


def test_others_see_that_a_large_file_is_coming_how_far_it_is_and_then_all_of_it(
    workbench: Workbench, link: Link, sender: Device, reader: Device
) -> None:
    """[incoming] [incoming-whole]"""
    third = workbench.device(sender.server)
    third.mount(*mount_options())
    content = noise(1, 48)
    link.restore()
    (sender.mountpoint / "films").mkdir()
    sender.sync()
    link.trickle(SLOW)
    watching = Watcher(*DRIVEFS, "watch", reader.mountpoint, "--json", env=reader.environment)
    wait_until("it watches", lambda: bool(watching.lines))
    write_file(sender.mountpoint / "films/film", content)
    path = reader.mountpoint / "films/film"
    seen = [0]

    def gone_on(found: dict[str, dict[str, Any]]) -> bool:
        seen.append(found.get("films/film", {}).get("sent", 0))
        return seen[-1] > seen[0]

    wait_for(reader, gone_on)
    # From here on it hardly goes on until it was looked at.
    link.trickle(CRAWL)
    for device in (reader, third):
        told = wait_for(device, lambda found: found.get("films/film", {}).get("sent", 0) > 0)["films/film"]
        assert (told["size"], told["device"]) == (len(content), sender.name)
        assert told["stalled_since_ns"] is None
        assert 0 < told["sent"] < len(content), "it is seen long before its end"
    assert not path.exists(), "nothing of it is there before all of it is"
    status = json.loads(reader.run("file-status", str(path), "--json"))
    assert (status["state"], status["incoming"]["device"]) == ("incoming", sender.name)
    assert f"from {sender.name}" in reader.run("file-status", str(path))
    assert "films/film" in reader.run("status")
    assert [each["path"] for each in reader.status()["incoming"]] == [str(path)]
    assert sender.status()["outgoing"][0]["path"] == str(sender.mountpoint / "films/film")
    seen = [seen[-1]]
    link.trickle(SLOW)
    wait_for(reader, gone_on)
    assert seen == sorted(seen)
    link.restore()
    wait_until("it is there", path.exists, 60)
    assert path.stat().st_size == len(content)
    assert path.read_bytes() == content
    watching.close()
    events = [json.loads(line) for line in watching.lines if line.startswith("{")]
    uploads = [each for each in events if each["kind"] == "upload"]
    assert {(each["origin"], each["path"]) for each in uploads} == {("elsewhere", str(path))}
    assert {each["details"]["state"] for each in uploads} >= {"coming"}
    wait_for(reader, lambda found: not found)
    assert json.loads(reader.run("file-status", str(path), "--json"))["state"] == "synced"
    sender.umount()


def test_an_upload_that_is_given_up_is_not_coming_any_more(link: Link, sender: Device, reader: Device) -> None:
    """[incoming]"""
    link.trickle(CRAWL)
    write_file(sender.mountpoint / "film", noise(2, 40))
    wait_for(reader, lambda found: "film" in found)
    os.unlink(sender.mountpoint / "film")
    wait_for(reader, lambda found: not found)
    link.restore()
    sender.sync()
    assert os.listdir(reader.mountpoint) == []


def test_several_uploads_at_once_are_told_up_to_a_bound_and_under_new_names(
    link: Link, sender: Device, reader: Device
) -> None:
    """[incoming]"""
    link.trickle(CRAWL)
    for number in range(20):
        write_file(sender.mountpoint / f"film{number}", noise(number, 9))
    found = wait_for(reader, lambda found: len(found) >= 16)
    assert len(found) == 16, "there is a bound"
    name = list(found)[-1]
    os.rename(sender.mountpoint / name, sender.mountpoint / "renamed")
    wait_for(reader, lambda found: "renamed" in found and name not in found)


def test_a_changed_file_is_coming_under_the_name_that_the_reader_gave_it(
    link: Link, sender: Device, reader: Device
) -> None:
    """[incoming]"""
    sender_path, reader_path = sender.mountpoint / "film", reader.mountpoint / "film"
    write_file(sender_path, b"first")
    sender.sync()
    wait_until("it is there", reader_path.exists)
    content = noise(3, 30)
    link.trickle(CRAWL)
    sender_path.write_bytes(content)
    wait_for(reader, lambda found: "film" in found)
    os.rename(reader_path, reader.mountpoint / "mine")
    wait_for(reader, lambda found: "mine" in found)
    assert (reader.mountpoint / "mine").read_bytes() == b"first", "never a part of it"
    status = json.loads(reader.run("file-status", str(reader.mountpoint / "mine"), "--json"))
    assert status["incoming"]["size"] == len(content)
    link.restore()
    sender.sync()
    wait_until("all of it is there", lambda: (reader.mountpoint / "mine").read_bytes() == content)


def test_a_device_that_goes_away_in_the_middle_is_said_to_have_stalled(
    link: Link, sender: Device, reader: Device
) -> None:
    """[incoming-stalled]"""
    content = noise(4, 40)
    write_file(sender.mountpoint / "film", content)
    wait_for(reader, lambda found: found.get("film", {}).get("sent", 0) > 0)
    link.cut()
    told = wait_for(reader, lambda found: found["film"]["stalled_since_ns"] is not None)["film"]
    assert told["sent"] < len(content)
    assert "nothing heard of it since" in reader.run("status")
    link.restore()
    sender.sync()
    wait_until("it is there", (reader.mountpoint / "film").exists, 90)
    assert (reader.mountpoint / "film").read_bytes() == content
