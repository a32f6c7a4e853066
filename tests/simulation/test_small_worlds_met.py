"""All histories of two changes, by one device or by two that meet then, with a crash wherever one can be: many minutes.

What is compared: every crash of a device's process, of its power, and of the server leads to what the same history
leads to without it, or without those last changes that a power cut may take.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation import worlds
from tests.simulation.histories import SENT, Histories, Order, Start, first, memory, try_all

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """A directory in memory, where there is one."""
    with memory() as place:
        yield place


@pytest.fixture(scope="module")
def start(base: Path) -> Start:
    """The first world, made once."""
    return first(base)


@pytest.mark.parametrize("kind", SENT)
def test_what_two_devices_did_ends_the_same_whatever_crashes(start: Start, base: Path, kind: str) -> None:
    orders = (worlds.DEVICES, worlds.DEVICES[::-1])
    histories: list[tuple[Histories, Order]] = [
        ({"anna": (kind,), "bert": (other,)}, order) for other in SENT for order in orders
    ]
    try_all(start, base / f"both-{kind}", histories)


@pytest.mark.parametrize("kind", SENT)
def test_what_one_device_did_in_two_steps_arrives_whatever_crashes(start: Start, base: Path, kind: str) -> None:
    try_all(start, base / f"steps-{kind}", [({"anna": (kind, other)}, worlds.DEVICES) for other in SENT])
