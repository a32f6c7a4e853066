"""`drivefs cache`: shows and empties the store of fetched blocks. Never touches what the server does not have."""

import argparse
import os

from drivefs import config
from drivefs.cli import drives, local_state, output
from drivefs.cli.command import Command, add_actions, run_action
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = (
        ("show", show, "how much is in the cache, and its limit"),
        ("clear", clear, "delete all fetched blocks; what waits to be sent is not among them"),
    )
    add_actions(parser, actions, "the drive (default: the profile's)")


def show(arguments: argparse.Namespace) -> int:
    """Show how much is in the cache."""
    drive = _mounted(arguments)
    _print(arguments, drive.call("cache_show") if drive else _at_rest(_places(arguments)))
    return ExitCode.OK


def clear(arguments: argparse.Namespace) -> int:
    """Delete all fetched blocks."""
    import trio

    drive = _mounted(arguments)
    if drive:
        _print(arguments, drive.call("cache_clear", silence_seconds=120.0), is_cleared=True)
        return ExitCode.OK
    places, profile = _places(arguments)
    trio.run(_clear_at_rest, places)
    _print(arguments, _at_rest((places, profile)), is_cleared=True)
    return ExitCode.OK


async def _clear_at_rest(places: config.ProfilePlaces) -> None:
    with local_state.opened(places) as local:
        await local.blocks.clear()


def _mounted(arguments: argparse.Namespace) -> drives.Drive | None:
    try:
        return drives.choose(drives.places(), arguments.mountpoint, arguments.profile)
    except CommandError as error:
        if error.exit_code != ExitCode.NOT_MOUNTED or arguments.mountpoint is not None:
            raise
        return None


def _places(arguments: argparse.Namespace) -> tuple[config.ProfilePlaces, config.Profile]:
    where = drives.places()
    name = drives.profile_name(where, arguments.profile)
    profile = config.read_profiles(where).get(name)
    if profile is None:
        raise config.not_logged_in(name)
    return where.of_profile(name), profile


def _at_rest(of: tuple[config.ProfilePlaces, config.Profile]) -> dict[str, object]:
    """The cache of a drive that is not mounted: what its files take on this disk."""
    places, profile = of
    used = 0
    for directory, _, files in os.walk(places.cache):
        used += sum(os.lstat(os.path.join(directory, file)).st_blocks * 512 for file in files)
    return {"path": str(places.cache), "used_bytes": used, "limit_bytes": profile.cache_limit_bytes}


def _print(arguments: argparse.Namespace, cache: dict[str, object], *, is_cleared: bool = False) -> None:
    if arguments.json:
        output.print_json(cache)
    else:
        output.tell(in_words(cache, is_cleared=is_cleared))


def in_words(cache: dict[str, object], *, is_cleared: bool) -> str:
    """How much is in the cache, or what is left in it once it was cleared: it is more than blocks."""
    used, limit = (output.in_units(int(str(cache[key]))) for key in ("used_bytes", "limit_bytes"))
    if is_cleared:
        return f"cleared: {used} are left of {limit} in {cache['path']}"
    return f"{used} of {limit} in {cache['path']}"


COMMAND = Command(
    name="cache",
    summary="show or clear the fetched blocks",
    description="Show or clear the blocks that were fetched from the server and are kept for reading again. "
    "Clearing costs only fetching again; what the server does not have is not in the cache.",
    examples="  drivefs cache show\n  drivefs cache clear ~/Drive",
    add_arguments=add_arguments,
    run=run_action,
)
