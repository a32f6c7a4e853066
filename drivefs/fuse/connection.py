"""FUSE mounts as the kernel lists them: found without touching their path, since a dead or hung one would hang us too.

Owns the reading of mountinfo and the control of a connection by its number (the minor device number of the mount,
which names its directory in fusectl; see fuse.txt and fuse-control in the kernel's documentation). Knows no pyfuse3.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
FUSECTL = Path("/sys/fs/fuse/connections")
FSTYPE = "fuse.drivefs"
MOUNT_SECONDS = 10.0

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo; `number` is the connection's, if it is a FUSE mount."""

    mountpoint: str
    fstype: str
    source: str
    number: int

    @property
    def is_drivefs(self) -> bool:
        """Whether a drivefs process serves it, or did."""
        return self.fstype == FSTYPE


def topmost(mountpoint: str, mountinfo: str | None = None) -> Mount | None:
    """What is mounted at exactly this absolute path: the last of several; None if nothing is."""
    found = None
    for mount in _mounts(MOUNTINFO.read_text(errors="surrogateescape") if mountinfo is None else mountinfo):
        if mount.mountpoint == mountpoint:
            found = mount
    return found


def abort(number: int, fusectl: Path = FUSECTL) -> bool:
    """End a connection: whoever waits for it gets an error; False where the kernel or our rights do not allow it."""
    try:
        (_controls(fusectl) / str(number) / "abort").write_text("1")
    except OSError:
        return False
    return True


def detach(mountpoint: str) -> str:
    """Take a mount out of the tree, in use or not; an empty string, or why it failed."""
    command = ["fusermount3", "-u", "-z", "--", mountpoint]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return ended.stderr.strip() or "fusermount3 gave no reason" if ended.returncode else ""


def set_max_background(number: int, requests: int, fusectl: Path = FUSECTL) -> bool:
    """Let so many slow requests wait without holding up others; False where that is not allowed (it needs root)."""
    try:
        (_controls(fusectl) / str(number) / "max_background").write_text(str(requests))
        (fusectl / str(number) / "congestion_threshold").write_text(str(requests * 3 // 4))
    except OSError:
        return False
    return True


def _controls(fusectl: Path) -> Path:
    """The same path, mounted: systemd does that at boot, a machine without it leaves it to whoever may."""
    if os.geteuid() == 0 and fusectl.is_dir() and not os.listdir(fusectl):
        command = ["mount", "-t", "fusectl", "fusectl", str(fusectl)]
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=MOUNT_SECONDS, check=False)
    return fusectl


def _mounts(mountinfo: str) -> Iterator[Mount]:
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not separator or len(fields) < 5 or len(kind) < 2:
            continue
        _, _, minor = fields[2].partition(":")
        yield Mount(_unescaped(fields[4]), kind[0], _unescaped(kind[1]), int(minor))


def _unescaped(field: str) -> str:
    """Undo mountinfo's octal escapes of blanks and backslashes."""
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), field)
