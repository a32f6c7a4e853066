"""`drivefs snapshot`: moments of the drive that have a name and are kept. The mount does the work."""

import argparse
import os
from typing import Any

from drivefs.cli import drives, output
from drivefs.cli.command import Command, add_json, add_profile, run_action, word
from drivefs.cli.exit_codes import ExitCode
from drivefs.protocol.times import iso_time, parse_time

ANSWER_SECONDS = 330.0
"""The server may be slow, and what was written just now is sent first."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    creating = _action(actions, "create", "give the drive as it is now, or was at a time, a name")
    creating.add_argument("name", metavar="NAME", type=word, help="what to call it; no time, and without a slash")
    creating.add_argument("--at", metavar="TIME", type=moment, help="as it was then (ISO 8601), and not now")
    creating.set_defaults(action=create)
    listing = _action(actions, "list", "the snapshots of the drive, oldest first")
    listing.set_defaults(action=show)
    deleting = _action(actions, "delete", "take a snapshot's name away: what only it kept goes when its time comes")
    deleting.add_argument("name", metavar="NAME", type=word, help="which, as the list names them")
    deleting.set_defaults(action=delete)
    for each in (creating, listing, deleting):
        each.add_argument("mountpoint", nargs="?", metavar="MOUNTPOINT", help="the drive (default: the only one)")
        add_profile(each)


def _action(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    each: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=summary.capitalize() + ".", allow_abbrev=False
    )
    add_json(each)
    return each


def moment(text: str) -> int:
    """Read a time for argparse.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    time_ns = parse_time(text)
    if not time_ns:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 2026-03-01 or 2026-03-01T09:00:00Z")
    return time_ns


def _drive(arguments: argparse.Namespace) -> drives.Drive:
    return drives.choose(drives.places(), arguments.mountpoint, arguments.profile)


def create(arguments: argparse.Namespace) -> int:
    """Make one."""
    drive = _drive(arguments)
    asked = {"name": arguments.name, "time_ns": arguments.at or 0}
    told = drive.call("snapshot_create", asked, silence_seconds=ANSWER_SECONDS)
    made = fields(drive, told)
    if arguments.json:
        output.print_json({**made, "whole": told["is_whole"]})
    else:
        output.tell(f"{made['name']} is the drive as of {output.time_in_words(made['time_ns'])}: {made['path']}")
    if not told["is_whole"]:
        output.say("changes that the server does not have yet are not in it (drivefs status shows them)")
    return ExitCode.OK if told["is_whole"] else ExitCode.UNFINISHED


def show(arguments: argparse.Namespace) -> int:
    """List them."""
    drive = _drive(arguments)
    found = [fields(drive, each) for each in drive.call("snapshots", silence_seconds=ANSWER_SECONDS)]
    if arguments.json:
        output.print_json(found)
        return ExitCode.OK
    for each in found:
        output.tell(f"{output.time_in_words(each['time_ns'])}  {each['device'] or '':<12}  {each['name']}")
    if not found:
        output.tell("there are no snapshots")
    return ExitCode.OK


def delete(arguments: argparse.Namespace) -> int:
    """Take one away."""
    _drive(arguments).call("snapshot_delete", {"name": arguments.name}, silence_seconds=ANSWER_SECONDS)
    if arguments.json:
        output.print_json({"name": arguments.name, "deleted": True})
    else:
        output.tell(f"there is no snapshot {arguments.name} any more")
    return ExitCode.OK


def fields(drive: drives.Drive, snapshot: dict[str, Any]) -> dict[str, Any]:
    """One snapshot for programs: `time` is the moment, `path` where its tree is."""
    return {
        "name": snapshot["name"],
        "time": iso_time(snapshot["time_ns"]),
        "created": iso_time(snapshot["created_ns"]),
        "device": snapshot["device"],
        "user": snapshot["user"],
        "path": os.path.join(drive.mountpoint, ".drivefs/at", snapshot["name"]),
        "time_ns": snapshot["time_ns"],
    }


COMMAND = Command(
    name="snapshot",
    summary="give moments of the drive a name, and keep what it was then",
    description="A snapshot is a moment of the whole drive that has a name. Nothing is copied, and what the drive was "
    "then is kept for as long as there is the snapshot, however old it gets, whatever is removed or changed, in the "
    "trash or not. .drivefs/at/NAME at the root of the drive has the tree to be read and copied, and drivefs rewind "
    "takes a folder back to it.",
    examples="  drivefs snapshot create before-the-move\n"
    "  drivefs snapshot create last-year --at 2025-12-31\n"
    "  drivefs snapshot list --json\n"
    "  diff -r ~/Drive/.drivefs/at/before-the-move/papers ~/Drive/papers\n"
    "  drivefs snapshot delete before-the-move",
    add_arguments=add_arguments,
    run=run_action,
)
