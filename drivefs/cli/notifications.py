"""`drivefs notifications`: what happened that people want to know of. Shows what the mount says; decides nothing."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from drivefs.cli import drives, identity, output
from drivefs.cli.command import Command, add_json, add_profile
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode
from drivefs.control import client, errors
from drivefs.protocol.times import iso_time

ANSWER_SECONDS = 100.0
SILENCE_SECONDS = 100.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("mountpoint", nargs="?", metavar="MOUNTPOINT", help="the drive (default: the only one mounted)")
    parser.add_argument("--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    parser.add_argument("--since", type=_number, default=0, metavar="N", help="only those with higher numbers")
    parser.add_argument("--all", action="store_true", help="also what this device did itself")
    muting = parser.add_mutually_exclusive_group()
    muting.add_argument("--mute", metavar="PATH", help="tell nothing more of this folder, on any device")
    muting.add_argument("--unmute", metavar="PATH", help="tell of it again")
    muting.add_argument("--muted", action="store_true", help="show which folders are muted")
    add_profile(parser)
    add_json(parser)


def _number(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= number < 2**62:
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a notification")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if path := arguments.mute or arguments.unmute:
        return _mute(path, is_muted=bool(arguments.mute), is_json=arguments.json)
    drive = drives.choose(drives.places(), arguments.mountpoint, arguments.profile)
    if arguments.muted:
        return _show_muted(drive, is_json=arguments.json)
    asked = {"since": arguments.since, "own": arguments.all}
    if arguments.follow:
        return _follow(drive, asked, is_json=arguments.json)
    found = [fields(drive, each) for each in drive.call("notifications", asked, silence_seconds=ANSWER_SECONDS)]
    if arguments.json:
        output.print_json(found)
        return ExitCode.OK
    if not found:
        output.tell("no notifications")
    for each in found:
        output.tell(sentence(each))
    return ExitCode.OK


def _mute(path: str, *, is_muted: bool, is_json: bool) -> int:
    place = Path(os.path.abspath(path))
    drive = drives.holding(drives.places(), place)
    try:
        inode = identity.inode_at(place)
    except OSError as error:
        raise CommandError(f"{place}: {error.strerror}") from error
    drive.call("notifications_mute", {"inode": inode, "is_muted": is_muted}, silence_seconds=ANSWER_SECONDS)
    if is_json:
        output.print_json({"path": str(place), "muted": is_muted})
    else:
        output.tell(f"{place} is {'muted' if is_muted else 'told of again'}, on all devices")
    return ExitCode.OK


def _show_muted(drive: drives.Drive, *, is_json: bool) -> int:
    found = drive.call("notifications_muted", silence_seconds=ANSWER_SECONDS)
    paths = [os.path.join(drive.mountpoint, os.fsdecode(path)) for path in found]
    if is_json:
        output.print_json(paths)
    else:
        output.tell(*(paths or ["no folder is muted"]))
    return ExitCode.OK


def _follow(drive: drives.Drive, asked: dict[str, Any], *, is_json: bool) -> int:
    def show(found: Any) -> None:
        for each in found:
            shown = fields(drive, each)
            output.tell(json.dumps(shown) if is_json else sentence(shown))
        print(end="", flush=True)

    try:
        client.call(
            drive.mounted.directory, "notifications_follow", asked, silence_seconds=SILENCE_SECONDS, on_progress=show
        )
    except KeyboardInterrupt:
        return ExitCode.OK
    except errors.Refused as error:
        raise CommandError(error.message) from error
    except errors.ControlError as error:
        raise CommandError(f"{drive.mountpoint} is no longer mounted", ExitCode.NOT_MOUNTED) from error
    return ExitCode.OK


def fields(drive: drives.Drive, each: dict[str, Any]) -> dict[str, Any]:
    """One notification for programs."""
    path = each["path"]
    shown = None if path is None else os.path.join(drive.mountpoint, os.fsdecode(path)).rstrip("/")
    return {**each, "path": shown, "time": iso_time(each["time_ns"])}


def sentence(each: dict[str, Any]) -> str:
    """One notification for people."""
    what = each["text"] or each["path"] or "the drive"
    count = "" if each["count"] == 1 else f" ({output.count_of(each['count'], 'thing')})"
    author = " on ".join(filter(None, (each["user"], each["device"])))
    when = output.time_in_words(each["time_ns"])
    return f"{each['number']:>6}  {when}  {each['kind']:<8}  {what}{count}{f'  by {author}' if author else ''}"


COMMAND = Command(
    name="notifications",
    summary="what others, and your other devices, did",
    description="Show what was added, edited, moved and deleted, what was shared with you, with which role, and is not "
    "any more, conflicts, new devices and a quota that runs out, oldest first. The server keeps the newest "
    "1,000 for each user, for devices that were away too; many changes in one folder are one notification. "
    "--follow goes on with what comes, --since N leaves out what has no higher number, --json prints an array "
    "of objects (with --follow one object per line): number, time, kind, path, count, user, device, text. "
    "Where a desktop session runs, the mount shows new ones there (desktop_notifications = false in "
    "config.toml ends that).",
    examples="  drivefs notifications --follow\n  drivefs notifications --since 120 --json\n"
    "  drivefs notifications --mute ~/Drive/build",
    add_arguments=add_arguments,
    run=run,
)
