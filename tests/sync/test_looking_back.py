"""What a device says of the history of a file that took over a name, before it has heard which number its content got.

Owns the moment between a commit and the feed's word of it; what a person sees of histories is in the tests on mounts.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drivefs.control.history import Looking
from tests.sync.fleet import Device, sailing

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


def looking(device: Device) -> Looking:
    """Its commands; what they change is not sent, and they do not wait for that."""
    away: Any = SimpleNamespace(reach=SimpleNamespace(online=False))
    return Looking(device.fs, device.kernel, local=device.local, publications=device.publications, connection=away)


async def told(_progress: object) -> None:
    pass


@pytest.mark.parametrize("has_heard", ["nothing", "the content", "all"])
async def test_a_content_that_took_over_a_name_is_not_taken_for_an_older_one(tmp_path: Path, has_heard: str) -> None:
    """Its number was another before it had the name, and there it means what was first under that."""
    async with sailing(tmp_path, "one") as (_fleet, [device]):
        await device.write("note", b"first")
        await device.sync()
        await device.write("new", b"the second")
        await device.push()
        if has_heard != "nothing":
            await device.pull()
        await device.rename("new", "note")
        await device.push()
        if has_heard == "all":
            await device.pull()
        inode, commands = (await device.known("note")).inode, looking(device)
        first = await device.fs.history.blocks(inode, (await device.fs.history.of(inode))[0].number)
        assert [ref.size_bytes for ref in first] == [len(b"first")]
        compared = await commands.compare({"path": b"note", "old": 1, "new": None}, told)
        assert (compared["old_size"], compared["new_size"]) == (len(b"first"), len(b"the second"))
        assert not (await commands.restore({"path": b"note", "number": 1}, told))["is_same"]
        assert await device.read("note") == b"first"
        await device.sync()
        assert await device.read("note") == b"first"


@pytest.mark.parametrize("other", [Device.edit, Device.save])
async def test_the_base_of_a_conflict_copy_is_what_both_were_made_of(
    tmp_path: Path, other: Callable[[Device, str, bytes], Awaitable[None]]
) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, [first, second]):
        await first.write("note", b"before")
        await fleet.settle()
        await first.write("new", b"what both know")
        await first.push()
        await first.rename("new", "note")
        await first.push()
        await second.sync()
        await other(second, "note", b"THEIRS")
        await second.sync()
        await first.edit("note", b"MINE")
        tree = await fleet.settle()
        (copy,) = tree.keys() - {"note"}
        for device in (first, second):
            assert await device.read(f".drivefs/conflicts/{copy}/base") == b"what both know"
