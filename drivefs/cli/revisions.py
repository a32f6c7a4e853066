"""`drivefs revisions`: what a file was before, bringing one of its revisions back, and keeping one for good."""

import argparse
import os
from typing import Any

from drivefs.cli import drives, output
from drivefs.cli.command import Command, add_json, run_action
from drivefs.cli.exit_codes import ExitCode
from drivefs.protocol.times import iso_time

ANSWER_SECONDS = 330.0
"""The server may be slow, and what was saved just now is sent first."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = _action(actions, "list", "the revisions of a file, oldest first; what is meant without an action")
    listing.set_defaults(action=show)
    restoring = _action(actions, "restore", "give a file the content of revision N again, as a new revision")
    restoring.set_defaults(action=restore)
    keeping = _action(actions, "keep", "never let revision N go, however old it gets")
    keeping.set_defaults(action=keep, is_kept=True)
    letting = _action(actions, "unkeep", "let revision N go when its time comes")
    letting.set_defaults(action=keep, is_kept=False)
    for each in (restoring, keeping, letting):
        each.add_argument("number", metavar="N", type=number, help="which revision, as the list numbers them")


def _action(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    each: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=summary.capitalize() + ".", allow_abbrev=False
    )
    each.add_argument("path", metavar="PATH", help="a file in a mounted drive")
    add_json(each)
    return each


def number(text: str) -> int:
    """Read the number of a revision for argparse.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is no revision number: drivefs revisions PATH lists them")
    return int(text)


def show(arguments: argparse.Namespace) -> int:
    """List them."""
    drive, path = drives.containing(drives.places(), arguments.path)
    told = drive.call("revisions", {"path": path}, silence_seconds=ANSWER_SECONDS)
    found = [fields(each) for each in told["revisions"]]
    if arguments.json:
        output.print_json(found)
        return ExitCode.OK
    for each in found:
        kept = "  (kept)" if each["kept"] else ""
        size, who = output.in_units(each["size"]), " ".join(filter(None, (each["device"], by(each["user"]))))
        output.tell(f"{each['number']:>6}  {output.time_in_words(each['time_ns'])}  {size:>9}  {who}{kept}")
    if told["is_changed"]:
        output.say("the file has changes that the server does not have yet: they become the next revision")
    elif not found:
        output.say("the file never had any content, so it has no revisions")
    return ExitCode.OK


def by(user: str | None) -> str:
    """Whose device it was, for people."""
    return f"({user})" if user else ""


def fields(revision: dict[str, Any]) -> dict[str, Any]:
    """One revision for programs: `time` is when it came to be, as `.drivefs/at` takes it."""
    return {
        "number": revision["number"],
        "size": revision["size"],
        "time": iso_time(revision["time_ns"]),
        "device": revision["device"],
        "user": revision["user"],
        "kept": revision["kept"],
        "time_ns": revision["time_ns"],
        "mtime_ns": revision["mtime_ns"],
    }


def restore(arguments: argparse.Namespace) -> int:
    """Bring one back."""
    drive, path = drives.containing(drives.places(), arguments.path)
    asked = {"path": path, "number": arguments.number}
    told = drive.call("revision_restore", asked, silence_seconds=ANSWER_SECONDS)
    shown = _absolute(drive, path)
    if arguments.json:
        output.print_json({"path": shown, "restored": arguments.number, "revision": told["revision"]})
    elif told["is_same"]:
        output.tell(f"{shown} has that content already: nothing was changed")
    else:
        new = told["revision"]
        later = f"as revision {new}" if new else "which is a new revision as soon as the server has it"
        output.tell(f"{shown} has the content of revision {arguments.number} again, {later}")
    return ExitCode.OK


def keep(arguments: argparse.Namespace) -> int:
    """Keep one, or let it go."""
    drive, path = drives.containing(drives.places(), arguments.path)
    asked = {"path": path, "number": arguments.number, "is_kept": arguments.is_kept}
    drive.call("revision_keep", asked, silence_seconds=ANSWER_SECONDS)
    shown = _absolute(drive, path)
    if arguments.json:
        output.print_json({"path": shown, "number": arguments.number, "kept": arguments.is_kept})
    else:
        what = "is kept for good" if arguments.is_kept else "goes when its time comes"
        output.tell(f"revision {arguments.number} of {shown} {what}")
    return ExitCode.OK


def _absolute(drive: drives.Drive, path: bytes) -> str:
    return os.path.join(drive.mountpoint, os.fsdecode(path))


COMMAND = Command(
    name="revisions",
    summary="what a file was before: list, restore and keep its revisions",
    description="Each content of a file that reached the server is a revision, with its device, user and time. The "
    "history follows the name: through renames, moves, and programs that save by writing a new file and renaming it. "
    "Restoring one makes it the newest again, and what it replaces stays in the history, so nothing is lost. "
    ".drivefs/revisions/PATH at the root of the drive has each revision as a file to be read.",
    examples="  drivefs revisions report.odt\n"
    "  drivefs revisions report.odt --json\n"
    "  drivefs revisions restore report.odt 3\n"
    "  drivefs revisions keep report.odt 3\n"
    "  ls ~/Drive/.drivefs/revisions/papers/report.odt",
    add_arguments=add_arguments,
    run=run_action,
    usual="list",
)
