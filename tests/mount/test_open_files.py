"""Files that are open here while another device changes, replaces or removes them.

Owns the lines about open files of SEMANTICS.md that need two devices.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.conftest import mount_options, mounted
from tests.mount.oracle import write_file
from tests.support.mounts import Device, Watchdog, wait_until

OLD = b"old " * 2000
NEW = b"NEW CONTENT " * 3000


@dataclass(frozen=True, slots=True)
class Side:
    """A directory of one drive, as one of two devices shows it."""

    device: Device
    root: Path


@pytest.fixture(scope="module")
def devices(pytestconfig: pytest.Config, watchdog: Watchdog, server_home: Path) -> Iterator[tuple[Device, ...]]:
    """Both are mounted; in the end they are in order, and so is the server."""
    yield from mounted(pytestconfig, watchdog, server_home, 2)


@pytest.fixture
def there(devices: tuple[Device, ...], request: pytest.FixtureRequest) -> Side:
    """The other device; it has made the file."""
    device = devices[1]
    root = device.mountpoint / request.node.name
    root.mkdir()
    write_file(root / "file", OLD)
    device.sync()
    return Side(device, root)


@pytest.fixture
def here(devices: tuple[Device, ...], there: Side) -> Side:
    device = devices[0]
    root = device.mountpoint / there.root.name
    wait_until("the file is here", lambda: (root / "file").read_bytes() == OLD)
    return Side(device, root)


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def change_there(there: Side, here: Side) -> None:
    """The other device writes the file anew, in place, and this one has heard of it."""
    write_file(there.root / "file", NEW)
    there.device.sync()
    wait_until("the change is known here", lambda: (here.root / "file").stat().st_size == len(NEW))


def copies(side: Side) -> list[Path]:
    return [path for path in side.root.iterdir() if "conflicted copy" in path.name]


def only_copy(side: Side) -> Path:
    wait_until("there is a conflict copy", lambda: len(copies(side)) == 1)
    (found,) = copies(side)
    return found


def shows(path: Path, content: bytes) -> None:
    """A name leads to that content, once the kernel has been told."""
    wait_until(f"{path} shows {content[:20]!r}", lambda: path.read_bytes() == content)


def test_an_open_file_shows_what_another_device_wrote(here: Side, there: Side) -> None:
    """[open-remote-change]"""
    with opened(here.root / "file") as descriptor:
        assert os.pread(descriptor, 100_000, 0) == OLD
        change_there(there, here)
        assert os.fstat(descriptor).st_size == len(NEW)
        assert os.pread(descriptor, 100_000, 0) == NEW
        os.pwrite(descriptor, b"here", 0)
    here.device.sync()
    wait_until("the other device has it", lambda: (there.root / "file").read_bytes() == b"here" + NEW[4:])
    assert copies(here) == []


@pytest.mark.fault(69)
def test_a_write_that_has_not_seen_a_change_becomes_a_copy(here: Side, there: Side) -> None:
    """[open-unseen-change] [open-follows-copy]"""
    path = here.root / "file"
    with opened(path) as descriptor:
        assert os.pread(descriptor, 100_000, 0) == OLD
        change_there(there, here)
        os.pwrite(descriptor, b"here", 0)
        assert os.pread(descriptor, 100_000, 0) == b"here" + OLD[4:]
        os.fsync(descriptor)
        copy = only_copy(here)
        wait_until("the name has what was written first", lambda: path.read_bytes() == NEW)
        assert os.fstat(descriptor).st_ino == copy.stat().st_ino != path.stat().st_ino
        assert copy.read_bytes() == b"here" + OLD[4:]
        os.pwrite(descriptor, b"more", 8)
        expected = b"here" + OLD[4:8] + b"more" + OLD[12:]
        assert os.pread(descriptor, 100_000, 0) == copy.read_bytes() == expected
        assert path.read_bytes() == NEW
    here.device.sync()
    wait_until("the other device has the copy", lambda: only_copy(there).read_bytes() == expected)
    shows(there.root / "file", NEW)
    write_file(path, b"and on it goes")
    here.device.sync()
    wait_until("it goes on", lambda: (there.root / "file").read_bytes() == b"and on it goes")
    assert only_copy(there).read_bytes() == expected
    here.device.umount()
    here.device.mount(*mount_options())
    assert path.read_bytes() == b"and on it goes"
    assert only_copy(here).read_bytes() == expected


def test_a_map_that_has_not_seen_a_change_becomes_a_copy(here: Side, there: Side) -> None:
    """[open-unseen-change]"""
    path = here.root / "file"

    def written_back() -> bool:
        """Asked for its attributes, the kernel sees that the file has changed, and gives up its pages."""
        path.stat()
        return bool(copies(here)) or here.device.status()["pending"]["bytes"] > 0

    with opened(path) as descriptor, mmap.mmap(descriptor, len(OLD)) as mapped:
        assert mapped[:] == OLD
        mapped[:4] = b"here"
        write_file(there.root / "file", NEW)
        there.device.sync()
        wait_until("the page is written back for the change", written_back)
        mapped.flush()
    here.device.sync()
    copy = only_copy(here)
    assert copy.read_bytes() == b"here" + OLD[4:]
    shows(path, NEW)


def test_two_that_append_at_once_lose_nothing(here: Side, there: Side) -> None:
    """[open-append-elsewhere]"""
    with opened(here.root / "file", os.O_WRONLY | os.O_APPEND) as descriptor:
        with opened(there.root / "file", os.O_WRONLY | os.O_APPEND) as other:
            os.write(other, b"from there\n")
        there.device.sync()
        write_file(there.root / "later", b"")
        there.device.sync()
        # Nobody asks for the size of the file itself: the kernel goes by that which it knows.
        wait_until("it is known here", (here.root / "later").exists)
        os.write(descriptor, b"from here\n")
        os.write(descriptor, b"and here\n")
    here.device.sync()
    assert (here.root / "file").read_bytes() == OLD + b"from there\nfrom here\nand here\n"
    assert copies(here) == []


@pytest.mark.fault(63)
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_what_goes_elsewhere_stays_whole_for_its_readers(here: Side, there: Side, how: str) -> None:
    """[open-removed-elsewhere]"""
    path = here.root / "file"
    with opened(path, os.O_RDONLY) as descriptor:
        go_there(there, how)
        gone = (lambda: not path.exists()) if how == "removed" else (lambda: path.read_bytes() == NEW)
        wait_until("it is known here", gone)
        assert os.pread(descriptor, 100_000, 0) == OLD
        wait_until("it has no name left", lambda: os.fstat(descriptor).st_nlink == 0)
        assert os.fstat(descriptor).st_size == len(OLD)
    assert path.exists() == (how == "replaced")


def go_there(there: Side, how: str) -> None:
    if how == "removed":
        (there.root / "file").unlink()
    else:
        write_file(there.root / "new", NEW)
        os.rename(there.root / "new", there.root / "file")
    there.device.sync()


@pytest.mark.fault(59)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_an_edit_of_what_goes_elsewhere_survives(here: Side, there: Side, how: str, when: str) -> None:
    """[open-removed-elsewhere]: written before this device heard of it, or after."""
    path = here.root / "file"
    with opened(path) as descriptor:
        if when == "before":
            os.pwrite(descriptor, b"here", 0)
        go_there(there, how)
        if when == "after":
            gone = (lambda: not path.exists()) if how == "removed" else (lambda: path.read_bytes() == NEW)
            wait_until("it is known here", gone)
            os.pwrite(descriptor, b"here", 0)
        assert os.pread(descriptor, 100_000, 0) == b"here" + OLD[4:]
    here.device.sync()
    if how == "removed":
        wait_until("it is back", lambda: path.exists() and path.read_bytes() == b"here" + OLD[4:])
        assert copies(here) == []
    else:
        assert only_copy(here).read_bytes() == b"here" + OLD[4:]
        shows(path, NEW)


@pytest.mark.fault(1)
@pytest.mark.parametrize("what", ["changed", "removed", "replaced"])
def test_an_unseen_change_is_kept_apart_over_a_crash(here: Side, there: Side, what: str) -> None:
    """[open-unseen-change] [crash-write]"""
    path = here.root / "file"
    descriptor = os.open(path, os.O_RDWR)
    if what == "changed":
        change_there(there, here)
    else:
        go_there(there, what)
        gone = (lambda: not path.exists()) if what == "removed" else (lambda: path.read_bytes() == NEW)
        wait_until("it is known here", gone)
    here.device.server.stop()
    os.pwrite(descriptor, b"here", 0)
    here.device.kill()
    os.close(descriptor)
    here.device.mount(*mount_options())
    here.device.server.start()
    here.device.sync()
    if what == "removed":
        wait_until("it is back", lambda: path.exists() and path.read_bytes() == b"here" + OLD[4:])
    else:
        assert only_copy(here).read_bytes() == b"here" + OLD[4:]
        shows(path, NEW)
