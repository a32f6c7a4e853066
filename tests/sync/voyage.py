"""Random changes on several devices, and a record of every content that was written or seen to go.

Owns what one device does in a random run and what may be concluded from it; which runs are made is the tests' affair.
What the devices send and hear goes through gates, which chance opens, so that changes come while it is on its way.

Contents are unique, so what survives can be told from the tree alone. Invariants: a content may be missing in the end
only if a device that showed it removed it, or wrote over it in the same file; nothing is ever shown that nobody wrote.
"""

import os
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
from trio.testing import wait_all_tasks_blocked

from drivefs.fs.errors import FileSystemError
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.remote.errors import RemoteError
from tests.sync.fleet import Device, sailing
from tests.sync.line import IN_THE_BACKGROUND

NAMES = ["a", "b", "c", "d.txt"]
DIRECTORIES = ["x", "y", "z"]
MOST_HELD = 3
DEEPEST = 12
"""Where own changes and those of others meet, a directory can be below itself until that is resolved."""


@dataclass
class Record:
    """What all devices of a run wrote."""

    written: set[bytes] = field(default_factory=set)
    """What was whole under some name."""
    seen_off: set[bytes] = field(default_factory=set)
    allowed: set[bytes] = field(default_factory=set)
    """What may be shown, but need not be there in the end."""
    log: list[str] = field(default_factory=list)

    def judge(self, shown: bytes, where: str) -> None:
        """Nothing may be shown that nobody wrote."""
        is_known = shown in self.written or shown in self.allowed or shown.startswith(b"common")
        assert is_known, f"nobody wrote {shown!r}, which is in {where}"

    def find_all(self, tree: Mapping[str, object]) -> None:
        """All that was written is there, unless it was seen to go."""
        kept = {content for content in tree.values() if isinstance(content, bytes)}
        missing = self.written - kept - self.seen_off
        assert not missing, f"lost: {missing}"


@dataclass
class Held:
    """A descriptor that is open over other changes, and what it showed last."""

    number: int
    content: bytes
    appends: bool


