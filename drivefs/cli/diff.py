"""`drivefs diff`: how two revisions of a file differ, or one of them and the file as it is."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivefs.cli import differences, drives, output, revisions
from drivefs.cli.command import Command, add_json
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode
from drivefs.protocol.names import printable


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two contents: where it can be read, and what people call it; `number` None: the file as it is."""

    place: Path
    name: str
    number: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("path", metavar="PATH", help="a file in a mounted drive")
    parser.add_argument(
        "old", metavar="N", nargs="?", type=revisions.number, help="the older one (default: the revision before)"
    )
    parser.add_argument(
        "new", metavar="M", nargs="?", type=revisions.number, help="the newer one (default: the file as it is)"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    drive, path = drives.containing(drives.places(), arguments.path)
    told = drive.call("revisions", {"path": path}, silence_seconds=revisions.ANSWER_SECONDS)
    known = {each["number"]: each for each in told["revisions"]}
    shown = os.path.join(drive.mountpoint, os.fsdecode(path))
    number = arguments.old if arguments.old is not None else _before(told, shown)
    old = _side(drive, path, known, number)
    new = _Side(Path(shown), shown, None)
    if arguments.new is not None:
        new = _side(drive, path, known, arguments.new)
    with differences.reading():
        text = differences.lines(old.place, new.place, old.name, new.name)
    asked = {"path": path, "old": old.number, "new": new.number}
    blocks = drive.call("revision_compare", asked, silence_seconds=revisions.ANSWER_SECONDS)
    if arguments.json:
        output.print_json({"path": shown, "old": old.number, "new": new.number, "diff": text, **blocks})
    elif text is None:
        print(_in_words(old, new, blocks), end="")
    else:
        print(text, end="")
    return ExitCode.OK


def _before(told: dict[str, Any], shown: str) -> int:
    """What the file as it is came from."""
    numbers = [each["number"] for each in told["revisions"]]
    wanted = 1 if told["is_changed"] else 2
    if len(numbers) < wanted:
        count = output.count_of(len(numbers), "revision")
        raise CommandError(f"{shown} has {count}: there is nothing before to compare it with")
    last: int = numbers[-wanted]
    return last


def _side(drive: drives.Drive, path: bytes, known: dict[int, dict[str, Any]], number: int) -> _Side:
    found = known.get(number)
    shown = os.path.join(drive.mountpoint, os.fsdecode(path))
    if found is None:
        raise CommandError(
            f"there is no revision {number} of {shown}, or it is not kept any more. drivefs revisions lists those "
            "there are"
        )
    place = Path(drive.mountpoint, ".drivefs/revisions", os.fsdecode(path), str(number))
    when = output.time_in_words(found["time_ns"])
    return _Side(place, f"{shown} (revision {number}, {when}, {found['device'] or 'unknown device'})", number)


def _in_words(old: _Side, new: _Side, blocks: dict[str, Any]) -> str:
    same, size = blocks["same_size"], output.in_units
    lines = [
        f"--- {printable(old.name)}: {size(blocks['old_size'])}, {output.count_of(blocks['old_blocks'], 'block')}",
        f"+++ {printable(new.name)}: {size(blocks['new_size'])}, {output.count_of(blocks['new_blocks'], 'block')}",
    ]
    if same == blocks["old_size"] == blocks["new_size"]:
        lines.append("the same blocks: the contents are equal")
    else:
        gone, came = size(blocks["old_size"] - same), size(blocks["new_size"] - same)
        lines.append(
            f"{output.count_of(blocks['same_blocks'], 'block')} ({size(same)}) in common; {gone} gone, {came} new"
        )
    return "\n".join(lines) + "\n"


COMMAND = Command(
    name="diff",
    summary="how two revisions of a file differ",
    description="Compare revision N of a file with revision M. Without M, N is compared with the file as it is; "
    "without both, the revision before is. Text is compared line by line; of other files it is said how large they are "
    "and how much they have in common, block by block.",
    examples="  drivefs diff notes.txt\n  drivefs diff notes.txt 3\n  drivefs diff photo.raw 3 5\n"
    "  drivefs diff notes.txt 3 --json",
    add_arguments=add_arguments,
    run=run,
)
