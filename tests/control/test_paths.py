"""What commands make of the paths that they are given."""

from pathlib import Path

import pytest
import trio

from drivefs.control.errors import Refused
from drivefs.control.paths import inode_at
from tests.sync.fleet import sailing


def test_a_path_leads_to_what_is_in_the_drive_and_not_to_what_only_shows_it(tmp_path: Path) -> None:
    async def look() -> None:
        async with sailing(tmp_path, "one") as (_, (device,)):
            await device.mkdir("x")
            assert await inode_at(device.fs, b"x") == (await device.known("x")).inode
            assert await inode_at(device.fs, b"") == device.fs.root
            with pytest.raises(Refused, match=r"there is no y in the drive\. drivefs trash list"):
                await inode_at(device.fs, b"y")
            for path in (b".drivefs", b".drivefs/at", b".drivefs/revisions"):
                with pytest.raises(Refused, match="only shows what is in the drive elsewhere"):
                    await inode_at(device.fs, path)

    trio.run(look)
