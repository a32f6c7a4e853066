"""What the programs of a device do: random calls, as editors, shells and databases make them.

Owns the choice of calls and what is entered in the ledger for them. One program runs on a device at a time, so that
what it was shown is what it changes. It ends with the process of its drive, wherever it stands, and what it had not
been told by then is in no ledger.
"""

import os
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import trio

from drivefs.fs.attributes import Wanted
from drivefs.fs.contents import PAGE_BYTES
from drivefs.fs.ignore_rules import NAME
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind
from tests.simulation.device import Device
from tests.simulation.kept_here import RULES
from tests.simulation.ledger import Ledger
from tests.simulation.lives import Dead
from tests.simulation.turns import REFUSALS, Turn

NAMES = ["a", "b", "c", "d.txt"]
DIRECTORIES = ["x", "y", "z"]
SIZES = [0, 0, 0, 0, 200, 3000, 70_000]
RULED = ["e.log", "f~"]
MOST_HELD = 3
SHARED = 0.7


@dataclass(slots=True)
class Held:
    """A file that a program has open."""

    path: str
    inode: int
    """As the kernel knows it."""
    number: int


class Program:
    """The user of one device; `note` hears each call, for the trace and for people."""

    def __init__(self, device: Device, ledger: Ledger, chance: random.Random, note: Callable[[str], None]) -> None:
        self._device = device
        self._ledger = ledger
        self._chance = chance
        self._note = note
        self._drawn = 0
        self._held: list[Held] = []
        """What stays open from one call to a later one."""
        self._opened: list[Held] = []
        """What is open for the call that is under way."""
        self._stepping: trio.CancelScope | None = None

        self.shares_often = False
        """Whether it does most of what it does in shares, where there are any."""
        self.has_rules = False
        """Whether it also changes rules, and makes files that they keep on the device."""
        self.has_sizes = False
        """Whether it also gives files other sizes."""
        self.has_asides = False
        """Whether it also moves files away that it has open, and puts something else in their place."""
        self.has_tools = False
        """Whether it also saves as tools do that move the old file away, link the new one, or write at the end."""
        self.has_more = False
        """Whether it also does what has to do with attributes only, and with what is no content."""

    def begin(self) -> None:
        """The drive was mounted: nothing is open."""
        self._held.clear()
        self._opened.clear()

    def end(self) -> None:
        """The drive is going: what is under way never returns."""
        if self._stepping is not None:
            self._stepping.cancel()

    def close_all(self) -> None:
        """Close what is open, as at the end of all programs."""
        while self._held:
            self._close(self._held.pop())

    async def step(self) -> bool:
        """One call, or the few that belong together; False if it was under way when the process died."""
        is_done = False
        often = [self.write, self.save, self.rename, self.edit]
        change = self._chance.choice([*often, *often, *self._seldom()])
        with trio.CancelScope() as self._stepping:
            try:
                await change()
                is_done = True
            except REFUSALS as error:
                self._say(f"{change.__name__} failed: {type(error).__name__}")
                is_done = True
            except Dead:
                self._say(f"{change.__name__} never returns")
        while self._opened and self._device.is_mounted:
            self._close(self._opened.pop())
        return is_done

    async def look(self, turn: Turn) -> str | None:
        """See what is there between two steps; None if the process died meanwhile, or it cannot be had now."""
        with trio.CancelScope() as self._stepping, suppress(*REFUSALS, Dead):
            return await turn.look()
        return None

    def _seldom(self) -> list[Callable[[], Awaitable[None]]]:
        names = [self.mkdir, self.unlink, self.rmdir, self.remove_tree, self.link, self.symlink, self.exchange]
        more = [self.touch, self.own, self.bare, self.fifo, self.touch, self.bare] if self.has_more else []
        more += [self.rule] * 3 if self.has_rules else []
        more += [self.cut] * 8 if self.has_sizes else []
        more += [self.move_aside] * 8 if self.has_asides else []
        more += [self.back_up, self.back_up, self.adopt, self.append] * 3 if self.has_tools else []
        contents = [self.truncate, self.hold, self.go_on, self.go_on, self.let_go, self.sync]
        return [*more, *names, *contents, self.attributes]

    def _say(self, what: str) -> None:
        self._note(f"{trio.current_time():.3f} {self._device.name}: {what}")

    # -- what there is -----------------------------------------------------------------------------------------------

    async def _paths(self, *kinds: InodeKind) -> list[str]:
        tree = await self._device.calls.tree()
        found = sorted(path for path, state in tree.items() if path and (not kinds or state.kind in kinds))
        if self.shares_often and self._chance.random() < SHARED:
            shares = self._device.local.shares
            found = [path for path in found if shares.of(tree[path].inode) is not None] or found
        return found

    async def _new_path(self, names: list[str]) -> str:
        parents = ["", *[f"{path}/" for path in await self._paths(InodeKind.DIRECTORY) if path.count("/") < 2]]
        return self._chance.choice(parents) + self._chance.choice([*names, *RULED] if self.has_rules else names)

    def _data(self) -> bytes:
        """Something that nobody has written before."""
        self._drawn += 1
        tag = b"<%s %d>" % (self._device.name.encode(), self._drawn)
        size = self._chance.choice(SIZES)
        return tag + bytes([self._drawn % 251]) * size

    async def _seen(self, path: str) -> bytes:
        """The content that is about to be written over or removed, since that is what a program was shown.

        While it is read, the feed may let the name lead to another file, which it then is that goes.
        """
        while True:
            found = await self._device.calls.find(path)
            if found is None or found.kind is not InodeKind.FILE:
                return b""
            content = await self._device.calls.read(found.inode)
            self._ledger.read(content)
            if self._device.calls.shown(path) == found.inode:
                return content

    # -- contents ----------------------------------------------------------------------------------------------------

    async def _put(self, held: Held, offset: int, data: bytes, seen: bytes = b"", size: int | None = None) -> None:
        """Write through a descriptor; what the file has then is what was read before, with the data over it.

        `seen` is what the program knows to have been there before that. With `size` the file is given that one first.
        """
        fs, number, inode = self._device.calls.fs, held.number, held.inode
        before = await self._shown(held, offset, len(data))
        self._ledger.read(before)
        if size is not None:
            fs.set_attributes(self._device.calls.meant(inode), Wanted(size=size), number)
            self._ledger.gave_up(before)
            seen, before = before, before[:size].ljust(size, b"\0")
            self._ledger.cut(self._device.name, before, seen)
        fs.write(number, offset, data)
        expected = before.ljust(offset, b"\0")[:offset] + data + before[offset + len(data) :]
        self._ledger.gave_up(before)
        self._ledger.wrote(self._device.name, expected, before, seen)
        if not self._device.calls.has_name(self._device.calls.meant(inode)):
            # What is written to it can never be found again.
            self._ledger.gave_up(expected)
        after = bytes(await fs.read(number, 0, 2**30))
        assert after == expected, f"read {after[:80]!r} after a write that should have made it {expected[:80]!r}"

    async def _shown(self, held: Held, offset: int, length: int) -> bytes:
        """What a file has when this returns, where that is to be written through a descriptor of it.

        Another program may write to it while bytes are waited for. What is written as pages of a map are is taken for a
        change of the oldest content that one of its descriptors was shown: so all of them are looked at first.
        """
        calls, end = self._device.calls, offset + length
        while True:
            before = await calls.fs.read(held.number, 0, 2**30)
            if not offset % PAGE_BYTES and (not end % PAGE_BYTES or end == len(before)):
                for other in [each for each in self._held if calls.meant(each.inode) == calls.meant(held.inode)]:
                    await calls.fs.read(other.number, 0, 2**30)
            if await calls.fs.read(held.number, 0, 2**30) == before:
                return bytes(before)

    def _replaced(self, file: InodeId | None, seen: bytes, data: bytes) -> None:
        """A file lost the name that other data has now: if it has another one here, nothing took its place there."""
        if file is not None and self._device.calls.has_name(file):
            self._ledger.stays(seen, data)

    async def _open(self, path: str, flags: int) -> Held:
        inode, number = await self._device.calls.open(path, os.O_RDWR | flags)
        held = Held(path, self._device.calls.number(inode), number)
        self._opened.append(held)
        return held

    def _close(self, held: Held) -> None:
        self._device.calls.fs.release(held.number)

    async def write(self) -> None:
        path, data = await self._new_path(NAMES), self._data()
        seen = await self._seen(path)
        self._say(f"write {path} {data[:40]!r} of {len(data)}")
        await self._put_and_close(await self._emptied(path, os.O_CREAT, seen), 0, data, seen)

    async def _emptied(self, path: str, flags: int, seen: bytes) -> Held:
        """Open a file that is to have another content than this; if none was shown, what came meanwhile stays."""
        if self._device.calls.shown(path) is None:
            flags |= os.O_EXCL
        with self._ledger.giving_up(seen):
            return await self._open(path, flags | os.O_TRUNC)

    async def _put_and_close(self, held: Held, offset: int, data: bytes, seen: bytes = b"") -> None:
        await self._put(held, offset, data, seen)
        if self._chance.random() < 0.3:
            await self._fsync(held)
        self._opened.remove(held)
        self._close(held)

    async def edit(self) -> None:
        """Write into a file where it stands."""
        files = await self._paths(InodeKind.FILE)
        if files:
            path, data = self._chance.choice(files), self._data()
            held = await self._open(path, 0)
            content = await self._device.calls.fs.read(held.number, 0, 2**30)
            offset = self._chance.randrange(len(content) + 10)
            self._say(f"edit {path} at {offset} {data[:40]!r} of {len(data)}")
            await self._put_and_close(held, offset, data)

    async def cut(self) -> None:
        """Give a file another size, and write at its end or beyond: what was behind that is zeros from now on."""
        files = await self._paths(InodeKind.FILE)
        if files:
            path, data = self._chance.choice(files), self._data()
            held = await self._open(path, 0)
            content = await self._device.calls.fs.read(held.number, 0, 2**30)
            size = self._chance.choice([len(content) // 2, self._chance.randrange(2 * len(content) + 100)])
            offset = size + self._chance.choice([0, 20, 3000])
            self._say(f"cut {path} to {size} and write at {offset} {data[:40]!r} of {len(data)}")
            await self._put(held, offset, data, size=size)
            self._opened.remove(held)
            self._close(held)

    async def truncate(self) -> None:
        files = await self._paths(InodeKind.FILE)
        if files:
            path, data = self._chance.choice(files), self._data()
            seen = await self._seen(path)
            self._say(f"truncate {path} {data[:40]!r}")
            await self._put_and_close(await self._emptied(path, 0, seen), 0, data, seen)

    async def save(self) -> None:
        """As most editors do: a temporary file, renamed over the old one."""
        path, data = await self._new_path(NAMES), self._data()
        temporary = f"{path}.tmp"
        await self._seen(path)
        left = await self._seen(temporary)
        self._say(f"save {path} {data[:40]!r} of {len(data)}")
        await self._put_and_close(await self._emptied(temporary, os.O_CREAT, left), 0, data)
        seen = await self._seen(path)
        self._ledger.wrote_over(data, seen)
        replaced = self._device.calls.shown(path)
        with self._ledger.giving_up(seen):
            await self._device.calls.rename(temporary, path)
        self._replaced(replaced, seen, data)

    async def back_up(self) -> None:
        """As vim and others save: the file is moved to the name of a backup, another made in its place, and it goes."""
        files = await self._paths(InodeKind.FILE)
        if files:
            path, data = self._chance.choice(files), self._data()
            # By the rules of those runs that have some, one of these stays on the device.
            backup = path + self._chance.choice(["~", ".bak"] if self.has_rules else [".bak"])
            self._say(f"back up {path} and save {data[:40]!r} of {len(data)}")
            seen = await self._seen(path)
            with self._ledger.giving_up(await self._seen(backup)):
                await self._device.calls.rename(path, backup)
            await self._put_and_close(await self._open(path, os.O_CREAT | os.O_EXCL), 0, data, seen)
            if self._chance.random() < 0.7:
                left = await self._seen(backup)
                replaced = self._device.calls.shown(backup)
                with self._ledger.giving_up(left):
                    await self._device.calls.unlink(backup)
                self._replaced(replaced, left, data)

    async def adopt(self) -> None:
        """As git adds what is there for good: a temporary file gets its name by a link, and loses the first one."""
        path, data = await self._new_path(NAMES), self._data()
        first = f"{path}.new"
        self._say(f"make {first} {data[:40]!r} of {len(data)} and link it to {path}")
        await self._put_and_close(await self._open(first, os.O_CREAT | os.O_EXCL), 0, data)
        try:
            await self._device.calls.link(first, path)
        finally:
            with self._ledger.giving_up(await self._seen(first)):
                await self._device.calls.unlink(first)

    async def append(self) -> None:
        """As a log is written: each line at the end, wherever that is by then."""
        path, data = await self._new_path(NAMES), self._data()
        self._say(f"append to {path} {data[:40]!r} of {len(data)}")
        held = await self._open(path, os.O_CREAT | os.O_APPEND)
        before = bytes(await self._device.calls.fs.read(held.number, 0, 2**30))
        await self._put_and_close(held, len(before), data)

    async def hold(self) -> None:
        """Open a file and keep it open."""
        if len(self._held) < MOST_HELD:
            path, data = await self._new_path(NAMES), self._data()
            self._say(f"hold {path} {data[:40]!r} of {len(data)}")
            held = await self._open(path, os.O_CREAT)
            self._opened.remove(held)
            self._held.append(held)
            await self._put(held, 0, data)

    async def move_aside(self) -> None:
        """Move a file away that is still open, as who rotates logs does; then its place is used, or its directory goes.

        What waits for the file to be closed holds up what came after it in the same place.
        """
        if len(self._held) >= MOST_HELD:
            return
        directory, new, data = await self._new_path(DIRECTORIES), await self._new_path(NAMES), self._data()
        if await self._device.calls.find(directory) is None:
            await self._device.calls.create(directory, InodeKind.DIRECTORY, 0o755)
        old = f"{directory}/log"
        self._say(f"move {old} aside to {new} {data[:40]!r} of {len(data)}")
        held = await self._open(old, os.O_CREAT)
        self._opened.remove(held)
        self._held.append(held)
        await self._put(held, 0, data)
        seen = await self._seen(new)
        with self._ledger.giving_up(seen):
            await self._device.calls.rename(old, new)
        if self._chance.random() < 0.5:
            await self._device.calls.rmdir(directory)
        else:
            await self._put_and_close(await self._open(old, os.O_CREAT | os.O_EXCL), 0, self._data())

    async def go_on(self) -> None:
        """Write through a descriptor that was opened some time ago."""
        if self._held:
            held, data = self._chance.choice(self._held), self._data()
            self._say(f"go on with {held.path} {data[:40]!r} of {len(data)}")
            await self._put(held, self._chance.randrange(40), data)

    async def let_go(self) -> None:
        if self._held:
            held = self._held.pop(self._chance.randrange(len(self._held)))
            self._say(f"close {held.path}")
            self._close(held)

    async def sync(self) -> None:
        if self._held:
            await self._fsync(self._chance.choice(self._held))

    async def _fsync(self, held: Held) -> None:
        covered = self._ledger.volatile(self._device.name)
        self._say(f"fsync {held.path}")
        await self._device.calls.fs.sync(held.number)
        self._ledger.synced(self._device.name, covered)

    async def rule(self) -> None:
        """Say what is to stay on each device, or take that back."""
        directories = [f"{path}/" for path in await self._paths(InodeKind.DIRECTORY)]
        path = self._chance.choice(["", "", *directories]) + NAME.decode()
        there = await self._device.calls.find(path)
        seen = await self._seen(path)
        if there is not None and self._chance.random() < 0.3:
            self._say(f"unlink {path}")
            with self._ledger.giving_up(seen):
                await self._device.calls.unlink(path)
            return
        data = self._chance.choice(RULES) + b"# " + self._data()
        self._say(f"rule {path} {data[:60]!r}")
        await self._put_and_close(await self._emptied(path, os.O_CREAT, seen), 0, data, seen)

    # -- names -------------------------------------------------------------------------------------------------------

    async def mkdir(self) -> None:
        path = await self._new_path(DIRECTORIES)
        self._say(f"mkdir {path}")
        await self._device.calls.create(path, InodeKind.DIRECTORY, 0o755)

    async def symlink(self) -> None:
        path = await self._new_path(NAMES)
        self._say(f"symlink {path}")
        await self._device.calls.create(path, InodeKind.SYMLINK, 0o777, b"target")

    async def link(self) -> None:
        files = await self._paths(InodeKind.FILE)
        if files:
            old, new = self._chance.choice(files), await self._new_path(NAMES)
            self._say(f"link {old} {new}")
            await self._device.calls.link(old, new)

    async def unlink(self) -> None:
        files = await self._paths(InodeKind.FILE, InodeKind.SYMLINK)
        if files:
            path = self._chance.choice(files)
            seen = await self._seen(path)
            self._say(f"unlink {path}")
            with self._ledger.giving_up(seen):
                await self._device.calls.unlink(path)

    async def rmdir(self) -> None:
        directories = await self._paths(InodeKind.DIRECTORY)
        if directories:
            path = self._chance.choice(directories)
            self._say(f"rmdir {path}")
            await self._device.calls.rmdir(path)

    async def remove_tree(self) -> None:
        directories = await self._paths(InodeKind.DIRECTORY)
        if directories:
            path = self._chance.choice(directories)
            self._say(f"rm -r {path}")
            await self._remove_below(path)

    async def _remove_below(self, path: str) -> None:
        directory = (await self._device.calls.known(path)).inode
        for name, state in await self._device.calls.entries(directory):
            below = f"{path}/{name.decode()}"
            if state.kind is InodeKind.DIRECTORY:
                await self._remove_below(below)
            else:
                with self._ledger.giving_up(await self._seen(below)):
                    await self._device.calls.unlink(below)
        await self._device.calls.rmdir(path)

    async def rename(self) -> None:
        paths = await self._paths()
        if paths:
            old, new = self._chance.choice(paths), await self._new_path(NAMES + DIRECTORIES)
            if not f"{new}/".startswith(f"{old}/"):
                seen = await self._seen(new)
                self._say(f"rename {old} {new}")
                with self._ledger.giving_up(seen):
                    await self._device.calls.rename(old, new, replace=self._chance.random() < 0.9)

    async def exchange(self) -> None:
        paths = await self._paths()
        if len(paths) > 1:
            first, second = self._chance.sample(paths, 2)
            if not (f"{first}/".startswith(f"{second}/") or f"{second}/".startswith(f"{first}/")):
                self._say(f"exchange {first} {second}")
                await self._device.calls.exchange(first, second)

    async def attributes(self) -> None:
        paths = await self._paths()
        if paths:
            path = self._chance.choice(paths)
            self._say(f"attributes of {path}")
            if self._chance.random() < 0.5:
                await self._device.calls.set_mode(path, self._chance.choice([0o600, 0o644, 0o700, 0o755]))
            else:
                name = self._chance.choice([b"user.one", b"user.two"])
                await self._device.calls.set_xattr(path, name, self._data()[:30])

    # -- what is no content ------------------------------------------------------------------------------------------

    async def touch(self) -> None:
        """Set the time of the last change, as unpacking an archive does."""
        if paths := await self._paths(InodeKind.FILE, InodeKind.SYMLINK):
            path, mtime_ns = self._chance.choice(paths), self._chance.randrange(10**18)
            self._say(f"touch {path} {mtime_ns}")
            await self._device.calls.set_attributes(path, Wanted(mtime_ns=mtime_ns))

    async def own(self) -> None:
        if paths := await self._paths():
            path, owner = self._chance.choice(paths), self._chance.choice([0, 1000, 1001])
            self._say(f"chown {path} {owner}")
            await self._device.calls.set_attributes(path, Wanted(uid=owner, gid=owner))

    async def bare(self) -> None:
        """Take an extended attribute away, of those that `attributes` sets."""
        if paths := await self._paths():
            path, name = self._chance.choice(paths), self._chance.choice([b"user.one", b"user.two"])
            self._say(f"remove {name!r} of {path}")
            await self._device.calls.remove_xattr(path, name)

    async def fifo(self) -> None:
        path = await self._new_path(NAMES)
        self._say(f"mkfifo {path}")
        await self._device.calls.create(path, InodeKind.FIFO, 0o600)
