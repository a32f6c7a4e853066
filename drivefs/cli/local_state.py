"""Opens the state of a profile that is not mounted, for commands that look into it or change it.

Owns the real clock, randomness and threads of those commands, and what to say when the state cannot be opened.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from drivefs import config
from drivefs.cli import output
from drivefs.cli.errors import CommandError

if TYPE_CHECKING:
    from cache.workspace import LocalState


@contextmanager
def opened(places: config.ProfilePlaces, cache_limit_bytes: int = config.DEFAULT_CACHE_BYTES) -> "Iterator[LocalState]":
    """The local state, locked while the `with` lasts; within a trio run, since syncing takes threads.

    Raises:
        CommandError: a mount has it, a newer drivefs wrote it, or it is damaged.
    """
    import trio

    from cache.errors import CacheError, StateInUse
    from cache.workspace import LocalState

    try:
        with LocalState(
            places.state,
            places.cache,
            offload=trio.to_thread.run_sync,
            cache_limit_bytes=cache_limit_bytes,
        ) as local:
            yield local
    except StateInUse as error:
        raise CommandError(f"{places.state} is in use by a mount: unmount it first") from error
    except CacheError as error:
        raise CommandError(f"the state in {places.state} cannot be used: {output.clause(error)}") from error
