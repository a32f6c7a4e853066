"""`drivefs watch`: what happens on a mounted drive, as it happens. Shows what the mount says; decides nothing.

The one command that goes on printing: with `--json` it prints one object per line. Ctrl-C is how it is meant to end.
"""

import argparse
import json
import os
from typing import Any

from drivefs.cli import drives, output
from drivefs.cli.command import Command, add_profile
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode
from drivefs.control import client, errors

SILENCE_SECONDS = 30.0
"""The mount says something every two seconds, unless it hangs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "path", nargs="?", metavar="PATH", help="a file or directory in a mounted drive, there or not (default: all)"
    )
    add_profile(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object per line, and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; it ends by Ctrl-C, or with the mount."""
    drive, path = _chosen(arguments)

    def show(events: Any) -> None:
        for event in events:
            output.tell(_line(drive.mountpoint, event) if arguments.json else _sentence(drive.mountpoint, event))
        # Each line is of use at once, whether or not it goes to a terminal.
        print(end="", flush=True)

    output.say(f"watching {_absolute(drive.mountpoint, path)}; Ctrl-C ends it")
    try:
        client.call(drive.mounted.directory, "watch", {"path": path}, silence_seconds=SILENCE_SECONDS, on_progress=show)
    except KeyboardInterrupt:
        return ExitCode.OK
    except errors.Refused as error:
        raise CommandError(error.message) from error
    except errors.ControlError as error:
        if isinstance(error.__cause__, TimeoutError):
            raise CommandError(f"the mount at {drive.mountpoint} does not answer: {error}") from error
        raise CommandError(f"{drive.mountpoint} is no longer mounted", ExitCode.NOT_MOUNTED) from error
    return ExitCode.OK


def _chosen(arguments: argparse.Namespace) -> tuple[drives.Drive, bytes]:
    """The drive, and the path in it, relative to its root."""
    where = drives.places()
    if arguments.path is None:
        return drives.choose(where, None, arguments.profile), b""
    return drives.containing(where, arguments.path)


def _absolute(mountpoint: str, path: bytes) -> str:
    return os.path.join(mountpoint, os.fsdecode(path)) if path else mountpoint


def _line(mountpoint: str, event: dict[str, Any]) -> str:
    """An event for programs; bytes of names that are not UTF-8 are lone surrogates, as everywhere in Python."""
    source = event["source"]
    shown = {
        **event,
        "path": _absolute(mountpoint, event["path"]),
        "source": None if source is None else _absolute(mountpoint, source),
    }
    return json.dumps(shown)


def _sentence(mountpoint: str, event: dict[str, Any]) -> str:
    """An event for people."""
    if event["kind"] == "overflow":
        return "overflow    more happened than could be told: look at the files themselves"
    path = _absolute(mountpoint, event["path"])
    if event["source"] is not None:
        path = f"{_absolute(mountpoint, event['source'])} -> {path}"
    details = "".join(f"  {key} {value}" for key, value in event["details"].items())
    return f"{event['kind']:10}  {event['origin']:9}  {path}{'/' if event['directory'] else ''}{details}"


COMMAND = Command(
    name="watch",
    summary="what happens on a mounted drive, as it happens",
    description="Print what is created, changed, renamed and removed at a path and below it, by programs on this "
    "device ('here') and by other devices ('elsewhere'), until Ctrl-C, which is exit code 0, or the end of the mount, "
    "which is 4. With --json it prints one object per line: kind (created, changed, renamed, removed, attributes, "
    "upload, conflict, held, overflow), origin, path, source (where a renamed one was), inode, directory, details. "
    "After an overflow, what happened has to be looked up.",
    examples="  drivefs watch\n  drivefs watch ~/Drive/photos --json | jq -r .path",
    add_arguments=add_arguments,
    run=run,
)
