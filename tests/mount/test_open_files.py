"""Files that are open here while another device changes, replaces or removes them.

Owns the lines about open files of SEMANTICS.md that need two devices.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.conftest import mount_options
from tests.mount.oracle import write_file
from tests.support.mounts import Device, Server, Workbench, wait_until

OLD = b"old " * 2000
NEW = b"NEW CONTENT " * 3000


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


@pytest.fixture
def there(workbench: Workbench, server: Server) -> Device:
    """The other device; it has made the file."""
    device = workbench.device(server)
    write_file(device.mount(*mount_options()) / "file", OLD)
    device.sync()
    return device


@pytest.fixture
def here(workbench: Workbench, server: Server, there: Device) -> Device:
    device = workbench.device(server)
    assert (device.mount(*mount_options()) / "file").read_bytes() == OLD
    return device


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def change_there(there: Device, here: Device) -> None:
    """The other device writes the file anew, in place, and this one has heard of it."""
    write_file(there.mountpoint / "file", NEW)
    there.sync()
    wait_until("the change is known here", lambda: (here.mountpoint / "file").stat().st_size == len(NEW))


def copies(device: Device) -> list[Path]:
    return [path for path in device.mountpoint.iterdir() if "conflicted copy" in path.name]


def only_copy(device: Device) -> Path:
    wait_until("there is a conflict copy", lambda: len(copies(device)) == 1)
    (found,) = copies(device)
    return found


def shows(path: Path, content: bytes) -> None:
    """A name leads to that content, once the kernel has been told."""
    wait_until(f"{path} shows {content[:20]!r}", lambda: path.read_bytes() == content)


def end(here: Device, there: Device) -> None:
    """Both are in order, and so is the server."""
    for device in (here, there):
        device.umount()
        device.assert_sound()
    here.server.assert_sound()


def test_an_open_file_shows_what_another_device_wrote(here: Device, there: Device) -> None:
    """[open-remote-change]"""
    with opened(here.mountpoint / "file") as descriptor:
        assert os.pread(descriptor, 100_000, 0) == OLD
        change_there(there, here)
        assert os.fstat(descriptor).st_size == len(NEW)
        assert os.pread(descriptor, 100_000, 0) == NEW
        os.pwrite(descriptor, b"here", 0)
    here.sync()
    wait_until("the other device has it", lambda: (there.mountpoint / "file").read_bytes() == b"here" + NEW[4:])
    assert copies(here) == []
    end(here, there)


@pytest.mark.fault(69)
def test_a_write_that_has_not_seen_a_change_becomes_a_copy(here: Device, there: Device) -> None:
    """[open-unseen-change] [open-follows-copy]"""
    path = here.mountpoint / "file"
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
    here.sync()
    wait_until("the other device has the copy", lambda: only_copy(there).read_bytes() == expected)
    shows(there.mountpoint / "file", NEW)
    write_file(path, b"and on it goes")
    here.sync()
    wait_until("it goes on", lambda: (there.mountpoint / "file").read_bytes() == b"and on it goes")
    assert only_copy(there).read_bytes() == expected
    here.umount()
    here.mount(*mount_options())
    assert path.read_bytes() == b"and on it goes"
    assert only_copy(here).read_bytes() == expected
    end(here, there)


def test_a_map_that_has_not_seen_a_change_becomes_a_copy(here: Device, there: Device) -> None:
    """[open-unseen-change]"""
    path = here.mountpoint / "file"

    def written_back() -> bool:
        """Asked for its attributes, the kernel sees that the file has changed, and gives up its pages."""
        path.stat()
        return bool(copies(here)) or here.status()["pending"]["bytes"] > 0

    with opened(path) as descriptor, mmap.mmap(descriptor, len(OLD)) as mapped:
        assert mapped[:] == OLD
        mapped[:4] = b"here"
        write_file(there.mountpoint / "file", NEW)
        there.sync()
        wait_until("the page is written back for the change", written_back)
        mapped.flush()
    here.sync()
    copy = only_copy(here)
    assert copy.read_bytes() == b"here" + OLD[4:]
    shows(path, NEW)
    end(here, there)


def test_two_that_append_at_once_lose_nothing(here: Device, there: Device) -> None:
    """[open-append-elsewhere]"""
    with opened(here.mountpoint / "file", os.O_WRONLY | os.O_APPEND) as descriptor:
        with opened(there.mountpoint / "file", os.O_WRONLY | os.O_APPEND) as other:
            os.write(other, b"from there\n")
        there.sync()
        size = len(OLD) + len(b"from there\n")
        wait_until("it is known here", lambda: (here.mountpoint / "file").stat().st_size == size)
        os.write(descriptor, b"from here\n")
    here.sync()
    assert (here.mountpoint / "file").read_bytes() == OLD + b"from there\nfrom here\n"
    assert copies(here) == []
    end(here, there)


@pytest.mark.fault(63)
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_what_goes_elsewhere_stays_whole_for_its_readers(here: Device, there: Device, how: str) -> None:
    """[open-removed-elsewhere]"""
    path = here.mountpoint / "file"
    with opened(path, os.O_RDONLY) as descriptor:
        go_there(there, how)
        gone = (lambda: not path.exists()) if how == "removed" else (lambda: path.read_bytes() == NEW)
        wait_until("it is known here", gone)
        assert os.pread(descriptor, 100_000, 0) == OLD
        wait_until("it has no name left", lambda: os.fstat(descriptor).st_nlink == 0)
        assert os.fstat(descriptor).st_size == len(OLD)
    assert path.exists() == (how == "replaced")
    end(here, there)


def go_there(there: Device, how: str) -> None:
    if how == "removed":
        (there.mountpoint / "file").unlink()
    else:
        write_file(there.mountpoint / "new", NEW)
        os.rename(there.mountpoint / "new", there.mountpoint / "file")
    there.sync()


@pytest.mark.fault(59)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_an_edit_of_what_goes_elsewhere_survives(here: Device, there: Device, how: str, when: str) -> None:
    """[open-removed-elsewhere]: written before this device heard of it, or after."""
    path = here.mountpoint / "file"
    with opened(path) as descriptor:
        if when == "before":
            os.pwrite(descriptor, b"here", 0)
        go_there(there, how)
        if when == "after":
            gone = (lambda: not path.exists()) if how == "removed" else (lambda: path.read_bytes() == NEW)
            wait_until("it is known here", gone)
            os.pwrite(descriptor, b"here", 0)
        assert os.pread(descriptor, 100_000, 0) == b"here" + OLD[4:]
    here.sync()
    if how == "removed":
        wait_until("it is back", lambda: path.exists() and path.read_bytes() == b"here" + OLD[4:])
        assert copies(here) == []
    else:
        assert only_copy(here).read_bytes() == b"here" + OLD[4:]
        shows(path, NEW)
    end(here, there)


@pytest.mark.fault(1)
@pytest.mark.parametrize("what", ["changed", "removed", "replaced"])
def test_an_unseen_change_is_kept_apart_over_a_crash(here: Device, there: Device, what: str) -> None:
    """[open-unseen-change] [crash-write]"""
    path = here.mountpoint / "file"
    descriptor = os.open(path, os.O_RDWR)
    if what == "changed":
        change_there(there, here)
    else:
        go_there(there, what)
        gone = (lambda: not path.exists()) if what == "removed" else (lambda: path.read_bytes() == NEW)
        wait_until("it is known here", gone)
    here.server.stop()
    os.pwrite(descriptor, b"here", 0)
    here.kill()
    os.close(descriptor)
    here.mount(*mount_options())
    here.server.start()
    here.sync()
    if what == "removed":
        wait_until("it is back", lambda: path.exists() and path.read_bytes() == b"here" + OLD[4:])
    else:
        assert only_copy(here).read_bytes() == b"here" + OLD[4:]
        shows(path, NEW)
    end(here, there)
