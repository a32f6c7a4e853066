"""`drivefs link`: addresses at which anybody may download a file. The mount makes them, the server lists them."""

import argparse
import getpass
import os
import re
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from drivefs.cli import asking, drives, output
from drivefs.cli.command import Command, add_json, add_profile, id_of, run_action
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode
from drivefs.protocol.names import is_text
from drivefs.protocol.times import LAST_NS, iso_seconds, parse_time

if TYPE_CHECKING:
    from drivefs.protocol.links import LinkInfo
    from drivefs.remote.client import Remote

ANSWER_SECONDS = 330.0
"""What was changed before is sent first."""
UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
ASK = ""
MOST_PASSWORD_LETTERS = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    making = _action(actions, "create", "make an address at which anybody may download PATH", create)
    making.add_argument("path", metavar="PATH", help="a file of a mounted drive, or a folder (as a tar archive)")
    making.add_argument("--expires", metavar="WHEN", help="until when: 30m, 12h, 7d, 2w from now, or a time (ISO 8601)")
    making.add_argument(
        "--password", nargs="?", const=ASK, metavar="PASSWORD", help="a password for it; without a word it is asked for"
    )
    listing = _action(actions, "list", "the links that you made, and those that others made to what you share", show)
    ending = _action(actions, "revoke", "end the link ID, at once and for good", revoke)
    ending.add_argument("id", metavar="ID", help="what the list calls it")
    for each in (listing, ending):
        add_profile(each)


def _action(
    actions: Any, name: str, summary: str, action: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    each: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=summary.capitalize() + ".", allow_abbrev=False
    )
    add_json(each)
    each.set_defaults(action=action)
    return each


def create(arguments: argparse.Namespace) -> int:
    """Make one."""
    drive, path = drives.containing(drives.places(), arguments.path)
    expires_ns = 0 if arguments.expires is None else _moment(arguments.expires)
    password = "" if arguments.password is None else _checked(arguments.password or _ask_password())
    question = {"path": path, "expires_ns": expires_ns, "password": password}
    told = drive.call("link_create", question, silence_seconds=ANSWER_SECONDS)
    if arguments.json:
        expires = iso_seconds(expires_ns) if expires_ns else None
        fields = {"id": str(told["id"]), "url": told["url"], "path": arguments.path, "expires": expires}
        output.print_json({**fields, "password": bool(password)})
    else:
        output.tell(told["url"])
    return ExitCode.OK


def show(arguments: argparse.Namespace) -> int:
    """List them."""
    found = [_fields(each) for each in _links(arguments)]
    if arguments.json:
        output.print_json(found)
        return ExitCode.OK
    if not found:
        output.say("there are no links")
    for each in found:
        until = f"until {each['expires']}" if each["expires"] else "for ever"
        secret = ", with a password" if each["password"] else ""
        maker = f", made by {each['user']}" if each["user"] else ""
        output.tell(f"{each['id']}  {each['path'] or '(the file is gone)'}  {until}{secret}{maker}")
    return ExitCode.OK


def revoke(arguments: argparse.Namespace) -> int:
    """End one."""
    from drivefs.protocol.links import RevokeLinkRequest

    if not (link := id_of(arguments.id)):
        raise CommandError(f"{arguments.id!r} is no id: drivefs link list has them", ExitCode.USAGE)
    request = RevokeLinkRequest(op=asking.operation(), link=link)

    async def end(remote: "Remote") -> None:
        await remote.revoke_link(request)

    asking.ask(*asking.profile(arguments), end)
    if arguments.json:
        output.print_json({"id": arguments.id, "revoked": True})
    else:
        output.say(f"the link {arguments.id} leads nowhere any more")
    return ExitCode.OK


def _links(arguments: argparse.Namespace) -> "list[LinkInfo]":
    return asking.ask(*asking.profile(arguments), _list)


async def _list(remote: "Remote") -> "list[LinkInfo]":
    return (await remote.public_links()).links


def _fields(info: "LinkInfo") -> dict[str, Any]:
    return {
        "id": str(info.link),
        "path": None if info.path is None else os.fsdecode(info.path),
        "created": iso_seconds(info.created_ns),
        "expires": iso_seconds(info.expires_ns) if info.expires_ns else None,
        "password": info.has_password,
        "user": info.user or None,
    }


def _moment(text: str) -> int:
    """The time that a person means, from now on or on the calendar."""
    span = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    moment = time.time_ns() + int(span[1]) * UNIT_SECONDS[span[2]] * 10**9 if span else parse_time(text)
    if moment is None or moment > LAST_NS:
        raise CommandError(f"{text!r} is no time: 12h, 7d, or 2027-01-31T18:00", ExitCode.USAGE)
    if moment <= time.time_ns():
        raise CommandError(f"{text!r} is past already: the link would never work", ExitCode.USAGE)
    return moment


def _checked(password: str) -> str:
    if not 0 < len(password) <= MOST_PASSWORD_LETTERS or not is_text(password):
        raise CommandError(
            f"the password has to have 1 to {MOST_PASSWORD_LETTERS} letters of UTF-8: no link was made", ExitCode.USAGE
        )
    return password


def _ask_password() -> str:
    try:
        return getpass.getpass("Password of the link: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    except UnicodeDecodeError:
        return ""


COMMAND = Command(
    name="link",
    summary="addresses at which anybody may download a file or a folder",
    description="Makes an address at which whoever has it may download a file of the drive, or a folder as a tar "
    "archive, without an account: for ever or until a time, with a password or without. It gives what is there then, "
    "wherever it was moved; of a folder, all but what others share with you in it: that has links of its own, and its "
    "owner sees and ends them. The address is shown once; the server keeps a hash of it only. A password is given as "
    "HTTP Basic, with any user name.",
    examples="  drivefs link create ~/Drive/report.pdf --expires 7d\n"
    "  drivefs link create ~/Drive/report.pdf --password\n"
    "  curl -OJ -u :PASSWORD https://drive.example.org/l/…\n"
    "  drivefs link list\n"
    "  drivefs link revoke 123456789",
    add_arguments=add_arguments,
    run=run_action,
)
