"""Devices that change one tree at random, sending and hearing when chance says so, with changes coming while requests
are on their way: in the end all show the same tree, every content that was ever closed survives somewhere, unless
someone who had seen it removed or replaced it, and at no time anything is shown that nobody wrote.

What these found is shown by tests of its own in `test_before_sent`.
"""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.sync.voyage import voyage


def sail(place: Path, seed: int, names: list[str], steps: int) -> None:
    """In virtual time, which passes when nobody has anything to do."""
    trio.run(voyage, place, seed, names, steps, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("seed", range(4))
def test_one_device_sends_what_it_shows_and_never_gives_anything_up(tmp_path: Path, seed: int) -> None:
    sail(tmp_path, seed, ["anna"], 150)


@pytest.mark.parametrize("seed", range(4))
def test_two_devices_converge_and_lose_nothing(tmp_path: Path, seed: int) -> None:
    sail(tmp_path, seed, ["anna", "bert"], 150)


@pytest.mark.parametrize("seed", range(4))
def test_three_devices_converge_and_lose_nothing(tmp_path: Path, seed: int) -> None:
    sail(tmp_path, 1000 + seed, ["anna", "bert", "carl"], 200)
