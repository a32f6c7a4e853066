"""The command `drivefs-server`: run, user …, device …, check, maintain, backup, restore.

Owns the command line: its words, what it prints and its exit codes. Commands other than `run` go through the control
socket while a server runs on the data directory, and open the data directory themselves otherwise. With `--json`,
standard output carries one JSON value and nothing else.
"""

import argparse
import datetime
import getpass
import io
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import anyio
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from sqlalchemy.exc import DatabaseError

from backend import app, config, reports
from backend.api import control
from backend.metadata.errors import MetadataError
from backend.service.checks import Report
from backend.service.keys import WrongMasterKey
from drivefs import __version__
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.messages import DeviceInfo
from drivefs.protocol.names import is_text, printable

DONE, FAILED, USAGE = 0, 1, 2
START_SECONDS = 10.0
"""How long a command waits for a server that has the data directory and does not answer yet."""
RETRY_SECONDS = 0.2

EXIT_CODES = """\
exit codes:
  0  done
  1  refused or failed; the message says why, what it means for the data, and what to do
  2  the command line or a setting is wrong; nothing was done
  3  check, backup, restore: something that is stored is damaged or missing; check has changed nothing
  4  check --repair: something was wrong, and all of it is mended
  5  check --repair: files need blocks that cannot be read; devices that have them are asked to send them again; or
     the database is damaged beyond its indexes, and a backup has to be put back
"""
SETTINGS = """\
settings:
  Flags win over the environment, the environment over the settings file (server.toml in the data directory, or
  --config FILE). The environment's names are DRIVEFS_SERVER_ and the setting in capitals: DRIVEFS_SERVER_QUOTA=50G.

    listen        where to listen                                     127.0.0.1:8420
    tls_cert      certificate, and those between it and the authority none: plain HTTP, which clients refuse
    tls_key       its private key                                     except on loopback
    master_key    the key that opens all others, 0600, made at the    $XDG_CONFIG_HOME/drivefs-server/master.key
                  first start; without it the data is lost: keep a copy, and not beside a copy of the data directory
    quota         bytes that each account may store                   10G
    file_limit    bytes that one file may have                        10000000000
    pin_hours     how long uploaded blocks wait for their commit      72
    pass_seconds  how long what a device shows of itself is good,     3600
                  before it has to show its token for another
    feed_days     how long a device may be away and then hear only    180
                  what changed; after more it lists all anew
    trash_days    how long what was removed can be brought back       30
    keep_all_hours, keep_hourly_days, keep_daily_days, keep_weekly_days  24, 7, 30, 365
                  up to which age it is kept what a file was every burst_seconds, every hour, every day, and every week;
                  what it was at none of these moments goes, but what was within the last hour, the newest revision,
                  those marked to be kept, and those that snapshots show
    burst_seconds see above                                           60
    keep_most     revisions of one file; with more, each of the       1000
                  distances above is doubled until there are not
    cold          a directory on a cheaper disk where blocks rest     none
                  that only old revisions have, or that nobody has read for cold_days; what is read often comes back
    cold_days     how long a block of a present file has to be unread 30
    mirror        a directory on another disk or machine that has     none
                  each block too: it is read, and copied back, where the data directory's is missing or damaged
    mirror_required  whether uploads wait while one of the two is     yes
                  not there; with no, the other takes them alone, and the rest is copied when it is back
    max_requests  requests open at once, idle polls among them        16384
    stop_seconds  how long open requests may take to end at a stop    5
"""
FLAGS = ("listen", "tls_cert", "tls_key", "master_key", "quota", "file_limit", "stop_seconds")


MASTER_KEY = """\
A backup is of no use without the master key, which is not in it: keep a copy of that in another place.
"""
DAMAGED_DATABASE = (
    "The database could not be read, or not be written. If its disk is full, make room; if it is damaged, put a backup "
    "back with drivefs-server restore: the blocks are kept, and devices send what they have that is newer."
)
RESTORED = """\
A restore begins a new incarnation, so that no id is handed out twice. Devices go on by themselves: what they have that
is newer than the backup they send again, contents as far as their blocks are on the device; nothing of theirs is
overwritten. Devices and users that are younger than the backup are unknown to it: they are added and log in again.
"""


class Failure(Exception):
    """A command that cannot be done; the text is for the person who gave it."""


