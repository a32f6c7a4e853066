"""Bytes that changed on the disk by themselves, on the device and on the server: found, told, and never given out.

Owns what a person sees of it on a real mount; where each kind of rot is found is shown beside the databases and stores.
"""

import errno
import os
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import mount_options, opened
from tests.mount.oracle import write_file
from tests.support.mounts import Device, Server, Watchdog, Workbench, wait_until

CONTENT = random.Random(12).randbytes(700_000)
SMALL = b"small content " * 300


@pytest.fixture(scope="module")
def one_workbench(pytestconfig: pytest.Config, watchdog: Watchdog, server_home: Path) -> Iterator[Workbench]:
    yield from opened(pytestconfig, watchdog, server_home)


@pytest.fixture(scope="module")
def server(one_workbench: Workbench) -> Server:
    return one_workbench.server()


@pytest.fixture
def device(one_workbench: Workbench, server: Server) -> Iterator[Device]:
    """A device of its own that is mounted."""
    device = one_workbench.device(server)
    device.mount(*mount_options())
    yield device
    device.clear()


@pytest.fixture
def place(device: Device, request: pytest.FixtureRequest) -> str:
    """A directory of the test's own, with a file that the server has."""
    name = request.node.name
    (device.mountpoint / name).mkdir()
    write_file(device.mountpoint / name / "clean", CONTENT)
    write_file(device.mountpoint / name / "small", SMALL)
    device.sync()
    return str(name)


def profile(device: Device, which: str) -> Path:
    return next(device.directories[which].glob("drivefs/default"))


