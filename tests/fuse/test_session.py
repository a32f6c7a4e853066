"""A session on the real kernel: what it looks like from outside, and that nobody who waits holds up others."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivefs.fuse import connection, session

DEADLINE_SECONDS = 60.0


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    """A mount in a process of its own, without a backend."""
    place = tmp_path / "mount"
    place.mkdir()
    command = [sys.executable, "-m", "tests.support.local_mount", tmp_path / "state", tmp_path / "cache", place]
    with subprocess.Popen(command) as process:
        try:
            wait_until(lambda: connection.topmost(str(place)) is not None or process.poll() is not None)
            yield place
        finally:
            if (found := connection.topmost(str(place))) is not None:
                connection.abort(found.number)
                connection.detach(str(place))
            process.kill()


def wait_until(done: object) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not done():  # type: ignore[operator]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def waiting(mountpoint: Path, name: str) -> subprocess.Popen[bytes]:
    """A process that looks up a name for which the mount has to wait."""
    return subprocess.Popen(["stat", mountpoint / "elsewhere" / name], stdout=-3, stderr=-3)


def end(waiters: list[subprocess.Popen[bytes]]) -> None:
    """Kill them all, and only then wait: the kernel lets them look into one directory one after the other."""
    for waiter in waiters:
        waiter.kill()
    for waiter in waiters:
        waiter.wait()


def is_blocked(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process sleeps in the kernel for an answer, or has got one: the kernel asks for one after the other."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] in "SDZ"


def test_a_mount_is_found_and_says_what_it_is(mountpoint: Path) -> None:
    found = connection.topmost(str(mountpoint))
    assert found is not None
    assert (found.is_drivefs, found.source) == (True, "drivefs:local")
    (mountpoint / "file").write_text("content")
    assert (mountpoint / "file").read_text() == "content"


def test_slow_requests_may_wait_by_the_hundred_where_we_may_say_so(mountpoint: Path) -> None:
    found = connection.topmost(str(mountpoint))
    assert found is not None
    settings = connection.FUSECTL / str(found.number) / "max_background"
    if os.access(settings, os.W_OK):
        wait_until(lambda: int(settings.read_text()) == session.MAX_BACKGROUND)


def test_files_are_read_in_large_requests_where_we_may_say_so(mountpoint: Path) -> None:
    os.listdir(mountpoint)
    found = connection.topmost(str(mountpoint))
    assert found is not None
    setting = session.BDI / f"0:{found.number}" / "read_ahead_kb"
    if os.access(setting, os.W_OK):
        assert int(setting.read_text()) == session.READ_AHEAD_KIBIBYTES


def test_those_who_wait_hold_up_nobody(mountpoint: Path) -> None:
    waiters = [waiting(mountpoint, str(number)) for number in range(20)]
    try:
        wait_until(lambda: all(map(is_blocked, waiters)))
        for number in range(50):
            (mountpoint / f"file {number}").write_text("content")
        assert len(os.listdir(mountpoint)) == 51
        assert any(waiter.poll() is None for waiter in waiters), "nobody waited any more: this shows nothing"
    finally:
        end(waiters)


@pytest.mark.fault(70)
def test_killing_those_who_wait_leaves_the_mount_working(mountpoint: Path) -> None:
    for round_number in range(2):
        waiters = [waiting(mountpoint, f"{round_number}-{number}") for number in range(10)]
        wait_until(lambda waiters=waiters: all(map(is_blocked, waiters)))
        end(waiters)
        (mountpoint / f"file {round_number}").write_text("content")
    assert (mountpoint / "file 0").read_text() == "content"


@pytest.mark.fault(25)
def test_an_aborted_connection_lets_everybody_go(mountpoint: Path) -> None:
    waiter = waiting(mountpoint, "name")
    wait_until(lambda: is_blocked(waiter))
    found = connection.topmost(str(mountpoint))
    assert found is not None
    assert connection.abort(found.number)
    assert waiter.wait(DEADLINE_SECONDS) != 0
    assert connection.detach(str(mountpoint)) == ""
    assert connection.topmost(str(mountpoint)) is None


def test_a_name_of_which_nothing_can_be_said_is_an_error_and_not_missing(mountpoint: Path) -> None:
    with pytest.raises(OSError, match="Input/output") as raised:
        os.stat(mountpoint / "elsewhere" / "name")
    assert raised.value.errno == errno.EIO
