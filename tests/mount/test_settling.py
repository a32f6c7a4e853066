"""Conflict copies as people find and settle them, on real mounts: commands, xattr, and files for merging by hand.

Owns the promises about settling conflicts in SEMANTICS.md.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from drivefs.cli.exit_codes import ExitCode
from tests.mount.conftest import mount_options, opened
from tests.mount.oracle import write_file
from tests.support.link import Link
from tests.support.mounts import Device, Watchdog, wait_until

BASE = b"one\ntwo\nthree\nfour\nfive\n"
THEIRS = b"ONE\ntwo\nthree\nfour\nfive\n"
MINE = b"one\ntwo\nthree\nfour\nFIVE\n"
MERGED = b"ONE\ntwo\nthree\nfour\nFIVE\n"


@dataclass(frozen=True, slots=True)
class Conflict:
    """One conflict about one file in a directory of its own, as one device shows it."""

    device: Device
    number: int

    @property
    def place(self) -> Path:
        return self.device.mountpoint / f"papers{self.number}"

    @property
    def note(self) -> Path:
        return self.place / f"note{self.number}.txt"

    @property
    def copy(self) -> Path:
        (conflict,) = self.listed()
        return Path(conflict["path"])

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.device.run("conflicts", "list", "--json"))
        return found

    def is_settled(self, content: bytes) -> bool:
        return self.note.read_bytes() == content and os.listdir(self.place) == [self.note.name]


@dataclass(frozen=True, slots=True)
class Bench:
    """Three mounted devices; the network of the second can fail."""

    devices: list[Device]
    link: Link
    numbers: Iterator[int]

    def clash(self) -> list[Conflict]:
        """The second loses a conflict to the first, and all know of it."""
        number = next(self.numbers)
        first, second, third = [Conflict(device, number) for device in self.devices]
        first.place.mkdir()
        write_file(first.note, BASE)
        wait_until("the base is there", lambda: second.note.exists() and second.note.read_bytes() == BASE)
        first.device.sync()
        self.link.cut()
        first.note.write_bytes(THEIRS)
        second.note.write_bytes(MINE)
        first.device.sync()
        self.link.restore()
        second.device.sync()
        for each in (first, second, third):
            wait_until("the directory is there", each.place.exists)
            os.listdir(each.place)
            wait_until("the copy is known", lambda each=each: bool(each.listed()))
        return [first, second, third]

    def clear(self, conflicts: list[Conflict]) -> None:
        """Nothing of it is left on any device."""
        shutil.rmtree(conflicts[0].place)
        conflicts[0].device.sync()
        for each in conflicts:
            wait_until("it is gone", lambda each=each: not each.listed() and not each.place.exists())


@pytest.fixture(scope="module")
def bench(pytestconfig: pytest.Config, watchdog: Watchdog, server_home: Path) -> Iterator[Bench]:
    for workbench in opened(pytestconfig, watchdog, server_home):
        server = workbench.server()
        link = workbench.link(server)
        devices = [workbench.device(server, link=link if number == 1 else None) for number in range(3)]
        for device in devices:
            device.mount(*mount_options())
        yield Bench(devices, link, count())
        for device in devices:
            device.umount()
            device.assert_sound()
        server.assert_sound()


@pytest.fixture
def conflicts(bench: Bench) -> Iterator[list[Conflict]]:
    """A conflict that the second of three devices lost, as each of them shows it."""
    made = bench.clash()
    yield made
    bench.clear(made)


def test_every_device_lists_the_copy(conflicts: list[Conflict]) -> None:
    """[conflict-list] [conflict-xattr]"""
    _, second, third = conflicts
    for each in conflicts:
        (conflict,) = each.listed()
        assert conflict["original"] == str(each.note)
        assert conflict["device"] == second.device.name
        copy = Path(conflict["path"])
        assert copy.parent == each.place
        assert "conflicted copy" in copy.name
        assert copy.read_bytes() == MINE
        assert each.note.read_bytes() == THEIRS
        about = json.loads(os.getxattr(copy, "user.drivefs.conflict"))
        assert (about["original"], about["device"]) == (
            str(each.note.relative_to(each.device.mountpoint)),
            second.device.name,
        )
        assert os.listxattr(copy) == []
        with pytest.raises(PermissionError):
            os.setxattr(copy, "user.drivefs.conflict", b"x")
        with pytest.raises(OSError, match="not supported"):
            os.setxattr(copy, "drivefs.conflict", b"x")
        status = each.device.status()
        assert status["conflicts"] == 1
        assert any("drivefs conflicts list" in notice for notice in status["attention"])
    told = third.device.run("conflicts", "list", str(third.device.mountpoint))
    assert str(third.note) in told
    assert f"{third.listed()[0]['entry']} has mine, theirs, base" in told


def test_the_three_sides_merge_by_hand(conflicts: list[Conflict]) -> None:
    """[conflict-entries]"""
    for each in conflicts:
        (conflict,) = each.listed()
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
    conflicts[0].note.write_bytes(MERGED)
    entry = Path(conflicts[0].listed()[0]["entry"])
    assert (entry / "theirs").read_bytes() == MERGED


def test_diff_shows_what_differs(conflicts: list[Conflict]) -> None:
    """[conflict-list]"""
    for each in conflicts:
        device, note = each.device, str(each.note)
        shown = device.run("conflicts", "diff", str(each.copy))
        assert {"-ONE", "+one", "-five", "+FIVE"} < set(shown.splitlines())
        # The file that kept the name will do, while there is one copy only.
        assert device.run("conflicts", "diff", note) == shown
        assert f"--- {note} (theirs, what kept the name)" in shown
        from_base = json.loads(device.run("conflicts", "diff", "--base", "--json", note))["diff"]
        assert {"-one", "+ONE", "-five", "+FIVE"} < set(from_base.splitlines())
    refused = conflicts[0].device.command("conflicts", "diff", str(conflicts[0].place))
    assert refused.returncode == ExitCode.FAILED
    assert "no conflict" in refused.stderr


@pytest.mark.parametrize(
    ("way", "content", "where"), [("keep-mine", MINE, 2), ("keep-theirs", THEIRS, 0), ("keep-mine", MINE, 1)]
)
def test_one_side_is_kept_from_any_device(conflicts: list[Conflict], way: str, content: bytes, where: int) -> None:
    """[conflict-settle]"""
    one = conflicts[where]
    done = json.loads(one.device.run("conflicts", way, "--json", str(one.note)))
    assert done["settled"] == way
    wait_until("it shows here", lambda: one.is_settled(content))
    one.device.sync()
    for each in conflicts:
        wait_until("it is settled there too", lambda each=each: each.is_settled(content))
        assert each.listed() == []


def test_both_are_kept_as_ordinary_files(conflicts: list[Conflict]) -> None:
    """[conflict-settle]"""
    third = conflicts[2]
    copy = third.copy
    third.device.run("conflicts", "keep-both", str(copy))
    third.device.sync()
    for each in conflicts:
        wait_until("it is settled there too", lambda each=each: not each.listed())
        assert (each.place / copy.name).read_bytes() == MINE
        assert each.note.read_bytes() == THEIRS
        with pytest.raises(OSError, match="No data"):
            os.getxattr(each.place / copy.name, "user.drivefs.conflict")


def test_ordinary_tools_settle_it_too(conflicts: list[Conflict]) -> None:
    """[conflict-settle]"""
    first = conflicts[0]
    os.replace(first.copy, first.note)
    first.device.sync()
    for each in conflicts:
        wait_until("it is settled there too", lambda each=each: each.is_settled(MINE))
        assert each.listed() == []


def test_it_is_settled_without_a_server_too(bench: Bench, conflicts: list[Conflict]) -> None:
    """[conflict-settle]"""
    first, second, _ = conflicts
    bench.link.cut()
    second.device.run("conflicts", "keep-mine", str(second.copy))
    wait_until("it shows here", lambda: second.is_settled(MINE))
    assert first.listed()
    bench.link.restore()
    second.device.sync()
    wait_until("it is settled there too", lambda: first.is_settled(MINE))
