"""A mount that is killed again and again while tar, git and SQLite are at work, online and offline.

`--crash-rounds N` says how often (3 if not told), `--crash-seed S` when. Owns the moments of the crashes; what has to
be there after each is said by `crash_work`.
"""

import random
import time

import pytest

from tests.mount.conftest import mount_options
from tests.mount.crash_work import Committing, Inserting, Unpacking, ended, in_child
from tests.mount.oracle import snapshot
from tests.support.link import REPLIES, Link
from tests.support.mounts import Device, Workbench, wait_until


@pytest.fixture
def link(workbench: Workbench) -> Link:
    return workbench.link(workbench.server())


@pytest.fixture
def device(workbench: Workbench, link: Link) -> Device:
    device = workbench.device(workbench.servers[0], link=link)
    device.configure("mass_deletion_guard = false")
    return device


WEATHER = ("fine", "cut", "slow", "one way", "flapping", "fine")


def weather(link: Link, number: int) -> str:
    """What the network is like in this round."""
    kind = WEATHER[number % len(WEATHER)]
    if kind == "cut":
        link.cut()
    elif kind == "slow":
        link.trickle(200_000)
    elif kind == "one way":
        link.lose(REPLIES)
    elif kind == "flapping":
        link.flap(0.3)
    else:
        link.restore()
    return kind


def killed_while_starting(device: Device, chance: random.Random) -> None:
    """Sometimes a mount is killed before it is one."""
    while chance.random() < 0.3:
        device.start_mount(*mount_options())
        time.sleep(chance.random())
        device.kill()


@pytest.mark.fault(1, 5, 9, 25, 66)
def test_killed_in_the_middle_of_untar_git_and_sqlite(
    workbench: Workbench, link: Link, device: Device, pytestconfig: pytest.Config
) -> None:
    """[crash-write]"""
    chance = random.Random(pytestconfig.getoption("--crash-seed"))
    root = device.mount(*mount_options())
    unpacking = Unpacking(root, workbench.home)
    kinds = [unpacking, Committing(root, workbench.home), Inserting(root, workbench.home)]
    for number in range(pytestconfig.getoption("--crash-rounds")):
        seconds = chance.uniform(0.2, 2.0)
        print(f"round {number}: {weather(link, number)}, killed after {seconds:.2f} s")
        children = [in_child(kind.work, number) for kind in kinds]
        time.sleep(seconds)
        unpacking.note(number)
        device.kill()
        for child in children:
            ended(child)
        killed_while_starting(device, chance)
        device.mount(*mount_options())
        for kind in kinds:
            kind.check(number)
    link.restore()
    device.sync()
    fresh = workbench.device(device.server)
    there = fresh.mount(*mount_options())
    alive = workbench.watchdog.restart
    wait_until(
        "both show the same", lambda: snapshot(there, times=True, seen=alive) == snapshot(root, times=True, seen=alive)
    )
    assert not [path for path in root.rglob("*") if "conflicted copy" in path.name]
    for each in (device, fresh):
        each.umount()
        each.assert_sound()
    device.server.assert_sound()
