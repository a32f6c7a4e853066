"""`drivefs umount`: sends what waits, unmounts, and says how much is left.

Owns the order of steps. Nothing is lost at any of them: what the server does not have yet stays in the journal, and
travels after the next mount.
"""

import argparse
import os
import select
import signal
import subprocess
import time

from drivefs.cli import drain, drives, mountpoints, output
from drivefs.cli.command import Command, add_profile, seconds
from drivefs.cli.drain import Outcome
from drivefs.cli.drives import Drive
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode

BUSY_SECONDS = 3.0
"""How long whoever only looks may keep a mountpoint in use."""
LOOK_SECONDS = 0.1
COPY_SECONDS = 2.0
"""After which a mount that still answers has not heard that it was unmounted."""
END_SECONDS = 30.0
"""How long the mount may take to close its files once the kernel has let go."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("mountpoint", nargs="?", metavar="MOUNTPOINT", help="the drive (default: the only one mounted)")
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        help="send for this long at most, then unmount (default: as long as the server takes something)",
    )
    parser.add_argument("--now", action="store_true", help="unmount at once; what waits is sent after the next mount")
    add_profile(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    try:
        drive = drives.choose(drives.places(), arguments.mountpoint, arguments.profile)
    except CommandError:
        # A mount that died leaves its mountpoint behind: taking that away is what the user wants.
        if arguments.mountpoint is None or not mountpoints.clear_dead(drives.resolved(arguments.mountpoint)):
            raise
        output.say(
            f"{arguments.mountpoint} was left by a mount that died, and is cleared. What it had not sent is in "
            "the journal and travels after the next mount"
        )
        return ExitCode.OK
    outcome = _left(drive) if arguments.now else drain.drain(drive, arguments.timeout)
    _end(drive)
    code = _report(drive, outcome, is_asked_for=arguments.now)
    _refuse_suspect(drive)
    return code


def _left(drive: Drive) -> Outcome:
    status = drive.call("status")
    pending = status["pending"]
    return Outcome(
        not pending["mutations"],
        "",
        pending["mutations"],
        pending["bytes"],
        ignored_count=status.get("ignored", {}).get("files", 0),
    )


def _end(drive: Drive) -> None:
    """Unmount, and wait until the process is gone: then the state directory is free."""
    try:
        process = os.pidfd_open(drive.pid)
    except ProcessLookupError:
        process = None
    try:
        _unmount(drive)
        if process is not None and not _has_ended(process, COPY_SECONDS) and drives.is_served(drive):
            # A copy of the mount in a mount namespace of its own, a container's, keeps the process.
            signal.pidfd_send_signal(process, signal.SIGTERM)
        if process is not None and not _has_ended(process, END_SECONDS):
            raise CommandError(
                f"{drive.mountpoint} is unmounted, but its process {drive.pid} still runs after {END_SECONDS:.0f} s. "
                "What was written is in the journal; the log says what it waits for"
            )
    finally:
        if process is not None:
            os.close(process)


def _has_ended(process: int, within_seconds: float) -> bool:
    return bool(select.select([process], [], [], within_seconds)[0])


def _refuse_suspect(drive: Drive) -> None:
    """See that the mount could bring all that was written to the disk.

    Raises:
        CommandError: the disk failed, while it was mounted or as it ended.
    """
    from cache.errors import SUSPECT

    state = drive.mounted.record.state
    if os.path.exists(os.path.join(state, SUSPECT)):
        raise CommandError(
            f"the disk of {state} failed, or gave back what was not written: what the server does not have yet may be "
            "damaged. Check the disk, then mount again: everything is verified then, and what is left is sent"
        )


def _unmount(drive: Drive) -> None:
    command = ["fusermount3", "-u", "--", drive.mountpoint]
    end = time.monotonic() + BUSY_SECONDS
    while True:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if ended.returncode == 0:
            return
        is_busy = "busy" in ended.stderr.lower()
        if not is_busy or time.monotonic() >= end:
            break
        # Whoever only looks is gone in a moment: an indexer, or the mount's own process that replays events.
        time.sleep(LOOK_SECONDS)
    if is_busy:
        raise CommandError(
            f"{drive.mountpoint} is in use, so it stays mounted: leave it with every shell and close the files that "
            f"are open there (fuser -vm {drive.mountpoint} names the programs), then try again"
        )
    if mountpoints.is_mounted(drive.mountpoint):
        why = ended.stderr.strip() or "fusermount3 gave no reason"
        raise CommandError(f"{drive.mountpoint} stays mounted: {why}")


def _report(drive: Drive, outcome: Outcome, *, is_asked_for: bool) -> int:
    if outcome.is_done and outcome.held_files:
        output.say(
            f"{drive.mountpoint} is unmounted; all else is on the server. {drain.held_in_words(outcome).capitalize()}, "
            "after the next mount"
        )
        return ExitCode.OK if is_asked_for else ExitCode.HELD
    if outcome.refused_count:
        refused = drain.refused_in_words(outcome).capitalize()
        output.say(f"{drive.mountpoint} is unmounted; all else is on the server. {refused}")
        return ExitCode.REFUSED
    if outcome.is_done:
        but = f", but {output.ignored_in_words(outcome.ignored_count)}" if outcome.ignored_count else ""
        output.say(f"{drive.mountpoint} is unmounted; the server has everything{but}")
        return ExitCode.OK
    why = f" ({outcome.reason})" if outcome.reason else ""
    left = output.pending_in_words(outcome.mutations, outcome.size_bytes)
    when = "the next login and mount; drivefs export copies it" if outcome.is_revoked else "the next mount"
    output.say(
        f"{drive.mountpoint} is unmounted. Not on the server yet{why}: {left}. It is kept in the journal of this "
        f"device and sent after {when}"
    )
    return ExitCode.OK if is_asked_for else ExitCode.UNFINISHED


COMMAND = Command(
    name="umount",
    summary="send what waits, then unmount",
    description="Send all changes, with a progress bar on a terminal, then unmount. What the server does not take "
    "in time is kept in the journal of this device and sent after the next mount; how much that is, "
    "is said.",
    examples="  drivefs umount ~/Drive\n  drivefs umount ~/Drive --timeout 60\n  drivefs umount ~/Drive --now",
    add_arguments=add_arguments,
    run=run,
)
