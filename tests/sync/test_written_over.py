"""A file that was changed here, and written over and then replaced or removed elsewhere: that content stays gone."""

from pathlib import Path

import pytest

from drivefs.fs.attributes import Wanted
from tests.sync.fleet import Device, sailing
from tests.sync.test_conflicts import COPY, Change, save, unlink

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.mark.parametrize(
    ("last", "left"), [(save("f", b"last"), {"f": b"last", f"f{COPY}": b"minere"}), (unlink("f"), {"f": b"minere"})]
)
@pytest.mark.parametrize("attributes", ["none", "before", "behind", "behind the store"])
async def test_what_was_written_over_before_it_went_is_nobodys_copy(
    tmp_path: Path, last: Change, left: dict[str, bytes], attributes: str
) -> None:
    async def change_attributes(device: Device, when: str) -> None:
        if attributes == when:
            inode = (await device.known("f")).inode
            device.fs.set_attributes(inode, Wanted(mode=0o600))
            device.fs.set_xattr(inode, b"user.one", b"1")

    async with sailing(tmp_path, "first", "second") as (fleet, devices):
        await devices[0].write("f", b"before")
        await fleet.settle()
        await change_attributes(devices[1], "before")
        await devices[1].edit("f", b"mine")
        await change_attributes(devices[1], "behind")
        await devices[1].publish()
        await change_attributes(devices[1], "behind the store")
        await devices[0].edit("f", b"between")
        await devices[0].sync()
        await last(devices[0])
        await devices[0].sync()
        assert await fleet.settle() == left
        if attributes != "none":
            copy = await devices[0].known(next(name for name, content in left.items() if content == b"minere"))
            assert (copy.mode & 0o777, copy.xattrs.get(b"user.one")) == (0o600, b"1")
