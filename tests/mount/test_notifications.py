"""What people are told of, on real mounts: by other devices, as it happens, after being away, and on the desktop.

Owns the lines about notifications of SEMANTICS.md; `tests/backend/service/test_notifications.py` has the rules.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import mount_options
from tests.mount.oracle import write_file
from tests.support.mounts import DRIVEFS, Device, Server, Workbench, wait_until


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


@pytest.fixture
def writer(workbench: Workbench, server: Server) -> Device:
    device = workbench.device(server)
    device.mount(*mount_options())
    return device


@pytest.fixture
def reader(workbench: Workbench, server: Server, writer: Device) -> Device:
    return workbench.device(server)


def notifications(device: Device, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(device.run("notifications", "--json", *options))
    return found


def test_devices_are_told_what_others_did_while_they_were_away(writer: Device, reader: Device) -> None:
    """[notified] [notified-muted] [activity]"""
    folder = writer.mountpoint / "letters"
    folder.mkdir()
    for number in range(30):
        write_file(folder / f"{number}", b"text")
    writer.sync()
    reader.mount(*mount_options())
    found = notifications(reader)
    letters = str(reader.mountpoint / "letters")
    assert [(each["path"], each["count"]) for each in found if each["kind"] == "added"] == [(letters, 1), (letters, 30)]
    assert {each["device"] for each in found if each["kind"] == "added"} == {writer.name}
    assert [each["number"] for each in found] == sorted(each["number"] for each in found)
    assert not [each for each in notifications(writer) if each["kind"] == "added"]
    since = str(found[-1]["number"])
    reader.run("notifications", "--mute", str(reader.mountpoint / "letters"))
    write_file(folder / "30", b"text")
    write_file(writer.mountpoint / "note", b"text")
    writer.sync()
    wait_until("it is here", (reader.mountpoint / "note").exists)
    told = notifications(reader, "--since", since)
    assert [(each["kind"], each["path"]) for each in told] == [("added", str(reader.mountpoint / "note"))]
    assert "letters" in reader.run("notifications", "--muted")
    done = json.loads(reader.run("activity", str(reader.mountpoint / "letters"), "--json"))
    assert [(each["kind"], each["count"], each["device"]) for each in done] == [
        ("added", 31, writer.name),
        ("added", 1, writer.name),
    ]


def test_those_who_follow_and_the_desktop_hear_of_it_as_it_happens(
    writer: Device, reader: Device, tmp_path: Path
) -> None:
    """[notified-live]"""
    shown = tmp_path / "shown"
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "notify-send").write_text(f'#!/bin/sh\necho "$3|$4" >> {shown}\n')
    (programs / "notify-send").chmod(0o755)
    reader.directories |= {"PATH": Path(f"{programs}:{os.environ['PATH']}"), "DBUS_SESSION_BUS_ADDRESS": Path("unix:")}
    reader.mount(*mount_options())
    command = [*DRIVEFS, "notifications", "--follow", "--json"]
    with subprocess.Popen(command, env=reader.environment, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        try:
            assert json.loads(following.stdout.readline())["kind"] == "device"
            write_file(writer.mountpoint / "note", b"text")
            told = json.loads(following.stdout.readline())
            assert (told["kind"], told["path"]) == ("added", str(reader.mountpoint / "note"))
            wait_until("the desktop shows it", lambda: shown.exists() and "Added|note" in shown.read_text())
        finally:
            following.terminate()
