"""`drivefs status`: what a mounted drive is doing. Shows what the mount says; decides nothing."""

import argparse
import os
from typing import Any

from drivefs.cli import drives, output
from drivefs.cli.command import Command, add_json, add_profile
from drivefs.cli.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("mountpoint", nargs="?", metavar="MOUNTPOINT", help="the drive (default: the only one mounted)")
    add_profile(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    drive = drives.choose(drives.places(), arguments.mountpoint, arguments.profile)
    status = drive.call("status")
    for each in status.get("incoming", []) + status.get("outgoing", []):
        each["path"] = None if each["path"] is None else os.path.join(drive.mountpoint, os.fsdecode(each["path"]))
        each["name"] = os.fsdecode(each["name"])
    if arguments.json:
        output.print_json(status)
    else:
        output.tell(*lines(status))
    return ExitCode.OK


def lines(status: dict[str, Any]) -> list[str]:
    """The status for people; a mount that runs an older version leaves some of it out."""
    pending, cache, quota = status["pending"], status["cache"], status["quota"]
    profile = ("read-only, " if status.get("read_only") else "") + f"profile {status['profile']}"
    shown = [
        f"{status['mountpoint']}  {profile}, {status['user']} on {status['device']}, {status['url']}",
        f"  server    {_reach(status)}",
        f"  pending   {output.pending_in_words(pending['mutations'], pending['bytes'])}",
        f"  upload    {_transfer(status['transfers']['upload'])}",
        f"  download  {_transfer(status['transfers']['download'])}",
        f"  cache     {output.in_units(cache['used_bytes'])} of {output.in_units(cache['limit_bytes'])}",
        f"  quota     {_quota(quota)}",
    ]
    if unlisted := status.get("unlisted_directories"):
        shown.append(f"  listing   {unlisted} folders are known but not listed yet; opening one lists it")
    if (ignored := status.get("ignored")) and ignored["files"]:
        count = output.ignored_in_words(ignored["files"])
        shown.append(f"  ignored   {count}, {output.in_units(ignored['bytes'])}, only on this device")
    shown += [f"  sending   {output.upload_in_words(each)}" for each in status.get("outgoing", [])]
    shown += [f"  incoming  {output.upload_in_words(each)}" for each in status.get("incoming", [])]
    return shown + [f"  attention {notice}" for notice in status.get("attention", [])]


def _reach(status: dict[str, Any]) -> str:
    since = output.time_in_words(status["since_ns"])
    if status["online"]:
        return f"online since {since}"
    if status.get("revoked"):
        return f"revoked: {status['reason']}" if status["reason"] else "revoked"
    return f"offline since {since}" + (f": {status['reason']}" if status["reason"] else "")


def _transfer(transfer: dict[str, Any]) -> str:
    return f"{output.in_units(transfer['bytes_per_second'])}/s, {output.in_units(transfer['bytes'])} since mounted"


def _quota(quota: dict[str, Any] | None) -> str:
    if quota is None:
        return "not known until the server has been reached"
    return f"{output.in_units(quota['used_bytes'])} of {output.in_units(quota['limit_bytes'])}"


COMMAND = Command(
    name="status",
    summary="what a mounted drive is doing",
    description="Show whether the server is reachable and since when, what it does not have yet, transfers and "
    "their rates, the cache and the quota. Asks the mount, never the network.",
    examples="  drivefs status\n  drivefs status ~/Drive --json",
    add_arguments=add_arguments,
    run=run,
)
