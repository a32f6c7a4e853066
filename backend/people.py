"""The commands `drivefs-server user …` and `drivefs-server device …`.

Owns their words and what they print; what is done is behind the control socket.
"""

import argparse
import datetime
import getpass
import json
import os
import sys
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from backend import config, reports
from backend.api import control
from backend.commands import DONE, Failure, declare, perform, quiet, settings_of
from drivefs.protocol.messages import DeviceInfo
from drivefs.protocol.names import is_text, printable

REMOVED = """\
Remove a user. All devices are ended at once, and keep what they had not sent (`drivefs export`); links and invitations
end, and shares of others are left. The drive, its history, the password and the name are kept for trash_days: until
then `user restore` brings them back. After that the server's maintenance lets all of it go, and the name is free. Where
others see what the user shares nothing is done, unless --end-shares is given.
"""


def add(commands: Any) -> None:
    """Declare them."""
    text = "make, list, change and remove users"
    user = commands.add_parser("user", help=text, description=f"{text.capitalize()}.")
    user_commands = user.add_subparsers(metavar="COMMAND", required=True)
    _add_user_passwords(user_commands)
    _add_user_list(user_commands)
    _add_user_set(user_commands)
    _add_user_remove(user_commands)
    _add_user_restore(user_commands)
    device = commands.add_parser(
        "device", help="list and revoke users' devices", description="List and revoke users' devices."
    )
    device_commands = device.add_subparsers(metavar="COMMAND", required=True)
    _add_device_list(device_commands)
    _add_device_revoke(device_commands)


def _add_user_passwords(commands: Any) -> None:
    for name, run, text in (
        ("add", _user_add, "make a user with an empty drive; also while the server runs"),
        ("password", _user_password, "give a user another password; devices that are logged in stay so"),
    ):
        parser = declare(commands, name, run, text)
        parser.add_argument("name", metavar="NAME", type=_name)
        parser.add_argument(
            "--password-stdin", action="store_true", help="read the password from standard input, up to the line's end"
        )


def _add_user_list(commands: Any) -> None:
    parser = declare(commands, "list", _user_list, "list all users; also while the server runs")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print an array of {name, created, devices, quota, file_limit, stored, removed, kept_until}",
    )


def _add_user_set(commands: Any) -> None:
    text = "set what one user may store, instead of what the settings give all; also while the server runs"
    parser = declare(commands, "set", _user_set, text)
    parser.add_argument("name", metavar="NAME", type=_name)
    for flag, into, what in (
        ("--quota", "user_quota", "bytes in all, such as 50G"),
        ("--file-limit", "user_file_limit", "bytes that one file may have"),
    ):
        parser.add_argument(flag, dest=into, type=_size_or_default, metavar="SIZE|default", help=what)
    parser.add_argument("--json", action="store_true", help="print {name, quota, file_limit, stored}")


def _add_user_remove(commands: Any) -> None:
    text = "remove a user; `user restore` brings the user back within trash_days; also while serving"
    parser = declare(commands, "remove", _user_remove, text)
    parser.description = REMOVED
    parser.add_argument("name", metavar="NAME", type=_name)
    parser.add_argument(
        "--end-shares", action="store_true", help="even if others see what this user shares: it goes from their drives"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="print {name, kept_until, devices, shares, left_shares}")


def _add_user_restore(commands: Any) -> None:
    text = "bring a removed user back: drive, links, password and devices, but no shares; also while serving"
    parser = declare(commands, "restore", _user_restore, text)
    parser.add_argument("name", metavar="NAME", type=_name)
    parser.add_argument("--json", action="store_true", help="print {name, devices, quota, file_limit, stored}")


def _name(text: str) -> str:
    if not is_text(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: it is not UTF-8")
    return text


def _size_or_default(text: str) -> int:
    """A size, or 0 for what the settings give all."""
    try:
        return 0 if text == "default" else config.size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}, or default") from error


def _add_device_list(commands: Any) -> None:
    text = "list devices: who is here, when each was last seen, and what it has still to send; also while serving"
    parser = declare(commands, "list", _device_list, text)
    parser.add_argument("--user", default="", type=_name, metavar="NAME", help="only those of this user")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print an array of {user, name, id, online, last_seen, pending: {mutations, bytes}, revoked}",
    )


def _add_device_revoke(commands: Any) -> None:
    text = "end a device for good: the server answers nothing more to it, and what it has not sent stays on it"
    parser = declare(commands, "revoke", _device_revoke, text)
    parser.add_argument("user", metavar="USER", type=_name)
    parser.add_argument("device", metavar="DEVICE", type=_name, help="its name, or its number of `device list --json`")


