"""`scripts/simulate`: makes runs of the simulation, many at once or one with its log.

Owns the command line, the processes, and what people are shown. Exit codes: 0, all was right; 1, an invariant was
broken, with the command that makes that run again; 2, the command line makes no sense.
"""

import argparse
import gc
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.simulation.profiles import PROFILES, Profile, sized
from tests.simulation.server import NAMES
from tests.simulation.voyage import Outcome, sail

BATCH = 5
TWICE_EVERY = 20
"""Of so many seeds, one runs twice: both runs must make the same steps."""


def main() -> int:
    """Run what the command line says."""
    arguments = _parser().parse_args()
    if not 0 <= arguments.clients <= len(NAMES):
        print(f"scripts/simulate: there are 1 to {len(NAMES)} clients", file=sys.stderr)
        return 2
    if arguments.seeds is None:
        return _show(arguments)
    return _run_many(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/simulate",
        description="Run devices and their server in virtual time, with faults, and check that nothing is lost and all "
        "come to rest. A seed decides everything: the same seed and options make the same run.",
        epilog="Exit codes: 0, all was right; 1, something was not; 2, wrong usage. Profiles: " + ", ".join(PROFILES),
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="run N seeds, from --seed on, and sum up")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the (first) seed (default: 1)")
    parser.add_argument("--profile", choices=PROFILES, default="mixed", help="which faults come (default: mixed)")
    parser.add_argument("--clients", type=int, default=0, metavar="K", help="how many devices (default: the profile's)")
    parser.add_argument("--operations", type=int, default=0, metavar="N", help="steps of each device's programs")
    parser.add_argument("--jobs", type=int, default=2, metavar="J", help="processes for --seeds (default: 2)")
    parser.add_argument("--requests", action="store_true", help="with one seed: show each reply of the server too")
    return parser


def _profile(arguments: argparse.Namespace) -> Profile:
    return sized(PROFILES[arguments.profile], arguments.clients, arguments.operations)


def _command(arguments: argparse.Namespace, seed: int) -> str:
    """What makes one run again."""
    options = [f"--{name} {getattr(arguments, name)}" for name in ("clients", "operations") if getattr(arguments, name)]
    return " ".join([f"scripts/simulate --seed {seed} --profile {arguments.profile}", *options])


def _show(arguments: argparse.Namespace) -> int:
    """One run, with all that happened."""
    _be_quiet()
    outcome = sail(arguments.seed, _profile(arguments))
    for line in outcome.log:
        if arguments.requests or " reply /" not in line:
            print(line)
    print(_summary(outcome))
    if outcome.failure:
        print(f"seed {arguments.seed}: {outcome.failure}\nagain: {_command(arguments, arguments.seed)}")
    return 1 if outcome.failure else 0


def _summary(outcome: Outcome) -> str:
    return (
        f"{outcome.commits} commits in {outcome.virtual_seconds:.1f} s of virtual time, at rest after another "
        f"{outcome.rest_seconds:.1f}; {outcome.steps} steps, trace {outcome.trace:08x}"
    )


def _run_many(arguments: argparse.Namespace) -> int:
    failures: list[Outcome] = []
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[found]}"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("", total=arguments.seeds, found="nothing found")
        for outcome in _outcomes(arguments):
            if outcome.failure:
                failures.append(outcome)
                print(f"seed {outcome.seed}: {outcome.failure}\nagain: {_command(arguments, outcome.seed)}", flush=True)
            found = f"{len(failures)} found" if failures else "nothing found"
            progress.update(task, advance=1, found=found)
    print(f"{arguments.seeds} seeds of {arguments.profile} from {arguments.seed} on: {len(failures)} found")
    return 1 if failures else 0


def _outcomes(arguments: argparse.Namespace) -> Iterator[Outcome]:
    """The outcomes of all seeds, as they come."""
    last, profile = arguments.seed + arguments.seeds, _profile(arguments)
    batches = [range(first, min(first + BATCH, last)) for first in range(arguments.seed, last, BATCH)]
    with ProcessPoolExecutor(arguments.jobs, initializer=_be_quiet) as pool:
        for done in as_completed([pool.submit(run_batch, batch, profile) for batch in batches]):
            yield from done.result()


def _be_quiet() -> None:
    """What parts log about faults that were ordered is no news."""
    logging.disable(logging.CRITICAL)


def run_batch(seeds: range, profile: Profile) -> list[Outcome]:
    """Run some seeds one after the other; the logs stay behind."""
    # Garbage is collected once for all: after each of them it took a tenth of the time.
    gc.disable()
    try:
        return [_run(seed, profile) for seed in seeds]
    finally:
        gc.enable()
        gc.collect()


def _run(seed: int, profile: Profile) -> Outcome:
    outcome = sail(seed, profile)
    if not outcome.failure and seed % TWICE_EVERY == 0:
        again = sail(seed, profile)
        if (again.trace, again.steps) != (outcome.trace, outcome.steps):
            outcome.failure = f"two runs made different steps: traces {outcome.trace:08x} and {again.trace:08x}"
    outcome.log = []
    return outcome


if __name__ == "__main__":
    sys.exit(main())
