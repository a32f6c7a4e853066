"""What an export says of changes that wait: each by the path that it had."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from drivefs.sync.export import LIST_NAME, Exporter
from tests.sync.fleet import sailing

DIRECTORY, INSIDE, FILE = "gone", "gone/inner", "gone/inner/file"


async def silent(_file_count: int, _size_bytes: int) -> None:
    pass


def unlinked(target: Path) -> list[str]:
    listed: dict[str, Any] = json.loads((target / LIST_NAME).read_text())
    return [each["path"] for each in listed["changes"] if each["kind"] == "unlink"]


@pytest.mark.parametrize("has_heard", [False, True])
def test_what_was_removed_is_named_whether_or_not_its_creation_has_come_back(tmp_path: Path, has_heard: bool) -> None:
    target = tmp_path / "target"
    target.mkdir()
    trio.run(_remove_and_export, tmp_path, target, has_heard)


async def _remove_and_export(place: Path, target: Path, has_heard: bool) -> None:
    async with sailing(place, "one") as (_fleet, [device]):
        await device.mkdir(DIRECTORY)
        await device.mkdir("was")
        await device.rename("was", INSIDE)
        await device.write(FILE, b"content")
        await device.push()
        if has_heard:
            await device.pull()
        await device.unlink(FILE)
        await device.rmdir(INSIDE)
        await device.rmdir(DIRECTORY)
        await Exporter(device.local, device.root, target, place / "nothing rescued").run(silent)
        assert unlinked(target) == [FILE, INSIDE, DIRECTORY]
        await device.sync()


def test_what_cannot_be_read_in_lost_and_found_is_named_and_the_rest_copied(tmp_path: Path) -> None:
    async def main() -> None:
        async with sailing(tmp_path, "one") as (_fleet, [device]):
            rescued, target = tmp_path / "rescued", tmp_path / "target"
            for made in (rescued, target):
                made.mkdir()
            (rescued / "file").write_bytes(b"kept")
            os.mkfifo(rescued / "pipe")
            await device.write("waits", b"content")
            done = await Exporter(device.local, device.root, target, rescued).run(silent)
            assert (done.file_count, done.missing_count) == (1, 1)
            assert (target / "lost+found/file").read_bytes() == b"kept"
            listed = json.loads((target / LIST_NAME).read_text())["files"]
            assert [each["path"] for each in listed] == ["waits", "lost+found/pipe"]
            assert "named pipe" in listed[1]["problem"]

    trio.run(main)
