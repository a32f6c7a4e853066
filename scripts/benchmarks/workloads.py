"""The workloads by name, and what each is given. Each lives in a module of its own kind.

Invariant: a workload works below its place only, leaves clean-up to its caller, and times only what its rows say.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.settings import MEBIBYTE, Settings
from benchmarks.targets import Target

Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Round:
    """What all targets share in one round: the same fresh contents, so that no backend knows them from the last."""

    number: int
    settings: Settings
    scratch: Path

    def random(self, purpose: str) -> random.Random:
        return random.Random(f"{purpose} {self.number}")

    @cached_property
    def large_pieces(self) -> list[bytes]:
        """The large file: incompressible pieces of 1 MiB, made before anything is timed."""
        source = self.random("large")
        return [source.randbytes(MEBIBYTE) for _ in range(self.settings.large_bytes // MEBIBYTE)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One workload on one target in one round. `place` is an empty directory on the target."""

    target: Target
    place: Path
    round: Round

    @property
    def settings(self) -> Settings:
        return self.round.settings


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.begin


def timed(action: Callable[[], object]) -> float:
    """Seconds that it took."""
    watch = Stopwatch()
    action()
    return watch.seconds