class Sailor:
    """Makes random changes on one device, and knows which contents may be missed because of them."""

    def __init__(self, device: Device, chance: random.Random, record: Record, nursery: trio.Nursery) -> None:
        self.device, self.chance, self.record = device, chance, record
        self.drawn = 0
        self.held: list[Held] = []
        self._nursery = nursery
        self._errands: dict[str, trio.CancelScope] = {}
        device.line.has_gates = True

    # What is there

    async def paths(self, *kinds: InodeKind) -> list[str]:
        found: list[str] = []
        await self._collect(self.device.root, "", kinds, found)
        return sorted(found)

    async def _collect(self, directory: InodeId, prefix: str, kinds: tuple[InodeKind, ...], found: list[str]) -> None:
        for name, state in await self.device.entries(directory):
            path = prefix + name.decode()
            if not kinds or state.kind in kinds:
                found.append(path)
            if state.kind is InodeKind.DIRECTORY and path.count("/") < DEEPEST:
                await self._collect(state.inode, path + "/", kinds, found)

    async def files(self) -> list[str]:
        return await self.paths(InodeKind.FILE)

    async def new_path(self, names: list[str]) -> str:
        parents = ["", *[f"{path}/" for path in await self.paths(InodeKind.DIRECTORY) if path.count("/") < 2]]
        return self.chance.choice(parents) + self.chance.choice(names)

    def fresh(self) -> bytes:
        """Something that nobody wrote."""
        self.drawn += 1
        return b"%s %d " % (self.device.name.encode(), self.drawn)

    def content(self) -> bytes:
        """Something new, or now and then what another device may be writing too."""
        return self.fresh() if self.chance.random() < 0.8 else b"common %d" % self.chance.randrange(3)

    # Records

    def note(self, what: str) -> None:
        self.record.log.append(f"{self.device.name}: {what}")

    def wrote(self, content: bytes) -> None:
        """A content was closed under some name."""
        if not content.startswith(b"common"):
            self.record.written.add(content)

    async def see_off(self, path: str) -> None:
        """What is shown under a path is about to be removed or written over by someone who knows it."""
        found = await self.device.find(path)
        if found is not None and found.kind is InodeKind.FILE:
            self.record.seen_off.add(await self.device.read(path))

    # Operations

    async def write(self) -> None:
        path, content = await self.new_path(NAMES), self.content()
        await self.see_off(path)
        self.note(f"write {path} {content!r}")
        self.record.allowed.add(b"")
        await self.device.write(path, content)
        self.wrote(content)

    async def save(self) -> None:
        path, content = await self.new_path(NAMES), self.content()
        await self.see_off(path)
        self.note(f"save {path} {content!r}")
        await self.put_aside(f"{path}.tmp", content)
        await self.device.rename(f"{path}.tmp", path)

    async def put_aside(self, temporary: str, content: bytes) -> None:
        await self.see_off(temporary)
        if await self.device.find(temporary) is not None:
            await self.device.unlink(temporary)
        self.record.allowed.add(content)
        await self.device.write(temporary, content)
        self.wrote(content)

    async def save_by_exchange(self) -> None:
        files = await self.files()
        if files:
            path, content = self.chance.choice(files), self.content()
            self.note(f"save by exchange {path} {content!r}")
            temporary = f"{path[:30]}.tmp"
            if temporary == path:
                return
            await self.put_aside(temporary, content)
            await self.device.exchange(temporary, path)
            await self.see_off(temporary)
            await self.device.unlink(temporary)

    async def save_aside(self) -> None:
        files = await self.files()
        if files:
            path, content = self.chance.choice(files), self.content()
            self.note(f"save aside {path} {content!r}")
            aside = f"{path[:30]}~"
            if aside == path:
                return
            await self.see_off(aside)
            await self.device.rename(path, aside)
            await self.device.write(path, content)
            self.wrote(content)
            await self.see_off(aside)
            await self.device.unlink(aside)

    async def save_often(self) -> None:
        for _ in range(self.chance.randrange(2, 5)):
            await self.chance.choice([self.save, self.save_by_exchange, self.save_aside, self.edit])()
            if self.chance.random() < 0.5:
                await self.pass_gates()

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
        files = await self.files()
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
            for each in await self.files():
                if each.startswith(path + "/"):
                    await self.see_off(each)
            self.note(f"rm -r {path}")
            await self.device.remove_tree(path)

    async def link(self) -> None:
        files = await self.files()
        if files:
            old, new = self.chance.choice(files), await self.new_path(NAMES)
            self.note(f"link {old} {new}")
            await self.device.link(old, new)

    async def symlink(self) -> None:
        path = await self.new_path(NAMES)
        self.note(f"symlink {path}")
        await self.device.symlink(b"target", path)

    # Files that are open

    async def edit(self) -> None:
        """Write a little over a file, or at its end."""
        files = await self.files()
        if files:
            held = await self._open(self.chance.choice(files))
            await self._splice(held)
            self.device.fs.release(held.number)

    async def hold(self) -> None:
        files = await self.files()
        if files and len(self.held) < MOST_HELD:
            self.held.append(await self._open(self.chance.choice(files)))

    async def _open(self, path: str) -> Held:
        appends = self.chance.random() < 0.3
        number = await self.device.open_file(path, os.O_RDWR | (os.O_APPEND if appends else 0))
        held = Held(number, await self._shown(number), appends)
        self.note(f"open {path} as {number}: {held.content!r}")
        return held

    async def _shown(self, number: int) -> bytes:
        return bytes(await self.device.fs.read(number, 0, 2**30))

    async def write_held(self) -> None:
        if self.held:
            await self._splice(self.chance.choice(self.held))

    async def read_held(self) -> None:
        if self.held:
            held = self.chance.choice(self.held)
            held.content = await self._shown(held.number)
            self.note(f"read {held.number}: {held.content!r}")
            self.record.judge(held.content, f"what {self.device.name} has open")

    async def close_held(self) -> None:
        if self.held:
            held = self.held.pop(self.chance.randrange(len(self.held)))
            self.note(f"close {held.number}")
            self.device.fs.release(held.number)

    async def sync_held(self) -> None:
        if self.held:
            held = self.chance.choice(self.held)
            self.note(f"fsync {held.number}")
            await self.device.fs.sync(held.number)

    def _inode(self, number: int) -> InodeState:
        return self.device.fs.inode(self.device.fs._files.handles.get(number).content.inode)

    async def _splice(self, held: Held) -> None:
        """Write a little through a descriptor: it goes onto what is there, or onto what was read through it."""
        now = await self.device.content(self._inode(held.number).inode)
        patch, at_end = self.fresh(), held.appends or self.chance.random() < 0.3
        is_named = self._inode(held.number).nlink > 0
        place = len(now) if held.appends else len(held.content) if at_end else 0
        results = {with_patch(before, patch, place) for before in (now, held.content)}
        self.device.fs.write(held.number, place, patch)
        after = await self._shown(held.number)
        self.note(f"write {held.number} at {place} {patch!r}: {now!r} becomes {after!r}")
        assert after in results, f"{after!r} is none of {results}"
        self.record.allowed.add(after)
        if self._inode(held.number).nlink:
            self.wrote(after)
            if is_named and after == with_patch(now, patch, place):
                self.record.seen_off.add(now)
        held.content = after

    # Sending and hearing

    async def send(self) -> None:
        """Publish what is due, and send one batch, if that is not done already."""
        self._begin("send", self._send)

    async def hear(self) -> None:
        self._begin("hear", self.device.pull)

    def _begin(self, what: str, work: Callable[[], Awaitable[object]]) -> None:
        if what not in self._errands:
            self.note(f"begins to {what}")
            self._errands[what] = trio.CancelScope()
            self._nursery.start_soon(self._run_errand, what, work)

    async def _run_errand(self, what: str, work: Callable[[], Awaitable[object]]) -> None:
        IN_THE_BACKGROUND.set(True)
        scope = self._errands[what]
        with scope:
            try:
                await work()
            except RemoteError as error:
                self.note(f"could not {what}: {error}")
        if self._errands.get(what) is scope:
            del self._errands[what]
        self.note(f"ends to {what}")

    async def _send(self) -> None:
        publishes_ahead, commits_ahead = self.chance.random() < 0.3, self.chance.random() < 0.3
        async with trio.open_nursery() as nursery:
            await self.device.publisher.publish_due(nursery, lambda error: None, urgent=publishes_ahead)
        await self.device.committer.commit_next(self.device.session.epoch, urgent=commits_ahead)

    async def pass_gates(self) -> None:
        """A request arrives, or an answer."""
        await wait_all_tasks_blocked()
        for _ in range(self.chance.randrange(1, 4)):
            if waiting := self.device.line.waiting:
                self.note("a request or an answer arrives")
                self.device.line.let_pass(self.chance.randrange(len(waiting)))
                await wait_all_tasks_blocked()

    async def wait(self) -> None:
        """Long enough for what was closed to be due."""
        await trio.sleep(self.chance.choice([0.01, 0.05, 0.3, 6.0]))

    async def forget(self) -> None:
        """The kernel drops what was removed, a moment later."""
        self.device.forget()

    async def lose_answer(self) -> None:
        self.device.line.drops_replies = 1

    async def cut(self) -> None:
        """No request arrives until the line is mended."""
        self.device.line.is_cut = not self.device.line.is_cut
        self.note(f"cut: {self.device.line.is_cut}")

    async def restart(self) -> None:
        self.end_errands()
        await wait_all_tasks_blocked()
        keeps_cache, self.device.line.is_cut = self.chance.random() < 0.7, False
        self.note(f"dies and starts again{'' if keeps_cache else ' without a cache'}")
        self.held.clear()
        await self.device.restart(keeps_cache=keeps_cache)

    def end_errands(self) -> None:
        for scope in self._errands.values():
            scope.cancel()
        self._errands.clear()

    async def make_port(self) -> None:
        """Everything is closed, and the line is open."""
        while self.held:
            await self.close_held()
        line = self.device.line
        line.has_gates = line.is_cut = False
        line.drops_replies = 0
        while line.waiting:
            line.let_pass(0)
            await wait_all_tasks_blocked()
        await trio.sleep(60.0)
        assert not self._errands

    # All of it

    async def look(self) -> None:
        """What is shown was written by somebody."""
        for path, content in (await self.device.tree()).items():
            if isinstance(content, bytes) and content != b"target":
                self.record.judge(content, f"{path} on {self.device.name}")

    async def step(self) -> None:
        change = self.chance.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))[0]
        self.device.fs.acting(self.chance.randrange(3))
        try:
            await change(self)
        except FileSystemError as error:
            self.note(f"{change.__name__}: {type(error).__name__}")
        await self.pass_gates()


