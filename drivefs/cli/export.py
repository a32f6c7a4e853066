"""`drivefs export`: copies what exists on this device only, out of a drive that is mounted or not.

Owns the choice of who copies (the mount, or this command where there is none) and the checks of the target.
"""

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drivefs import config
from drivefs.cli import drives, local_state, output
from drivefs.cli.command import Command, add_json, add_profile
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode

SILENCE_SECONDS = 120.0
"""One file may take so long; the mount reports after each."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("directory", metavar="DIRECTORY", help="where to copy to: made, or empty")
    add_profile(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    where = drives.places()
    name = drives.profile_name(where, arguments.profile)
    places = drives.with_state(where, name)
    credentials = config.read_credentials(places, name)
    target = _target(where, arguments.directory)
    mounted = [each for each in drives.all_mounted(where) if each.mounted.record.state == str(places.state)]
    if mounted:
        asked = {"directory": os.fsencode(target)}
        done = mounted[0].call("export", asked, lambda progress: None, silence_seconds=SILENCE_SECONDS)
    else:
        done = _export(places, credentials, target)
    _report(done, target, is_json=arguments.json)
    return ExitCode.UNFINISHED if done["missing_count"] else ExitCode.OK


def _target(where: config.Places, named: str) -> Path:
    """The directory to copy to, made if it is not there."""
    target = Path(os.path.abspath(named))
    for drive in drives.all_mounted(where):
        if target.is_relative_to(drive.mountpoint):
            raise CommandError(f"{target} is on the drive: what cannot be sent would only be copied to where it is")
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise CommandError(f"{target} is not empty: name another directory, so that nothing there is replaced")
    except OSError as error:
        raise CommandError(f"{target} cannot be used: {error.strerror}") from error
    return target


def _export(places: config.ProfilePlaces, credentials: config.Credentials, target: Path) -> dict[str, Any]:
    import trio

    from drivefs.sync.export import LOST_AND_FOUND, Exporter

    async def quiet(file_count: int, size_bytes: int) -> None:
        await trio.lowlevel.checkpoint()

    async def copy() -> dict[str, Any]:
        with local_state.opened(places) as local:
            return asdict(await Exporter(local, credentials.root, target, places.state / LOST_AND_FOUND).run(quiet))

    try:
        return trio.run(copy)
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror}. Nothing was changed in the drive") from error


def _report(done: dict[str, Any], target: Path, *, is_json: bool) -> None:
    if is_json:
        shown = {"files": "file_count", "bytes": "size_bytes", "incomplete": "missing_count", "others": "other_count"}
        output.print_json({key: done[field] for key, field in shown.items()} | {"changes": done["change_count"]})
        return
    output.tell(
        f"{output.count_of(done['file_count'], 'file')} ({output.in_units(done['size_bytes'])} written here) copied to "
        f"{target}; directories and links: {done['other_count']:,}"
    )
    if done["missing_count"]:
        output.say(
            f"of {output.count_of(done['missing_count'], 'file')} some bytes are not on this device: they end in "
            f".incomplete, and {target}/drivefs-export.json says which bytes are missing"
        )
    if done["change_count"]:
        output.say(f"all changes that wait ({done['change_count']:,}) are listed in {target}/drivefs-export.json")


COMMAND = Command(
    name="export",
    summary="copy what exists on this device only",
    description="Copy everything that this device has and the server has not into a directory: changed and new files "
    "under their paths, new directories and links, and what was rescued. For a device that was revoked, or whose "
    "server is gone for good; mounted or not. Nothing is changed in the drive. drivefs-export.json in the directory "
    "lists it all. Exit code 3 says that some files are incomplete.",
    examples="  drivefs export ~/rescued\n  drivefs export /mnt/usb/unsent --profile work --json",
    add_arguments=add_arguments,
    run=run,
)
