"""Devices whose server was put back to an older state: what they know that it has lost comes back, once.

Time stands still, and each device sends and hears when the test says so: every order of the two is tried on purpose.
"""

from pathlib import Path

import pytest
import trio

from drivefs.remote.errors import Offline
from tests.sync.fleet import Device, Fleet, sailing

pytestmark = pytest.mark.fault(40)


async def furnished(fleet: Fleet, device: Device) -> Path:
    """A drive that all know, and its server as it was then."""
    await device.mkdir("kept")
    await device.write("kept/file", b"first")
    await device.write("changed", b"before")
    await fleet.settle()
    return fleet.save()


async def send(device: Device) -> None:
    """Commit all that waits, and hear nothing of it by the feed."""
    while await device.push():
        pass
    assert not device.local.journal.pending_count


@pytest.mark.parametrize("hears", [False, True])
@pytest.mark.parametrize("sends_first", [False, True])
def test_acknowledged_contents_that_were_lost_come_back(tmp_path: Path, hears: bool, sends_first: bool) -> None:
    """Whether or not the feed had brought them, and whether a commit or a poll comes first afterwards."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, bert)):
            saved = await furnished(fleet, anna)
            await anna.write("changed", b"acknowledged, and then lost")
            await anna.write("kept/file", b"x" * 200_000)
            await send(anna)
            await anna.write("changed", b"acknowledged twice, and then lost")
            await send(anna)
            if hears:
                await anna.pull()
            await anna.write("new", b"written meanwhile")
            fleet.put_back(saved)
            if sends_first:
                assert not await anna.push()
                assert anna.refused_count == 1
            tree = await fleet.settle()
            assert tree == {
                "kept": None,
                "kept/file": b"x" * 200_000,
                "changed": b"acknowledged twice, and then lost",
                "new": b"written meanwhile",
            }
            assert anna.begun_again
            assert not bert.begun_again

    trio.run(main)


def test_a_commit_on_the_way_when_the_server_is_put_back_is_made_once(tmp_path: Path) -> None:
    """Its answer is lost, and so is what it did."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, _bert)):
            saved = await furnished(fleet, anna)
            await anna.write("changed", b"acknowledged")
            await send(anna)
            await anna.write("changed", b"sent")
            await anna.write("new", b"sent too")
            await anna.publish()
            anna.line.drops_replies = 100
            with pytest.raises(Offline):
                await anna.push()
            anna.line.drops_replies = 0
            fleet.put_back(saved)
            tree = await fleet.settle()
            assert tree == {"kept": None, "kept/file": b"first", "changed": b"sent", "new": b"sent too"}

    trio.run(main)
