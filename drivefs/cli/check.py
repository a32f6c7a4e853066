"""`drivefs check`: the local fsck of a drive that is not mounted. Shows findings; changes nothing."""

import argparse

from drivefs.cli import drives, output
from drivefs.cli.command import Command, add_json, add_profile
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_profile(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; findings that mean damage make it fail."""
    from cache import check
    from cache.errors import CacheError, StateInUse

    where = drives.places()
    name = drives.profile_name(where, arguments.profile)
    places = drives.with_state(where, name)
    try:
        findings = check.check(places.state, places.cache)
    except StateInUse as error:
        raise CommandError(f"profile {name!r} is mounted: unmount it first") from error
    except CacheError as error:
        raise CommandError(f"the state in {places.state} cannot be checked: {output.clause(error)}") from error
    if arguments.json:
        output.print_json(
            [
                {"severity": each.severity, "what": each.what, "meaning": each.meaning, "advice": each.advice}
                for each in findings
            ]
        )
    else:
        for each in findings:
            print(f"{each.severity}: {each.what}. {each.meaning}. {each.advice}")
        print(f"{places.state}: {output.count_of(len(findings), 'finding') if findings else 'all is well'}")
    return ExitCode.FAILED if findings else ExitCode.OK


COMMAND = Command(
    name="check",
    summary="check this device's journal, staging and cache",
    description="Check every invariant of what a drive keeps on this device: journal, staging, replica and cached "
    "blocks. Changes nothing. The drive must not be mounted.",
    examples="  drivefs check\n  drivefs check --profile work --json",
    add_arguments=add_arguments,
    run=run,
)
