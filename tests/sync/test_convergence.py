"""Devices that change one tree at random, sending and hearing when chance says so: in the end all show the same tree,
and every content that was ever closed survives somewhere, unless someone who had seen it removed or replaced it.

Contents are numbered, so what survives can be told from the tree alone: a content may be missing only if a device that
showed it removed it, or wrote over it in the same file.
"""

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from drivefs.fs.errors import FileSystemError
from drivefs.protocol.model import InodeKind
from tests.sync.fleet import Device, sailing

pytestmark = pytest.mark.anyio

NAMES = ["a", "b", "c", "d.txt"]
DIRECTORIES = ["x", "y", "z"]


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


class Sailor:
    """Makes random changes on one device, and knows which contents may be missed because of them."""

    def __init__(self, device: Device, chance: random.Random, written: set[bytes], seen_off: set[bytes]) -> None:
        self.device, self.chance, self.written, self.seen_off = device, chance, written, seen_off
        self.log: list[str] = []
        self.drawn = 0

    async def paths(self, kind: InodeKind | None = None) -> list[str]:
        found: list[str] = []
        await self._collect(self.device.root, "", kind, found)
        return sorted(found)

    async def _collect(self, directory: object, prefix: str, kind: InodeKind | None, found: list[str]) -> None:
        for name, state in await self.device.entries(directory):  # type: ignore[arg-type]
            path = prefix + name.decode()
            if kind is None or state.kind is kind:
                found.append(path)
            if state.kind is InodeKind.DIRECTORY:
                await self._collect(state.inode, path + "/", kind, found)

    async def new_path(self, names: list[str]) -> str:
        parents = ["", *[f"{path}/" for path in await self.paths(InodeKind.DIRECTORY) if path.count("/") < 2]]
        return self.chance.choice(parents) + self.chance.choice(names)

    async def content(self) -> bytes:
        """Something new, or now and then what another device may be writing too."""
        if self.chance.random() < 0.2:
            return b"common %d" % self.chance.randrange(3)
        self.drawn += 1
        return b"%s %d" % (self.device.name.encode(), self.drawn)

    def wrote(self, content: bytes) -> None:
        """A content was closed under some name."""
        if not content.startswith(b"common"):
            self.written.add(content)

    async def see_off(self, path: str) -> None:
        """What is shown under a path is about to be removed or written over by someone who knows it."""
        found = await self.device.find(path)
        if found is not None and found.kind is InodeKind.FILE:
            self.seen_off.add(await self.device.read(path))

    async def step(self) -> None:
        often = [self.write, self.save, self.rename, self.send]
        change = self.chance.choice([*often, *often, *self.seldom()])
        try:
            await change()
        except FileSystemError as error:
            self.log.append(f"{self.device.name}: {change.__name__}: {type(error).__name__}")

    def seldom(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            self.mkdir,
            self.unlink,
            self.rmdir,
            self.remove_tree,
            self.link,
            self.symlink,
            self.exchange,
            self.hear,
        ]

    def note(self, what: str) -> None:
        self.log.append(f"{self.device.name}: {what}")

    async def write(self) -> None:
        path, content = await self.new_path(NAMES), await self.content()
        await self.see_off(path)
        self.note(f"write {path} {content!r}")
        await self.device.write(path, content)
        self.wrote(content)

    async def save(self) -> None:
        path, content = await self.new_path(NAMES), await self.content()
        await self.see_off(path)
        self.note(f"save {path} {content!r}")
        temporary = f"{path}.tmp"
        await self.see_off(temporary)
        await self.device.write(temporary, content)
        self.wrote(content)
        await self.device.rename(temporary, path)

    async def mkdir(self) -> None:
        path = await self.new_path(DIRECTORIES)
        self.note(f"mkdir {path}")
        await self.device.mkdir(path)

    async def rename(self) -> None:
        paths = await self.paths()
        if paths:
            old = self.chance.choice(paths)
            new = await self.new_path(NAMES + DIRECTORIES)
            if f"{new}/".startswith(f"{old}/"):
                return
            await self.see_off(new)
            self.note(f"rename {old} {new}")
            await self.device.rename(old, new)

    async def exchange(self) -> None:
        paths = await self.paths()
        if len(paths) > 1:
            first, second = self.chance.sample(paths, 2)
            if f"{first}/".startswith(f"{second}/") or f"{second}/".startswith(f"{first}/"):
                return
            self.note(f"exchange {first} {second}")
            await self.device.exchange(first, second)

    async def unlink(self) -> None:
        files = await self.paths(InodeKind.FILE)
        if files:
            path = self.chance.choice(files)
            await self.see_off(path)
            self.note(f"unlink {path}")
            await self.device.unlink(path)

    async def rmdir(self) -> None:
        directories = await self.paths(InodeKind.DIRECTORY)
        if directories:
            path = self.chance.choice(directories)
            self.note(f"rmdir {path}")
            await self.device.rmdir(path)

    async def remove_tree(self) -> None:
        directories = await self.paths(InodeKind.DIRECTORY)
        if directories:
            path = self.chance.choice(directories)
            for each in await self.paths(InodeKind.FILE):
                if each.startswith(path + "/"):
                    await self.see_off(each)
            self.note(f"rm -r {path}")
            await self.device.remove_tree(path)

    async def link(self) -> None:
        files = await self.paths(InodeKind.FILE)
        if files:
            old, new = self.chance.choice(files), await self.new_path(NAMES)
            self.note(f"link {old} {new}")
            await self.device.link(old, new)

    async def symlink(self) -> None:
        path = await self.new_path(NAMES)
        self.note(f"symlink {path}")
        await self.device.symlink(b"target", path)

    async def send(self) -> None:
        """One batch, so that changes come between its refusals and what is done about them."""
        self.note("send")
        if self.chance.random() < 0.7:
            await self.device.publish()
        await self.device.committer.commit_next(self.device.session.epoch)

    async def hear(self) -> None:
        self.note("hear")
        await self.device.pull()


async def voyage(place: Path, seed: int, names: list[str], steps: int) -> None:
    """Random changes on each device, then peace."""
    chance = random.Random(seed)
    written: set[bytes] = set()
    seen_off: set[bytes] = set()
    log: list[str] = []
    async with sailing(place, *names) as (fleet, devices):
        sailors = [Sailor(device, chance, written, seen_off) for device in devices]
        for sailor in sailors:
            sailor.log = log
        for _ in range(steps):
            await chance.choice(sailors).step()
        try:
            tree = await fleet.settle()
            kept = {content for content in tree.values() if isinstance(content, bytes)}
            missing = written - kept - seen_off
            assert not missing, f"lost: {missing}"
        except BaseException:
            print(f"seed {seed}:", *log, sep="\n  ")
            raise


@pytest.mark.parametrize("seed", range(4))
async def test_two_devices_converge_and_lose_nothing(tmp_path: Path, seed: int) -> None:
    await voyage(tmp_path, seed, ["anna", "bert"], 60)


@pytest.mark.parametrize("seed", range(4))
async def test_three_devices_converge_and_lose_nothing(tmp_path: Path, seed: int) -> None:
    await voyage(tmp_path, 1000 + seed, ["anna", "bert", "carl"], 120)
