"""Fixtures of the cache's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.workspace import LocalState
from tests.cache.states import Bench


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
