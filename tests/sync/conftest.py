"""Fixtures of the tests of synchronising."""

from collections.abc import Iterator

import pytest

from tests.simulation.interception import small_sizes


@pytest.fixture(autouse=True)
def small_states() -> Iterator[None]:
    """As in the tests of the cache: of what a test with two devices waited for, filling the two was most."""
    with small_sizes():
        yield
