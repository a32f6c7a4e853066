"""`drivefs conflicts`: which conflict copies wait, what differs, and settling them. The mount does the work."""

import argparse
import os
from pathlib import Path
from typing import Any

from drivefs.cli import differences, drives, output
from drivefs.cli.command import Command, add_json, add_profile
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode

SETTLED = {
    "keep-mine": "{original} has the content of the copy now, and the copy is gone",
    "keep-theirs": "{path} is removed; {original} stays as it is",
    "keep-both": "{path} is an ordinary file now",
}
WAYS = {
    "keep-mine": "the copy takes the place of what kept the name; what was there stays in its history",
    "keep-theirs": "the copy is removed",
    "keep-both": "both stay, and the copy is an ordinary file from now on",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = _action(actions, "list", "all conflict copies known on this device, oldest first", show)
    listing.add_argument(
        "mountpoint", nargs="?", metavar="MOUNTPOINT", help="the drive (default: the only one mounted)"
    )
    add_profile(listing)
    diff = _action(actions, "diff", "how the copy differs from what kept the name", compare)
    diff.add_argument("--base", action="store_true", help="how each of the two differs from their common base instead")
    ways = [_action(actions, way, summary, settle) for way, summary in WAYS.items()]
    for way, each in zip(WAYS, ways, strict=True):
        each.set_defaults(way=way)
    for each in (diff, *ways):
        each.add_argument("path", metavar="PATH", help="the copy, or the file that kept the name")


def _action(actions: Any, name: str, summary: str, run: Any) -> argparse.ArgumentParser:
    each: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=summary.capitalize() + ".", allow_abbrev=False
    )
    add_json(each)
    each.set_defaults(action=run)
    return each


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    code: int = arguments.action(arguments)
    return code


def show(arguments: argparse.Namespace) -> int:
    """List them."""
    drive = drives.choose(drives.places(), arguments.mountpoint, arguments.profile)
    found = [_absolute(drive, each) for each in drive.call("conflicts")]
    if arguments.json:
        output.print_json(found)
    elif not found:
        output.tell("no conflicts")
    else:
        hint = "to compare them: drivefs conflicts diff PATH; to settle one: keep-mine, keep-theirs or keep-both PATH"
        output.tell(*(line for each in found for line in lines(each)), hint)
    return ExitCode.OK


def lines(conflict: dict[str, Any]) -> list[str]:
    """One conflict for people."""
    kept = f"{conflict['original']} kept the name" if conflict["original"] else "what kept the name is gone"
    made = f"{conflict['device']}, {output.time_in_words(conflict['time_ns'])}"
    sides = ["mine", *["theirs"] * bool(conflict["original"]), *["base"] * bool(conflict["base_revision"])]
    return [
        conflict["path"] or conflict["name"],
        f"  made by {made}; {kept}",
        f"  to merge by hand: {conflict['entry']} has {', '.join(sides)}",
    ]


def names(conflict: dict[str, Any]) -> dict[str, str]:
    """What people are told that the sides are."""
    kept = conflict["original"] or conflict["original_name"]
    return {
        "mine": f"{conflict['path'] or conflict['name']} (mine, made by {conflict['device']})",
        "theirs": f"{kept} (theirs, what kept the name)",
        "base": f"{kept} (base, which both were made of)",
    }


def compare(arguments: argparse.Namespace) -> int:
    """Print how the two differ."""
    drive, path = drives.containing(drives.places(), arguments.path)
    conflict = _absolute(drive, drive.call("conflict", {"path": path}))
    entry = Path(conflict["entry"])
    if arguments.base and not conflict["base_revision"]:
        raise CommandError(
            "the two have no common base: each was made anew under this name. Compare them without --base"
        )
    if arguments.base:
        _require(entry / "base")
    pairs = [("base", "theirs"), ("base", "mine")] if arguments.base else [("theirs", "mine")]
    called = names(conflict)
    with differences.reading():
        texts = [differences.sentence_or_lines(entry / a, entry / b, called[a], called[b]) for a, b in pairs]
    if arguments.json:
        output.print_json({**conflict, "diff": "".join(texts)})
    else:
        print("".join(texts), end="")
    return ExitCode.OK


def _require(base: Path) -> None:
    """See that the common base can be had, or is only out of reach now, which reading it says."""
    try:
        base.lstat()
    except FileNotFoundError as error:
        raise CommandError(
            "what the two were made of cannot be had any more: it is not kept, or was in a share that has ended. "
            "Compare them without --base"
        ) from error
    except OSError:
        pass


def settle(arguments: argparse.Namespace) -> int:
    """Settle one."""
    drive, path = drives.containing(drives.places(), arguments.path)
    told = drive.call("settle", {"path": path, "how": arguments.way}, silence_seconds=60.0)
    conflict = {**_absolute(drive, told), "settled": arguments.way}
    if arguments.json:
        output.print_json(conflict)
    else:
        original = conflict["original"] or os.fsdecode(told["original_name"])
        output.tell(SETTLED[arguments.way].format(path=conflict["path"] or conflict["name"], original=original))
    return ExitCode.OK


def _absolute(drive: drives.Drive, conflict: dict[str, Any]) -> dict[str, Any]:
    """A conflict with whole paths; bytes of names that are not UTF-8 are lone surrogates, as everywhere in Python."""
    shown = dict(conflict)
    for key in ("path", "original", "entry"):
        if shown[key] is not None:
            shown[key] = os.path.join(drive.mountpoint, os.fsdecode(shown[key]))
    for key in ("name", "original_name"):
        shown[key] = os.fsdecode(shown[key])
    return shown


COMMAND = Command(
    name="conflicts",
    summary="list, compare and settle conflict copies",
    description="When two devices change one file, the first keeps the name and the other's content becomes a conflict "
    "copy beside it. List these copies, see how they differ, and settle them, on any device. For a merge by hand, "
    ".drivefs/conflicts/NAME in the drive has mine, theirs and base as files that can be read.",
    examples="  drivefs conflicts list\n"
    "  drivefs conflicts diff 'note (conflicted copy, laptop, 2026-03-01).txt'\n"
    "  cd ~/Drive/.drivefs/conflicts/NAME && git merge-file -p mine base theirs > ~/Drive/note.txt\n"
    "  drivefs conflicts keep-mine 'note (conflicted copy, laptop, 2026-03-01).txt'",
    add_arguments=add_arguments,
    run=run,
)
