"""A device's state that exists twice, or that went back in time: each copy gets a life of its own, and nothing is lost.

Owns the faults in which what the journal remembers and what the server remembers of a device do not agree.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mount.conftest import mount_options
from tests.mount.oracle import write_file
from tests.support.mounts import Device, Server, Workbench, wait_until


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


@pytest.fixture(params=["heard", "never heard"])
def device(workbench: Workbench, server: Server, request: pytest.FixtureRequest) -> Device:
    """A device that is not mounted, with `base` on the server and changes that were never sent.

    Of its last session it has heard, or it asked for another one and never heard of it.
    """
    device = workbench.device(server)
    root = device.mount(*mount_options())
    write_file(root / "base", b"base" * 1000)
    (root / "directory").mkdir()
    device.sync()
    server.stop()
    write_file(root / "unsent", b"unsent" * 30_000)
    (root / "made").mkdir()
    write_file(root / "made/below", b"below")
    os.rename(root / "base", root / "directory/base")
    device.umount("--now")
    if request.param == "never heard":
        device.mount(*mount_options())
        device.umount("--now")
    server.start()
    return device


UNSENT = {"directory": None, "directory/base": b"base" * 1000, "made": None, "made/below": b"below"}
UNSENT["unsent"] = b"unsent" * 30_000


def tree(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*"))
    }


def saved(device: Device, name: str) -> Path:
    """A copy of all that a device has on its disk."""
    kept = device.home / name
    for key, directory in device.directories.items():
        if key != "XDG_RUNTIME_DIR":
            shutil.copytree(directory, kept / directory.name)
    return kept


def put_back(device: Device, kept: Path) -> None:
    for directory in kept.iterdir():
        shutil.rmtree(device.home / directory.name)
        shutil.copytree(directory, device.home / directory.name)


def settle(workbench: Workbench, *devices: Device) -> dict[str, bytes | None]:
    """All devices show the same as one that has never seen anything else; gives what."""
    for device in devices:
        device.sync()
    fresh = workbench.device(devices[0].server)
    there = tree(fresh.mount(*mount_options()))
    for device in devices:
        with suppress(TimeoutError):
            wait_until("all show the same", lambda root=device.mountpoint: tree(root) == there)
        assert tree(device.mountpoint) == there
    for device in (*devices, fresh):
        device.umount()
        device.assert_sound()
    fresh.server.assert_sound()
    return there


@pytest.mark.fault(18)
def test_two_copies_of_one_device_lose_nothing(workbench: Workbench, device: Device) -> None:
    """[copied-device]: what the copies have in common arrives once, and what each writes of its own arrives too."""
    copy = workbench.new_device(device.server)
    put_back(copy, saved(device, "copy"))
    first, second = device.mount(*mount_options()), copy.mount(*mount_options())
    for root, name in ((first, b"first"), (second, b"second")):
        write_file(root / f"of {name.decode()}", name * 1000)
        write_file(root / "made/of both", name * 1000)
    device.sync()
    copy.sync()
    for root, name in ((first, b"again first"), (second, b"again second")):
        write_file(root / f"made/{name.decode()}", name)
    found = settle(workbench, device, copy)
    both = {found.pop(path) for path in list(found) if path.startswith("made/of both")}
    assert both == {b"first" * 1000, b"second" * 1000}
    assert found == {
        **UNSENT,
        "of first": b"first" * 1000,
        "of second": b"second" * 1000,
        "made/again first": b"again first",
        "made/again second": b"again second",
    }


@pytest.mark.fault(19, 68)
@pytest.mark.parametrize("device", ["never heard"], indirect=True)
def test_a_device_that_went_back_in_time_loses_nothing(workbench: Workbench, device: Device) -> None:
    """[copied-device]: its state is from before it sent what the server has, and its numbers mean other things now.

    What waited then counts as the change of a new device: a name that the lost life removed is back where it was moved.
    """
    before = saved(device, "before")
    root = device.mount(*mount_options())
    write_file(root / "later", b"later" * 1000)
    write_file(root / "made/below", b"changed")
    os.unlink(root / "directory/base")
    device.sync()
    device.kill()
    put_back(device, before)
    device.server.stop()
    device.mount(*mount_options())
    for number in range(20):
        write_file(root / f"other {number}", b"%d" % number * 1000)
    assert (root / "made/below").read_bytes() == b"below"
    device.server.start()
    found = settle(workbench, device)
    expected = {
        **UNSENT,
        **{f"other {number}": b"%d" % number * 1000 for number in range(20)},
        "later": b"later" * 1000,
        "made/below": b"changed",
    }
    (copy,) = found.keys() - expected.keys()
    assert copy.startswith("made/below (conflicted copy, ")
    assert found.pop(copy) == b"below"
    assert found == expected
