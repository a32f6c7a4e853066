"""Fixtures of the cache's tests."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from cache.workspace import LocalState
from tests.cache.states import Bench
from tests.simulation.interception import small_sizes

ABOUT_SIZES = {"barrier", "lost_log", "redo", "redo_synced", "reserved_log", "workspace"}
"""The tests of these look at what is filled, set aside and copied, and when."""


@pytest.fixture(autouse=True)
def small_states(request: pytest.FixtureRequest) -> Iterator[None]:
    """A state fills 18 MiB and syncs them before it begins, and looks through all of its log after a crash."""
    with nullcontext() if request.path.stem.removeprefix("test_") in ABOUT_SIZES else small_sizes():
        yield


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A place for local states; all that a test leaves open are closed."""
    bench = Bench(tmp_path)
    yield bench
    bench.close_all()


@pytest.fixture
def local(bench: Bench) -> LocalState:
    """An open, empty state."""
    return bench.open()
