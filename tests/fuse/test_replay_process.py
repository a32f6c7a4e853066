"""The player's process, where the system does not give what it needs."""

import errno
import os
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from drivefs.fuse.replay_process import Lost, PlayerProcess
from drivefs.fuse.replay_stage import NOBODY, Stage
from drivefs.threads import Threads


@pytest.mark.parametrize("name", ["pidfd_open", "dup"])
def test_one_that_cannot_be_talked_to_is_lost_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The mount may have all the files open that it may: that costs events, and not the mount."""
    stage, seen = Stage(cast(Any, None), cast(Any, None)), list[int]()

    def full(*_arguments: object) -> int:
        seen.append(stage.player)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, name, full)
    with pytest.raises(Lost):
        trio.run(PlayerProcess.start, stage, Threads(1), str(tmp_path), 0)
    assert stage.player == NOBODY
    with pytest.raises(ChildProcessError):
        os.waitpid(seen[0], os.WNOHANG)
