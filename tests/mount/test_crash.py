"""What survives: `kill -9` of the mount at any moment, and power loss after fsync.

Owns the crash lines of the section "Staying the same" of SEMANTICS.md.
A power cut is what a disk image holds while the file system on it is still mounted: what was not synced is not in it.
"""

import errno
import hashlib
import os
import random
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest

from cache.errors import SUSPECT
from drivefs.sync.engine import BARRIER_SECONDS
from tests.mount.conftest import mount_options
from tests.mount.oracle import snapshot, write_file
from tests.support.mounts import Device, Server, Workbench, wait_until

FILES = 500
SEED = 11


def archive(path: Path) -> dict[str, bytes]:
    """A tar of many small files and a few large ones; returns its contents by name."""
    chance = random.Random(SEED)
    contents = {}
    with tarfile.open(path, "w") as tar:
        for number in range(FILES):
            size = chance.choice([0, 100, 1_000, 5_000, 20_000, 100_000])
            if number % 150 == 149:
                size = 3_000_000
            name = f"tree/{number % 7}/{number % 31}/file{number:04}"
            contents[name] = chance.randbytes(size)
            entry = tarfile.TarInfo(name)
            entry.size = size
            entry.mode = 0o644
            entry.mtime = 1_600_000_000 + number
            tar.addfile(entry, BytesIO(contents[name]))
    return contents


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


def assert_arrives_at_second_device(workbench: Workbench, device: Device) -> None:
    """After a sync, a new and empty device sees the same tree, byte for byte."""
    device.sync()
    assert device.status()["pending"] == {"mutations": 0, "bytes": 0}
    second = workbench.device(device.server)
    second.mount(*mount_options())
    assert snapshot(second.mountpoint, times=True) == snapshot(device.mountpoint, times=True)
    for each in (second, device):
        each.umount()
        each.assert_sound()
    device.server.assert_sound()


@pytest.mark.fault(66)
@pytest.mark.parametrize("killed_after", [5, 200])
def test_killed_in_the_middle_of_an_untar(workbench: Workbench, server: Server, killed_after: int) -> None:
    """[crash-write]"""
    contents = archive(workbench.home / "archive.tar")
    device = workbench.device(server)
    device.mount(*mount_options())
    names = workbench.home / "names"
    with names.open("wb") as listing:
        tar = subprocess.Popen(
            ["stdbuf", "-oL", "tar", "-xv", "-C", device.mountpoint, "--no-same-owner"],
            stdin=subprocess.PIPE,
            stdout=listing,
            stderr=subprocess.DEVNULL,
        )
    begun = feed_until(killed_after, tar, workbench.home / "archive.tar", names)
    device.kill()
    assert tar.stdin is not None
    tar.stdin.close()
    assert tar.wait(60) != 0
    assert len(begun) < FILES

    device.mount(*mount_options())
    for name in begun[:-1]:  # tar names a file before it writes it: all but the last were written whole
        assert (device.mountpoint / name).read_bytes() == contents[name], name
    last = device.mountpoint / begun[-1]
    assert not last.exists() or contents[begun[-1]].startswith(last.read_bytes())
    assert_arrives_at_second_device(workbench, device)


def feed_until(count: int, tar: subprocess.Popen[bytes], source: Path, names: Path) -> list[str]:
    """Feed an archive to tar, piece by piece, until it has begun `count` files; return their names.

    It never has more of the archive than a pipe holds: it is still at work when this returns, and cannot be done.
    """
    assert tar.stdin is not None
    with source.open("rb") as archived:
        while len(names.read_bytes().splitlines()) < count:
            tar.stdin.write(archived.read(10_240))
            tar.stdin.flush()
    return names.read_text().splitlines()


@pytest.mark.fault(5)
def test_every_call_that_returned_is_there(workbench: Workbench, server: Server) -> None:
    """[crash-write]"""
    device = workbench.device(server)
    root = device.mount(*mount_options())
    ledger = workbench.home / "ledger"
    oracle = workbench.directory("oracle")
    child = os.fork()
    if child == 0:
        work_until_killed(root, oracle, ledger)
    wait_until("some work is done", lambda: ledger.exists() and ledger.stat().st_size > 700, 120)
    device.kill()
    os.waitpid(child, 0)

    device.mount(*mount_options())
    # All steps but the last are done on both sides. The last one may be done on the drive, in part or not at all: each
    # kind of step can be done again, and then the sides must be the same.
    interrupted = ledger.stat().st_size
    for side in (root, oracle):
        change(side, interrupted)
    assert snapshot(root) == snapshot(oracle)
    assert_arrives_at_second_device(workbench, device)


