"""With the server gone, frozen, slow or talking nonsense: what is here works, what is not fails soon, nothing is lost.

Owns the lines about life without a network of SEMANTICS.md, but those about pins.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drivefs.config import LEAST_ANSWER_SECONDS
from drivefs.sync.standstill import STILL_SECONDS
from tests.mount.conftest import mount_options, opened
from tests.mount.oracle import snapshot, write_file
from tests.support.link import GARBAGE, REPLIES, REQUESTS, Link
from tests.support.mounts import Device, Server, Watchdog, Workbench, wait_until

RANDOM = random.Random(11)
UNFINISHED = 3
SILENCE_SECONDS = 30.0
"""A watchdog for calls that may wait for a silent server: what SEMANTICS.md promises, and time for a busy machine."""
INSTANT_SECONDS = 9.0
"""A watchdog for calls that wait for nothing: a deadline of theirs would be longer."""


@pytest.fixture(scope="module")
def furnished(pytestconfig: pytest.Config, watchdog: Watchdog, server_home: Path) -> Iterator[Path]:
    """What every server here begins with: files, and the directory `unlisted`, that a device made and went away."""
    for workbench in opened(pytestconfig, watchdog, server_home):
        server = workbench.server()
        maker = workbench.new_device(server)
        maker.name = "maker"
        maker.login()
        root = maker.mount(*mount_options())
        (root / "directory/unlisted").mkdir(parents=True)
        for name in ("here", "known", "second", "third", "directory/unlisted/file"):
            write_file(root / name, RANDOM.randbytes(200_000))
        maker.umount()
        server.stop()
        yield server.home


@pytest.fixture
def server(workbench: Workbench, furnished: Path) -> Server:
    workbench.like = furnished
    return workbench.server()


@pytest.fixture
def link(workbench: Workbench, server: Server) -> Link:
    return workbench.link(server)


@pytest.fixture
def device(workbench: Workbench, server: Server, link: Link) -> Device:
    """A device that has `here`, and knows of `known` and of the directory `unlisted` without having them."""
    return acquainted(workbench.device(server, link=link))


@pytest.fixture
def hasty(workbench: Workbench, server: Server, link: Link) -> Device:
    """The same, where nobody waits longer for a server than has to be: how long others do is of no account."""
    device = workbench.device(server, link=link)
    device.configure(f"answer_seconds = {LEAST_ANSWER_SECONDS}")
    device.haste = {"drivefs.cli.drain.OFFLINE_SECONDS": 2.0, "drivefs.remote.client.GRACE_SECONDS": 4.0}
    return acquainted(device)


def acquainted(device: Device) -> Device:
    machine = device.home / "machine"
    machine.mkdir()
    (machine / "walks never").touch()  # else it may have them by the time that they are asked for
    device.program = ["tests.support.odd_machine", str(machine)]
    root = device.mount(*mount_options())
    # On a busy machine the server may take longer than a device in haste waits for it.
    wait_until("it comes", lambda: subprocess.run(["cat", root / "here"], capture_output=True).returncode == 0)
    assert len((root / "here").read_bytes()) == 200_000
    assert "known" in os.listdir(root)
    return device


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if it took longer: a call that hangs is what these tests are about."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def assert_unavailable(path: Path, seconds: float) -> None:
    with within(seconds), pytest.raises(OSError, match="Input/output error"):
        path.read_bytes()


def assert_life_goes_on(root: Path) -> None:
    """All that needs no network is done at once."""
    with within(INSTANT_SECONDS):
        assert len((root / "here").read_bytes()) >= 200_000
        assert "known" in os.listdir(root)
        os.statvfs(root)
        name = f"new{RANDOM.random()}"
        write_file(root / name, b"written offline")
        os.rename(root / name, root / f"{name} renamed")
        (root / f"{name} directory").mkdir()
        assert (root / f"{name} renamed").read_bytes() == b"written offline"
        os.unlink(root / f"{name} renamed")
        assert subprocess.run(["ls", "-l", root], capture_output=True, timeout=INSTANT_SECONDS).returncode == 0
        assert subprocess.run(["df", root], capture_output=True, timeout=INSTANT_SECONDS).returncode == 0


def test_a_life_without_a_server(device: Device, link: Link, workbench: Workbench) -> None:
    """[offline-life] [offline-instant]"""
    root = device.mountpoint
    expected = {"here": (root / "here").read_bytes() + b" and more"}
    device.umount()
    link.cut()
    for number in range(3):
        device.mount(*mount_options())
        assert_life_goes_on(root)
        expected[f"file{number}"] = RANDOM.randbytes(100_000)
        write_file(root / f"file{number}", expected[f"file{number}"])
        if number == 0:
            os.rename(root / "directory", root / "moved")
        if number == 1:
            os.unlink(root / "third")
            with (root / "here").open("ab") as file:
                file.write(b" and more")
        device.umount("--now")
    device.mount(*mount_options())
    names = sorted(os.listdir(root))
    link.restore()
    device.sync()
    other = workbench.device(device.server)
    there = other.mount(*mount_options())
    assert sorted(os.listdir(there)) == names
    assert "third" not in names
    assert {name: (there / name).read_bytes() for name in expected} == expected
    assert os.listdir(there / "moved/unlisted") == ["file"]


@pytest.mark.fault(21)
@pytest.mark.parametrize("way", ["whole", "dead"])
def test_a_mount_that_stood_still_answers_no_call_before_it_knows_what_others_did(
    device: Device, link: Link, workbench: Workbench, way: str
) -> None:
    """[offline-resumed]; also where its connections died meanwhile without a word."""
    root = device.mountpoint
    other = workbench.device(device.server)
    there = other.mount(*mount_options())
    assert device.process is not None
    device.process.send_signal(signal.SIGSTOP)
    try:
        if way == "dead":
            link.half_open()
        for number in range(20):
            write_file(there / f"made {number}", b"elsewhere")
        write_file(there / "here", b"changed elsewhere")
        os.unlink(there / "third")
        other.sync()
        time.sleep(1.2 * STILL_SECONDS)
    finally:
        device.process.send_signal(signal.SIGCONT)
    assert (root / "here").read_bytes() == b"changed elsewhere"
    assert (root / "made 19").exists()
    assert not (root / "third").exists()
    write_file(root / "written", b"after")
    device.sync()


@pytest.mark.parametrize("how", ["cut", "killed", "frozen", "paused", "unreachable"])
def test_what_is_not_here_fails_soon_and_the_rest_goes_on(device: Device, link: Link, how: str) -> None:
    """[offline-eio] [offline-instant]"""
    root, server = device.mountpoint, device.server
    assert server.process is not None
    if how == "cut":
        link.cut()
    elif how == "killed":
        server.kill()
    elif how == "frozen":
        server.process.send_signal(signal.SIGSTOP)
    elif how == "paused":
        link.pause()
    else:
        link.unreachable()
    is_silent = how in ("frozen", "paused", "unreachable")
    try:
        assert_unavailable(root / "known", SILENCE_SECONDS if is_silent else INSTANT_SECONDS)
        wait_until("it is known to be offline", lambda: not device.status()["online"])
        assert device.status()["reason"]
        assert_unavailable(root / "second", INSTANT_SECONDS)
        with within(INSTANT_SECONDS), pytest.raises(OSError, match="Input/output error"):
            os.listdir(root / "directory/unlisted")
        assert_life_goes_on(root)
    finally:
        if how == "frozen":
            server.process.send_signal(signal.SIGCONT)
    if how == "killed":
        server.start()
    link.restore()
    wait_until("online again", lambda: bool(device.status()["online"]), 60)
    assert len((root / "known").read_bytes()) == 200_000
    device.sync()


@pytest.mark.fault(34)
@pytest.mark.parametrize("kind", GARBAGE)
def test_nonsense_is_the_same_as_no_server(device: Device, link: Link, kind: str) -> None:
    """[offline-garbage] [offline-eio] [offline-instant]"""
    root = device.mountpoint
    link.garbage(kind)
    assert_unavailable(root / "known", SILENCE_SECONDS)
    assert_life_goes_on(root)
    wait_until("it is known to be offline", lambda: not device.status()["online"])
    before = device.status()["pending"]
    assert before["mutations"] > 0
    with within(SILENCE_SECONDS):
        device.umount("--now")
    device.mount(*mount_options())
    assert device.status()["pending"] == before
    link.restore()
    device.sync()
    assert len((root / "known").read_bytes()) == 200_000


def test_a_slow_server_is_waited_for(device: Device, link: Link) -> None:
    """[offline-slow] [offline-instant]"""
    link.trickle(40_000)
    assert len((device.mountpoint / "known").read_bytes()) == 200_000
    assert_life_goes_on(device.mountpoint)
    link.delay(1.5)
    assert len((device.mountpoint / "second").read_bytes()) == 200_000
    assert os.listdir(device.mountpoint / "directory/unlisted") == ["file"]


@pytest.mark.fault(31)
def test_a_trickle_that_leads_nowhere_is_given_up(hasty: Device, link: Link) -> None:
    """[offline-eio]"""
    link.trickle(200)
    assert_unavailable(hasty.mountpoint / "known", SILENCE_SECONDS)
    assert_life_goes_on(hasty.mountpoint)


@pytest.mark.fault(30)
def test_connections_that_died_without_a_word_cost_moments(device: Device, link: Link) -> None:
    """[offline-eio]"""
    link.half_open()
    with within(SILENCE_SECONDS):
        assert len((device.mountpoint / "known").read_bytes()) == 200_000
    write_file(device.mountpoint / "written")
    device.sync()


@pytest.mark.fault(26, 27, 32, 33)
@pytest.mark.parametrize("how", ["flapping", REQUESTS, REPLIES])
def test_all_arrives_once_over_a_bad_network(device: Device, link: Link, workbench: Workbench, how: str) -> None:
    """[offline-flapping]"""
    root = device.mountpoint
    if how == "flapping":
        link.flap(2.0)
    else:
        link.lose(how)
    for number in range(12):
        write_file(root / f"file{number}", RANDOM.randbytes(50_000 if number % 4 else 2_000_000))
        if number % 3 == 2:
            os.rename(root / f"file{number}", root / f"renamed{number}")
        time.sleep(0.5)
    if how != "flapping":
        link.restore()
    device.sync()
    link.restore()
    other = workbench.device(device.server)
    assert snapshot(other.mount(*mount_options())) == snapshot(root)
    device.server.assert_sound()


@pytest.mark.fault(22)
@pytest.mark.parametrize("how", ["cut", "paused"])
def test_unmounting_without_a_server_ends(hasty: Device, link: Link, how: str) -> None:
    """[offline-umount]"""
    write_file(hasty.mountpoint / "left", b"behind")
    link.cut() if how == "cut" else link.pause()
    write_file(hasty.mountpoint / "written", b"offline")
    with within(4 * SILENCE_SECONDS):
        done = hasty.command("umount", str(hasty.mountpoint))
    assert done.returncode == UNFINISHED
    assert "journal" in done.stderr
    assert hasty.process is not None
    hasty.process.wait(SILENCE_SECONDS)
    hasty.ended()
    hasty.haste = {}
    hasty.mount(*mount_options())
    assert (hasty.mountpoint / "written").read_bytes() == b"offline"
    link.restore()
    hasty.sync()
