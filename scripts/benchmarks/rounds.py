"""Runs the workloads: each round visits all targets, in turning order, so that a slow minute hits them all alike.

Owns the order, clean-up and what happens when something fails (it is reported; the others go on).
"""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import databases, large_file, mounting, small_files, trees
from benchmarks.processes import BenchmarkError
from benchmarks.settings import HEAVY, Settings
from benchmarks.targets import Target
from benchmarks.workloads import Figures, Round, Stopwatch, Work

WORKLOADS: dict[str, Callable[[Work], Figures]] = {
    "small": small_files.small_files,
    "large": large_file.large_file,
    "tree": trees.tree,
    "git": trees.git,
    "sqlite": databases.sqlite,
    "many": small_files.many_files,
    "huge": large_file.huge_file,
    "mount": mounting.mounting,
}
EXPECTED_FAILURES = (OSError, BenchmarkError, subprocess.SubprocessError, sqlite3.Error)


@dataclass(slots=True)
class Results:
    """All figures: row → target → one value per round; and what could not be measured: (target, reason)."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def add(self, target: str, figures: Figures) -> None:
        for row, value in figures.items():
            self.values.setdefault(row, {}).setdefault(target, []).append(value)


Say = Callable[[str], None]


def measure(targets: list[Target], settings: Settings, scratch: Path, say: Say) -> Results:
    """Starts all targets, runs all rounds, stops what was started."""
    results = Results()
    with ExitStack() as stack:
        running = start_all(targets, stack, results, say)
        for number in range(settings.rounds):
            round_ = Round(number=number, settings=settings, scratch=scratch)
            for name in (name for name in WORKLOADS if name in settings.workloads):
                if name in HEAVY and number:
                    continue
                turned = running[number % len(running) :] + running[: number % len(running)] if running else []
                for target in turned:
                    say(f"round {number + 1} of {settings.rounds}: {name} on {target.name}")
                    measure_one(name, target, round_, results, say)
    return results


def start_all(targets: list[Target], stack: ExitStack, results: Results, say: Say) -> list[Target]:
    running = []
    for target in targets:
        say(f"starting {target.name}")
        stack.callback(target.stop)
        try:
            target.start()
        except EXPECTED_FAILURES as error:
            note_failure(results, say, target, f"could not be set up: {error}")
        else:
            running.append(target)
    return running


def measure_one(name: str, target: Target, round_: Round, results: Results, say: Say) -> None:
    place = target.directory / f"{name}-{round_.number}"
    watch = Stopwatch()
    os.sync()  # What the one before left dirty is not this one's burden.
    try:
        place.mkdir()
        figures = WORKLOADS[name](Work(target=target, place=place, round=round_))
        results.add(target.name, figures)
        target.wait_synced()
        shutil.rmtree(place, ignore_errors=True)
        target.wait_synced()
    except EXPECTED_FAILURES as error:
        note_failure(results, say, target, f"{name}: {type(error).__name__}: {error}")
    else:
        say(f"    {watch.seconds:.1f} s in all")


def note_failure(results: Results, say: Say, target: Target, reason: str) -> None:
    results.failures.append((target.name, reason))
    say(f"    failed: {target.name}: {reason}")
