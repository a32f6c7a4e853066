"""Somebody holds Ctrl-S: files are saved ten times a second, in every way that programs have, over a cable so slow that
the save before is still on its way, while another device watches.

Owns the promise that own saves never make conflict copies, where publications, commits and saves overlap all the time.
"""

import os
import random
import time
from contextlib import suppress
from pathlib import Path

from tests.mount.conftest import mount_options
from tests.mount.oracle import write_file
from tests.mount.test_tools import SAVES, save_in_place
from tests.support.mounts import Workbench, wait_until

ROUNDS = 30
PAUSE_SECONDS = 0.1
BYTES_PER_SECOND = 200_000.0
"""Each round saves twice as much."""
SIZE_BYTES = 70_000


def save_with_backup(path: Path, content: bytes) -> None:
    """As vim with `backup`: the last version stays beside the new one."""
    os.rename(path, path.with_name(path.name + "~"))
    write_file(path, content)


WAYS = [*SAVES, save_with_backup]


def test_saves_while_the_one_before_is_on_its_way_make_no_copies(workbench: Workbench) -> None:
    """[own-saves] [devices-see]"""
    server = workbench.server()
    link = workbench.link(server)
    devices = [workbench.device(server, link=link), workbench.device(server)]
    here, there = [device.mount(*mount_options()) for device in devices]
    chance = random.Random(7)
    for way in WAYS:
        (here / way.__name__).mkdir()
        write_file(here / way.__name__ / "document.txt", content_of(0, chance))
    devices[0].sync()
    wait_until("the other has them", lambda: len(list(there.glob("*/document.txt"))) == len(WAYS))
    link.trickle(BYTES_PER_SECOND)
    seen: dict[str, list[int]] = {way.__name__: [] for way in WAYS}
    for number in range(1, ROUNDS + 1):
        for way in WAYS:
            way(here / way.__name__ / "document.txt", content_of(number, chance))
            with suppress(FileNotFoundError):  # moved aside, and not there again yet
                seen[way.__name__].append(number_of(read(there / way.__name__ / "document.txt", way)))
        time.sleep(PAUSE_SECONDS)
    link.restore()
    devices[0].sync()
    wait_until("both show the same", lambda: tree(here) == tree(there))
    assert not [path for path in tree(there) if "conflicted copy" in path]
    for way in WAYS:
        assert number_of(tree(there)[f"{way.__name__}/document.txt"]) == ROUNDS
        assert seen[way.__name__] == sorted(seen[way.__name__]), "an older version came after a newer one"
    for device in devices:
        assert device.status()["conflicts"] == 0
        device.umount()
        device.assert_sound()


def content_of(number: int, chance: random.Random) -> bytes:
    """One version, which says which it is at both ends, and does not get smaller by being packed."""
    return b"%06d" % number + chance.randbytes(SIZE_BYTES) + b"%06d" % number


def read(path: Path, way: object) -> bytes:
    """What is there; a file that is written in place may change while it is read, as local ones do."""
    content = path.read_bytes()
    for _ in range(3 if way is save_in_place else 0):
        content = content if content[:6] == content[-6:] else path.read_bytes()
    return content


def number_of(content: bytes) -> int:
    """Which version a content is; it has to be a whole one."""
    assert content[:6] == content[-6:], "half a version"
    assert len(content) == SIZE_BYTES + 12
    return int(content[:6])


def tree(root: Path) -> dict[str, bytes]:
    """All files below a directory."""
    found = {}
    for path in sorted(root.rglob("*")):
        with suppress(FileNotFoundError, IsADirectoryError):  # what another device is about to remove
            found[str(path.relative_to(root))] = path.read_bytes()
    return found
