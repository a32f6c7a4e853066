"""A large archive is unpacked offline while the mount is killed at random: after the sync, the exact tree is there."""

import random
import subprocess
import tarfile
import time
from io import BytesIO
from pathlib import Path

import pytest

from tests.mount.conftest import mount_options
from tests.mount.crash_work import ended, in_child
from tests.support.link import Link
from tests.support.mounts import Device, Workbench, wait_until

pytestmark = pytest.mark.long

FILES = 50_000
CRASHES = 6
SYNC_SECONDS = 600


def content(number: int) -> bytes:
    return b"%d," % number * (number % 60)


def name(number: int) -> str:
    return f"{number % 50}/{number % 500}/file{number:05}"


class Unpacking:
    """Unpacks what is left of an archive, and knows how far tar has come."""

    def __init__(self, root: Path, home: Path) -> None:
        self._root, self._archive = root, home / "archive.tar"
        self._wanted, self._names = home / "wanted", home / "names"
        with tarfile.open(self._archive, "w") as tar:
            for number in range(FILES):
                entry = tarfile.TarInfo(name(number))
                entry.size = len(content(number))
                tar.addfile(entry, BytesIO(content(number)))
        self.done_count = 0

    def work(self, first: int) -> None:
        self._wanted.write_text("".join(f"{name(number)}\n" for number in range(first, FILES)))
        command = [
            "stdbuf",
            "-oL",
            "tar",
            "-xvf",
            self._archive,
            "-C",
            self._root,
            "--no-same-owner",
            "-T",
            self._wanted,
        ]
        with self._names.open("wb") as names:
            subprocess.run(command, stdout=names, stderr=subprocess.DEVNULL, check=True)

    def note(self) -> None:
        """What tar has named but for the last is done."""
        if self._names.exists():
            self.done_count += max(0, self._names.read_bytes().count(b"\n") - 1)
            self._names.unlink()


@pytest.fixture
def link(workbench: Workbench) -> Link:
    return workbench.link(workbench.server())


@pytest.fixture
def device(workbench: Workbench, link: Link) -> Device:
    return workbench.device(workbench.servers[0], link=link)


@pytest.mark.fault(66)
def test_killed_while_an_archive_of_50_000_files_is_unpacked_offline(
    workbench: Workbench, link: Link, device: Device
) -> None:
    """[crash-write]"""
    chance = random.Random(66)
    root = device.mount(*mount_options())
    (root / "tree").mkdir()
    device.sync()
    link.cut()
    unpacking = Unpacking(root / "tree", workbench.home)
    for _ in range(CRASHES):
        child = in_child(unpacking.work, unpacking.done_count)
        time.sleep(chance.uniform(1.0, 6.0))
        unpacking.note()
        device.kill()
        ended(child)
        device.mount(*mount_options())
    unpacking.work(unpacking.done_count)
    link.restore()
    workbench.watchdog.restart()
    synced = device.command("sync", str(root), "--wait", "--timeout", str(SYNC_SECONDS), seconds=SYNC_SECONDS + 30)
    assert synced.returncode == 0, synced.stderr
    fresh = workbench.device(device.server)
    there = fresh.mount(*mount_options()) / "tree"
    wait_until("all is known there", lambda: not fresh.status()["unlisted_directories"], 120)
    found = {str(path.relative_to(there)) for path in there.rglob("*") if not path.is_dir()}
    assert found == {name(number) for number in range(FILES)}
    workbench.watchdog.restart()
    for number in [
        *range(0, FILES, 25),
        *range(max(0, unpacking.done_count - 200), min(FILES, unpacking.done_count + 200)),
    ]:
        assert (there / name(number)).read_bytes() == content(number)
    for each in (device, fresh):
        each.umount()
        each.assert_sound()
    device.server.assert_sound()
