"""What a run is like: how many devices, how much they do, and which faults come how often."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """See the module."""

    clients: int = 2
    operations: int = 20
    """How many things the programs of each device do."""
    business: float = 0.5
    """How many of them follow the one before at once."""
    pause_seconds: float = 1.0
    """How long they wait before the others, on average."""


PROFILES = {"quiet": Profile()}
