"""Worlds small enough to try everything that can happen in them: two devices, a server, a few changes.

Owns the machines of one world, each with its files in a directory and nothing else that lasts, the changes that can be
made in it, and what a person then sees. Every machine can be begun from an image of its disk. All time, randomness and
names are the same in each run, so equal histories leave equal bytes.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from backend import app
from backend.blockstore import sealed
from backend.blockstore.local import LocalStore
from backend.metadata.sqlite import Database
from backend.notify.hub import InProcessHub
from backend.service.ground import Ground, Limits
from backend.service.keys import AccountKeys, MasterKey
from cache import workspace
from drivefs.fs.attributes import Wanted
from drivefs.fs.errors import FileSystemError
from drivefs.protocol import messages, routes, wire
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind
from drivefs.remote.errors import Offline
from tests.backend.api.served import MASTER, PASSWORD, USER, Request
from tests.backend.service import invariants
from tests.backend.service.drive import Clock, Random
from tests.simulation.crash_points import digest_below
from tests.simulation.disk import Image, write_image
from tests.sync.fleet import Device, at_once

LIMITS = Limits(quota_bytes=2**30, file_bytes=2**30)
LARGE = 70_000
"""Bytes that go to a staging file."""
XATTR = b"user.x"
DEVICES = ("anna", "bert")
SERVER = "server"
MACHINES = (*DEVICES, SERVER)
UNKNOWN = b"cannot be fetched"


class Change(NamedTuple):
    """One change by one device."""

    device: str
    kind: str


class Entry(NamedTuple):
    """What a person sees under a path."""

    inode: InodeId
    kind: InodeKind
    content: bytes
    xattr: bytes
    link_count: int


Tree = dict[str, Entry]


# -- machines --------------------------------------------------------------------------------------------------------


class Sailor(Device):
    """A device of a small world: begins from its disk, with a number for each life so that nothing is drawn twice."""

    def __init__(self, name: str, place: Path, token: str, asgi: Any, *, life: int = 0) -> None:
        super().__init__(name, place, token, asgi)
        self.random.drawn = 10**6 * (1 + DEVICES.index(name)) + 10**3 * life
        self.ticks = count(10**18 + 10**6 * life + len(name))

    @property
    def info(self) -> Any:
        """The drive and its root: learnt in the first session, or told."""
        return self._info

    @info.setter
    def info(self, known: Any) -> None:
        self._info = known

    async def seen(self) -> Tree:
        found: Tree = {}
        await self._see(self.root, "", found)
        return found

    async def _see(self, directory: InodeId, prefix: str, found: Tree) -> None:
        for name, state in await self.entries(directory):
            path, content = prefix + name.decode(), b""
            if state.kind is InodeKind.FILE:
                try:
                    content = await self.content(state.inode)
                except (FileSystemError, Offline):
                    content = UNKNOWN
            xattr = state.xattrs.get(XATTR, b"")
            found[path] = Entry(state.inode, state.kind, content, xattr, state.nlink)
            if state.kind is InodeKind.DIRECTORY:
                await self._see(state.inode, path + "/", found)


@dataclass
class World:
    """The machines, begun."""

    places: dict[str, Path]
    database: Database
    asgi: Any
    facts: "Facts"
    devices: dict[str, Sailor] = field(default_factory=dict)
    life: int = 0

    async def begin(self, name: str) -> Sailor:
        """Begin a device from its files."""
        device = Sailor(name, self.places[name], self.facts.tokens[name], self.asgi, life=self.life)
        device.info = self.facts.info
        await device.open()
        self.devices[name] = device
        return device

    async def settle(self, order: tuple[str, ...] = DEVICES) -> Tree:
        """Let all send and hear, in this order, until all show one tree; gives it."""
        for _ in range(10):
            for name in order:
                await self.devices[name].sync()
            if not any([await self.devices[name].pull() for name in order]):
                break
        trees = [await self.devices[name].seen() for name in order]
        assert all(tree == trees[0] for tree in trees), "the devices show different trees"
        return trees[0]

    async def end(self) -> None:
        for device in self.devices.values():
            device.close()
            await device.aclose()

    async def assert_served_soundly(self) -> None:
        """The server's metadata are as they should be."""
        await self.database.read(invariants.check)

    def assert_sound(self) -> None:
        """After its end: the local states are as they should be; equal ones are looked at once."""
        for device in self.devices.values():
            state = digest_below(device.place)
            if state not in self.facts.sound:
                device.check()
                self.facts.sound.add(state)


@dataclass
class Facts:
    """What the devices of a world learnt when they logged in, and which local states were found sound."""

    tokens: dict[str, str] = field(default_factory=dict)
    info: Any = None
    sound: set[bytes] = field(default_factory=set)


@asynccontextmanager
async def world_of(
    places: dict[str, Path], facts: Facts, *, life: int = 0, master: MasterKey = MASTER
) -> AsyncIterator[World]:
    """The server begun from its files, and no device yet; all that were begun are ended."""
    data, clock, random = places[SERVER], Clock(), Random()
    random.drawn = 10**5 * life
    # The schema is looked at once, when the first world is made.
    database = Database(data / "metadata.db", at_once) if life else await Database.open(data / "metadata.db", at_once)
    async with AsyncExitStack() as opened:
        opened.callback(database.close)
        store = LocalStore(data / "blocks")
        store.prepare()
        ground = Ground(database, store, InProcessHub(), at_once, clock, random, LIMITS)
        keys = AccountKeys(database, master, clock, random)
        services = app.make_services(ground, keys, sealed.Algorithm.AEGIS_256X4)
        if not life:
            await services.accounts.add_user(USER, PASSWORD)
        world = World(places, database, app.make_app(services), facts, life=life)
        opened.push_async_callback(world.end)
        yield world


