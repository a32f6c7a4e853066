"""The command `drivefs-server`: run, user …, device …, check, maintain, backup, restore.

Owns the command line: its words, what it prints and its exit codes. Commands other than `run` go through the control
socket while a server runs on the data directory, and open the data directory themselves otherwise. With `--json`,
standard output carries one JSON value and nothing else.
"""

import argparse
import io
import logging
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import anyio
from sqlalchemy.exc import DatabaseError

from backend import app, config, people, reports
from backend.api import control
from backend.commands import DONE, EXIT_CODES, FAILED, USAGE, Failure, declare, perform, quiet, settings_of
from backend.metadata.errors import MetadataError
from backend.service.checks import Report
from backend.service.keys import WrongMasterKey
from drivefs import __version__
from drivefs.protocol.errors import ProtocolError

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
    people.add(commands)
    _add_check(commands)
    _add_maintain(commands)
    _add_backup(commands)
    _add_restore(commands)
    return parser


def _add_run(commands: Any) -> None:
    parser = declare(commands, "run", _run, "serve a data directory, which is made if it is not there")
    parser.epilog = SETTINGS + "\n" + EXIT_CODES
    parser.add_argument("--listen", metavar="HOST:PORT", help="where to listen (default: 127.0.0.1:8420)")
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate chain, PEM")
    parser.add_argument("--tls-key", metavar="FILE", help="private key, PEM")
    parser.add_argument("--quota", metavar="SIZE", help="what each account may store (default: 10G)")
    parser.add_argument("--file-limit", metavar="SIZE", help="how long one file may be (default: 10000000000)")
    parser.add_argument("--stop-seconds", metavar="N", help="how long a stop waits for open requests (default: 5)")


def _add_check(commands: Any) -> None:
    text = "read all that is stored: each block is there, opens, and is what its name says; also while serving"
    parser = declare(commands, "check", _check, text)
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
    parser = declare(commands, "maintain", _maintain, text)
    parser.description = f"{parser.description} A running server does it by itself, every six hours."
    parser.add_argument("--dry-run", action="store_true", help="change nothing, and tell what would be let go")
    parser.add_argument(
        "--json", action="store_true", help="print {dry_run, trash, revisions, blocks, cold, changes, users}"
    )


def _add_backup(commands: Any) -> None:
    text = "copy all metadata and blocks, as of one moment, to a new directory, and verify the copy; also while serving"
    parser = declare(commands, "backup", _backup, text)
    parser.epilog = MASTER_KEY + "\n" + EXIT_CODES
    parser.add_argument("destination", type=Path, metavar="DEST", help="the directory to make, of a name that is free")
    parser.add_argument("--json", action="store_true", help="print {destination, sound, blocks, bytes, findings}")


def _add_restore(commands: Any) -> None:
    text = "put the state of a backup into a data directory that no server uses, and verify it"
    parser = declare(commands, "restore", _restore, text)
    parser.epilog = RESTORED + "\n" + MASTER_KEY + "\n" + EXIT_CODES
    parser.add_argument("source", type=Path, metavar="BACKUP", help="a directory that `backup` has made")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="even where there is data already: its database is kept beside the new one, as metadata.db.replaced-N",
    )
    parser.add_argument("--json", action="store_true", help="print {data, replaced, sound, blocks, bytes, findings}")


def _run(arguments: argparse.Namespace) -> int:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = settings_of(arguments)
    anyio.run(app.serve, settings, _say)
    return DONE


def _say(line: str) -> None:
    print(line, flush=True)


def _check(arguments: argparse.Namespace) -> int:
    with reports.bar("checking blocks") as progress:
        found = perform(settings_of(arguments), control.Check(arguments.repair), progress).check
    return reports.tell_check(found, {}, arguments.json, is_repair=arguments.repair)


def _maintain(arguments: argparse.Namespace) -> int:
    done = perform(settings_of(arguments), control.Maintain(arguments.dry_run), quiet).maintained
    assert done is not None
    reports.tell_maintenance(done, arguments.json)
    return DONE


def _backup(arguments: argparse.Namespace) -> int:
    destination = arguments.destination.expanduser().absolute()
    with reports.bar("backing up") as progress:
        found = perform(settings_of(arguments), control.Backup(str(destination)), progress).check
    if not arguments.json:
        _say(f"All is in {destination}. The master key is not: keep a copy of it in another place.")
    return reports.tell_check(found, {"destination": str(destination)}, arguments.json)


def _restore(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)

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
