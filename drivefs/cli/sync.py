"""`drivefs sync`: send what waits, and with `--wait` return when the server has it."""

import argparse

from drivefs.cli import drain, drives, output
from drivefs.cli.command import Command, add_profile, seconds
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("mountpoint", nargs="?", metavar="MOUNTPOINT", help="the drive (default: the only one mounted)")
    parser.add_argument("--wait", action="store_true", help="return when all that was written before is on the server")
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        help="wait this long at most (default: as long as the server takes something)",
    )
    add_profile(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    drive = drives.choose(drives.places(), arguments.mountpoint, arguments.profile)
    if not arguments.wait:
        left = drive.call("sync", {"wait": False})
        output.say(f"{output.pending_in_words(left['mutations'], left['bytes'])} on the way from {drive.mountpoint}")
        return ExitCode.OK
    outcome = drain.drain(drive, arguments.timeout)
    if outcome.is_done and outcome.held_files:
        output.say(f"all else is on the server; {drain.held_in_words(outcome)}")
        return ExitCode.HELD
    if outcome.refused_count:
        raise CommandError(f"all else is on the server; {drain.refused_in_words(outcome)}", ExitCode.REFUSED)
    if outcome.is_done:
        return ExitCode.OK
    if outcome.is_revoked:
        left = output.pending_in_words(outcome.mutations, outcome.size_bytes)
        raise CommandError(f"{outcome.reason}. Not on the server: {left}", ExitCode.REFUSED)
    output.say(
        f"not everything is on the server: {outcome.reason}. In the journal of this device, to travel as soon as the "
        f"server takes it: {output.pending_in_words(outcome.mutations, outcome.size_bytes)}"
    )
    return ExitCode.UNFINISHED


COMMAND = Command(
    name="sync",
    summary="send what waits; with --wait, return when the server has it",
    description="Send all changes of a mounted drive now, also those of files that are still open. With --wait, "
    "return when the server has everything that was written before the call.",
    examples="  drivefs sync --wait\n  drivefs sync ~/Drive --wait --timeout 60",
    add_arguments=add_arguments,
    run=run,
)
