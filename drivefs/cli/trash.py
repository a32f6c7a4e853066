"""`drivefs trash`: what was removed and is still kept, and bringing it back. The mount does the work."""

import argparse
import os
import sys
from typing import Any

from drivefs.cli import drives, output
from drivefs.cli.command import Command, add_json, add_profile, id_of, run_action
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode
from drivefs.protocol.times import iso_time

ANSWER_SECONDS = 330.0
"""The server may be slow, and what was removed just now is sent first."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = _action(actions, "list", "what was removed and can be brought back, the latest first")
    listing.add_argument(
        "mountpoint", nargs="?", metavar="MOUNTPOINT", help="the drive (default: the only one mounted)"
    )
    add_profile(listing)
    listing.set_defaults(action=show)
    emptying = _action(actions, "empty", "let all that is in the trash go for good, with its history")
    emptying.add_argument(
        "mountpoint", nargs="?", metavar="MOUNTPOINT", help="the drive (default: the only one mounted)"
    )
    emptying.add_argument("--yes", action="store_true", help="do not ask")
    add_profile(emptying)
    emptying.set_defaults(action=empty)
    restoring = _action(actions, "restore", "bring back what was at PATH, a directory with all that was in it")
    restoring.add_argument("path", metavar="PATH", nargs="*", help="where it was; what was removed there last is meant")
    restoring.add_argument("--id", metavar="ID", help="what the list (--json) calls by this id, instead of a path")
    restoring.add_argument("--mountpoint", metavar="MOUNTPOINT", help="with --id: the drive (default: the only one)")
    add_profile(restoring)
    restoring.set_defaults(action=restore)


def _action(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    each: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=summary.capitalize() + ".", allow_abbrev=False
    )
    add_json(each)
    return each


def show(arguments: argparse.Namespace) -> int:
    """List it."""
    drive = drives.choose(drives.places(), arguments.mountpoint, arguments.profile)
    found = [fields(drive, each) for each in _all(drive)]
    if arguments.json:
        output.print_json(found)
        return ExitCode.OK
    if not found:
        output.tell("the trash is empty")
    for each in found:
        is_directory = each["kind"] == "directory"
        size = "directory" if is_directory else output.in_units(each["size"])
        output.tell(f"{output.time_in_words(each['time_ns'])}  {size:>9}  {each['device'] or '':<12}  {each['path']}")
    return ExitCode.OK


def _all(drive: drives.Drive) -> list[dict[str, Any]]:
    """What is in it: the mount reports it in parts, and one of an older version answers with it."""
    found: list[dict[str, Any]] = []
    found += drive.call("trash", None, found.extend, silence_seconds=ANSWER_SECONDS)
    return found


def fields(drive: drives.Drive, entry: dict[str, Any]) -> dict[str, Any]:
    """One thing for programs; `path` is where it was."""
    return {
        "id": str(entry["id"]),
        "path": None if entry["path"] is None else os.path.join(drive.mountpoint, os.fsdecode(entry["path"])),
        "kind": entry["kind"],
        "size": entry["size"],
        "time": iso_time(entry["time_ns"]),
        "device": entry["device"],
        "user": entry["user"],
        "time_ns": entry["time_ns"],
    }


def restore(arguments: argparse.Namespace) -> int:
    """Bring back."""
    where = drives.places()
    if bool(arguments.path) == bool(arguments.id):
        raise CommandError("name what to bring back: its PATH, or --id ID of drivefs trash list", ExitCode.USAGE)
    if arguments.id:
        if not (inode := id_of(arguments.id)):
            raise CommandError(f"{arguments.id!r} is no id: drivefs trash list --json has them", ExitCode.USAGE)
        drive = drives.choose(where, arguments.mountpoint, arguments.profile)
        asked = [(drive, {"path": b"", "id": inode})]
    else:
        named = [drives.containing(where, path) for path in arguments.path]
        asked = [(drive, {"path": path, "id": 0}) for drive, path in named]
    done = []
    for drive, question in asked:
        told = drive.call("trash_restore", question, _progress, silence_seconds=ANSWER_SECONDS)
        done.append(_restored(drive, told))
        if not arguments.json:
            count = "" if told["files"] == 1 else f" ({output.count_of(told['files'], 'file')})"
            output.tell(f"{done[-1]['path']} is back{count}")
    if arguments.json:
        output.print_json(done)
    return ExitCode.OK


def empty(arguments: argparse.Namespace) -> int:
    """Let all of it go."""
    drive = drives.choose(drives.places(), arguments.mountpoint, arguments.profile)
    found = _all(drive)
    count, left = 0, 0
    if found:
        _confirm(len(found), arguments.yes)
        # What is removed from now on stays: nobody has seen it listed.
        until = max(each["seq"] for each in found)
        count = drive.call("trash_empty", {"until": until}, silence_seconds=ANSWER_SECONDS)["count"]
        left = sum(each["seq"] <= until for each in _all(drive))
    if arguments.json:
        output.print_json({"count": count, "left": left})
        return ExitCode.OK
    output.tell(f"files and directories that are gone for good now: {count:,}")
    if left:
        output.say(f"{left:,} more stay: they were removed from what others share with you, and are theirs to empty")
    return ExitCode.OK


def _confirm(count: int, is_sure: bool) -> None:
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise CommandError("standard input is no terminal to ask at: use --yes. Nothing was changed", ExitCode.USAGE)
    things = "1 thing" if count == 1 else f"{count:,} things"
    print(
        f"{things} and all that was in them, with all earlier contents, will be gone for good, on all devices.\n"
        "Empty the trash? [y/N] ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError("the trash stays as it is")


def _progress(told: dict[str, Any]) -> None:
    if sys.stderr.isatty():
        print(f"\r{output.count_of(told['files'], 'file')} so far ", end="", file=sys.stderr, flush=True)


def _restored(drive: drives.Drive, told: dict[str, Any]) -> dict[str, Any]:
    path = told["path"] if told["path"] is not None else told["name"]
    return {"path": os.path.join(drive.mountpoint, os.fsdecode(path)), "files": told["files"]}


COMMAND = Command(
    name="trash",
    summary="what was removed: list it, and bring it back",
    description="What is removed on any device keeps its content and its history for 30 days (a setting of the "
    "server). List it, and bring it back: a file, or a directory with all that was removed together with it, where it "
    "was. If something else has the name by now, it comes back beside that, as 'NAME (restored)'. .drivefs/trash at "
    "the root of the drive has what can be brought back as files to be read.",
    examples="  drivefs trash list\n"
    "  drivefs trash restore ~/Drive/papers\n"
    "  drivefs trash restore ~/Drive/papers/one.odt ~/Drive/papers/two.odt\n"
    "  drivefs trash list --json\n"
    "  drivefs trash empty",
    add_arguments=add_arguments,
    run=run_action,
)
