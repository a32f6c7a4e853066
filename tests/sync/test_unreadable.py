"""The system does not give a content that is here: that keeps back this file, and nothing else of the device."""

import errno
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from cache.staging import StagedRange
from drivefs.protocol.ids import InodeId
from drivefs.sync import publisher
from drivefs.sync.uploader import SMALL_BYTES
from tests.sync.fleet import Device, sailing
from tests.sync.test_lost_bases import publish, stored

NO_DESCRIPTORS = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Files:
    """Some staging files of a device cannot be opened."""

    def __init__(self, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
        self._records = device.local.journal.drafts.records
        self._closed: dict[int, Exception] = {}
        staging = device.local.staging
        for name in ("load", "load_into"):
            monkeypatch.setattr(staging, name, self._unless_closed(getattr(staging, name)))

    def close(self, inode: InodeId, error: Exception) -> None:
        self._closed = {each.staged.file: error for each in self._records(inode) if each.staged is not None}
        assert self._closed

    def open(self) -> None:
        self._closed.clear()

    def _unless_closed(self, read: Any) -> Any:
        def reading(staged: StagedRange, *rest: Any) -> Any:
            if staged.file in self._closed:
                raise self._closed[staged.file]
            return read(staged, *rest)

        return reading


@pytest.mark.parametrize("error", [NO_DESCRIPTORS, MemoryError()])
@pytest.mark.parametrize("size", [SMALL_BYTES - 1, SMALL_BYTES + 1])
def test_a_file_that_cannot_be_read_now_waits_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, error: Exception
) -> None:
    monkeypatch.setattr(publisher, "UNREADABLE_SECONDS", 0.0)

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (_, (anna, _bert)):
            for name in ("one", "other", "third"):
                await anna.write(name, Random(name).randbytes(size))
            inode, files = (await anna.known("other")).inode, Files(anna, monkeypatch)
            files.close(inode, error)
            await publish(anna)
            found = stored(anna)
            assert found.pop(inode) is False
            assert list(found.values()) == [True, True]
            assert "cannot be read now" in anna.publisher.kept_back[inode]
            assert anna.publications.is_on_its_way(inode)
            files.open()
            await publish(anna)
            assert stored(anna)[inode]
            assert anna.publisher.kept_back == {}

    trio.run(main)
