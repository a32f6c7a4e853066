"""Rules in directories: each file speaks for the directory that it is in, for all devices, and in shares too."""

from pathlib import Path

import pytest

from drivefs.fs import ignoring
from drivefs.fs.ignore_rules import NAME
from tests.sync.fleet import Fleet, sailing
from tests.sync.test_shared_again import Sharers, begun, sharers

pytestmark = pytest.mark.anyio
__all__ = ["sharers"]

RULES = NAME.decode()


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def meet(fleet: Fleet) -> None:
    """All hear of each other, and read the rules, as they do beside a mount every second."""
    for device in (*fleet.devices, *fleet.devices):
        await device.sync()
        await device.fs.reconsidering.read_rules()


async def test_a_deeper_file_speaks_for_its_directory_and_before_those_above(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        for path in ("d", "d/e", "other"):
            await first.mkdir(path)
        await first.write(RULES, b"*.o\n/d/x\n")
        await first.write(f"d/{RULES}", b"/top\n!keep.o\n")
        await first.write(f"d/e/{RULES}", b"*.log\n")
        await meet(fleet)
        shared = ["d/keep.o", "top", "other/top", "d/e/top", "d/a.log", "d/e/x"]
        kept = ["a.o", "keep.o", "d/a.o", "d/x", "d/top", "d/e/a.log", "d/e/a.o"]
        for path in shared + kept:
            await first.write(path, b"content")
        await meet(fleet)
        tree = await second.tree()
        assert [path for path in shared if path not in tree] == []
        assert [path for path in kept if path in tree] == []
        await second.write("d/e/b.log", b"of the second")
        await first.rename("d/e", "e")
        await first.write("e/c.log", b"content")
        await first.restart(keeps_cache=True)
        await first.write("e/d.log", b"content")
        await meet(fleet)
        assert not {"e/c.log", "e/d.log"} & (await second.tree()).keys()
        assert "e/b.log" not in await first.tree()


async def test_rules_of_a_directory_that_change_release_what_they_do_not_name(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.mkdir("d")
        await first.write(f"d/{RULES}", b"*.log\n")
        await meet(fleet)
        await first.write("d/a.log", b"content")
        await second.write(f"d/{RULES}", b"*.o\n")
        await meet(fleet)
        await first.fs.reconsidering._release()
        await meet(fleet)
        assert (await second.tree())["d/a.log"] == b"content"


async def test_the_first_name_in_a_directory_not_known_here_waits_for_its_rules(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first") as (fleet, (first,)):
        for path in ("d", "d/e"):
            await first.mkdir(path)
        await first.write(f"d/{RULES}", b"*.log\n")
        await first.sync()
        second = await fleet.add("second")
        for path in ("d/a.log", "d/e/b.log", "d/c"):
            await second.write(path, b"content")
        for device in (second, first):
            await device.sync()
        assert {*await first.tree()} == {"d", "d/e", f"d/{RULES}", "d/c"}


async def test_rules_that_cannot_be_had_are_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ignoring, "READY_SECONDS", 0.01)
    async with sailing(tmp_path, "first") as (fleet, (first,)):
        await first.mkdir("d")
        await first.write(f"d/{RULES}", b"*.log\n")
        await first.sync()
        second = await fleet.add("second")
        await second.find("d/a.log")
        second.line.is_cut = True
        d = (await second.known("d")).inode
        await second.write("d/a.log", b"content")
        assert not await second.fs.ignoring.ready(d)
        second.line.is_cut = False
        await second.fs.reconsidering.read_rules()
        await second.write("d/b.log", b"content")
        for device in (second, first):
            await device.sync()
        assert {*await first.tree()} == {"d", f"d/{RULES}", "d/a.log"}


async def test_rules_of_a_share_hold_for_its_members(sharers: Sharers) -> None:
    await begun(sharers)
    owner, member = sharers.owner, sharers.member
    await owner.write(f"s/{RULES}", b"*.log\n")
    for device in (owner, member):
        await device.sync()
    await member.write("s/a.log", b"mine")
    await member.write("s/a", b"ours")
    await meet(sharers.fleet)
    assert await owner.tree() == {"s": None, f"s/{RULES}": b"*.log\n", "s/a": b"ours"}
    assert (await member.tree())["s/a.log"] == b"mine"