def _user_add(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    password = _read_password(arguments.password_stdin)
    perform(settings, control.AddUser(arguments.name, password), quiet, create=True)
    print(f"Made user {arguments.name}.")
    return DONE


def _user_password(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    perform(settings, control.SetPassword(arguments.name, _read_password(arguments.password_stdin)), quiet)
    print(f"{arguments.name} logs in with the new password. Devices stay logged in; `device revoke` ends them.")
    return DONE


def _read_password(from_stdin: bool) -> str:
    if from_stdin:
        given = sys.stdin.buffer.readline().rstrip(b"\r\n")
        try:
            return given.decode()
        except UnicodeDecodeError:
            raise Failure("The password is not UTF-8. Nothing was changed.") from None
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise Failure("The two passwords differ. Nothing was changed.")
    return password


def _user_list(arguments: argparse.Namespace) -> int:
    users = perform(settings_of(arguments), control.ListUsers(), quiet).users
    if arguments.json:
        listed = [
            {
                "name": u.name,
                "created": _time(u.created_ns),
                "devices": u.device_count,
                **_limits(u),
                "removed": _time(u.removed_ns) if u.removed_ns else None,
                "kept_until": _time(u.until_ns) if u.removed_ns else None,
            }
            for u in users
        ]
        print(json.dumps(listed, indent=2))
        return DONE
    table = Table("user", "since", "devices", "stored", "of", "", box=None)
    for user in users:
        sizes = (reports.in_units(user.stored_bytes), reports.in_units(user.quota_bytes))
        state = f"removed, kept to {_time(user.until_ns)[:10]}" if user.removed_ns else ""
        table.add_row(Text(user.name), _time(user.created_ns), str(user.device_count), *sizes, state)
    Console(highlight=False).print(table)
    return DONE


def _user_set(arguments: argparse.Namespace) -> int:
    if arguments.user_quota is None and arguments.user_file_limit is None:
        raise config.ConfigError("Say what to set: --quota SIZE, --file-limit SIZE, or both. Nothing was changed.")
    wanted = control.SetLimits(arguments.name, arguments.user_quota, arguments.user_file_limit)
    user = perform(settings_of(arguments), wanted, quiet).users[0]
    figures = {"name": user.name, **_limits(user)}
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return DONE
    print(
        f"{user.name} may store {reports.in_units(user.quota_bytes)}, {reports.in_units(user.file_bytes)} in one file; "
        f"{reports.in_units(user.stored_bytes)} are stored."
    )
    if user.stored_bytes > user.quota_bytes:
        print("That is more than is allowed now: it stays, deleting works, and nothing new is taken until it fits.")
    return DONE


def _user_remove(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    if not arguments.yes:
        _ask_about(arguments.name)
    done = perform(settings, control.RemoveUser(arguments.name, arguments.end_shares), quiet).removed
    assert done is not None
    shares = {os.fsdecode(each.path): each.users for each in done.shares}
    if arguments.json:
        counts = {"devices": done.device_count, "shares": shares, "left_shares": done.left_count}
        print(json.dumps({"name": done.name, "kept_until": _time(done.until_ns), **counts}, indent=2))
        return DONE
    print(f"Removed {done.name}: {done.device_count} devices are ended, and keep what they had not sent.")
    for path, users in shares.items():
        print(f"{printable(path)} is no longer shared with {', '.join(users)}.")
    if done.left_count:
        print(f"{done.left_count} shares or invitations of others have ended for {done.name}.")
    print(f"The drive is kept until {_time(done.until_ns)}: `drivefs-server user restore` brings {done.name} back.")
    return DONE


def _ask_about(name: str) -> None:
    if not sys.stdin.isatty():
        raise Failure(f"Nobody can be asked whether {name} is to be removed: --yes says so. Nothing was changed.")
    question = f"Remove {name}? All devices of {name} are ended, and nobody sees the drive any more. [y/N] "
    print(question, end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure("Nothing was changed.")


def _user_restore(arguments: argparse.Namespace) -> int:
    user = perform(settings_of(arguments), control.RestoreUser(arguments.name), quiet).users[0]
    if arguments.json:
        print(json.dumps({"name": user.name, "devices": user.device_count, **_limits(user)}, indent=2))
        return DONE
    print(
        f"{user.name} is back with {reports.in_units(user.stored_bytes)} and {user.device_count} devices, which go on "
        "by themselves. What was shared by others, or with them, is to be shared again."
    )
    return DONE


def _limits(user: control.UserInfo) -> dict[str, int]:
    return {"quota": user.quota_bytes, "file_limit": user.file_bytes, "stored": user.stored_bytes}


def _device_list(arguments: argparse.Namespace) -> int:
    listed = perform(settings_of(arguments), control.ListDevices(arguments.user), quiet).devices
    if arguments.json:
        print(json.dumps([_device(each.user, each.device) for each in listed], indent=2))
        return DONE
    table = Table(*(Column(each, no_wrap=True) for each in ("user", "device", "state", "still to send")), box=None)
    for each in listed:
        info = each.device
        seen = f"last seen {_time(info.last_seen_ns)}" if info.last_seen_ns else "never seen"
        state = f"revoked {_time(info.revoked_ns)}" if info.revoked_ns else "online" if info.is_online else seen
        sent = info.pending
        left = "not known" if sent is None else f"{sent.mutation_count} changes, {sent.size_bytes} bytes"
        table.add_row(Text(each.user), Text(printable(info.name)), state, left)
    Console(highlight=False).print(table)
    return DONE


def _device(user: str, info: DeviceInfo) -> dict[str, object]:
    pending = info.pending
    return {
        "user": user,
        "name": info.name,
        "id": str(info.device),
        "online": info.is_online,
        "last_seen": _time(info.last_seen_ns) if info.last_seen_ns else None,
        "pending": None if pending is None else {"mutations": pending.mutation_count, "bytes": pending.size_bytes},
        "revoked": _time(info.revoked_ns) if info.revoked_ns else None,
    }


def _device_revoke(arguments: argparse.Namespace) -> int:
    ended = perform(settings_of(arguments), control.RevokeDevice(arguments.user, arguments.device), quiet).devices[0]
    name = printable(ended.device.name)
    if ended.device.revoked_ns:
        print(f"{name} of {ended.user} was revoked {_time(ended.device.revoked_ns)} already.")
    else:
        print(f"Revoked {name} of {ended.user}. What it had not sent stays on it.")
    return DONE


def _time(time_ns: int) -> str:
    return datetime.datetime.fromtimestamp(time_ns // 10**9, datetime.UTC).isoformat()