def main() -> NoReturn:
    """Run the command line and end the process."""
    os.umask(0o077)
    for stream in (sys.stdout, sys.stderr):
        # Paths that are not UTF-8 are printed as the bytes they are.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")
    arguments = _parser().parse_args()
    try:
        code = arguments.run(arguments)
    except config.ConfigError as error:
        code = _complain(error, USAGE)
    except (Failure, app.CannotServe, WrongMasterKey, MetadataError) as error:
        code = _complain(error, FAILED)
    except ProtocolError as error:
        code = _complain(error, FAILED)
    except DatabaseError as error:
        code = _complain(f"{DAMAGED_DATABASE} It says: {error.orig}.", FAILED)
    except KeyboardInterrupt:
        code = _complain("interrupted", FAILED)
    sys.stdout.flush()
    sys.stderr.flush()
    # The HTTP server's threads outlive it: letting the interpreter take itself apart around them makes them panic.
    os._exit(code)


def _complain(error: object, code: int) -> int:
    print(f"drivefs-server: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="drivefs-server",
        description="The backend of drivefs: keeps metadata in SQLite and blocks, encrypted, in one data directory.",
        epilog=SETTINGS + "\n" + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"drivefs-server {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands)
    user = commands.add_parser("user", help="make, list and change users", description="Make, list and change users.")
    user_commands = user.add_subparsers(metavar="COMMAND", required=True)
    _add_user_passwords(user_commands)
    _add_user_list(user_commands)
    _add_user_set(user_commands)
    device = commands.add_parser(
        "device", help="list and revoke users' devices", description="List and revoke users' devices."
    )
    device_commands = device.add_subparsers(metavar="COMMAND", required=True)
    _add_device_list(device_commands)
    _add_device_revoke(device_commands)
    _add_check(commands)
    _add_maintain(commands)
    _add_backup(commands)
    _add_restore(commands)
    return parser


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, config=None, **dict.fromkeys(FLAGS))
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the data directory")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file (default: DIR/server.toml)")
    parser.add_argument("--master-key", metavar="FILE", help="where the master key lies")
    return parser


def _add_run(commands: Any) -> None:
    parser = _command(commands, "run", _run, "serve a data directory, which is made if it is not there")
    parser.epilog = SETTINGS + "\n" + EXIT_CODES
    parser.add_argument("--listen", metavar="HOST:PORT", help="where to listen (default: 127.0.0.1:8420)")
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate chain, PEM")
    parser.add_argument("--tls-key", metavar="FILE", help="private key, PEM")
    parser.add_argument("--quota", metavar="SIZE", help="what each account may store (default: 10G)")
    parser.add_argument("--file-limit", metavar="SIZE", help="how long one file may be (default: 10000000000)")
    parser.add_argument("--stop-seconds", metavar="N", help="how long a stop waits for open requests (default: 5)")


def _add_user_passwords(commands: Any) -> None:
    for name, run, text in (
        ("add", _user_add, "make a user with an empty drive; also while the server runs"),
        ("password", _user_password, "give a user another password; devices that are logged in stay so"),
    ):
        parser = _command(commands, name, run, text)
        parser.add_argument("name", metavar="NAME", type=_name)
        parser.add_argument(
            "--password-stdin", action="store_true", help="read the password from standard input, up to the line's end"
        )


def _add_user_list(commands: Any) -> None:
    parser = _command(commands, "list", _user_list, "list all users; also while the server runs")
    parser.add_argument(
        "--json", action="store_true", help="print an array of {name, created, devices, quota, file_limit, stored}"
    )


def _add_user_set(commands: Any) -> None:
    text = "set what one user may store, instead of what the settings give all; also while the server runs"
    parser = _command(commands, "set", _user_set, text)
    parser.add_argument("name", metavar="NAME", type=_name)
    for flag, into, what in (
        ("--quota", "user_quota", "bytes in all, such as 50G"),
        ("--file-limit", "user_file_limit", "bytes that one file may have"),
    ):
        parser.add_argument(flag, dest=into, type=_size_or_default, metavar="SIZE|default", help=what)
    parser.add_argument("--json", action="store_true", help="print {name, quota, file_limit, stored}")


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
    parser = _command(commands, "list", _device_list, text)
    parser.add_argument("--user", default="", type=_name, metavar="NAME", help="only those of this user")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print an array of {user, name, id, online, last_seen, pending: {mutations, bytes}, revoked}",
    )


