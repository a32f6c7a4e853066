"""`drivefs rewind`: takes a folder, or a file, back to what it was at a time or a snapshot. The mount does the work."""

import argparse
import os
import shlex
import sys
from typing import Any

from drivefs.cli import drives, output
from drivefs.cli.command import Command, add_json, word
from drivefs.cli.exit_codes import ExitCode
from drivefs.protocol.times import iso_time, parse_time

ANSWER_SECONDS = 330.0
"""The server may be slow, and what was written just now is sent first."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("path", metavar="PATH", help="a folder or a file in a mounted drive, or the drive itself")
    parser.add_argument(
        "--to",
        required=True,
        metavar="TIME|NAME",
        type=word,
        help="the moment: a time (ISO 8601), or the name of a snapshot",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    drive, path = drives.containing(drives.places(), arguments.path)
    time_ns = parse_time(arguments.to)
    asked = {"path": path, "to": iso_time(time_ns) if time_ns is not None else arguments.to}
    told = drive.call("rewind", asked, _progress, silence_seconds=ANSWER_SECONDS)
    shown = os.path.join(drive.mountpoint, os.fsdecode(path)) if path else drive.mountpoint
    left = {kind: [os.fsdecode(name) for name in told.get(kind, [])] for kind in ("lost", "busy", "shares")}
    counts = {name: told[name] for name in ("changed", "moved", "restored", "removed")}
    if arguments.json:
        output.print_json({"path": shown, **counts, **left, "before": iso_time(told["before_ns"])})
    else:
        _print(shown, arguments.to, counts, iso_time(told["before_ns"]))
    for name in left["lost"]:
        output.say(f"{name} is as it was: what it held then is not kept any more")
    for name in left["shares"]:
        output.say(f"{name} is as it was: it is shared with you to be read only, or is a share that was not there then")
    for name in left["busy"]:
        output.say(f"{name} is as it was: somebody was writing there, here or elsewhere. Run the command again")
    return ExitCode.UNFINISHED if left["busy"] else ExitCode.FAILED if left["lost"] else ExitCode.OK


def _print(shown: str, moment: str, counts: dict[str, int], before: str) -> None:
    if not any(counts.values()):
        output.tell(f"{shown} is as it was at {moment} already")
        return
    words = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    output.tell(f"{shown} is as it was at {moment}: {words}")
    output.tell(f"to take that back: drivefs rewind {shlex.quote(shown)} --to {before}")


def _progress(told: dict[str, Any]) -> None:
    if sys.stderr.isatty():
        print(f"\r{output.count_of(told['done'], 'change')} so far ", end="", file=sys.stderr, flush=True)


COMMAND = Command(
    name="rewind",
    summary="take a folder back to what it was at a time or a snapshot",
    description="Makes PATH and all that is in it what it was: what was changed gets the content of then as a new "
    "revision, what was moved or removed comes back, and what was not there goes into the trash. These are changes "
    "like any others, which reach all devices and stay in the history: rewinding to the moment before takes them back.",
    examples="  drivefs rewind ~/Drive/papers --to 2026-03-01T09:00\n"
    "  drivefs rewind ~/Drive/papers --to before-the-move\n"
    "  drivefs rewind ~/Drive/papers/report.odt --to 2026-03-01 --json",
    add_arguments=add_arguments,
    run=run,
)
