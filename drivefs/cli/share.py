"""`drivefs share`, `unshare`, `leave` and `shares`: folders that several users see. Mount and server do the work."""

import argparse
import os
from typing import TYPE_CHECKING, Any

from drivefs.cli import asking, drives, output
from drivefs.cli.command import Command, add_json, add_profile, word
from drivefs.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from drivefs.protocol.sharing import ShareInfo
    from drivefs.remote.client import Remote

ANSWER_SECONDS = 330.0
"""What was changed before is sent first."""


def _add_share(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a folder or a file of your drive")
    parser.add_argument("user", metavar="USER", type=word, help="the name of another user of the server")
    parser.add_argument("--role", choices=("editor", "viewer"), required=True, help="what the user may do in it")
    add_json(parser)


def _add_unshare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a folder that you share")
    parser.add_argument("user", metavar="USER", nargs="?", type=word, help="who sees it no more (default: all others)")
    add_json(parser)


def _add_leave(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a folder that another user shares with you")
    add_json(parser)


def _add_shares(parser: argparse.ArgumentParser) -> None:
    add_profile(parser)
    add_json(parser)


def share(arguments: argparse.Namespace) -> int:
    """Share a folder."""
    drive, path = drives.containing(drives.places(), arguments.path)
    question = {"path": path, "user": arguments.user, "role": arguments.role}
    told = drive.call("share", question, silence_seconds=ANSWER_SECONDS)
    if arguments.json:
        fields = {"id": str(told["id"]), "path": arguments.path, "user": arguments.user, "role": arguments.role}
        output.print_json({**fields, "invited": told["is_invited"]})
    elif told["is_invited"]:
        output.say(f"{arguments.user} is invited to {arguments.path} as {arguments.role}, and has to accept it")
    else:
        output.say(f"{arguments.user} is {arguments.role} of {arguments.path} now")
    return ExitCode.OK


def unshare(arguments: argparse.Namespace) -> int:
    """End sharing."""
    drive, path = drives.containing(drives.places(), arguments.path)
    drive.call("unshare", {"path": path, "user": arguments.user}, silence_seconds=ANSWER_SECONDS)
    if arguments.json:
        output.print_json({"path": arguments.path, "user": arguments.user})
    else:
        output.say(f"{arguments.user or 'nobody else'} sees {arguments.path} {'no more' if arguments.user else 'now'}")
    return ExitCode.OK


def leave(arguments: argparse.Namespace) -> int:
    """Leave a share."""
    drive, path = drives.containing(drives.places(), arguments.path)
    drive.call("leave", {"path": path}, silence_seconds=ANSWER_SECONDS)
    if arguments.json:
        output.print_json({"path": arguments.path})
    else:
        output.say(f"{arguments.path} is not in your drive any more")
    return ExitCode.OK


def shares(arguments: argparse.Namespace) -> int:
    """List the shares."""
    profile, credentials = asking.profile(arguments)
    found = [_fields(each) for each in asking.ask(profile, credentials, _ask)]
    if arguments.json:
        output.print_json(found)
        return ExitCode.OK
    if not found:
        output.say("nothing is shared with you, nor by you")
    for each in found:
        others = [f"{one['user']} ({'invited, ' if one['invited'] else ''}{one['role']})" for one in each["members"]]
        whose = ", ".join(others) or "nobody else" if each["role"] == "owner" else f"{each['owner']}'s, {each['role']}"
        output.tell(f"{each['path'] or '-'}: {whose}")
    return ExitCode.OK


async def _ask(remote: "Remote") -> "list[ShareInfo]":
    return (await remote.shares()).shares


def _fields(info: "ShareInfo") -> dict[str, Any]:
    """One share for programs; `path` is where it hangs in the drive, relative to its root."""
    members = [{"user": each.user, "role": each.role, "invited": each.is_invited} for each in info.members]
    return {
        "id": str(info.share),
        "path": os.fsdecode(info.path) or None,
        "role": info.role,
        "owner": info.owner,
        "members": members,
    }


SHARE = Command(
    name="share",
    summary="let another user see a folder or a file, to read it or to work in it",
    description="Invites another user to a folder or a file of your drive, as editor or viewer. When the user has "
    "accepted (drivefs invitations), it is in both drives, and each change in it reaches both. With another "
    "--role, who is a member already gets that role, at once. What is in it counts against your quota.",
    examples="  drivefs share ~/Drive/plans bert --role editor\n  drivefs share ~/Drive/plans bert --role viewer",
    add_arguments=_add_share,
    run=share,
)
UNSHARE = Command(
    name="unshare",
    summary="let a user, or all others, see a folder no more",
    description="Ends what drivefs share began, at once: the folder goes from that user's drive and stays in yours. "
    "What the user had changed and not sent stays on that user's device, in lost+found. --json prints an object: path, "
    "and user (null: all others).",
    examples="  drivefs unshare ~/Drive/plans bert\n  drivefs unshare ~/Drive/plans",
    add_arguments=_add_unshare,
    run=unshare,
)
LEAVE = Command(
    name="leave",
    summary="leave a folder that another user shares with you",
    description="Takes a folder that another user shares with you out of your drive. It stays as it is for the others. "
    "--json prints an object: path.",
    examples="  drivefs leave ~/Drive/plans",
    add_arguments=_add_leave,
    run=leave,
)
SHARES = Command(
    name="shares",
    summary="the folders that you share, and that others share with you",
    description="Lists all shares of the account: where each is in the drive, who sees it, and in which role.",
    examples="  drivefs shares\n  drivefs shares --json",
    add_arguments=_add_shares,
    run=shares,
)
