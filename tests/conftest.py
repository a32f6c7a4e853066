"""What all tests share: how Hypothesis runs, when garbage is searched for, and what is cheaper in tests than elsewhere.

Other fixtures live beside the tests that use them. Timing never decides a test: deadlines are off, since a loaded
machine is not a bug.
"""

import gc
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from backend.service import passwords
from tests.support import statements
from tests.support.examples import USUAL


def pytest_configure(config: pytest.Config) -> None:
    """Hypothesis tries the same each time, so that what fails is what was changed; with `--hypothesis-seed` others."""
    settings.register_profile(
        "drivefs",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        print_blob=True,
        derandomize=config.getoption("--hypothesis-seed", None) is None,
        max_examples=USUAL * config.getoption("--examples"),
    )
    settings.load_profile("drivefs")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What was imported stays: the search for garbage need not look through it while tests are found, and later on."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cheap_passwords() -> Iterator[None]:
    """Servers in the tests' own process hash passwords quickly; what guessing one costs is shown on a real server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "TIME_COST", 1)
        patch.setattr(passwords, "MEMORY_KIB", 8 * passwords.PARALLELISM)
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_statements() -> Iterator[None]:
    """Servers in the tests' own process compile each statement once."""
    with statements.shared():
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("drivefs", "long runs of several devices")
    group.addoption("--device-seeds", default="1-2", metavar="N[-M]", help="seeds of the random runs (default: 1-2)")
    group.addoption("--device-operations", type=int, default=25, metavar="N", help="of each device (default: 25)")
    group.addoption("--damage-seeds", default="40", metavar="N[-M]", help="seeds of damaged states (default: 40)")
    group.addoption("--crash-rounds", type=int, default=3, metavar="N", help="kill -9 of the crash loop (default: 3)")
    group.addoption("--crash-seed", type=int, default=1, metavar="S", help="seed of the crash loop (default: 1)")
    group.addoption(
        "--examples", type=int, default=1, metavar="N", help="times the examples of Hypothesis (default: 1)"
    )
    group.addoption("--hostile-requests", default="600", metavar="N[-M]", help="hostile requests (default: 600)")
    group.addoption(
        "--any-calls", type=int, default=0, metavar="N", help="long runs beside ext4 (default: 8 short ones)"
    )
    group.addoption(
        "--described", type=int, default=0, metavar="N", help="random requests of a sort at a route (default: 2, fixed)"
    )
    group.addoption("--long", action="store_true", help="also run the tests of several devices that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of several devices, many minutes of them, run with `--long`, or when their files are named."""
    named = {argument.split("::")[0].rsplit("/", 1)[-1] for argument in config.args}
    if config.getoption("--long"):
        return
    left = [item for item in items if item.get_closest_marker("long") and item.path.name not in named]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in set(left)]
