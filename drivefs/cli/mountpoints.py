"""What is mounted at a directory, and taking away what a dead mount left there.

Owns the judgement whether a mount is dead; the kernel's lists and the abort by number are `fuse.connection`'s. The
caller has made sure that no mount of this user that it knows of serves the directory.
"""

import subprocess

from drivefs.fuse import connection

PROBE_SECONDS = 3.0


def is_mounted(mountpoint: str) -> bool:
    """Whether anything is mounted there, dead or alive."""
    return connection.topmost(mountpoint) is not None


def clear_dead(mountpoint: str) -> bool:
    """Clear what a drivefs mount that died or hangs left there; False if that is not what is there.

    Nothing is lost by it: what was written is in the journal of the device.
    """
    mount = connection.topmost(mountpoint)
    if mount is None or not mount.is_drivefs or _answers(mountpoint):
        return False
    connection.abort(mount.number)
    return not connection.detach(mountpoint)


def _answers(mountpoint: str) -> bool:
    """Ask in a process of its own, which can be killed when the mount hangs."""
    probe = ["stat", "--file-system", "--", mountpoint]
    try:
        ended = subprocess.run(probe, capture_output=True, stdin=subprocess.DEVNULL, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return ended.returncode == 0
