"""A mountpoint that is in use: by whoever only looks it is waited for, by whoever stays it is not."""

import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from drivefs.cli import umount
from drivefs.cli.errors import CommandError


class Busy:
    """A mountpoint that is in use the next few times that the kernel is asked to let go of it."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self, command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        self.times -= 1
        said = "fusermount3: failed to unmount /drive: Device or resource busy\n" if self.times >= 0 else ""
        return subprocess.CompletedProcess(command, int(bool(said)), "", said)


def unmount(monkeypatch: pytest.MonkeyPatch, busy: Busy) -> None:
    drive: Any = SimpleNamespace(mountpoint="/drive")
    monkeypatch.setattr(subprocess, "run", busy)
    monkeypatch.setattr(umount, "LOOK_SECONDS", 0.001)
    umount._unmount(drive)


def test_whoever_looks_again_and_again_is_gone_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the mount's own process that replays events, when many come, or when it has no processor."""
    busy = Busy(20)
    unmount(monkeypatch, busy)
    assert busy.times == -1


def test_whoever_stays_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(umount, "BUSY_SECONDS", 0.0)
    with pytest.raises(CommandError, match="is in use, so it stays mounted"):
        unmount(monkeypatch, Busy(10**9))
