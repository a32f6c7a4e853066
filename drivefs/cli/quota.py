"""`drivefs quota`: how much room the account has, and what takes it."""

import argparse
from typing import Any

from drivefs.cli import drives, output
from drivefs.cli.command import Command, add_json, add_profile
from drivefs.cli.exit_codes import ExitCode

ANSWER_SECONDS = 330.0
"""The server counts over all revisions."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("mountpoint", nargs="?", metavar="MOUNTPOINT", help="the drive (default: the only one mounted)")
    add_profile(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    drive = drives.choose(drives.places(), arguments.mountpoint, arguments.profile)
    told = fields(drive.call("quota", silence_seconds=ANSWER_SECONDS))
    if arguments.json:
        output.print_json(told)
    else:
        output.tell(*lines(told))
    return ExitCode.OK


def fields(told: dict[str, Any]) -> dict[str, Any]:
    """The figures for programs, all in bytes."""
    used = told["stored_bytes"] + told["pinned_bytes"]
    return {
        "limit_bytes": told["quota_bytes"],
        "used_bytes": used,
        "free_bytes": max(0, told["quota_bytes"] - used),
        "current_bytes": told["current_bytes"],
        "history_bytes": told["history_bytes"],
        "trash_bytes": told["trash_bytes"],
        "uploading_bytes": told["pinned_bytes"],
        "pending_bytes": told["pending_bytes"],
        "file_limit_bytes": told["file_bytes"],
        "saved": {
            "deduplication_bytes": max(0, told["logical_bytes"] - told["stored_bytes"]),
            "compression_bytes": max(0, told["stored_bytes"] - told["payload_bytes"]),
        },
        "logical_bytes": told["logical_bytes"],
        "payload_bytes": told["payload_bytes"],
    }


def lines(told: dict[str, Any]) -> list[str]:
    """The figures for people."""
    size, saved = output.in_units, told["saved"]
    shown = [
        f"used       {size(told['used_bytes'])} of {size(told['limit_bytes'])}, {size(told['free_bytes'])} free",
        f"  current  {size(told['current_bytes'])} in files as they are",
        f"  history  {size(told['history_bytes'])} only in earlier revisions: they go with age (drivefs revisions)",
        f"  trash    {size(told['trash_bytes'])} only in the trash: drivefs trash empty frees it",
    ]
    if told["uploading_bytes"]:
        uploading = size(told["uploading_bytes"])
        shown.append(f"  uploads  {uploading} uploaded, and in no file yet: what never gets into one goes by itself")
    if told["pending_bytes"]:
        shown.append(f"to send    {size(told['pending_bytes'])} of this device")
    shown.append(
        f"saved      {size(saved['deduplication_bytes'])} by storing equal parts once, "
        f"{size(saved['compression_bytes'])} by compression"
    )
    shown.append(f"one file   up to {size(told['file_limit_bytes'])}")
    return shown


COMMAND = Command(
    name="quota",
    summary="how much room the account has, and what takes it",
    description="Show how much the account may store and what takes the room: contents as they are, earlier revisions, "
    "and the trash, each part of a file counted once; and what is saved by storing equal parts once and by "
    "compression. Asks the server. Over quota, writing fails with EDQUOT, and removing works.",
    examples="  drivefs quota\n  drivefs quota ~/Drive --json\n  df -h ~/Drive",
    add_arguments=add_arguments,
    run=run,
)
