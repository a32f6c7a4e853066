"""A device whose disk is full at the worst moment: when it is about to note what the backend has answered."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import trio

from cache.errors import DiskFull
from drivefs.sync import seen
from tests.sync.fleet import Device, sailing


async def push_without_room(device: Device) -> None:
    """The backend answers, and the transaction that is to note it fails at its end."""

    def fail(*_: Any) -> None:
        raise DiskFull("no room")

    with mock.patch.object(seen, "answered", fail), pytest.raises(DiskFull):
        await device.push()


@pytest.mark.fault(14)
@pytest.mark.parametrize("size", [5, 300_000])
def test_what_was_sent_and_could_not_be_noted_is_published_later(tmp_path: Path, size: int) -> None:
    async def main() -> None:
        async with sailing(tmp_path, "anna") as (fleet, (anna,)):
            await anna.write("file", bytes(size))
            with mock.patch.object(anna.local.journal, "append", side_effect=DiskFull("no room")):
                await anna.publish()
            assert anna.publications.on_their_way == set()
            assert await fleet.settle() == {"file": bytes(size)}

    trio.run(main)


@pytest.mark.fault(14)
def test_an_answer_that_could_not_be_noted_is_heard_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, _bert)):
            await anna.write("file", b"first")
            await fleet.settle()
            await anna.write("file", b"second, and longer")
            waiting = anna.fs.quota.pending_bytes
            await push_without_room(anna)
            assert anna.fs.quota.pending_bytes == waiting
            assert await anna.content((await anna.known("file")).inode) == b"second, and longer"
            await anna.edit("file", b"THIRD")
            await push_without_room(anna)
            tree = await fleet.settle()
            assert tree == {"file": b"THIRDd, and longer"}
            assert anna.fs.quota.pending_bytes == 0

    trio.run(main)
