"""What the workloads of `scripts/bench devices` are given: the sizes of the run, and two devices that see one drive."""

import random
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.drives import Device, Server
from benchmarks.settings import work_directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run."""

    rounds: int = 3
    workloads: tuple[str, ...] = ()
    directory: Path = field(default_factory=work_directory)
    sample_count: int = 20
    """How often each kind of change is watched in a round, idle and busy each."""
    tree_file_count: int = 2450
    feed_seconds: float = 8.0
    feed_rate: int = 1000
    reconnect_count: int = 10_000
    json: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One workload in one round, on two mounted devices that see the same drive. `place` is a name free on both."""

    server: Server
    here: Device
    there: Device
    place: str
    scratch: Path
    chance: random.Random
    settings: Settings
