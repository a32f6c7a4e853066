"""`drivefs held`: the mass deletion that waits for a word, and that word. The mount does the work."""

import argparse
from typing import Any

from drivefs.cli import drives, output
from drivefs.cli.command import Command, add_actions, run_action
from drivefs.cli.exit_codes import ExitCode

DECIDE_SECONDS = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = (
        ("show", show, "what is held"),
        ("release", release, "let the deletions go: the files are deleted on all devices"),
        ("restore", restore, "take the deletions back: the files are here again"),
    )
    add_actions(parser, actions, "the drive (default: the only one)")


def show(arguments: argparse.Namespace) -> int:
    """Show what is held; exit code HELD if anything is."""
    held = _drive(arguments).call("held")
    if arguments.json:
        output.print_json(held or {})
    else:
        output.tell("no deletions are held" if held is None else in_words(held))
    return ExitCode.OK if held is None else ExitCode.HELD


def release(arguments: argparse.Namespace) -> int:
    """Let the deletions go."""
    done = _drive(arguments).call("held_release", silence_seconds=DECIDE_SECONDS)
    return _done(arguments, done, "on the way: {} will be deleted on all devices")


def restore(arguments: argparse.Namespace) -> int:
    """Take the deletions back."""
    done = _drive(arguments).call("held_restore", silence_seconds=DECIDE_SECONDS)
    return _done(arguments, done, "{} are here again, and the server never heard of it")


def in_words(held: dict[str, Any]) -> str:
    """What is held, for people."""
    return (
        f"{output.count_of(held['files'], 'deleted file')} of {held['drive_files']:,} in the drive, held since "
        f"{output.time_in_words(held['since_ns'])}; other devices still have them"
    )


def _drive(arguments: argparse.Namespace) -> drives.Drive:
    return drives.choose(drives.places(), arguments.mountpoint, arguments.profile)


def _done(arguments: argparse.Namespace, done: dict[str, Any], words: str) -> int:
    if arguments.json:
        output.print_json(done)
    else:
        output.tell(words.format(output.count_of(done["files"], "file")))
    return ExitCode.OK


COMMAND = Command(
    name="held",
    summary="decide about a mass deletion that is held back",
    description="A deletion of more than half of the drive's files, and at least 1,000, within five minutes is held on "
    "this device until someone decides: let it go, or take it back. A file that is made again under its old name is "
    "sent as a replacement. mass_deletion_guard in config.toml sets another share, or turns this off.",
    examples="  drivefs held show\n  drivefs held release\n  drivefs held restore ~/Drive",
    add_arguments=add_arguments,
    run=run_action,
)
