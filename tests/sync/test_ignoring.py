"""Ignore rules: what they keep on one device, and what becomes of it when it gets another name or another rule."""

import contextlib
import errno
import os
import random
from pathlib import Path

import pytest
import trio

from cache.effects import subjects
from cache.errors import DiskFull
from drivefs.fs import errors, reconsidering
from drivefs.fs.errors import FileSystemError
from drivefs.protocol.ids import InodeId
from drivefs.protocol.messages import Limits, Usage
from drivefs.protocol.model import InodeKind
from drivefs.sync.status import pending
from tests.sync.fleet import Device, Fleet, sailing

pytestmark = pytest.mark.anyio

RULES = b"*.tmp\n*~\nbuild/\n"


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def with_rules(fleet: Fleet, rules: bytes = RULES) -> None:
    await fleet.devices[0].write(".drivefsignore", rules)
    await fleet.settle()


async def meet(fleet: Fleet) -> None:
    for _ in range(3):
        for device in fleet.devices:
            await device.sync()


async def others(device: Device) -> dict[str, object]:
    """What another device shows, but for the rules."""
    return {path: what for path, what in (await device.tree()).items() if path != ".drivefsignore"}


async def test_ignored_files_are_here_after_a_crash_and_nowhere_else(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await with_rules(fleet)
        await first.mkdir("build")
        await first.mkdir("build/deep")
        await first.write("build/deep/large", b"x" * 100_000)
        await first.symlink(b"deep/large", "build/link")
        await first.write("a.tmp", b"mine")
        await first.write("a", b"ours")
        assert first.local.journal.ignored.count() == 5
        assert first.fs.contents.unpublished_bytes((await first.known("a.tmp")).inode) is None
        await meet(fleet)
        expected = await first.tree()
        assert await others(second) == {"a": b"ours"}
        assert pending(first.local.journal) == (0, 0)
        await first.restart(keeps_cache=False)
        await meet(fleet)
        assert await first.tree() == expected
        assert await others(second) == {"a": b"ours"}
        await first.remove_tree("build")
        await first.unlink("a.tmp")
        assert await others(first) == {"a": b"ours"}
        assert first.local.journal.ignored.count() == 0


async def test_ignored_files_take_nothing_of_the_quota(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first") as (fleet, (first,)):
        await with_rules(fleet)
        quota = first.fs.quota
        quota.told(Limits(file_bytes=10**6, quota_bytes=10_000), Usage())
        await first.write("a.tmp", b"x" * 50_000)
        assert quota.used_bytes == 0
        await first.write("a", b"x" * 6_000)
        with pytest.raises(errors.OverQuota):
            await first.write("b", b"x" * 6_000)
        await first.write("b.tmp", b"x" * 6_000)


async def test_watermark_moves_on_beside_ignored_files(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first") as (fleet, (first,)):
        await with_rules(fleet)
        await first.write("a.tmp", b"mine")
        ignored = first.local.journal.touching((await first.known("a.tmp")).inode)
        await first.write("a", b"ours")
        await first.sync()
        assert first.local.journal.watermark() > max(row.n for row in ignored)


@pytest.mark.parametrize("how", ["rename", "exchange", "link", "aside"])
async def test_save_through_an_ignored_name_is_one_save_for_all(tmp_path: Path, how: str) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await with_rules(fleet)
        await first.write("a", b"old")
        await meet(fleet)
        before = (await second.known("a")).lineage
        if how == "aside":
            await first.rename("a", "a~")
            await first.write("a", b"new")
            await first.unlink("a~")
        else:
            await first.write("a.tmp", b"new")
            if how == "link":
                await first.unlink("a")
                await first.link("a.tmp", "a")
            else:
                await (first.rename if how == "rename" else first.exchange)("a.tmp", "a")
            if how != "rename":
                await first.unlink("a.tmp")
        assert await others(first) == {"a": b"new"}
        await first.restart(keeps_cache=True)
        await meet(fleet)
        assert await others(first) == await others(second) == {"a": b"new"}
        assert how == "link" or (await second.known("a")).lineage == before
        assert first.local.journal.ignored.count() == 0


async def test_file_of_the_drive_stays_in_it_under_an_ignored_name(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await with_rules(fleet)
        await first.write("a", b"one")
        await meet(fleet)
        await first.rename("a", "a~")
        await first.write("a", b"two")
        await meet(fleet)
        assert await others(second) == {"a": b"two", "a~": b"one"}
        # A new file that takes its place is the drive's too: a name that others have does not turn into another file.
        await first.write("a.tmp", b"three")
        await first.rename("a.tmp", "a~")
        await meet(fleet)
        assert await others(second) == {"a": b"two", "a~": b"three"}


async def test_file_of_the_drive_takes_the_place_of_an_ignored_one(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await with_rules(fleet)
        await first.write("a~", b"backup")
        await first.write("a", b"one")
        await meet(fleet)
        await first.rename("a", "a~")
        assert await others(first) == {"a~": b"one"}
        await meet(fleet)
        assert await others(second) == {"a~": b"one"}


async def test_move_between_the_drive_and_an_ignored_directory_is_left_to_copying(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await with_rules(fleet)
        await first.mkdir("build")
        await first.write("a", b"ours")
        for call in (first.rename, first.link):
            with pytest.raises(errors.CrossDevice) as refused:
                await call("a", "build/a")
            assert refused.value.errno == errno.EXDEV
        await first.write("build/made", b"made")
        await first.rename("build/made", "made")
        assert await others(first) == {"build": None, "a": b"ours", "made": b"made"}
        await meet(fleet)
        assert await others(second) == {"a": b"ours", "made": b"made"}
        await first.write("build/again", b"again")
        await first.rename("build/again", "made")
        await meet(fleet)
        assert await others(second) == {"a": b"ours", "made": b"again"}


async def test_ignored_files_can_be_exchanged_and_have_several_names(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await with_rules(fleet)
        await first.write("a~", b"a")
        await first.write("b~", b"b")
        await first.exchange("a~", "b~")
        await first.link("b~", "c~")
        await first.unlink("b~")
        await first.restart(keeps_cache=True)
        assert await others(first) == {"a~": b"b", "c~": b"a"}
        assert (await first.known("c~")).nlink == 1
        await meet(fleet)
        assert await others(second) == {}


async def reconsider(device: Device) -> None:
    """What runs beside a mount looks at the rules, and a moment later at what they keep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconsidering, "LOOK_SECONDS", 0.001)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.fs.reconsidering.run)
            for _ in range(20):
                await trio.sleep(0.002)
            nursery.cancel_scope.cancel()


async def test_directory_that_gets_another_name_goes_to_the_drive_with_all_in_it(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await with_rules(fleet)
        await first.mkdir("build")
        await first.mkdir("build/deep")
        await first.write("build/deep/a", b"a")
        await first.write("build/b.tmp", b"b")
        await first.rename("build", "made")
        await reconsider(first)
        expected = await first.tree()
        await meet(fleet)
        assert await first.tree() == expected
        assert await others(second) == {"made": None, "made/deep": None, "made/deep/a": b"a"}
        links = [(await device.known("made")).nlink for device in fleet.devices]
        assert links == [3, 3]


async def test_rules_look_at_the_names_that_exchanged_directories_have_now(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await with_rules(fleet)
        await first.mkdir("a")
        await first.mkdir("b")
        await first.rename("a", "build")
        await first.write("build/old", b"old")
        await first.exchange("build", "b")
        await first.write("b/new", b"new")
        await first.write("build/new", b"kept")
        await reconsider(first)
        await meet(fleet)
        assert await others(second) == {"build": None, "b": None, "b/old": b"old", "b/new": b"new"}


async def test_rules_that_another_device_changes_hold_here_and_release_what_they_do_not_name(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await with_rules(fleet)
        await first.write("a.tmp", b"a")
        await first.write("a~", b"backup")
        await second.save(".drivefsignore", b"*~\n*.o\n", temporary="rules")
        await meet(fleet)
        await reconsider(first)
        await first.write("b.o", b"b")
        await first.write("b.tmp", b"b")
        await meet(fleet)
        assert await others(second) == {"a.tmp": b"a", "b.tmp": b"b"}
        # What is in the drive stays in it.
        await second.write(".drivefsignore", b"*\n")
        await meet(fleet)
        await first.edit("a.tmp", b"A")
        await meet(fleet)
        assert await others(second) == {"a.tmp": b"A", "b.tmp": b"b"}


async def test_full_disk_does_not_end_what_looks_at_the_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await with_rules(fleet)
        await first.write("a.tmp", b"a")

        def refuse(inode: InodeId) -> None:
            raise DiskFull("no room")

        await first.unlink(".drivefsignore")
        with monkeypatch.context() as patch:
            patch.setattr(first.fs.kept, "release", refuse)
            await reconsider(first)
        assert first.local.journal.ignored.count() == 1
        await reconsider(first)
        await meet(fleet)
        assert await others(second) == {"a.tmp": b"a"}


async def test_rules_that_are_being_written_release_nothing(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await with_rules(fleet)
        await first.write("a.tmp", b"a")
        number = await first.open_file(".drivefsignore", os.O_WRONLY | os.O_TRUNC)
        await first.write("b.tmp", b"b")
        await reconsider(first)
        first.fs.write(number, 0, RULES)
        first.fs.release(number)
        await meet(fleet)
        assert await others(second) == {}


async def test_rules_count_on_where_they_cannot_be_read(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await with_rules(fleet)
        await second.write("a.tmp", b"")
        await second.restart(keeps_cache=False)
        await second.write("b.tmp", b"b")
        await meet(fleet)
        assert await others(first) == {}


async def test_name_that_another_device_puts_into_the_drive_shows_when_the_ignored_one_goes(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await first.write("x.tmp", b"theirs")
        await meet(fleet)
        await with_rules(fleet)
        await second.unlink("x.tmp")
        await second.write("x.tmp", b"mine")
        await second.unlink("x.tmp")
        assert await others(second) == {}
        await second.write("x.tmp", b"mine")
        await meet(fleet)
        assert await others(first) == {}
        assert await others(second) == {"x.tmp": b"mine"}


async def test_attributes_of_an_ignored_file_do_not_fill_the_journal(tmp_path: Path) -> None:
    from drivefs.fs.attributes import Wanted

    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await with_rules(fleet)
        await first.write("a.tmp", b"a")
        for number in range(20):
            inode = (await first.known("a.tmp")).inode
            first.fs.set_attributes(inode, Wanted(mtime_ns=number, mode=0o600))
            first.fs.set_xattr(inode, b"user.a", b"%d" % number)
            if number % 5 == 0:
                await first.restart(keeps_cache=True)
        assert len(first.local.journal.touching((await first.known("a.tmp")).inode)) < 10
        await first.rename("a.tmp", "a")
        await meet(fleet)
        state = await second.known("a")
        assert (state.mtime_ns, state.mode, state.xattrs) == (19, 0o600, {b"user.a": b"19"})


async def test_directory_that_others_change_shows_it_beside_ignored_files(tmp_path: Path) -> None:
    from drivefs.fs.attributes import Wanted

    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await with_rules(fleet)
        await first.mkdir("d")
        await first.write("d/own", b"own")
        await first.write("d/a.tmp", b"a")
        await meet(fleet)
        second.fs.set_attributes((await second.known("d")).inode, Wanted(mode=0o700, mtime_ns=5))
        await meet(fleet)
        state = await first.known("d")
        assert (state.mode, state.mtime_ns) == (0o700, 5)


NAMES = ["a", "b", "a.tmp", "b~", "d", "build", "d/a", "d/a.tmp", "d/build", "build/a", "build/d", "build/d/a"]

CALLS = ["write", "write", "rename", "rename", "link", "unlink", "exchange", "mkdir", "rmdir"]


class Walk:
    """The same calls on a device and on a local disk."""

    def __init__(self, chance: random.Random, device: Device, disk: Path) -> None:
        self.chance, self.device, self.disk = chance, device, disk
        self.written = 0

    async def step(self) -> None:
        """One call, which has the same outcome on both, unless it would join what is in the drive and what is not."""
        path, other = self.chance.choice(NAMES), self.chance.choice(NAMES)
        call = self.chance.choice(
            ["write", "write", "rename", "rename", "link", "unlink", "exchange", "mkdir", "rmdir"]
        )
        here = self.disk / path
        try:
            await self._on_device(call, path, other)
        except errors.CrossDevice:
            return
        except (FileSystemError, AssertionError):
            is_done = False
        else:
            is_done = True
        assert (not self._on_disk(call, here, self.disk / other)) is is_done, (call, path, other)

    async def try_one(self) -> None:
        """One call on the device, which may be refused."""
        with contextlib.suppress(FileSystemError, AssertionError):
            await self._on_device(self.chance.choice(CALLS), self.chance.choice(NAMES), self.chance.choice(NAMES))

    async def _on_device(self, call: str, path: str, other: str) -> None:
        device = self.device
        match call:
            case "write":
                self.written += 1
                await device.write(path, b"%d" % self.written)
            case "rename":
                if other.startswith(f"{path}/") or path.startswith(f"{other}/"):
                    raise errors.Invalid
                await device.rename(path, other)
            case "exchange":
                if other.startswith(f"{path}/") or path.startswith(f"{other}/"):
                    raise errors.Invalid
                await device.exchange(path, other)
            case "link":
                await device.link(path, other)
            case _:
                await getattr(device, call)(path)

    def _on_disk(self, call: str, path: Path, other: Path) -> int:
        try:
            match call:
                case "write":
                    path.write_bytes(b"%d" % self.written)
                case "rename":
                    if path in other.parents or other in path.parents:
                        return errno.EINVAL
                    path.rename(other)
                case "exchange":
                    if path in other.parents or other in path.parents:
                        return errno.EINVAL
                    aside = self.disk.with_name("aside")
                    if not path.exists() or not other.exists():
                        return errno.ENOENT
                    if not path.samefile(other):
                        path.rename(aside)
                        other.rename(path)
                        aside.rename(other)
                case "link":
                    if path.is_dir():
                        return errno.EEXIST if other.exists() else errno.EPERM
                    os.link(path, other)
                case "unlink":
                    if path.is_dir():
                        return errno.EISDIR
                    path.unlink()
                case "mkdir":
                    path.mkdir()
                case "rmdir":
                    path.rmdir()
        except OSError as error:
            return error.errno or 0
        return 0

    def on_disk(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for path in self.disk.rglob("*"):
            found[str(path.relative_to(self.disk))] = None if path.is_dir() else path.read_bytes()
        return found

    async def shared(self) -> dict[str, object]:
        """What the device shows and does not keep for itself."""
        found = {}
        for path, what in (await others(self.device)).items():
            if not self.device.local.journal.ignored.has((await self.device.known(path)).inode):
                found[path] = what
        return found


@pytest.mark.parametrize("seed", [7, 31])
async def test_any_calls_look_as_on_a_disk_and_others_see_all_but_what_is_ignored(tmp_path: Path, seed: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    async with sailing(tmp_path, "first", "second") as (fleet, (first, second)):
        await with_rules(fleet)
        chance = random.Random(seed)
        walk = Walk(chance, first, disk)
        for number in range(150):
            await walk.step()
            assert await others(first) == walk.on_disk(), number
            if chance.random() < 0.03:
                await first.restart(keeps_cache=chance.random() < 0.5)
            if chance.random() < 0.1:
                await meet(fleet)
                assert await others(first) == walk.on_disk(), number
                assert await others(second) == await walk.shared(), number
        links = {path: (await first.known(path)).nlink for path in await others(first)}
        for path, nlink in links.items():
            if (await first.known(path)).kind is not InodeKind.DIRECTORY:
                assert nlink == (disk / path).stat().st_nlink, path
        rows = [
            row for inode in first.local.journal.ignored.all() for row in first.local.journal.touching(InodeId(inode))
        ]
        assert all(first.local.journal.ignored.has(subjects(row.mutation)[0]) for row in rows)


async def test_two_devices_that_do_anything_end_with_one_drive_beside_what_each_ignores(tmp_path: Path) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, devices):
        await with_rules(fleet)
        chance = random.Random(11)
        walks = [Walk(chance, device, tmp_path) for device in devices]
        for _ in range(100):
            walk = chance.choice(walks)
            await walk.try_one()
            if chance.random() < 0.02:
                await walk.device.restart(keeps_cache=False)
            elif chance.random() < 0.06:
                await walk.device.sync()
        while [True for device in devices if await device.push() or await device.pull()]:
            pass
        trees = [await walk.shared() for walk in walks]
        ignored = {
            path
            for walk, tree in zip(walks, trees, strict=True)
            for path in await others(walk.device)
            if path not in tree
        }
        # A name that is ignored here covers one that another device has put into the drive.
        covered = tuple(f"{path}/" for path in ignored)
        first, second = (
            {path: what for path, what in tree.items() if path not in ignored and not path.startswith(covered)}
            for tree in trees
        )
        assert first == second
        assert ignored
