"""`drivefs invitations`: what other users want to share, and the answer to it. Asks the server, mounted or not."""

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from drivefs.cli import asking, output
from drivefs.cli.command import Command, add_json, add_profile, run_action
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from drivefs.protocol.sharing import InvitationInfo
    from drivefs.remote.client import Remote


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _action(actions, "list", "what waits for your answer", show)
    accepting = _action(actions, "accept", "have the folder ID in your drive", accept)
    declining = _action(actions, "decline", "do not have the folder ID in your drive", decline)
    for each in (accepting, declining):
        each.add_argument("id", metavar="ID", help="what the list calls it, or its name where one only has it")


def _action(
    actions: Any, name: str, summary: str, action: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    each: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=summary.capitalize() + ".", allow_abbrev=False
    )
    add_profile(each)
    add_json(each)
    each.set_defaults(action=action)
    return each


def show(arguments: argparse.Namespace) -> int:
    """List them."""
    found = [_fields(each) for each in _invitations(arguments)]
    if arguments.json:
        output.print_json(found)
        return ExitCode.OK
    if not found:
        output.say("nobody waits for your answer")
    for each in found:
        output.tell(f"{each['id']}  {each['name']}, from {each['from']}, as {each['role']}")
    return ExitCode.OK


def accept(arguments: argparse.Namespace) -> int:
    """Accept one."""
    return _answer(arguments, accepts=True)


def decline(arguments: argparse.Namespace) -> int:
    """Decline one."""
    return _answer(arguments, accepts=False)


def _answer(arguments: argparse.Namespace, *, accepts: bool) -> int:
    from drivefs.protocol.sharing import AnswerRequest

    found = _invitations(arguments)
    chosen = [each for each in found if str(each.share) == arguments.id]
    chosen = chosen or [each for each in found if os.fsdecode(each.name) == arguments.id]
    if len(chosen) != 1:
        what = "several invitations are" if chosen else "no invitation is"
        raise CommandError(f"{what} called {arguments.id!r}: drivefs invitations list shows them. Nothing was changed")
    (invitation,) = chosen
    request = AnswerRequest(op=asking.operation(), share=invitation.share, accept=accepts)

    async def answer(remote: "Remote") -> None:
        await remote.answer(request)

    asking.ask(*asking.profile(arguments), answer)
    if arguments.json:
        output.print_json({**_fields(invitation), "accepted": accepts})
    else:
        name = os.fsdecode(invitation.name)
        output.say(f"{name} is in your drive now" if accepts else f"{name} is declined")
    return ExitCode.OK


def _invitations(arguments: argparse.Namespace) -> "list[InvitationInfo]":
    return asking.ask(*asking.profile(arguments), _list)


async def _list(remote: "Remote") -> "list[InvitationInfo]":
    return (await remote.invitations()).invitations


def _fields(info: "InvitationInfo") -> dict[str, Any]:
    return {"id": str(info.share), "name": os.fsdecode(info.name), "from": info.owner, "role": info.role}


COMMAND = Command(
    name="invitations",
    summary="folders that other users want to share with you",
    description="Lists the folders that other users want to share with you, and answers them. What is accepted comes "
    "into your drive, at its root, where it can be renamed and moved elsewhere; drivefs leave takes it out again.",
    examples="  drivefs invitations list\n  drivefs invitations accept plans\n  drivefs invitations decline 123456789",
    add_arguments=add_arguments,
    run=run_action,
)
