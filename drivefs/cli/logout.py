"""`drivefs logout`: gives this device's token back and forgets the profile.

Owns the order of steps. Invariant: changes that the server does not have are deleted only by `--discard`, and what lies
in `lost+found` never.
"""

import argparse
import os
import random
import shutil
from pathlib import Path

from drivefs import config
from drivefs.cli import drives, local_state, output
from drivefs.cli.command import Command, add_profile
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode

LOST_AND_FOUND = "lost+found"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--discard", action="store_true", help="delete changes that the server does not have")
    parser.add_argument(
        "--forget",
        action="store_true",
        help="go on if the server cannot be reached: the token then stays valid until the device is revoked there",
    )
    add_profile(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    import trio

    where = drives.places()
    name = drives.profile_name(where, arguments.profile)
    places = where.of_profile(name)
    credentials = config.read_credentials(places, name)
    profile = config.read_profiles(where).get(name)
    if not arguments.discard:
        mutations, size, ignored = trio.run(_pending, places)
        if mutations:
            raise CommandError(
                f"{output.pending_in_words(mutations, size)} of profile {name!r} exist on this device only, so it "
                "stays logged in. To send them: drivefs mount, then drivefs sync --wait. To copy them: drivefs export "
                "DIRECTORY. To keep them for later, do nothing. To delete them for good: drivefs logout --discard",
                ExitCode.UNFINISHED,
            )
        if ignored:
            raise CommandError(
                f"{output.count_of(ignored, 'ignored file')} of profile {name!r} exist on this device only, so it "
                "stays logged in. To copy what is there: drivefs export DIRECTORY. To delete it for good: drivefs "
                "logout --discard",
                ExitCode.UNFINISHED,
            )
    else:
        trio.run(_pending, places)
    if profile is not None:
        trio.run(_revoke, profile, credentials.token, arguments.forget)
    config.remove_profile(where, name)
    _delete(places)
    output.say(f"profile {name!r} is logged out")
    return ExitCode.OK


async def _pending(places: config.ProfilePlaces) -> tuple[int, int, int]:
    """What the server does not have yet, and how many files it never will; also proves that no mount uses the state."""
    from drivefs.sync import status

    with local_state.opened(places) as local:
        return *status.pending(local.journal), local.journal.ignored.count()


async def _revoke(profile: config.Profile, token: str, is_forced: bool) -> None:
    from drivefs.remote import errors, transport
    from drivefs.remote.client import Remote

    async with transport.open_client(profile.url) as client:
        remote = Remote(
            profile.url, token, client=client, jitter=random.random, allow_insecure=profile.allow_insecure_http
        )
        try:
            await remote.logout()
        except errors.Refused as error:
            output.say(f"the token was worthless already: {output.clause(error)}")
        except errors.Offline as error:
            if not is_forced:
                raise CommandError(
                    f"the server could not take the token back: {output.clause(error)}. Nothing was changed. Try again "
                    "when it can be reached, or log out with --forget and revoke the device there",
                    ExitCode.UNFINISHED,
                ) from error
            output.say(
                f"the token stays valid until {profile.device!r} is revoked on the server: {output.clause(error)}"
            )


def _delete(places: config.ProfilePlaces) -> None:
    """Delete the profile's files, the credentials first, but for what was rescued."""
    from cache.durable import sync_path  # here, since commands that answer fast need it not

    places.credentials_file.unlink(missing_ok=True)
    shutil.rmtree(places.cache, ignore_errors=True)
    for entry in list(places.state.iterdir()):
        if entry.name != LOST_AND_FOUND:
            _remove(entry)
    rescued = places.state / LOST_AND_FOUND
    if rescued.is_dir() and any(rescued.iterdir()):
        output.say(f"files that were rescued stay in {rescued}")
    else:
        shutil.rmtree(places.state, ignore_errors=True)
    sync_path(places.state.parent)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        os.unlink(entry)


COMMAND = Command(
    name="logout",
    summary="make this device's token worthless and forget the profile",
    description="Give this device's token back to the server and delete the profile's state and cache. Refused "
    "while the drive is mounted, and while changes wait that the server does not have.",
    examples="  drivefs logout\n  drivefs logout --profile work\n  drivefs logout --profile work --discard",
    add_arguments=add_arguments,
    run=run,
)
