"""Runs of the simulation: seeds that must go well, and that a seed is all that a run depends on."""

import logging

import pytest

from tests.simulation.__main__ import run_batch
from tests.simulation.corpus import CORPUS, Case
from tests.simulation.profiles import PROFILES, sized
from tests.simulation.voyage import sail

SEEDS_TOGETHER = 5
PARTS = {
    "quiet": 3,
    "network": 9,
    "crashes": 9,
    "server": 8,
    "disk": 5,
    "mixed": 12,
    "rollbacks": 3,
    "cache": 3,
    "history": 1,
    "passes": 1,
    "rules": 1,
    "shares": 1,
    "sizes": 1,
    "asides": 1,
    "tools": 1,
    "turns": 1,
    "alone": 3,
    "quotas": 1,
    "restores": 1,
}
"""How many times so many seeds are run of each profile."""


@pytest.fixture(autouse=True)
def _no_log_of_faults() -> None:
    """What parts log about faults that were ordered is no news, and there is much of it."""
    logging.getLogger().setLevel(logging.CRITICAL)


@pytest.mark.parametrize(("profile", "part"), [(name, part) for name in PARTS for part in range(PARTS[name])])
def test_nothing_is_lost_and_all_come_to_rest(profile: str, part: int) -> None:
    first = 1 + part * SEEDS_TOGETHER
    outcomes = run_batch(range(first, first + SEEDS_TOGETHER), PROFILES[profile])
    failed = [f"scripts/simulate --profile {profile} --seed {each.seed}: {each.failure}" for each in outcomes]
    assert not any(each.failure for each in outcomes), "\n".join(failed)


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_what_once_went_wrong_does_not_again(case: Case) -> None:
    outcome = sail(case.seed, sized(PROFILES[case.profile], case.clients, case.operations))
    assert not outcome.failure, "\n".join([*outcome.log, outcome.failure])


@pytest.mark.long
def test_a_day_with_a_network_that_comes_and_goes_ends_in_rest() -> None:
    outcome = sail(1, PROFILES["day"])
    assert not outcome.failure, "\n".join([*outcome.log, outcome.failure])
    assert outcome.virtual_seconds > 20 * 3600


def test_one_seed_makes_the_same_steps_each_time() -> None:
    first, second = (sail(3, PROFILES["mixed"]) for _ in range(2))
    assert first.log == second.log
    assert (first.trace, first.steps) == (second.trace, second.steps)