def rot(paths: Iterable[Path], every: int = 5_000) -> None:
    """Change a byte here and there of each file."""
    changed = 0
    for path in paths:
        with path.open("r+b") as file:
            for place in range(every // 2, path.stat().st_size, every):
                file.seek(place)
                byte = file.read(1)
                file.seek(place)
                file.write(bytes([byte[0] ^ 0x40]))
                changed += 1
    assert changed, "nothing was there to rot"


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def unavailable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno == errno.EIO
    return False


def fresh(workbench: Workbench, server: Server) -> Device:
    device = workbench.device(server)
    device.mount(*mount_options())
    return device


@pytest.mark.fault(15)
def test_a_cached_block_that_rotted_is_fetched_again(device: Device, server: Server, place: str) -> None:
    """[rot-cached]"""
    device.umount()
    rot([path for path in files(profile(device, "XDG_CACHE_HOME") / "blocks") if path.suffix != ".db"])
    server.stop()
    root = device.mount(*mount_options()) / place
    try:
        assert unavailable(root / "clean")
        assert unavailable(root / "small")
    finally:
        server.start()
    wait_until("online again", lambda: bool(device.status()["online"]), 60)
    assert (root / "clean").read_bytes() == CONTENT
    assert (root / "small").read_bytes() == SMALL
    device.umount()
    device.assert_sound()


@pytest.mark.fault(16)
def test_unsent_bytes_that_rotted_are_never_sent_and_people_are_told(
    one_workbench: Workbench, device: Device, server: Server, place: str
) -> None:
    """[rot-unsent]"""
    server.stop()
    root = device.mountpoint / place
    write_file(root / "rotten", CONTENT[::-1])
    write_file(root / "clean", CONTENT[::-1])
    write_file(root / "sound", SMALL)
    device.umount("--now")
    rot(files(profile(device, "XDG_STATE_HOME") / "staging"))
    server.start()
    device.mount(*mount_options())
    assert unavailable(root / "rotten")
    assert any("gave back what was not written" in each for each in device.status()["attention"])
    assert unavailable(root / "clean")
    wait_until("people are told", lambda: any("rotten" in each for each in device.status()["attention"]))
    other = fresh(one_workbench, server)
    there = other.mountpoint / place
    wait_until("what is sound was sent", (there / "sound").exists)
    assert (there / "sound").read_bytes() == SMALL
    assert (there / "clean").read_bytes() == CONTENT
    assert not (there / "rotten").exists() or (there / "rotten").read_bytes() == b""
    other.umount()


@pytest.mark.fault(17)
@pytest.mark.parametrize("how", ["rotten", "garbage", "gone"])
def test_a_replica_that_is_damaged_is_made_anew_and_what_was_not_sent_is_kept(
    device: Device, server: Server, place: str, how: str
) -> None:
    """[rot-cached]"""
    server.stop()
    root = device.mountpoint / place
    write_file(root / "unsent", CONTENT[::-1])
    os.rename(root / "small", root / "renamed")
    device.umount("--now")
    replica = profile(device, "XDG_CACHE_HOME") / "replica.db"
    if how == "rotten":
        rot([replica], 3000)
    elif how == "garbage":
        replica.write_bytes(random.Random(1).randbytes(50_000))
    else:
        replica.unlink()
    server.start()
    device.mount(*mount_options())
    device.sync()
    wait_until("all is there", lambda: sorted(os.listdir(root)) == ["clean", "renamed", "unsent"])
    assert (root / "unsent").read_bytes() == CONTENT[::-1]
    assert (root / "renamed").read_bytes() == SMALL
    assert (root / "clean").read_bytes() == CONTENT
    device.umount()
    device.assert_sound()


@pytest.mark.fault(11)
@pytest.mark.parametrize("which", ["journal.db-wal", "journal.db"])
def test_a_journal_that_rotted_is_kept_aside_and_told_of(
    one_workbench: Workbench, device: Device, server: Server, place: str, which: str
) -> None:
    """[rot-cached]: what is left of it is right, what is not is in the copy, and nobody is told that all is well."""
    server.stop()
    root = device.mountpoint / place
    written = {f"file{number}": b"%d" % number * 4000 for number in range(40)}
    for name, content in written.items():
        write_file(root / name, content)
    if which == "journal.db":
        device.umount("--now")
    else:
        device.kill()
    state = profile(device, "XDG_STATE_HOME")
    damaged = state / which
    with damaged.open("r+b") as file:
        file.seek(damaged.read_bytes().index(b"20" * 200) + 100 if which == "journal.db" else 120_000)
        file.write(b"rot" * 20)
    before = damaged.read_bytes()
    assert device.command("check").returncode != 0
    server.start()
    device.mount(*mount_options())
    # What was hit may be bytes of a file, which are looked at when they are read or sent.
    wait_until("people are told", lambda: bool(device.status()["attention"]))
    if which == "journal.db-wal":
        kept = [path for path in files(state / "lost+found") if path.name == which]
        assert [path.read_bytes() for path in kept] == [before]
    other = fresh(one_workbench, server)
    there = other.mountpoint / place
    left = [name for name in os.listdir(root) if not unavailable(root / name)]
    assert len(left) > (30 if which == "journal.db" else 1)
    wait_until("what is left was sent", lambda: set(os.listdir(there)) >= set(left))
    for name in written.keys() & set(os.listdir(there)):
        assert written[name].startswith((there / name).read_bytes()), name
    assert (there / "clean").read_bytes() == CONTENT
    other.umount()
    other.assert_sound()


@pytest.mark.fault(46, 48)
@pytest.mark.parametrize("how", ["gone", "rotten"])
def test_a_block_that_the_server_lost_is_an_error_and_never_zeros(
    one_workbench: Workbench, device: Device, place: str, how: str
) -> None:
    """Who has the bytes reads on; who does not gets EIO; the server's check tells of it."""
    server = one_workbench.server()
    keeper = one_workbench.device(server)
    root = keeper.mount(*mount_options())
    write_file(root / "large", CONTENT)
    write_file(root / "other", SMALL)
    keeper.sync()
    large = [path for path in files(server.data) if path.suffix != ".db" and path.stat().st_size > 100_000]
    large = [path for path in large if ".db" not in path.name]
    if how == "gone":
        for path in large:
            path.unlink()
    else:
        rot(large)
    reader = fresh(one_workbench, server)
    assert unavailable(reader.mountpoint / "large")
    assert (reader.mountpoint / "other").read_bytes() == SMALL
    assert (root / "large").read_bytes() == CONTENT
    assert server.command("check").returncode != 0
    shutil.copyfile(root / "large", root / "copy")
    keeper.sync()
    wait_until("the copy shows", (reader.mountpoint / "copy").exists)
    assert (reader.mountpoint / "copy").read_bytes() == CONTENT
    assert (reader.mountpoint / "large").read_bytes() == CONTENT
    server.assert_sound()
    for each in (keeper, reader):
        each.umount()
        each.assert_sound()
