"""Power loss for real: a mount's state, and a server's data, on ext4 on a block device that remembers every write and
every flush. Afterwards the power is cut at each flush of that life, and between them with some of what was not flushed.

Owns the claim that what `fsync` returned for, and what the server acknowledged, is there after each of these cuts.
What is left is opened as the next start opens it, in this process, since there are hundreds of cuts.
"""

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

from backend.service.keys import MasterKey
from cache.check import check
from tests.mount.conftest import mount_options
from tests.mount.oracle import write_file
from tests.simulation import worlds
from tests.simulation.worlds import SERVER, Facts, Sailor, Tree, World
from tests.support.flush_log import Step
from tests.support.mounts import PASSWORD, Device, Server, Workbench
from tests.support.recorded_disk import RecordedDisk, flush_ends

pytestmark = pytest.mark.needs_root
SEED = 5
PROFILE = "drivefs/default"


class Promise(NamedTuple):
    """From this moment on a path has a content, or one that begins with it and goes on as it was written."""

    moment: int
    path: str
    content: bytes
    goes_on: bytes = b""

    def is_kept(self, tree: Tree) -> bool:
        found = tree[self.path].content if self.path in tree else b"there is no such path"
        return found.startswith(self.content) and (self.content + self.goes_on).startswith(found)


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


@pytest.fixture
def every(pytestconfig: pytest.Config) -> int:
    """All cuts with `--long`, which takes minutes; else those at every sixth flush."""
    return 1 if pytestconfig.getoption("--long") else 6


@pytest.fixture
def disk(workbench: Workbench) -> Iterator[RecordedDisk]:
    place = workbench.home / "disk"
    place.mkdir()
    disk = RecordedDisk(workbench.home / "recorded", place)
    disk.begin()
    yield disk
    with suppress(Exception):
        disk.finish()


def move(places: dict[str, Path], disk: RecordedDisk) -> None:
    """Have directories on the disk, as if they had always been there."""
    for name, source in places.items():
        shutil.move(source, disk.place / name)
    os.sync()


def cuts_after(disk: RecordedDisk, moment: int, *, every: int) -> Iterator[tuple[int, Path]]:
    """Every so manieth flush after a moment, and after each a cut with some of what came before the next."""
    history = disk.history()
    ends = [end for end in flush_ends(history) if history[end - 1].end > moment]
    for number, end in list(enumerate(ends))[::-every]:
        with disk.cut(history[:end], None) as place:
            yield end_of(history, end), place
        between = ends[number + 1] - 1 if number + 1 < len(ends) else len(history)
        with disk.cut(history[:between], random.Random(number)) as place:
            yield end_of(history, end), place


def end_of(history: list[Step], count: int) -> int:
    return history[count - 1].end


def fsynced(path: Path, data: bytes, disk: RecordedDisk) -> int:
    """Append and fsync; gives the moment."""
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return disk.moment


def busy(root: Path, disk: RecordedDisk) -> list[Promise]:
    """What programs do that sync: new files of all sizes, saving by rename, a log that grows, an edit in place."""
    chance, promises = random.Random(SEED), []
    whole = b""
    for number in range(6):
        for size in (100, 20_000, 300_000):
            data = chance.randbytes(size)
            path = f"file{number}-{size}"
            promises.append(Promise(fsynced(root / path, data, disk), path, data))
        (root / f"directory{number}").mkdir()
        data = chance.randbytes(5_000)
        fsynced(root / "temporary", data, disk)
        os.rename(root / "temporary", root / f"directory{number}/saved")
        place = os.open(root, os.O_RDONLY)
        os.fsync(place)
        os.close(place)
        promises.append(Promise(disk.moment, f"directory{number}/saved", data))
        line = chance.randbytes(3_000)
        moment, whole = fsynced(root / "log", line, disk), whole + line
        promises.append(Promise(moment, "log", whole))
        write_file(root / f"unsynced{number}", chance.randbytes(50_000))
    return [p._replace(goes_on=whole[len(p.content) :]) if p.path == "log" else p for p in promises]