async def log_in(world: World, name: str, *, user: str = USER, password: str = PASSWORD) -> str:
    message = messages.LoginRequest(user=user, password=password, device=name)
    request = Request(routes.LOGIN, [wire.encode(message)])
    await world.asgi(request.scope(), request.receive, request.send)
    return request.message(messages.LoginReply).token


async def first_world(places: dict[str, Path]) -> Facts:
    """Make a world from nothing: a file `f`, a directory `d`, both known to both devices; it ends in order."""
    facts = Facts()
    async with world_of(places, facts) as world:
        for name in DEVICES:
            places[name].mkdir(exist_ok=True)
            facts.tokens[name] = await log_in(world, name)
            device = Sailor(name, places[name], facts.tokens[name], world.asgi)
            world.devices[name] = device
            await device.open()
            await device.begin()
            facts.info = device.info
        anna = world.devices["anna"]
        await anna.write("f", b"old content")
        await anna.mkdir("d")
        await world.settle()
    return facts


def placed(images: dict[str, Image], base: Path) -> dict[str, Path]:
    """Put images of disks below a directory: where each machine's files are."""
    places = {name: base / name for name in images}
    for name, image in images.items():
        places[name].mkdir(parents=True)
        write_image(image, places[name])
    return places


def booted(boot: int) -> Any:
    """Within it, what is opened belongs to this boot: another one after a power cut."""
    return mock.patch.object(workspace, "boot_id", partial(bytes, b"boot %d" % boot))


# -- changes ---------------------------------------------------------------------------------------------------------


async def subject(device: Device) -> str:
    """The file that changes are about."""
    for name in ("f", "g", "l", "d"):
        found = await device.find(name)
        if found is not None and found.kind is InodeKind.FILE:
            return name
    raise Impossible


class Impossible(Exception):
    """This change cannot be made after those before it, so there is no such scenario."""


async def _create(device: Device, _serial: int) -> None:
    name = "g" if await device.find("g") is None else "h"
    device.fs.release(await device.open_file(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


async def _write(device: Device, serial: int) -> None:
    await device.edit(await subject(device), b"%d by %s" % (serial, device.name.encode()))


async def _stage(device: Device, serial: int) -> None:
    await device.edit(await subject(device), (b"%d of %s " % (serial, device.name.encode())) * (LARGE // 10))


async def _truncate(device: Device, _serial: int) -> None:
    state = await device.known(await subject(device))
    device.fs.set_attributes(state.inode, Wanted(size=state.size // 2))


async def _rename(device: Device, _serial: int) -> None:
    name = await subject(device)
    await device.rename(name, "g" if name == "f" else "f")


async def _exchange(device: Device, _serial: int) -> None:
    name = await subject(device)
    await device.exchange(name, "g" if name == "f" and await device.find("g") else "d")


async def _unlink(device: Device, _serial: int) -> None:
    await device.unlink(await subject(device))


async def _mkdir(device: Device, _serial: int) -> None:
    await device.mkdir("d/e" if await _is_directory(device, "d") else "d")


async def _is_directory(device: Device, path: str) -> bool:
    found = await device.find(path)
    return found is not None and found.kind is InodeKind.DIRECTORY


async def _rmdir(device: Device, _serial: int) -> None:
    for path in ("d/e", "d", "f"):
        parent = path.rpartition("/")[0]
        if (not parent or await _is_directory(device, parent)) and await _is_directory(device, path):
            await device.rmdir(path)
            return
    raise Impossible


async def _link(device: Device, _serial: int) -> None:
    name = await subject(device)
    await device.link(name, "d/l" if await _is_directory(device, "d") and name != "l" else "l")


async def _setxattr(device: Device, serial: int) -> None:
    device.fs.set_xattr((await device.known(await subject(device))).inode, XATTR, b"%d" % serial)


async def _fsync(device: Device, _serial: int) -> None:
    number = await device.open_file(await subject(device), os.O_WRONLY)
    await device.fs.sync(number)
    device.fs.release(number)


CHANGES: dict[str, Callable[[Device, int], Any]] = {
    "create": _create,
    "write": _write,
    "stage": _stage,
    "truncate": _truncate,
    "rename": _rename,
    "exchange": _exchange,
    "unlink": _unlink,
    "mkdir": _mkdir,
    "rmdir": _rmdir,
    "link": _link,
    "setxattr": _setxattr,
    "fsync": _fsync,
}


async def perform(world: World, change: Change, serial: int) -> None:
    """Make a change.

    Raises:
        Impossible: it cannot be made here.
    """
    try:
        await CHANGES[change.kind](world.devices[change.device], serial)
    except FileSystemError as error:
        raise Impossible from error


def cut_line(world: World) -> None:
    """No device reaches the server any more."""
    for device in world.devices.values():
        device.line.is_cut = True
