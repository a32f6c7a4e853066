"""`drivefs pin`, `unpin` and `pins`: what is kept on this device at all times. The mount does the work."""

import argparse
import os
import time
from pathlib import Path
from typing import Any

from drivefs.cli import drives, identity, output
from drivefs.cli.command import Command, add_json, add_profile, seconds
from drivefs.cli.drives import Drive
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode

LOOK_SECONDS = 0.25
SILENCE_SECONDS = 60.0
"""Counting what is here takes a while for very many files, and a slow disk its time until a pin is durable."""
OFFLINE_SECONDS = 15.0
"""How long `--wait` waits for a server that cannot be reached."""


def add_pin_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pin`."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files and directories in a mounted drive")
    parser.add_argument("--wait", action="store_true", help="return when everything is on this device")
    parser.add_argument("--timeout", type=seconds, metavar="S", help="with --wait: wait for this long at most")


def add_unpin_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `unpin`."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files and directories that are pinned")


def add_pins_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pins`."""
    parser.add_argument("mountpoint", nargs="?", metavar="MOUNTPOINT", help="the drive (default: the only one mounted)")
    add_profile(parser)
    add_json(parser)


def pin(arguments: argparse.Namespace) -> int:
    """Pin paths."""
    drive, inodes = _inodes(arguments.paths)
    drive.call("pin", {"inodes": list(inodes)}, silence_seconds=SILENCE_SECONDS)
    if not arguments.wait:
        output.tell(*(f"{path} is pinned; drivefs pins shows how much of it is here" for path in inodes.values()))
        return ExitCode.OK
    return _wait(drive, set(inodes), arguments.timeout)


def _wait(drive: Drive, inodes: set[int], limit_seconds: float | None) -> int:
    began = online_at = time.monotonic()
    while True:
        found = drive.call("pins", silence_seconds=SILENCE_SECONDS)
        left = [each for each in found["pins"] if each["inode"] in inodes and not each["complete"]]
        if not left and not found["busy"]:
            output.tell("everything is on this device")
            return ExitCode.OK
        status, now = drive.call("status"), time.monotonic()
        online_at = now if status["online"] else online_at
        why = ""
        if limit_seconds is not None and now - began >= limit_seconds:
            why = f"the time limit of {limit_seconds:g} s is over"
        elif now - online_at >= OFFLINE_SECONDS:
            why = status["reason"] or "the server cannot be reached"
        elif not found["busy"] and status["online"]:
            why = _no_room(found) or "some of it cannot be had from the server; the log says more"
        if why:
            raise CommandError(
                f"not everything is on this device yet: {output.clause(CommandError(why))}. The pins stay, and what is "
                "lacking comes as soon as it can",
                ExitCode.UNFINISHED,
            )
        time.sleep(LOOK_SECONDS)


def _no_room(found: dict[str, Any]) -> str:
    if not found["lacking_bytes"]:
        return ""
    if found["kept_bytes"] + found["lacking_bytes"] <= found["limit_bytes"]:
        return (
            f"the disk of the cache has no room for {output.in_units(found['lacking_bytes'])} of it (drivefs cache "
            "show names the place). Make room there and mount again"
        )
    return (
        f"{output.in_units(found['lacking_bytes'])} more than the {output.in_units(found['limit_bytes'])} that may be "
        "pinned on this device. Unpin something, or set cache_size or pin_size in config.toml and mount again"
    )


def unpin(arguments: argparse.Namespace) -> int:
    """Unpin paths."""
    drive, inodes = _inodes(arguments.paths)
    done = drive.call("unpin", {"inodes": list(inodes)}, silence_seconds=SILENCE_SECONDS)
    for inode, path in inodes.items():
        if inode in done["covered"]:
            raise CommandError(f"{path} stays on this device: a directory above it is pinned")
        if inode not in done["unpinned"]:
            raise CommandError(f"{path} is not pinned; drivefs pins shows what is")
        output.tell(f"{path} is not pinned any more; what of it is here goes when room is needed")
    return ExitCode.OK


def pins(arguments: argparse.Namespace) -> int:
    """Show all pins."""
    drive = drives.choose(drives.places(), arguments.mountpoint, arguments.profile)
    found = drive.call("pins", silence_seconds=SILENCE_SECONDS)
    for each in found["pins"]:
        path = os.path.join(os.fsencode(drive.mountpoint), each["path"]) if each["path"] else drive.mountpoint
        each["path"] = os.fsdecode(path)
    if arguments.json:
        output.print_json(found)
    else:
        output.tell(*lines(found))
    return ExitCode.OK


def lines(found: dict[str, Any]) -> list[str]:
    """All pins for people."""
    shown = []
    for each in found["pins"]:
        here = f"{output.in_units(each['here_bytes'])} of {output.in_units(each['bytes'])}"
        state = "all here" if each["complete"] else "being fetched" if found["busy"] else "not all here"
        shown.append(f"{each['path']}: {state}, {here} in {output.count_of(each['files'], 'file')}")
    if not shown:
        shown.append("nothing is pinned")
    kept, limit = output.in_units(found["kept_bytes"]), output.in_units(found["limit_bytes"])
    shown.append(f"kept for pins: {kept} of at most {limit}")
    if why := _no_room(found):
        shown.append(f"not enough room: {why}")
    return shown


def _inodes(paths: list[str]) -> tuple[Drive, dict[int, str]]:
    """The drive in which all paths lie, and what they lead to, by inode."""
    where, found, mountpoints = drives.places(), dict[int, str](), dict[str, Drive]()
    for path in paths:
        absolute = Path(os.path.abspath(path))
        drive = drives.holding(where, absolute)
        mountpoints[drive.mountpoint] = drive
        try:
            found[identity.inode_at(absolute)] = str(absolute)
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from error
    if len(mountpoints) > 1:
        raise CommandError("these paths lie in different drives: name those of one at a time", ExitCode.USAGE)
    return drive, found


PIN = Command(
    name="pin",
    summary="keep files and directories on this device",
    description="Keep files and whole directories, with all that is or will be below them, on this device: they are "
    "fetched in the background, kept up to date, and can be read without a network. A pin stays with what "
    "it was set on, wherever that is moved. Pins may take up pin_size of the cache (config.toml; default: three "
    "quarters); what does not fit is fetched when it is read, and status says so.",
    examples="  drivefs pin ~/Drive/travel\n  drivefs pin ~/Drive/slides.odp ~/Drive/music --wait",
    add_arguments=add_pin_arguments,
    run=pin,
)
UNPIN = Command(
    name="unpin",
    summary="keep them no longer",
    description="Keep files and directories on this device no longer than there is room. Nothing is deleted.",
    examples="  drivefs unpin ~/Drive/travel",
    add_arguments=add_unpin_arguments,
    run=unpin,
)
PINS = Command(
    name="pins",
    summary="what is pinned, and how much of it is here",
    description="Show what is pinned on this device, how much of each is here, and how much room pins take.",
    examples="  drivefs pins\n  drivefs pins ~/Drive --json",
    add_arguments=add_pins_arguments,
    run=pins,
)
