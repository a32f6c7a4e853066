"""Runs of the simulation: seeds that must go well, and that a seed is all that a run depends on."""

import pytest

from tests.simulation.profiles import PROFILES
from tests.simulation.voyage import sail


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_lost_and_all_come_to_rest(seed: int) -> None:
    outcome = sail(seed, PROFILES["quiet"])
    assert not outcome.failure, "\n".join([*outcome.log, outcome.failure])


def test_one_seed_makes_the_same_steps_each_time() -> None:
    first, second = (sail(3, PROFILES["quiet"]) for _ in range(2))
    assert first.log == second.log
    assert (first.trace, first.steps) == (second.trace, second.steps)
