"""How a command of `drivefs-server` is declared, and how it is done: by the server that runs, or by this process.

Owns the flags that all have, the exit codes, and the way to the data directory; knows no command.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from backend import app, config
from backend.api import control

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
FLAGS = ("listen", "tls_cert", "tls_key", "master_key", "quota", "file_limit", "stop_seconds")


class Failure(Exception):
    """A command that cannot be done; the text is for the person who gave it."""


def declare(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    """Add a command, with what all have; `text` says what it does, without a capital and a full stop."""
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


def settings_of(arguments: argparse.Namespace) -> config.Settings:
    """The settings that a command line gives, over those of the environment and of the file.

    Raises:
        config.ConfigError: one of them is wrong.
    """
    flags = {name: getattr(arguments, name) for name in FLAGS}
    return config.load(arguments.data, arguments.config, os.environ, flags)


def quiet(_done: int, _total: int) -> None:
    """Show no progress."""


def perform(
    settings: config.Settings, command: control.Command, progress: Callable[[int, int], None], *, create: bool = False
) -> control.Reply:
    """Have a command done: by the server that runs on the data directory, else by this process.

    Raises:
        Failure: a server has the directory and does not answer.
        ProtocolError: it is refused; and what `app.opened` raises.
    """

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
