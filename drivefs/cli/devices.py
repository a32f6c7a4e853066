"""`drivefs devices`: the devices of the user's account, who is here, and ending one of them.

Asks the server, mounted or not; decides nothing but which device is meant.
"""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from drivefs.cli import asking, output
from drivefs.cli.command import Command, add_json, add_profile, profile
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode
from drivefs.protocol.names import printable

if TYPE_CHECKING:
    from drivefs.protocol.messages import DeviceInfo
    from drivefs.remote.client import Remote

PIPE_COLUMNS = 240


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_profile(parser)
    add_json(parser)
    parser.add_argument("--all", action="store_true", help="show those that were revoked too (--json always has them)")
    parser.set_defaults(action=show)
    actions = parser.add_subparsers(title="actions", metavar="[ACTION]")
    summary = "end a device for good: the server answers nothing more to it"
    ending = actions.add_parser("revoke", help=summary, description=summary.capitalize() + ".", allow_abbrev=False)
    ending.add_argument("device", metavar="NAME", help="the device's name, or its id where several have that name")
    ending.add_argument("--yes", action="store_true", help="do not ask; a script is not asked")
    ending.add_argument("--this-device", action="store_true", help="allow it to be the one that this command runs on")
    ending.add_argument("--profile", type=profile, metavar="P", default=argparse.SUPPRESS, help="the drive's profile")
    ending.set_defaults(action=revoke)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    code: int = arguments.action(arguments)
    return code


def show(arguments: argparse.Namespace) -> int:
    """List the devices."""
    profile, credentials = asking.profile(arguments)
    found = [_fields(each, credentials.device_id) for each in asking.ask(profile, credentials, _list)]
    if arguments.json:
        output.print_json(found)
        return ExitCode.OK
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(*(Column(each, no_wrap=True) for each in ("device", "state", "still to send")), box=None)
    for each in found:
        if arguments.all or not each["revoked"]:
            pending = each["pending"]
            left = "not known" if pending is None else output.pending_in_words(pending["mutations"], pending["bytes"])
            table.add_row(printable(each["name"]) + (" (this one)" if each["this_device"] else ""), _state(each), left)
    # A pipe has no width to keep to.
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)
    return ExitCode.OK


def revoke(arguments: argparse.Namespace) -> int:
    """End a device."""
    profile, credentials = asking.profile(arguments)
    listed = [_fields(each, credentials.device_id) for each in asking.ask(profile, credentials, _list)]
    chosen = _named(listed, arguments.device)
    if chosen["this_device"] and not arguments.this_device:
        raise CommandError(
            f"{chosen['name']!r} is this device: drivefs logout ends it in good order. To revoke it all the same, "
            "which leaves what it has not sent here: --this-device",
            ExitCode.REFUSED,
        )
    _confirm(chosen, arguments.yes)

    async def end(remote: "Remote") -> None:
        await remote.revoke(int(chosen["id"]))  # type: ignore[arg-type]

    asking.ask(profile, credentials, end)
    output.say(f"{chosen['name']!r} is revoked. What it had not sent stays on it, and can be exported there")
    return ExitCode.OK


async def _list(remote: "Remote") -> "list[DeviceInfo]":
    return await remote.devices()


def _fields(info: "DeviceInfo", own: int) -> dict[str, Any]:
    pending = info.pending
    return {
        "name": info.name,
        "id": str(info.device),
        "online": info.is_online,
        "last_seen_ns": info.last_seen_ns or None,
        "pending": None if pending is None else {"mutations": pending.mutation_count, "bytes": pending.size_bytes},
        "this_device": info.device == own,
        "revoked": bool(info.revoked_ns),
        "revoked_ns": info.revoked_ns or None,
    }


def _state(device: dict[str, Any]) -> str:
    if device["revoked"]:
        return f"revoked {output.time_in_words(device['revoked_ns'])}"
    if device["online"]:
        return "online"
    seen = device["last_seen_ns"]
    return f"last seen {output.time_in_words(seen)}" if seen else "never seen"


def _named(listed: list[dict[str, Any]], name: str) -> dict[str, Any]:
    living = [each for each in listed if not each["revoked"]]
    found = [each for each in living if each["id"] == name] or [each for each in living if each["name"] == name]
    if not found:
        names = ", ".join(repr(each["name"]) for each in living)
        raise CommandError(f"there is no device {name!r} that is not revoked. There are {names}. Nothing was changed")
    if len(found) > 1:
        each_one = "; ".join(f"{each['id']} ({_state(each)})" for each in found)
        raise CommandError(f"{len(found)} devices are named {name!r}: name one by its id: {each_one}", ExitCode.USAGE)
    return found[0]


def _confirm(device: dict[str, Any], is_sure: bool) -> None:
    if is_sure or not sys.stdin.isatty():
        return
    pending = device["pending"]
    left = "" if pending is None else output.pending_in_words(pending["mutations"], pending["bytes"])
    print(
        f"{printable(device['name'])} ({_state(device)}) will be refused by the server for good. "
        f"Still to be sent from it{'' if left else ' (not known)'}: {left or 'perhaps something'}.\n"
        "Revoke it? [y/N] ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError(f"{device['name']!r} was not revoked")


COMMAND = Command(
    name="devices",
    summary="the account's devices: who is here, and ending one",
    description="List the devices of the account: online or last seen, and what each has still to send. 'revoke' ends "
    "one for good, at once: a device that was lost or sold. What it has not sent stays on it, and a new login there "
    "sends it.",
    examples="  drivefs devices\n  drivefs devices --json\n  drivefs devices revoke 'old laptop'",
    add_arguments=add_arguments,
    run=run,
)
