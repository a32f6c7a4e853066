"""A disk that is full when a state is opened on it."""

import random
from pathlib import Path

import pytest

from cache.errors import DiskFull
from cache.workspace import LocalState
from tests.cache.states import FIRST_ID, content_of, create
from tests.cache.test_barrier import BIG
from tests.simulation.disk import NOTHING, PAGE_BYTES, SimDisk
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


def test_what_has_to_go_to_lost_and_found_waits_for_room(tmp_path: Path) -> None:
    disk = SimDisk(tmp_path / "disk", random.Random(1))
    with watching(disk), small_sizes():
        local = opened(disk)
        local.journal.add_id_range(FIRST_ID)
        inode, _ = create(local.journal, b"file", content=b"first ")
        files = []
        for number in range(2):
            with local.journal.transaction():
                staged = local.staging.append(inode, BIG)
                local.journal.drafts.add_record(inode, 6 + number * len(BIG), BIG, staged)
            local.staging.roll(inode)
            files.append(f"{staged.file:016x}")
        disk.crash(lambda change: NOTHING if change.path.endswith(files[0]) else PAGE_BYTES)
        local.close()
        disk.room_bytes = len(BIG) // 2
        with pytest.raises(DiskFull, match="Free some space"):
            opened(disk)
        disk.room_bytes = None
        local = opened(disk)
        assert content_of(local, inode) == b"first "
        (kept,) = local.lost.directory.glob("inode-*")
        assert kept.read_bytes().lstrip(b"\0") == BIG
        local.close()
