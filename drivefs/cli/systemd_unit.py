"""`drivefs systemd-unit`: prints the unit by which systemd mounts a drive when its user logs in.

Owns the place of the program in the unit; the rest is `drivefs@.service` beside this module.
"""

import argparse
import shlex
import shutil
import sys
from importlib import resources

from drivefs.cli.command import Command
from drivefs.cli.exit_codes import ExitCode

PROGRAM = "@PROGRAM@"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: none."""


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    print(unit(), end="")
    return ExitCode.OK


def unit() -> str:
    """The text of the unit, with this very program in it."""
    template = resources.files("drivefs.cli").joinpath("drivefs@.service").read_text()
    program = shutil.which(sys.argv[0])
    if program is None or not program.endswith("/drivefs"):
        return template.replace(PROGRAM, f"{shlex.quote(sys.executable)} -m drivefs")
    return template.replace(PROGRAM, shlex.quote(program))


COMMAND = Command(
    name="systemd-unit",
    summary="print a systemd user unit that mounts at login",
    description="Print a systemd user unit. Its instance is the mountpoint below the home directory: "
    "drivefs@Drive mounts the default profile at ~/Drive. Another profile: systemctl --user edit "
    "drivefs@Drive, and set Environment=DRIVEFS_PROFILE=P.",
    examples="  drivefs systemd-unit > ~/.config/systemd/user/drivefs@.service\n"
    "  systemctl --user enable --now drivefs@Drive",
    add_arguments=add_arguments,
    run=run,
)