def _add_device_revoke(commands: Any) -> None:
    text = "end a device for good: the server answers nothing more to it, and what it has not sent stays on it"
    parser = _command(commands, "revoke", _device_revoke, text)
    parser.add_argument("user", metavar="USER", type=_name)
    parser.add_argument("device", metavar="DEVICE", type=_name, help="its name, or its number of `device list --json`")


def _add_check(commands: Any) -> None:
    text = "read all that is stored: each block is there, opens, and is what its name says; also while serving"
    parser = _command(commands, "check", _check, text)
    parser.add_argument(
        "--json", action="store_true", help="print {sound, database, lost_logs, blocks, bytes, findings, objects}"
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="make damaged indexes of the database again, put unreadable objects aside (blocks/quarantine), forget "
        "unreadable blocks that nothing needs, and remove objects that nothing has named for a day, as long as no "
        "replaced database, or lost log of it, lies beside the present one: it may name them",
    )


def _add_maintain(commands: Any) -> None:
    text = "let go now of what is due: trash, revisions by their age, blocks that nothing needs; also while serving"
    parser = _command(commands, "maintain", _maintain, text)
    parser.description = f"{parser.description} A running server does it by itself, every six hours."
    parser.add_argument("--dry-run", action="store_true", help="change nothing, and tell what would be let go")
    parser.add_argument("--json", action="store_true", help="print {dry_run, trash, revisions, blocks, changes}")


def _add_backup(commands: Any) -> None:
    text = "copy all metadata and blocks, as of one moment, to a new directory, and verify the copy; also while serving"
    parser = _command(commands, "backup", _backup, text)
    parser.epilog = MASTER_KEY + "\n" + EXIT_CODES
    parser.add_argument("destination", type=Path, metavar="DEST", help="the directory to make, of a name that is free")
    parser.add_argument("--json", action="store_true", help="print {destination, sound, blocks, bytes, findings}")


def _add_restore(commands: Any) -> None:
    text = "put the state of a backup into a data directory that no server uses, and verify it"
    parser = _command(commands, "restore", _restore, text)
    parser.epilog = RESTORED + "\n" + MASTER_KEY + "\n" + EXIT_CODES
    parser.add_argument("source", type=Path, metavar="BACKUP", help="a directory that `backup` has made")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="even where there is data already: its database is kept beside the new one, as metadata.db.replaced-N",
    )
    parser.add_argument("--json", action="store_true", help="print {data, replaced, sound, blocks, bytes, findings}")


def _settings(arguments: argparse.Namespace) -> config.Settings:
    flags = {name: getattr(arguments, name) for name in FLAGS}
    return config.load(arguments.data, arguments.config, os.environ, flags)


def _run(arguments: argparse.Namespace) -> int:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = _settings(arguments)
    anyio.run(app.serve, settings, _say)
    return DONE


def _say(line: str) -> None:
    print(line, flush=True)


