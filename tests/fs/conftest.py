"""Fixtures of the file system's tests: a device, checked by the local fsck when the test is over."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.check import check
from tests.fs.bench import FsBench
from tests.simulation.interception import small_sizes


@pytest.fixture(autouse=True)
def small_states() -> Iterator[None]:
    """As in the tests of the cache."""
    with small_sizes():
        yield


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[FsBench]:
    bench = FsBench(tmp_path)
    yield bench
    bench.close()
    assert check(tmp_path / "state", tmp_path / "cache") == []