def test_every_fsynced_byte_is_there_after_each_cut(
    workbench: Workbench, server: Server, disk: RecordedDisk, every: int
) -> None:
    device = workbench.device(server)
    device.mount(*mount_options())
    write_file(device.mountpoint / "old", b"old content")
    device.sync()
    device.umount()
    names = {"state": "XDG_STATE_HOME", "cache": "XDG_CACHE_HOME"}
    move({name: device.directories[variable] for name, variable in names.items()}, disk)
    for name, variable in names.items():
        device.directories[variable] = disk.place / name
    root = device.mount(*mount_options())
    server.stop()
    start = disk.moment
    promises = [Promise(start, "old", b"old content"), *busy(root, disk)]
    device.kill()
    known = json.loads((disk.place / "state" / PROFILE / "credentials.json").read_bytes())
    disk.finish()

    counted = 0
    for moment, place in cuts_after(disk, start, every=every):
        tree = shown(workbench.home / "view", place, (known["workspace"], known["root"]))
        for promise in promises:
            assert promise.moment > moment or promise.is_kept(tree), f"{promise.path} after a cut at {moment}"
        counted += 1
    assert counted > 10
    print(f"{counted} cuts, {len(promises)} promises")


def shown(view: Path, place: Path, info: tuple[Any, Any]) -> Tree:
    """What a device shows whose state and cache are these, without a network; and they are sound afterwards."""
    view.mkdir()
    for name in ("state", "cache"):
        (view / name).symlink_to(place / name / PROFILE)

    async def look() -> Tree:
        world = World({"anna": view}, None, None, Facts({"anna": ""}, info), life=1)  # type: ignore[arg-type]
        with worlds.booted(1):
            device = await world.begin("anna")
        worlds.cut_line(world)
        tree = await device.seen()
        await world.end()
        return tree

    try:
        tree = trio.run(look)
        assert check(place / "state" / PROFILE, place / "cache" / PROFILE) == []
        return tree
    finally:
        shutil.rmtree(view)


def test_every_acknowledged_byte_is_at_the_server_after_each_cut(
    workbench: Workbench, server: Server, disk: RecordedDisk, every: int
) -> None:
    server.stop()
    move({"data": server.data}, disk)
    server.data = disk.place / "data"
    server.start()
    device = workbench.device(server)
    root = device.mount(*mount_options())
    start, chance, promises = disk.moment, random.Random(SEED), []
    for number, size in enumerate((100, 90_000, 2_000_000, 100)):
        data = chance.randbytes(size)
        write_file(root / f"file{number}", data)
        device.sync()
        promises.append(Promise(disk.moment, f"file{number}", data))
    secret = bytes.fromhex(next((server.home / "config").rglob("*master*")).read_text())
    server.kill()
    device.clear()
    disk.finish()

    counted = 0
    for moment, place in cuts_after(disk, start, every=every):
        tree = served(workbench.home / "fresh", place / "data", MasterKey(secret), device)
        for promise in promises:
            assert promise.moment > moment or promise.is_kept(tree), f"{promise.path} after a cut at {moment}"
        counted += 1
    assert counted > 10
    print(f"{counted} cuts, {len(promises)} promises")


def served(fresh: Path, data: Path, master: MasterKey, device: Device) -> Tree:
    """What a new device gets from a server with this data; and its metadata are sound."""

    async def look() -> Tree:
        async with worlds.world_of({SERVER: data}, Facts(), life=10**6, master=master) as world:
            await world.assert_served_soundly()
            token = await worlds.log_in(world, "bert", user=device.user, password=PASSWORD)
            sailor = world.devices["bert"] = Sailor("bert", fresh, token, world.asgi)
            await sailor.open()
            await sailor.begin()
            return await world.settle(("bert",))

    fresh.mkdir()
    try:
        return trio.run(look)
    finally:
        shutil.rmtree(fresh)