def _user_add(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    password = _read_password(arguments.password_stdin)
    _perform(settings, control.AddUser(arguments.name, password), _quiet, create=True)
    _say(f"Made user {arguments.name}.")
    return DONE


def _user_password(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    _perform(settings, control.SetPassword(arguments.name, _read_password(arguments.password_stdin)), _quiet)
    _say(f"{arguments.name} logs in with the new password. Devices stay logged in; `device revoke` ends them.")
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
    users = _perform(_settings(arguments), control.ListUsers(), _quiet).users
    if arguments.json:
        listed = [
            {"name": u.name, "created": _time(u.created_ns), "devices": u.device_count, **_limits(u)} for u in users
        ]
        print(json.dumps(listed, indent=2))
        return DONE
    table = Table("user", "since", "devices", "stored", "of", box=None)
    for user in users:
        sizes = (reports.in_units(user.stored_bytes), reports.in_units(user.quota_bytes))
        table.add_row(Text(user.name), _time(user.created_ns), str(user.device_count), *sizes)
    Console(highlight=False).print(table)
    return DONE


def _user_set(arguments: argparse.Namespace) -> int:
    if arguments.user_quota is None and arguments.user_file_limit is None:
        raise config.ConfigError("Say what to set: --quota SIZE, --file-limit SIZE, or both. Nothing was changed.")
    wanted = control.SetLimits(arguments.name, arguments.user_quota, arguments.user_file_limit)
    user = _perform(_settings(arguments), wanted, _quiet).users[0]
    figures = {"name": user.name, **_limits(user)}
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return DONE
    _say(
        f"{user.name} may store {reports.in_units(user.quota_bytes)}, {reports.in_units(user.file_bytes)} in one file; "
        f"{reports.in_units(user.stored_bytes)} are stored."
    )
    if user.stored_bytes > user.quota_bytes:
        _say("That is more than is allowed now: it stays, deleting works, and nothing new is taken until it fits.")
    return DONE


def _limits(user: control.UserInfo) -> dict[str, int]:
    return {"quota": user.quota_bytes, "file_limit": user.file_bytes, "stored": user.stored_bytes}


def _device_list(arguments: argparse.Namespace) -> int:
    listed = _perform(_settings(arguments), control.ListDevices(arguments.user), _quiet).devices
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
    ended = _perform(_settings(arguments), control.RevokeDevice(arguments.user, arguments.device), _quiet).devices[0]
    name = printable(ended.device.name)
    if ended.device.revoked_ns:
        _say(f"{name} of {ended.user} was revoked {_time(ended.device.revoked_ns)} already.")
    else:
        _say(f"Revoked {name} of {ended.user}. What it had not sent stays on it.")
    return DONE


def _time(time_ns: int) -> str:
    return datetime.datetime.fromtimestamp(time_ns // 10**9, datetime.UTC).isoformat()


def _check(arguments: argparse.Namespace) -> int:
    with reports.bar("checking blocks") as progress:
        found = _perform(_settings(arguments), control.Check(arguments.repair), progress).check
    return reports.tell_check(found, {}, arguments.json, is_repair=arguments.repair)


def _maintain(arguments: argparse.Namespace) -> int:
    done = _perform(_settings(arguments), control.Maintain(arguments.dry_run), _quiet).maintained
    assert done is not None
    reports.tell_maintenance(done, arguments.json)
    return DONE


def _backup(arguments: argparse.Namespace) -> int:
    destination = arguments.destination.expanduser().absolute()
    with reports.bar("backing up") as progress:
        found = _perform(_settings(arguments), control.Backup(str(destination)), progress).check
    if not arguments.json:
        _say(f"All is in {destination}. The master key is not: keep a copy of it in another place.")
    return reports.tell_check(found, {"destination": str(destination)}, arguments.json)


def _restore(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)

    async def restored() -> tuple[Report, Path | None]:
        async def report(done: int, total: int) -> None:
            progress(done, total)

        return await app.restore(settings, arguments.source.expanduser(), report, replaces=arguments.replace)

    with reports.bar("restoring") as progress, app.locked(settings.data, create=True):
        found, kept = anyio.run(restored)
    if not arguments.json:
        _say(f"{settings.data} has the backup's state. Start the server: devices send what they have that is newer.")
        if kept is not None:
            _say(f"The database that was there is {kept}.")
    about = {"data": str(settings.data), "replaced": str(kept) if kept else None}
    return reports.tell_check(control.result_of(found), about, arguments.json)


def _quiet(_done: int, _total: int) -> None:
    pass


def _perform(
    settings: config.Settings, command: control.Command, progress: Callable[[int, int], None], *, create: bool = False
) -> control.Reply:
    """Have a command done: by the server that runs on the data directory, else by this process."""

    async def report(done: int, total: int) -> None:
        progress(done, total)

    async def here() -> control.Reply:
        async with app.opened(settings) as services:
            return await control.perform(services, command, report)

    waited = 0.0
    while True:
        try:
            with app.locked(settings.data, create=create):
                return anyio.run(here)
        except app.InUse:
            try:
                return control.ask(settings.data, command, progress)
            except OSError as error:
                # It is starting or stopping: the lock is taken before the socket is there, and freed after it.
                if waited >= START_SECONDS:
                    raise Failure(
                        f"A drivefs-server has {settings.data} and does not answer: {error}. Nothing is known to have "
                        "changed. Look at its log, or stop it and try again."
                    ) from error
        time.sleep(RETRY_SECONDS)
        waited += RETRY_SECONDS
