"""`drivefs file-status`: whether one file is on the server. Shows what the mount says; decides nothing."""

import argparse
import os
from pathlib import Path
from typing import Any

from drivefs.cli import drives, identity, output
from drivefs.cli.command import Command, add_json
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode

STATES = {
    "synced": "on the server",
    "pending": "changed here, not on the server yet",
    "open": "being written; it travels when it is closed or synced",
    "ignored": "ignored, only on this device",
    "failed": "refused by the server",
    "incoming": "not here yet: another device is sending it",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("path", metavar="PATH", help="a file or directory in a mounted drive")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    path = Path(os.path.abspath(arguments.path))
    drive = drives.holding(drives.places(), path)
    status = {"path": os.fsencode(path).decode(errors="replace"), **_ask(drive, path)}
    if status.get("incoming") is not None:
        status["incoming"] |= {"path": status["path"], "name": os.path.basename(status["path"])}
    if arguments.json:
        output.print_json(status)
    else:
        output.tell(*lines(status))
    return ExitCode.OK


def _ask(drive: drives.Drive, path: Path) -> dict[str, Any]:
    """What the mount says of a path, or of what another device is sending there."""
    try:
        found: dict[str, Any] = drive.call("file_status", {"inode": identity.inode_at(path)})
    except OSError as error:
        try:
            asked = {"inode": 0, "parent": path.parent.stat().st_ino, "name": os.fsencode(path.name)}
            found = drive.call("file_status", asked)
        except (OSError, CommandError):
            raise CommandError(f"{path}: {error.strerror}") from error
    return found


def lines(status: dict[str, Any]) -> list[str]:
    """The status for people."""
    shown = [f"{status['path']}: {STATES.get(status['state'], status['state'])}"]
    if status.get("incoming") is not None:
        shown.append(f"  incoming  {output.upload_in_words(status['incoming'])}")
    if status["state"] == "incoming":
        return shown
    if status["reason"]:
        shown.append(f"  reason    {status['reason']}")
    if status["state"] == "ignored":
        return shown
    if status["state"] != "synced":
        shown.append(f"  pending   {output.pending_in_words(status['mutations'], status['bytes'])}")
    shown.append(f"  revision  {status['revision'] or 'none yet'}")
    if status["kind"] == "file":
        cached = f"{output.in_units(status['cached_bytes'])} of {output.in_units(status['size'])}"
        shown.append(f"  on this device  {cached}")
    return shown


COMMAND = Command(
    name="file-status",
    summary="whether one file is on the server",
    description="Show whether a file or directory is on the server as it is here, its revision, and how much of "
    "it is kept on this device.",
    examples="  drivefs file-status ~/Drive/report.odt\n  drivefs file-status ~/Drive/photos --json",
    add_arguments=add_arguments,
    run=run,
)
