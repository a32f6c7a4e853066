"""`drivefs mount`: checks what can be checked, then starts the process that serves the drive.

Owns the order of the checks and the choice between foreground and background; serving is `drivefs.mount`'s.
"""

import argparse
import os
from pathlib import Path

from drivefs import config
from drivefs.cli import background, drives, output, preconditions
from drivefs.cli.command import Command, add_profile
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode

OPTIONS = frozenset(
    {
        "allow_other",
        "ro",
        "rw",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "exec",
        "noexec",
        "atime",
        "noatime",
        "default_permissions",
    }
)
"""Options of mount(8) that mean something here; `default_permissions` always holds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="an empty directory")
    parser.add_argument("--foreground", action="store_true", help="stay, and unmount on SIGTERM or Ctrl-C")
    parser.add_argument("--quiet", action="store_true", help="say nothing when it is mounted")
    parser.add_argument("--read-only", action="store_true", help="refuse all changes")
    parser.add_argument(
        "--cache-size",
        type=_size,
        metavar="SIZE",
        help="disk space for fetched blocks, such as 10G (default: $DRIVEFS_CACHE_SIZE, else the profile's, else 10G)",
    )
    parser.add_argument(
        "-o",
        dest="options",
        action="append",
        default=[],
        metavar="OPTION,…",
        help="allow_other, ro, noexec, noatime, dev, suid: as for mount(8), but nosuid and nodev unless asked "
        "(mount(8) itself does not pass dev and suid on)",
    )
    parser.add_argument("--ready-pipe", type=int, help=argparse.SUPPRESS)
    add_profile(parser)


def _size(text: str) -> int:
    try:
        return config.parse_cache_size(text)
    except config.ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if arguments.ready_pipe is not None:
        return _serve(arguments)
    settings = read_settings(arguments)
    preconditions.check(settings)
    if arguments.foreground:
        return _serve(arguments)
    words = ["mount", str(settings.mountpoint), "--foreground", "--profile", settings.profile.name]
    words += ["--cache-size", str(settings.profile.cache_limit_bytes), "-o", ",".join(sorted(settings.options))]
    background.start(words, settings.places.log_file)
    if not arguments.quiet:
        output.say(f"{settings.mountpoint} is mounted")
    if drives.choose(drives.places(), str(settings.mountpoint), None).call("status").get("revoked"):
        output.say(
            "this device was revoked, so the drive is read-only: log in again to send what waits here, or copy it with "
            "drivefs export DIRECTORY"
        )
    return ExitCode.OK


def read_settings(arguments: argparse.Namespace) -> config.MountSettings:
    """Bring flags, environment and files together.

    Raises:
        CommandError, ConfigError: they make no sense, or no device is logged in.
    """
    where = drives.places()
    name = drives.profile_name(where, arguments.profile)
    places = where.of_profile(name)
    credentials = config.read_credentials(places, name)
    profile = config.read_profiles(where).get(name)
    if profile is None:
        raise config.NotLoggedIn(f"{where.config_file} has no profile {name!r}: log in again with drivefs login")
    config.check_names(where, name)
    given = os.environ.get(config.CACHE_SIZE_VARIABLE)
    size_bytes = arguments.cache_size or (config.parse_cache_size(given) if given else None)
    if size_bytes:
        profile = config.with_cache_limit(profile, size_bytes)
    return config.MountSettings(
        profile=profile,
        places=places,
        credentials=credentials,
        mountpoint=Path(drives.resolved(arguments.mountpoint)),
        options=mount_options(arguments.options, read_only=arguments.read_only),
    )


def mount_options(lists: list[str], *, read_only: bool) -> frozenset[str]:
    """Take the comma-separated lists of `-o` apart; the later of two opposites wins.

    Raises:
        CommandError: an option is not known.
    """
    chosen: dict[str, None] = {}
    for option in ",".join(lists).split(","):
        if not option:
            continue
        if option not in OPTIONS:
            known = ", ".join(sorted(OPTIONS))
            raise CommandError(f"-o {option}: no such mount option. There are {known}", ExitCode.USAGE)
        chosen.pop(_opposite(option), None)
        chosen[option] = None
    if read_only:
        chosen.pop("rw", None)
        chosen["ro"] = None
    return frozenset(chosen) - {"rw", "default_permissions"}


def _opposite(option: str) -> str:
    if option in ("ro", "rw"):
        return "rw" if option == "ro" else "ro"
    return option.removeprefix("no") if option.startswith("no") else f"no{option}"


def _serve(arguments: argparse.Namespace) -> int:
    from drivefs import mount
    from drivefs.control.readiness import Readiness

    readiness = Readiness(arguments.ready_pipe, os.environ)
    try:
        mount.serve(read_settings(arguments), readiness)
    except mount.MountError as error:
        readiness.failed(str(error), ExitCode.FAILED)
        if arguments.ready_pipe is not None:
            # The command that started this process prints it; the log has it already.
            return ExitCode.FAILED
        raise CommandError(str(error)) from error
    return ExitCode.OK


COMMAND = Command(
    name="mount",
    summary="mount a drive at a directory",
    description="Mount a drive and return when it answers; the mount goes on in the background. It works without "
    "a network: what was written travels when the server can be reached. A mountpoint that a crash "
    "left dead is cleared first.",
    examples="  drivefs mount ~/Drive\n"
    "  drivefs mount ~/Work --profile work --cache-size 50G\n"
    "  drivefs mount /srv/drive --read-only -o allow_other\n"
    "  in /etc/fstab, with mount.drivefs linked into /sbin, where mount(8) looks for it:\n"
    "  drivefs:default /home/ann/Drive drivefs noauto,user,_netdev,setuid=ann 0 0",
    add_arguments=add_arguments,
    run=run,
)
