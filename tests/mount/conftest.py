"""Fixtures of the tests on a real mount: the shared drive, the oracle beside it, and workbenches of one test.

Owns when servers and mounts start and end, and what is shown of them when a test fails. The shared drive is drained and
both checks are run on it at the end of the session, so that whatever a test left wrong is found.
"""

import os
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import argon2
import pytest

from tests.mount.oracle import Pair
from tests.support.mounts import PASSWORD, Device, Server, Watchdog, Workbench

TEST_SECONDS = 240.0
"""After this long the mounts of a test are killed: it hangs."""

WORKBENCHES = pytest.StashKey[list[Workbench]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs_root: acts as other users, or makes what only root can make")
    config.stash[WORKBENCHES] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without root nobody can act as another user: those tests are left out, and the report counts them."""
    if os.geteuid() == 0:
        return
    left_out = [item for item in items if item.get_closest_marker("needs_root")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("needs_root")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for workbench in item.config.stash[WORKBENCHES]:
            report.sections.extend((f"log of {name}", text) for name, text in workbench.logs())
    return report


@pytest.fixture(scope="session")
def watchdog() -> Iterator[Watchdog]:
    watching = Watchdog(TEST_SECONDS)
    yield watching
    watching.close()


@pytest.fixture(scope="session")
def server_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every server begins with: one user, ada, whose password is checked quickly: devices log in all the time."""
    home = tmp_path_factory.mktemp("server") / "home"
    server = Server(home)
    server.add_user("ada")
    kibibytes = 8
    quick = argon2.PasswordHasher(time_cost=1, memory_cost=kibibytes, parallelism=1).hash(PASSWORD)
    with closing(sqlite3.connect(server.data / "metadata.db")) as database, database:
        database.execute("UPDATE users SET password_hash = ?", (quick,))
    return home


def opened(config: pytest.Config, watchdog: Watchdog, server_home: Path) -> Iterator[Workbench]:
    workbench = Workbench(watchdog, server_home)
    config.stash[WORKBENCHES].append(workbench)
    yield workbench
    config.stash[WORKBENCHES].remove(workbench)
    workbench.close()


def mounted(config: pytest.Config, watchdog: Watchdog, server_home: Path, count: int) -> Iterator[tuple[Device, ...]]:
    """Devices with one drive, all mounted; in the end they are in order, and so is the server."""
    for workbench in opened(config, watchdog, server_home):
        server = workbench.server()
        devices = tuple(workbench.device(server) for _ in range(count))
        for device in devices:
            device.mount(*mount_options())
        yield devices
        for device in devices:
            device.umount()
            device.assert_sound()
        server.assert_sound()


@pytest.fixture(scope="session")
def shared_workbench(pytestconfig: pytest.Config, watchdog: Watchdog, server_home: Path) -> Iterator[Workbench]:
    yield from opened(pytestconfig, watchdog, server_home)


@pytest.fixture
def workbench(pytestconfig: pytest.Config, watchdog: Watchdog, server_home: Path) -> Iterator[Workbench]:
    """For one test that starts, breaks and ends its own servers and mounts."""
    yield from opened(pytestconfig, watchdog, server_home)


@pytest.fixture(scope="session")
def shared_device(shared_workbench: Workbench) -> Iterator[Device]:
    """The one mount that most tests share, each in a directory of its own."""
    server = shared_workbench.server()
    device = shared_workbench.device(server)
    # Tests remove what they made, thousands of files at times: nobody is there to be asked about that.
    device.configure("mass_deletion_guard = false")
    device.mount(*mount_options())
    yield device
    device.umount()
    device.assert_sound()
    server.assert_sound()


def mount_options() -> list[str]:
    """Other users are let in where that is root's to decide."""
    return ["-o", "allow_other"] if os.geteuid() == 0 else []


@pytest.fixture(autouse=True)
def guarded(watchdog: Watchdog) -> Iterator[None]:
    """Each test has the watchdog's seconds for itself."""
    watchdog.restart()
    yield
    watchdog.rest()


@pytest.fixture
def both(shared_device: Device, shared_workbench: Workbench, request: pytest.FixtureRequest) -> Pair:
    """An empty directory on the drive and one on a plain file system, open to all users."""
    name = f"{request.path.stem}-{request.node.name}"[:200].replace("/", "_")
    pair = Pair(shared_device.mountpoint / name, shared_workbench.directory(name))
    pair.drive.mkdir()
    for root in (pair.drive, pair.oracle):
        root.chmod(0o777)
    return pair