WEIGHTS: dict[Callable[[Sailor], Awaitable[None]], int] = {
    Sailor.write: 6,
    Sailor.save: 6,
    Sailor.rename: 6,
    Sailor.send: 12,
    Sailor.hear: 5,
    Sailor.wait: 6,
    Sailor.edit: 5,
    Sailor.hold: 2,
    Sailor.write_held: 4,
    Sailor.read_held: 2,
    Sailor.close_held: 2,
    Sailor.sync_held: 1,
    Sailor.save_by_exchange: 2,
    Sailor.save_aside: 2,
    Sailor.save_often: 1,
    Sailor.mkdir: 3,
    Sailor.unlink: 3,
    Sailor.rmdir: 2,
    Sailor.remove_tree: 1,
    Sailor.link: 2,
    Sailor.symlink: 1,
    Sailor.exchange: 2,
    Sailor.forget: 4,
    Sailor.lose_answer: 1,
    Sailor.cut: 1,
    Sailor.restart: 1,
    Sailor.look: 1,
}


def with_patch(before: bytes, patch: bytes, place: int) -> bytes:
    return before[:place].ljust(place, b"\0") + patch + before[place + len(patch) :]


@contextmanager
def told(seed: int, record: Record) -> Iterator[None]:
    try:
        yield
    except BaseException:
        print(f"seed {seed}:", *record.log, sep="\n  ")
        raise


async def voyage(place: Path, seed: int, names: list[str], steps: int) -> None:
    """Random changes on each device, then peace."""
    chance, record = random.Random(seed), Record()
    with told(seed, record):
        async with sailing(place, *names) as (fleet, devices), trio.open_nursery() as nursery:
            sailors = [Sailor(device, chance, record, nursery) for device in devices]
            for _ in range(steps):
                await chance.choice(sailors).step()
                if len(devices) == 1 and not devices[0].line.is_cut:
                    record.find_all(await devices[0].tree())
            for sailor in sailors:
                await sailor.make_port()
            before = await devices[0].tree()
            tree = await fleet.settle()
            for sailor in sailors:
                await sailor.look()
            record.find_all(tree)
            notes = [note for device in devices for note in device.committer.given_up]
            assert not any("defect" in note or "has lost" in note or "had lost" in note for note in notes), notes
            if len(devices) == 1:
                different = {path for path in tree.keys() | before.keys() if tree.get(path, 0) != before.get(path, 0)}
                assert not different, f"{different}: {before} became {tree}"
                notes = devices[0].committer.given_up
                assert not notes, notes
