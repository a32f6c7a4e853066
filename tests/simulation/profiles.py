"""What a run is like: how many devices, how much they do, and which faults come how often."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """See the module."""

    clients: int = 2
    operations: int = 25
    """How many things the programs of each device do."""
    pause_seconds: float = 0.7
    """How long they wait between them, on average."""


PROFILES = {"quiet": Profile()}