def work_until_killed(root: Path, oracle: Path, ledger: Path) -> None:
    """Do one random change after the other, first on the drive and, when it returned, on the oracle."""
    try:
        with suppress(OSError):
            for step in range(100_000):
                change(root, step)
                change(oracle, step)
                with ledger.open("ab") as done:
                    done.write(b".")
    finally:
        os._exit(0)


def change(root: Path, step: int) -> None:
    """The change that belongs to this step, the same wherever it is done; doing it again changes nothing more."""
    chance = random.Random(step)
    name, other = (root / f"file{chance.randrange(40)}" for _ in range(2))
    kind = chance.choice(["write", "write", "patch", "rename", "link", "unlink", "chmod", "truncate", "mkdir"])
    data = chance.randbytes(chance.choice([10, 5_000, 90_000]))
    if kind == "write":
        name.write_bytes(data)
    elif kind == "mkdir":
        (root / f"directory{step}").mkdir(exist_ok=True)
    elif not name.exists():
        return
    elif kind == "patch":
        descriptor = os.open(name, os.O_WRONLY)
        written = os.pwrite(descriptor, data, chance.randrange(100_000))
        os.close(descriptor)
        if written < len(data):
            # Some kernels ask for the rest of the first page and for all others one after the other; the mount can be
            # killed between the two.
            raise OSError(errno.EIO, f"{written} of {len(data)} bytes were written")
    elif kind == "rename":
        os.rename(name, other)
    elif kind == "link" and not other.exists():
        os.link(name, other)
    elif kind == "unlink":
        os.unlink(name)
    elif kind == "chmod":
        name.chmod(chance.choice([0o600, 0o644, 0o755]))
    elif kind == "truncate":
        os.truncate(name, chance.randrange(50_000))


@pytest.mark.fault(1)
def test_written_and_not_closed_survives_kill(workbench: Workbench, server: Server) -> None:
    """[crash-write]"""
    device = workbench.device(server)
    root = device.mount(*mount_options())
    write_file(root / "old", b"o" * 500_000)
    device.sync()
    chance = random.Random(SEED)
    content = chance.randbytes(9_000_000)
    new = os.open(root / "new", os.O_CREAT | os.O_WRONLY, 0o644)
    old = os.open(root / "old", os.O_RDWR)
    os.write(new, content)
    os.pwrite(old, b"PATCH", 250_000)
    os.ftruncate(old, 300_000)
    device.kill()
    for descriptor in (new, old):
        with pytest.raises(OSError, match=r"not connected|Input/output"):
            os.fsync(descriptor)
        with suppress(OSError):  # ENOTCONN, and closed all the same
            os.close(descriptor)

    device.mount(*mount_options())
    assert hashlib.sha256((root / "new").read_bytes()).digest() == hashlib.sha256(content).digest()
    assert (root / "old").read_bytes() == b"o" * 250_000 + b"PATCH" + b"o" * 49_995
    assert_arrives_at_second_device(workbench, device)


@pytest.mark.fault(5, 25)
def test_killed_again_and_again(workbench: Workbench, server: Server) -> None:
    """[crash-write]"""
    device = workbench.device(server)
    expected = {}
    for round_number in range(4):
        root = device.mount(*mount_options())
        assert {name: (root / name).read_bytes() for name in os.listdir(root)} == expected
        for number in range(25):
            name = f"file{round_number}-{number}"
            expected[name] = name.encode() * 500
            (root / name).write_bytes(expected[name])
        device.kill()
    device.mount(*mount_options())
    assert {name: (root / name).read_bytes() for name in os.listdir(root)} == expected
    assert_arrives_at_second_device(workbench, device)


