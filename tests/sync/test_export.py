"""What an export says of changes that wait: each by the path that it had."""

import json
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
