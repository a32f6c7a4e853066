"""`drivefs check`: the local fsck of a drive that is not mounted. Shows findings; with `--repair` mends them."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from drivefs import config
from drivefs.cli import drives, output
from drivefs.cli.command import Command, add_json, add_profile
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from cache.findings import Finding
    from cache.repair import Repaired

OUTCOMES = {
    ExitCode.OK: "sound",
    ExitCode.FOUND: "found",
    ExitCode.MENDED: "mended",
    ExitCode.UNMENDED: "not mended",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--repair",
        action="store_true",
        help="mend what is wrong: nothing that exists only here is removed, what has no place goes to lost+found",
    )
    add_profile(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; the exit code says whether something was found, mended, or could not be."""
    from cache.check import check
    from cache.errors import CacheError, StateInUse
    from cache.repair import Repaired

    where = drives.places()
    name = drives.profile_name(where, arguments.profile)
    places = drives.with_state(where, name)
    try:
        done = _repair(places) if arguments.repair else Repaired(check(places.state, places.cache), [])
    except StateInUse as error:
        raise CommandError(f"profile {name!r} is mounted: unmount it first") from error
    except CacheError as error:
        verb = "mended" if arguments.repair else "checked"
        raise CommandError(f"the state in {places.state} cannot be {verb}: {output.clause(error)}") from error
    code = _code(done, is_repair=arguments.repair)
    if arguments.json:
        output.print_json(
            {
                "outcome": OUTCOMES[code],
                "findings": [_fields(each) for each in done.found],
                "left": [_fields(each) for each in done.left],
            }
        )
    else:
        _report(done, code, places)
    return code


def _code(done: "Repaired", *, is_repair: bool) -> ExitCode:
    if done.left:
        return ExitCode.UNMENDED
    if done.found:
        return ExitCode.MENDED if is_repair else ExitCode.FOUND
    return ExitCode.OK


def _repair(places: config.ProfilePlaces) -> "Repaired":
    import trio
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from cache.repair import repair

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bars:
        bar = bars.add_task("journal", total=None)

        async def progress(done: int, total: int) -> None:
            bars.update(bar, description="cached blocks", completed=done, total=total)
            await trio.lowlevel.checkpoint()

        async def mend() -> "Repaired":
            return await repair(
                places.state,
                places.cache,
                offload=trio.to_thread.run_sync,
                progress=progress,
            )

        return trio.run(mend)


def _fields(finding: "Finding") -> dict[str, Any]:
    return finding._asdict()


def _report(done: "Repaired", code: ExitCode, places: config.ProfilePlaces) -> None:
    for each in done.found:
        output.tell(_line(each))
    if done.left:
        output.tell("Still wrong:")
        for each in done.left:
            output.tell(_line(each))
    count = output.count_of(len(done.found), "finding")
    sums = {
        ExitCode.OK: "all is well",
        ExitCode.FOUND: count,
        ExitCode.MENDED: f"{count}, mended",
        ExitCode.UNMENDED: f"{count}, {len(done.left)} of them not mended",
    }
    output.tell(f"{places.state}: {sums[code]}")


def _line(finding: "Finding") -> str:
    return f"{finding.severity}: {finding.what}. {finding.meaning}. {finding.advice}."


COMMAND = Command(
    name="check",
    summary="check this device's journal, staging and cache, and mend them",
    description="Check every invariant of what a drive keeps on this device: journal, staging and replica. The drive "
    "must not be mounted. Without --repair nothing is changed. With it, a damaged replica is fetched again, a journal "
    "that SQLite cannot read is made anew of every row that can be read, written bytes and cached blocks are all read "
    "back, and what cannot stay in its place goes to lost+found in the state directory, the journal as it was found "
    "too. It needs no network. Exit code 7: found; 8: found and mended; 9: not mended.",
    examples="  drivefs check\n  drivefs check --repair\n  drivefs check --profile work --json",
    add_arguments=add_arguments,
    run=run,
)
