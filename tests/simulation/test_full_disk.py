"""A disk that is full when a state is opened on it."""

import random
from pathlib import Path

from cache.workspace import LocalState
from tests.cache.states import FIRST_ID, create
from tests.simulation.disk import SimDisk
from tests.simulation.interception import small_sizes, watching
from tests.sync.fleet import at_once


def opened(disk: SimDisk) -> LocalState:
    root = disk.root
    with disk.booted():
        return LocalState(root / "state", root / "cache", offload=at_once, cache_limit_bytes=2**20)


def test_a_state_with_changes_that_wait_is_opened_on_a_full_disk(tmp_path: Path) -> None:
    disk = SimDisk(tmp_path / "disk", random.Random(1))
    with watching(disk), small_sizes():
        local = opened(disk)
        local.journal.add_id_range(FIRST_ID)
        for number in range(40):
            create(local.journal, b"%d" % number)
        disk.kill()
        local.close()
        disk.room_bytes = 0
        local = opened(disk)
        assert local.journal.pending_count == 40
        local.close()
