"""Random operations on three devices at once, with cuts and crashes: everything arrives, nothing is lost.

Owns which runs are made: a short one, and as many long ones as `--device-seeds` and `--device-operations` ask for.
"""

from pathlib import Path

import pytest

from tests.mount.conftest import mount_options
from tests.mount.device_runs import Plan, run
from tests.support.mounts import Workbench


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    first, _, last = metafunc.config.getoption("--device-seeds").partition("-")
    metafunc.parametrize("seed", range(int(first), int(last or first) + 1))


def test_nothing_is_lost_and_all_devices_show_one_tree(
    workbench: Workbench, tmp_path: Path, seed: int, request: pytest.FixtureRequest
) -> None:
    """[devices-converge]"""
    operations = request.config.getoption("--device-operations")
    plan = Plan(seed=seed, operations=operations, options=tuple(mount_options()))
    complaints = run(workbench, plan, tmp_path / "trace")
    assert not complaints, "\n\n".join([f"seed {seed}; the whole trace: {tmp_path / 'trace'}", *complaints[:20]])
