"""`drivefs login`: exchanges a password for a token of this device's own, and keeps what mounting needs.

Owns the order of steps: whatever fails, an older login of the profile stays as it was, and a token that could not be
kept is given back. After it, not even the first mount needs the server.
"""

import argparse
import contextlib
import getpass
import os
import random
import socket
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from drivefs import config
from drivefs.cli import drives, output
from drivefs.cli.command import Command, add_profile, word
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from drivefs.remote.client import Remote

GIVE_BACK_SECONDS = 10.0
MOST_DEVICE_LETTERS = 128
MOST_PASSWORD_LETTERS = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("url", metavar="URL", help="the server, such as https://drive.example.org")
    parser.add_argument("--user", required=True, type=word, metavar="U", help="the user's name there")
    parser.add_argument(
        "--device", type=_device, metavar="D", help="what to call this device (default: the host's name)"
    )
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument(
        "--allow-insecure-http",
        action="store_true",
        help="accept http:// to another machine: password and files are then readable on the way",
    )
    add_profile(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    import trio

    places = drives.places()
    name = config.check_profile_name(
        arguments.profile or os.environ.get(config.PROFILE_VARIABLE) or config.DEFAULT_PROFILE
    )
    profile = config.Profile(
        name=name,
        url=_checked_url(arguments.url, arguments.allow_insecure_http),
        user=arguments.user,
        device=arguments.device or socket.gethostname(),
        allow_insecure_http=arguments.allow_insecure_http,
    )
    profile = _over_existing(places, profile)
    password = _password(arguments.password_stdin, profile)
    trio.run(_log_in, places, profile, password)
    output.say(
        f"{profile.device} is logged in to {profile.url} as {profile.user}. Next: drivefs mount ~/Drive"
        + ("" if name == config.DEFAULT_PROFILE else f" --profile {name}")
    )
    return ExitCode.OK


def _device(text: str) -> str:
    if not 0 < len(text) <= MOST_DEVICE_LETTERS or not text.isprintable():
        raise argparse.ArgumentTypeError(f"a device's name has 1 to {MOST_DEVICE_LETTERS} printable characters")
    return text


def _checked_url(url: str, allow_insecure: bool) -> str:
    from drivefs.remote import errors, transport

    try:
        return transport.check_url(url, allow_insecure=allow_insecure)
    except errors.InsecureUrl as error:
        raise CommandError(f"{output.clause(error)}. Nothing was sent", ExitCode.REFUSED) from error


def _over_existing(places: config.Places, profile: config.Profile) -> config.Profile:
    """Check what the profile is now; its settings are kept when the same user logs in again."""
    state = str(places.of_profile(profile.name).state)
    for drive in drives.all_mounted(places):
        if drive.mounted.record.state == state:
            raise CommandError(f"profile {profile.name!r} is mounted at {drive.mountpoint}: unmount it first")
    existing = config.read_profiles(places).get(profile.name)
    if existing is None:
        return profile
    if (existing.url, existing.user) != (profile.url, profile.user):
        raise CommandError(
            f"profile {profile.name!r} is {existing.user} at {existing.url}. Choose another name for this one with "
            f"--profile, or log the old one out: drivefs logout --profile {profile.name}"
        )
    return replace(existing, device=profile.device, allow_insecure_http=profile.allow_insecure_http)


def _password(from_stdin: bool, profile: config.Profile) -> str:
    if from_stdin:
        try:
            password = sys.stdin.readline().rstrip("\r\n")
        except UnicodeDecodeError:
            password = ""
        if not password:
            raise CommandError("there is no password in UTF-8 on standard input. Nothing was sent", ExitCode.USAGE)
    elif sys.stdin.isatty():
        password = getpass.getpass(f"Password of {profile.user} at {profile.url}: ")
    else:
        raise CommandError("standard input is no terminal to ask at: use --password-stdin", ExitCode.USAGE)
    if len(password) > MOST_PASSWORD_LETTERS:
        raise CommandError(
            f"no password has more than {MOST_PASSWORD_LETTERS} letters. Nothing was sent", ExitCode.USAGE
        )
    return password


async def _log_in(places: config.Places, profile: config.Profile, password: str) -> None:
    from drivefs.protocol.messages import LoginRequest
    from drivefs.remote import errors, transport
    from drivefs.remote.client import Remote

    async with transport.open_client(profile.url) as client:

        def remote_as(token: str) -> Remote:
            return Remote(
                profile.url, token, client=client, jitter=random.random, allow_insecure=profile.allow_insecure_http
            )

        nobody = remote_as("")
        try:
            await nobody.health()
            reply = await nobody.login(LoginRequest(user=profile.user, password=password, device=profile.device))
            device = remote_as(reply.token)
            try:
                earlier = _earlier(places, profile)
                await _keep(places, profile, device, reply.token, earlier)
            except OSError as error:
                await _give_back(device)
                raise CommandError(
                    f"the login cannot be kept at {error.filename}: {error.strerror}. Make room or mend its rights, "
                    "and log in again. Nothing that waits here was changed"
                ) from error
            except BaseException:
                await _give_back(device)
                raise
            if earlier is not None:
                with contextlib.suppress(errors.RemoteError):  # it was revoked, or stays listed beside this one
                    await remote_as(earlier.token).logout()
        except errors.Refused as error:
            raise CommandError(f"{profile.url} refuses: {output.clause(error)}", ExitCode.REFUSED) from error
        except (errors.NotDrivefs, errors.OtherProtocol, errors.UntrustedServer) as error:
            raise CommandError(
                f"{output.clause(error)}. Check the URL. Nothing was changed here", ExitCode.REFUSED
            ) from error
        except errors.Offline as error:
            raise CommandError(
                f"{output.clause(error)}. Nothing was changed here; try again", ExitCode.UNFINISHED
            ) from error


def _earlier(places: config.Places, profile: config.Profile) -> config.Credentials | None:
    """What the profile has been logged in with until now."""
    try:
        return config.read_credentials(places.of_profile(profile.name), profile.name)
    except config.ConfigError:
        return None


async def _keep(
    places: config.Places,
    profile: config.Profile,
    device: "Remote",
    token: str,
    earlier: config.Credentials | None,
) -> None:
    """Open a first session and store all that mounting needs, the credentials last.

    The state here is one user's: another one of the same name is refused, as there is after one was removed.

    What needs the server comes first: until it has given everything, the journal is that of the older login.
    """
    from drivefs.cli import local_state
    from drivefs.sync import session, standing
    from drivefs.sync.connection import Untracked
    from drivefs.sync.ends import Ends
    from drivefs.sync.lister import Lister

    of_profile = places.of_profile(profile.name)
    with local_state.opened(of_profile, profile.cache_limit_bytes) as local:
        beginning = await session.ask_to_begin(local, device, os.urandom)
        reply = beginning.reply
        if earlier is not None and reply.user != earlier.user_id:
            raise CommandError(
                f"{profile.user!r} at {profile.url} is another user now than the one to whom profile {profile.name!r} "
                "belongs, with another drive. Nothing was changed here: what waits stays. Log in under another name "
                "with --profile, or copy what is here (drivefs export DIRECTORY) and then log the old one out: drivefs "
                f"logout --profile {profile.name}",
                ExitCode.REFUSED,
            )
        home = next(each for each in reply.workspaces if each.kind == "home")
        session.set_cursor(local, reply, home.workspace)
        # So that a first mount without a network shows the top of the drive.
        lister = Lister(Ends(local, device, home.workspace, os.urandom), Untracked(), changed=lambda inode: None)
        await lister.list_directory(home.root)
        await session.begin(local, beginning)
        standing.forget(local.journal)
        await local.barrier()
    config.write_profile(places, profile)
    config.write_credentials(
        of_profile,
        config.Credentials(
            token=token,
            user_id=reply.user,
            device_id=reply.device,
            account=home.account,
            workspace=home.workspace,
            root=home.root,
        ),
    )


async def _give_back(device: "Remote") -> None:
    """Make a token worthless that could not be kept."""
    import trio

    from drivefs.remote.errors import RemoteError

    with trio.move_on_after(GIVE_BACK_SECONDS, shield=True):
        try:
            await device.logout()
        except RemoteError as error:
            output.say(
                f"the token just given could not be returned ({output.clause(error)}); the device stays listed there"
            )


COMMAND = Command(
    name="login",
    summary="make this device one of a user's",
    description="Exchange the user's password for a token of this device's own, which can be revoked without "
    "changing the password. The password is not stored. Logging in again renews the token; changes "
    "that wait to be sent stay.",
    examples="  drivefs login https://drive.example.org --user ann --device laptop\n"
    "  drivefs login http://127.0.0.1:8420 --user ann --password-stdin < password\n"
    "  drivefs login https://work.example.org --user ann --profile work",
    add_arguments=add_arguments,
    run=run,
)
