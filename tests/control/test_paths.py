"""What commands make of the paths that they are given."""

from pathlib import Path

import pytest
import trio

from drivefs.control.errors import Refused
from drivefs.control.paths import inode_at, sent_inode_at
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


def test_what_is_ignored_is_refused_at_once_where_only_the_server_could_say_something(tmp_path: Path) -> None:
    """It is never sent: whoever waited for that would wait for a minute, and hear that it is to be tried again."""

    async def look() -> None:
        async with sailing(tmp_path, "one") as (_, (device,)):
            await device.write(".drivefsignore", b"*.ignored")
            for name in ("x", "x.ignored"):
                await device.write(name, b"content")
            assert await sent_inode_at(device.fs, b"x") == (await device.known("x")).inode
            with pytest.raises(Refused, match="ignored: it is on this device only"):
                await sent_inode_at(device.fs, b"x.ignored")

    trio.run(look)