class DiskImage:
    """An ext4 file system in a file, mounted over a directory; `cut()` is its content as a power cut would leave it."""

    def __init__(self, home: Path, place: Path) -> None:
        self.image = home / "disk.img"
        self.place = place
        with self.image.open("wb") as file:
            file.truncate(400 * 2**20)
        subprocess.run(["mkfs.ext4", "-q", self.image], check=True)
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop,commit=300", self.image, self.place], check=True)
        self.place.chmod(0o700)

    def unmount(self) -> None:
        subprocess.run(["umount", self.place], check=True)

    def cut(self) -> Path:
        """Keep what is on the disk now."""
        kept = self.image.with_suffix(".cut")
        subprocess.run(["cp", "--sparse=always", self.image, kept], check=True)
        return kept

    def go_back(self, kept: Path) -> None:
        """Mount again with what was on the disk at the cut.

        The boot is the same, which a power cut would have ended: so that all is verified nevertheless, the state says
        that it is not to be trusted.
        """
        self.unmount()
        kept.rename(self.image)
        self.mount()
        for journal in self.place.glob("**/journal.db"):
            (journal.parent / SUSPECT).touch()


@pytest.fixture
def offline_device(workbench: Workbench, server: Server) -> Iterator[tuple[Device, DiskImage]]:
    """A mounted device with its state on a disk of its own, holding one synced file, its server stopped."""
    device = workbench.device(server)
    state = device.directories["XDG_STATE_HOME"]
    kept = workbench.home / "state"
    state.rename(kept)
    state.mkdir()
    disk = DiskImage(workbench.home, state)
    shutil.copytree(kept, state, dirs_exist_ok=True)
    os.sync()  # as if it had always been there
    device.mount(*mount_options())
    write_file(device.mountpoint / "old", b"old content")
    device.sync()
    server.stop()
    yield device, disk
    device.clear()
    disk.unmount()


@pytest.mark.fault(3)
@pytest.mark.needs_root
def test_what_fsync_returned_for_survives_power_loss(offline_device: tuple[Device, DiskImage]) -> None:
    """[crash-fsync]"""
    device, disk = offline_device
    root = device.mountpoint
    content = random.Random(SEED).randbytes(5_000_000)
    (root / "directory").mkdir()
    for name, data in [("directory/large", content), ("directory/small", b"small"), ("old", b"new content")]:
        with open(root / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    os.rename(root / "directory/small", root / "renamed")
    place = os.open(root, os.O_RDONLY)
    os.fsync(place)
    os.close(place)
    kept = disk.cut()
    write_file(root / "later", b"not synced")
    device.kill()
    disk.go_back(kept)

    device.mount(*mount_options())
    assert (root / "directory/large").read_bytes() == content
    assert (root / "renamed").read_bytes() == b"small"
    assert (root / "old").read_bytes() == b"new content"
    assert os.listdir(root / "directory") == ["large"]
    device.server.start()
    device.sync()
    device.umount()
    device.assert_sound()
    device.server.assert_sound()


@pytest.mark.fault(2)
@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("way", "wait_seconds"), [("replaced", 0.0), ("replaced", 2 * BARRIER_SECONDS), ("rewritten", 2 * BARRIER_SECONDS)]
)
def test_power_loss_leaves_old_or_new_and_nothing_torn(
    offline_device: tuple[Device, DiskImage], way: str, wait_seconds: float
) -> None:
    """[crash-fsync] [crash-replaced]"""
    device, disk = offline_device
    root = device.mountpoint
    if way == "replaced":
        fresh = write_file(root / "fresh", b"N" * 200_000)
        os.rename(fresh, root / "old")
    else:
        write_file(root / "old", b"N" * 200_000)
    for number in range(50):
        write_file(root / f"file{number}", b"%d" % number * 3000)
    time.sleep(wait_seconds)
    kept = disk.cut()
    device.kill()
    disk.go_back(kept)

    device.mount(*mount_options())
    assert (root / "old").read_bytes() in (b"old content", b"N" * 200_000)
    for name in os.listdir(root):
        if name.startswith("file"):
            whole = name.removeprefix("file").encode() * 3000
            assert whole.startswith((root / name).read_bytes())
    device.server.start()
    device.sync()
    device.umount()
    device.assert_sound()
    device.server.assert_sound()
