"""What people are told of a drive, whatever else is wrong with it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from cache.errors import ReplicaCorrupt
from cache.workspace import LocalState
from drivefs.sync.status import Meter, Reporter


def test_what_is_pending_is_told_though_the_replica_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged() -> int:
        raise ReplicaCorrupt("replica.db is damaged")

    connection: Any = SimpleNamespace(reach=SimpleNamespace(online=False, since_ns=0, reason=""))
    offload: Any = trio.to_thread.run_sync
    with LocalState(tmp_path / "state", tmp_path / "cache", offload=offload, cache_limit_bytes=2**20) as local:
        monkeypatch.setattr(local.replica, "incomplete_count", damaged)
        status = Reporter(local, connection, sent=Meter(lambda: 0), received=Meter(lambda: 0)).status()
    assert (status.pending_mutations, status.unlisted_directories) == (0, 0)
