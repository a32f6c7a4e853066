"""What must hold before a mount is started, checked where the user still sees the answer.

Owns the checks and their sentences. The process that then serves checks again what may change meanwhile.
"""

import fcntl
import os
import shutil
import stat
import time
from pathlib import Path

from drivefs import config
from drivefs.cli import mountpoints
from drivefs.cli.errors import CommandError
from drivefs.control import mounts

FUSE_DEVICE = Path("/dev/fuse")
FUSE_CONF = Path("/etc/fuse.conf")
ENDING_SECONDS = 10.0
"""How long a mount may take to end whose mountpoint has gone already, by umount(8) for one."""
LOOK_SECONDS = 0.05


def check(settings: config.MountSettings) -> None:
    """Check everything; clears a mountpoint that a dead mount left.

    Raises:
        CommandError: what is wrong, and what to do.
    """
    check_device(FUSE_DEVICE)
    check_program("fusermount3", "fuse3")
    wait_for_the_last(settings.places)
    check_not_mounted(settings)
    check_mountpoint(settings.mountpoint)
    check_writable(settings.places.state, "state")
    check_writable(settings.places.cache, "cache")
    if "allow_other" in settings.options and os.getuid() != 0:
        check_allow_other(FUSE_CONF)


def check_device(device: Path) -> None:
    """Check that the kernel's FUSE device is there and may be used."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError as error:
        raise CommandError(
            f"{device} is missing: load the kernel module (modprobe fuse) or, in a container, start it with "
            f"--device {device} --cap-add SYS_ADMIN"
        ) from error
    except OSError as error:
        raise CommandError(
            f"{device} cannot be opened ({error.strerror}): this user may not mount. As root: chmod 666 {device}"
        ) from error


def check_program(name: str, package: str) -> None:
    """Check that a program that mounting or unmounting takes is there."""
    if shutil.which(name) is None:
        raise CommandError(f"{name} is missing, without which nothing can be unmounted: install the package {package}")


def wait_for_the_last(places: config.ProfilePlaces) -> None:
    """Return when the last mount of this profile has ended, if it is ending, or after a time all the same."""
    deadline = time.monotonic() + ENDING_SECONDS
    while _is_ending(places) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)


def _is_ending(places: config.ProfilePlaces) -> bool:
    """Whether a process has the profile's state open, and serves no mountpoint with it."""
    try:
        descriptor = os.open(places.state / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        living = [each.record for each in mounts.mounted(places.runtime.parent)]
        return not any(each.state == str(places.state) and mountpoints.is_mounted(each.mountpoint) for each in living)
    finally:
        os.close(descriptor)
    return False


def check_not_mounted(settings: config.MountSettings) -> None:
    """Check that neither the profile nor the mountpoint serves a living mount."""
    place = str(settings.mountpoint)
    for other in mounts.mounted(settings.places.runtime.parent):
        if other.record.mountpoint == place:
            raise CommandError(
                f"{place} is mounted already: profile {other.record.profile}, process {other.record.pid}. "
                f"To mount it anew: drivefs umount {place}"
            )
        if other.record.state == str(settings.places.state):
            raise CommandError(
                f"profile {settings.profile.name!r} is mounted already, at {other.record.mountpoint} (process "
                f"{other.record.pid}). One device serves one mountpoint: unmount it there, or log in a second device "
                "with --profile"
            )
    if mountpoints.is_mounted(place) and not mountpoints.clear_dead(place):
        raise CommandError(f"something is mounted at {place} already: unmount it, or choose another directory")


def check_mountpoint(place: Path) -> None:
    """Check that the mountpoint is an empty directory that the user may write to."""
    try:
        status = place.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise CommandError(f"{place} is not a directory: name an empty one")
        with os.scandir(place) as entries:
            is_empty = next(entries, None) is None
    except FileNotFoundError as error:
        raise CommandError(f"{place} does not exist: make it first (mkdir -p {place})") from error
    except OSError as error:
        raise CommandError(f"{place} cannot be used as a mountpoint: {error.strerror}") from error
    if not is_empty:
        raise CommandError(
            f"{place} is not empty, and what is in it would be hidden by the drive: name an empty directory. To bring "
            "these files into the drive, mount elsewhere and copy them"
        )
    if not os.access(place, os.W_OK):
        raise CommandError(f"{place} belongs to another user: only its owner may mount there")


def check_writable(directory: Path, what: str) -> None:
    """Check that a directory of ours can be made and written to."""
    probe = directory / ".writable"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"x")
        finally:
            os.close(descriptor)
            probe.unlink()
    except OSError as error:
        raise CommandError(
            f"the {what} directory {directory} cannot be written to: {error.strerror}. Make room or mend its rights; "
            "nothing was mounted"
        ) from error


def check_allow_other(fuse_conf: Path) -> None:
    """Check that a plain user may let others see the mount."""
    try:
        lines = [line.split("#")[0].strip() for line in fuse_conf.read_text().splitlines()]
    except OSError:
        lines = []
    if "user_allow_other" not in lines:
        raise CommandError(f"-o allow_other needs the line user_allow_other in {fuse_conf}, which only root can write")
