"""Asking the server about an account from a command, mounted or not.

Owns the way to it, and what its refusals are to a person; knows no question.
"""

import argparse
import os
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from drivefs import config
from drivefs.cli import drives, output
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from drivefs.remote.client import Remote

T = TypeVar("T")


def profile(arguments: argparse.Namespace) -> tuple[config.Profile, config.Credentials]:
    """The profile that a command means, with its credentials."""
    where = drives.places()
    name = drives.profile_name(where, arguments.profile)
    credentials = config.read_credentials(where.of_profile(name), name)
    known = config.read_profiles(where).get(name)
    if known is None:
        raise config.NotLoggedIn(f"{where.config_file} has no profile {name!r}: log in again with drivefs login")
    return known, credentials


def operation() -> bytes:
    """A name for one request that has something done, and for all its repetitions."""
    from drivefs.protocol.messages import OPERATION_BYTES

    return os.urandom(OPERATION_BYTES)


def ask(profile: config.Profile, credentials: config.Credentials, question: Callable[["Remote"], Awaitable[T]]) -> T:
    """Ask the server one thing.

    Raises:
        CommandError: it refuses, or cannot be reached.
    """
    import trio

    from drivefs.remote import errors, transport
    from drivefs.remote.client import Remote

    async def put() -> T:
        async with transport.open_client(profile.url) as client:
            remote = Remote(
                profile.url,
                credentials.token,
                client=client,
                jitter=random.random,
                allow_insecure=profile.allow_insecure_http,
            )
            return await question(remote)

    try:
        return trio.run(put)
    except errors.Refused as error:
        raise CommandError(f"{profile.url} refuses: {output.clause(error)}", ExitCode.REFUSED) from error
    except errors.Offline as error:
        raise CommandError(
            f"{output.clause(error)}. Only the server knows this: try again when it can be reached",
            ExitCode.UNFINISHED,
        ) from error
