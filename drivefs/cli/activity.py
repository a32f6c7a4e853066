"""`drivefs activity`: who did what to a file, or in a folder. Shows what the mount says; decides nothing."""

import argparse
import os
from pathlib import Path

from drivefs.cli import drives, identity, notifications, output
from drivefs.cli.command import Command, add_json
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode

ANSWER_SECONDS = 100.0
DEFAULT_ENTRIES = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("path", metavar="PATH", help="a file or directory in a mounted drive")
    parser.add_argument(
        "--limit", type=_count, default=DEFAULT_ENTRIES, metavar="N", help="so many entries at most (default: 50)"
    )
    add_json(parser)


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < number <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of entries")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    path = Path(os.path.abspath(arguments.path))
    drive = drives.holding(drives.places(), path)
    try:
        inode = identity.inode_at(path)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
    asked = {"inode": inode, "limit": arguments.limit}
    told = drive.call("activity", asked, lambda count: None, silence_seconds=ANSWER_SECONDS)
    found = [notifications.fields(drive, each) for each in told]
    if arguments.json:
        output.print_json([{key: value for key, value in each.items() if key != "text"} for each in found])
        return ExitCode.OK
    if not found:
        output.tell("nothing is known of what was done here")
    for each in found:
        output.tell(notifications.sentence(each))
    return ExitCode.OK


COMMAND = Command(
    name="activity",
    summary="who did what to a file or in a folder",
    description="Show who added, edited, moved and deleted what, on which device and when, the latest first: of a "
    "file, whatever it was saved as, or of a folder and all below it. It reaches back as far as the server keeps what "
    "changed, which is half a year; what a file was before is in drivefs revisions. --json prints an array of objects: "
    "number (of the commit), time, kind, path, count, user, device.",
    examples="  drivefs activity ~/Drive/report.odt\n  drivefs activity ~/Drive/project --limit 200 --json",
    add_arguments=add_arguments,
    run=run,
)
