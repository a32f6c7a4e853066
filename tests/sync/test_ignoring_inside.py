"""Rules in directories: each file speaks for the directory that it is in, for all devices, and in shares too."""

import errno
from pathlib import Path

import pytest

from cache.errors import Corrupt
from drivefs.fs import errors, ignoring
from drivefs.fs.content import Content
from drivefs.fs.ignore_rules import NAME
from drivefs.protocol import wire
from drivefs.protocol.ids import InodeId
from drivefs.remote.errors import Offline
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


@pytest.mark.parametrize("error", [Corrupt("its bytes do not verify"), OSError(errno.EIO, "the disk fails")])
async def test_rules_that_cannot_be_read_keep_nobody_from_working(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What they said before counts on."""
    async with sailing(tmp_path, "first") as (fleet, (first,)):
        await first.write(RULES, b"*.o\n")
        await meet(fleet)
        await first.write("a.o", b"kept")
        await first.write(RULES, b"*.log\n")

        def fails(*_: object) -> bytes:
            raise error

        with monkeypatch.context() as failing:
            failing.setattr(first.fs.ignoring._contents.reader, "read_now", fails)
            await first.mkdir("d")
            assert first.fs.ignoring.keeps((await first.known("d")).inode, b"b.o", is_directory=False)
        await meet(fleet)
        await first.write("d/b.o", b"for all")
        assert not first.local.journal.ignored.has((await first.known("d/b.o")).inode)


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


async def test_what_lies_behind_an_ignored_name_is_there_when_that_goes(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.mkdir("d")
        await first.write(RULES, b"*.o\n")
        await first.write(f"d/{RULES}", b"*.log\n")
        await meet(fleet)
        await second.write("d/a.log", b"only here")
        await second.write("x.o", b"cover")
        await first.rename("d", "x.o")
        await meet(fleet)
        await second.fs.reconsidering._release()
        assert await second.tree() == {RULES: b"*.o\n", "x.o": b"cover"}
        await second.restart(keeps_cache=False)
        await meet(fleet)
        await second.fs.reconsidering._release()
        shown = {RULES: b"*.o\n", "x.o": None, f"x.o/{RULES}": b"*.log\n"}
        assert await first.tree() == shown
        await second.rename("x.o", "y.o")
        assert await second.tree() == shown | {"x.o/a.log": b"only here", "y.o": b"cover"}
        await meet(fleet)
        assert await first.tree() == shown


async def test_of_the_rules_above_a_name_the_nearest_are_asked_and_the_newest_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever shares a folder may write them into each directory of a deep tree."""
    monkeypatch.setattr(ignoring, "MOST_ABOVE_BYTES", 23)
    monkeypatch.setattr(ignoring, "MOST_INSIDE_BYTES", 20)
    async with sailing(tmp_path, "first") as (fleet, (first,)):
        for path in ("d", "d/e"):
            await first.mkdir(path)
        await first.write(RULES, b"secret\n")
        await first.write(f"d/{RULES}", b"*.log\n# long\n")
        await first.write(f"d/e/{RULES}", b"*.o\n# long\n")
        await meet(fleet)
        shared, kept = {"d/e/secret", "d/e/a.log"}, {"secret", "d/secret", "d/a.log", "d/e/a.o"}
        for path in shared | kept:
            await first.write(path, b"content")
        ignored = first.local.journal.ignored
        assert {path for path in shared | kept if ignored.has((await first.known(path)).inode)} == kept
        inside = first.local.journal.meta(ignoring.META_INSIDE)
        assert inside is not None
        assert list(wire.decode(inside, dict[InodeId, bytes]).values()) == [b"*.o\n# long\n"]


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


async def test_names_that_files_kept_here_get_in_a_directory_not_known_here_wait_for_its_rules(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first") as (fleet, (first,)):
        directories = ("a", "moved", "linked")
        for path in directories:
            await first.mkdir(path)
            await first.write(f"{path}/{RULES}", b"*.log\n# of %b, a block of its own" % path.encode())
        await first.sync()
        second = await fleet.add("second")
        for name in ("moved", "linked"):
            await second.write(f"a/{name}.log", b"content")
        await second.rename("a/moved.log", "moved/1.log")
        await second.link("a/linked.log", "linked/1.log")
        await meet(fleet)
        assert {*await first.tree()} == {*directories, *(f"{path}/{RULES}" for path in directories)}


async def test_rules_that_were_not_read_when_the_mount_ended_are_waited_for(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first") as (fleet, (first,)):
        await first.mkdir("d")
        await first.write(f"d/{RULES}", b"*.log\n")
        await first.sync()
        second = await fleet.add("second")
        await second.find("d/a.log")
        await second.restart(keeps_cache=True)
        await second.write("d/a.log", b"content")
        for device in (second, first):
            await device.sync()
        assert {*await first.tree()} == {"d", f"d/{RULES}"}


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
        assert not await second.fs.ignoring.ready(d, b"a.log")
        second.line.is_cut = False
        await second.fs.reconsidering.read_rules()
        await second.write("d/b.log", b"content")
        for device in (second, first):
            await device.sync()
        assert {*await first.tree()} == {"d", f"d/{RULES}", "d/a.log"}


async def test_rules_that_cannot_be_had_keep_no_others_from_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sailing(tmp_path, "first") as (fleet, (first,)):
        for path in ("a", "b", "c"):
            await first.mkdir(path)
            await first.write(f"{path}/{RULES}", b"*.log\n# of %b, a block of its own" % path.encode())
        await first.sync()
        second = await fleet.add("second")
        await second.find("a/x")
        rules = second.fs.ignoring
        lost = (await second.known(f"a/{RULES}")).inode
        directories = [(await second.known(path)).inode for path in "abc"]
        rules.unread.update(directories)
        read, list_directory = rules._contents.read, second.lister.list_directory

        async def reading(content: Content, offset: int, length: int) -> bytes | bytearray:
            if content.inode == lost:
                raise errors.Unavailable
            return await read(content, offset, length)

        async def listing(directory: InodeId) -> None:
            if directory == directories[1]:
                raise Offline("not now")
            await list_directory(directory)

        monkeypatch.setattr(rules._contents, "read", reading)
        monkeypatch.setattr(second.lister, "list_directory", listing)
        await second.fs.reconsidering.read_rules()
        assert [rules.keeps(each, b"x.log", is_directory=False) for each in directories] == [False, False, True]
        assert rules.unread == {*directories[:2]}


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


async def test_what_is_brought_back_hides_nothing_that_is_kept_here(tmp_path: Path) -> None:
    """A directory of the drive was removed with a file in it that had been changed here, and its name is ignored."""
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write(RULES, b"*~\n")
        await first.mkdir("made")
        await first.write("made/file", b"ours")
        await first.rename("made", "name~")
        await fleet.settle()
        await second.edit("name~/file", b"mine")
        await first.unlink("name~/file")
        await first.rmdir("name~")
        await first.sync()
        await second.pull()
        await second.write("name~", b"kept here")
        await meet(fleet)
        assert (await second.tree())["name~"] == b"kept here"
        assert (await first.tree())["name~/file"] == b"mine"
        await second.unlink("name~")
        await meet(fleet)
        assert await second.tree() == await first.tree()
