"""All histories of up to three changes, and what is left of each by a crash wherever one can be.

Owns the running of histories with every crash recorded, the recovery from each disk, and what may be shown then: for
one device alone, and for two that meet at a server. Which histories are tried is the tests' affair.
"""

import gc
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import trio

from tests.simulation import worlds
from tests.simulation.crash_points import Moment, Recorder, cut_short, cuts, digest, killed
from tests.simulation.disk import Image, SimDisk
from tests.simulation.interception import small_sizes, watching
from tests.simulation.worlds import CHANGES, Change, Facts, Impossible, Tree, World

MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Start:
    """The disks of a first world, and what its devices know."""

    images: dict[str, Image]
    facts: Facts


@contextmanager
def memory() -> Iterator[Path]:
    """A directory in memory, where there is one, while it is needed."""
    with TemporaryDirectory(prefix="drivefs-worlds-", dir=MEMORY if MEMORY.is_dir() else None) as place:
        yield Path(place)


def first(base: Path) -> Start:
    """Make the first world."""
    disks = {name: SimDisk(base / "first" / name, Random(1)) for name in worlds.MACHINES}
    with watching(*disks.values()), small_sizes():
        facts = trio.run(worlds.first_world, {name: disk.root for name, disk in disks.items()})
    # What is there by now stays: the search for garbage need not look through it again and again.
    gc.freeze()
    return Start({name: disk.snapshot() for name, disk in disks.items()}, facts)


@contextmanager
def cleared(place: Path) -> Iterator[Path]:
    """A directory that is gone afterwards."""
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@dataclass
class Alone:
    """One device without a network: what is shown after each crash of each history."""

    start: Start
    base: Path
    recovered: dict[bytes, Tree] = field(default_factory=dict)
    left: dict[tuple[str, ...], Tree] = field(default_factory=dict)
    impossible: set[tuple[str, ...]] = field(default_factory=set)
    history_count: int = 0
    point_count: int = 0

    async def run(self, kinds: tuple[str, ...]) -> None:
        """A history: every crash of its last change, and the check of each against what was shown before.

        Raises:
            Impossible: there is no such history; nor is there one that begins so.
        """
        if kinds[:-1] in self.impossible:
            raise Impossible
        with cleared(self.base / "run") as place:
            disk = SimDisk(place, Random(1))
            disk.go_back(self.start.images["anna"])
            with watching(disk), worlds.booted(1):
                try:
                    recorder, shown = await self._recorded(disk, kinds)
                except Impossible:
                    self.impossible.add(kinds)
                    raise
        self.history_count += 1
        for moment in recorder.moments:
            durable, returned = moment.progress
            look = moment.looks["anna"]
            after_kill = await self.after(killed(look), boot=1)
            assert after_kill in shown[returned : returned + 2], (kinds, moment.what, "killed", after_kill, shown)
            for image in cuts(look, moment.before.get("anna", look)):
                found = await self.after(image, boot=2)
                assert is_allowed(found, shown[durable : returned + 2]), (kinds, moment.what, "cut", found, shown)
                self.point_count += 1

    async def is_other_order(self, kinds: tuple[str, ...]) -> bool:
        """Whether these two changes leave the same in the other order, and that one is tried."""
        first, second = kinds
        if list(CHANGES).index(first) <= list(CHANGES).index(second) or "fsync" in kinds:
            return False
        try:
            return await self._left_by((second, first)) == await self._left_by(kinds)
        except Impossible:
            return False

    async def _left_by(self, kinds: tuple[str, ...]) -> Tree:
        if kinds not in self.left:
            with cleared(self.base / "run") as place:
                world = self._world(worlds.placed({"anna": self.start.images["anna"]}, place))
                device = await world.begin("anna")
                worlds.cut_line(world)
                try:
                    for number, kind in enumerate(kinds):
                        await worlds.perform(world, Change("anna", kind), kinds[:number].count(kind))
                    self.left[kinds] = await device.seen()
                finally:
                    await world.end()
        return self.left[kinds]

    async def _recorded(self, disk: SimDisk, kinds: tuple[str, ...]) -> tuple[Recorder, list[Tree]]:
        world = self._world({"anna": disk.root})
        recorder = Recorder({"anna": disk})
        device = await world.begin("anna")
        worlds.cut_line(world)
        disk.settle()
        shown = [await device.seen()]
        durable = 0
        try:
            with recorder.recording():
                for number, kind in enumerate(kinds):
                    recorder.progress = (durable, number)
                    if number == len(kinds) - 1:
                        recorder.begin()
                    await worlds.perform(world, Change("anna", kind), kinds[:number].count(kind))
                    durable = number + 1 if kind == "fsync" else durable
                    recorder.progress = (durable, number + 1)
                    recorder.note("returned", "anna")
                    recorder.is_on = False
                    shown.append(await device.seen())
        finally:
            await world.end()
        return recorder, shown

    async def after(self, image: Image, *, boot: int) -> Tree:
        """What is shown after a crash that left this disk."""
        key = digest(image) + bytes([boot])
        if key not in self.recovered:
            with cleared(self.base / "recovered") as place, worlds.booted(boot):
                world = self._world(worlds.placed({"anna": image}, place))
                device = await world.begin("anna")
                worlds.cut_line(world)
                self.recovered[key] = await device.seen()
                await world.end()
                world.assert_sound()
        return self.recovered[key]

    def _world(self, places: dict[str, Path]) -> World:
        return World(places, None, None, self.start.facts, life=1)  # type: ignore[arg-type]


def is_allowed(found: Tree, shown: list[Tree]) -> bool:
    """Whether a power cut may leave this: what was shown at some time, its contents perhaps older than its names."""
    for number, whole in enumerate(shown):
        if {path: bare(entry) for path, entry in found.items()} != {path: bare(entry) for path, entry in whole.items()}:
            continue
        if all(entry.content in contents_of(entry, shown[: number + 1]) for entry in found.values()):
            return True
    return False


def bare(entry: worlds.Entry) -> Any:
    return entry._replace(content=b"")


def contents_of(entry: worlds.Entry, shown: list[Tree]) -> set[bytes]:
    return {each.content for tree in shown for each in tree.values() if each.inode == entry.inode}


# -- with a server ---------------------------------------------------------------------------------------------------

SENT = [kind for kind in CHANGES if kind not in ("fsync", "stage")]
"""Changes that differ for the server: staged bytes are sent as any others are."""
Histories = dict[str, tuple[str, ...]]
Order = tuple[str, ...]


@dataclass
class Together:
    """Devices that change things apart and then meet, crashing as they do."""

    start: Start
    base: Path
    settled: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    recovered: dict[tuple[bytes, ...], Any] = field(default_factory=dict)
    history_count: int = 0
    point_count: int = 0

    async def run(self, histories: Histories, order: Order) -> None:
        """A history: every crash while the devices meet, and what they show in the end."""
        moments = await self.meeting(histories, order)
        self.history_count += 1
        for moment in moments:
            for target in (moment.machine,) if moment.machine in worlds.MACHINES else (order[0], worlds.SERVER):
                for boot, crashed in ((1, killed), (2, cut_short)):
                    images = {name: killed(look) for name, look in moment.looks.items()}
                    images[target] = crashed(moment.looks[target])
                    found = await self.after(images, order, boots={target: boot})
                    allowed = [self.settled[key_of(histories, order)]]
                    if boot == 2 and target in histories:
                        allowed = [await self.end_of(fewer, order) for fewer in prefixes(histories, target)]
                    assert found in allowed, (histories, order, moment.what, target, crashed.__name__, found, allowed)
                    self.point_count += 1

    async def end_of(self, histories: Histories, order: Order) -> Any:
        """What all show in the end if nothing crashes."""
        if key_of(histories, order) not in self.settled:
            await self.meeting(histories, order)
        return self.settled[key_of(histories, order)]

    async def meeting(self, histories: Histories, order: Order) -> list[Moment]:
        """Have a history happen; gives all moments of the meeting, and notes how it ends."""
        with cleared(self.base / "run") as place:
            disks = {name: SimDisk(place / name, Random(1)) for name in worlds.MACHINES}
            for name, disk in disks.items():
                disk.go_back(self.start.images[name])
            return await self._met(disks, histories, order)

    async def _met(self, disks: dict[str, SimDisk], histories: Histories, order: Order) -> list[Moment]:
        recorder = Recorder(disks)
        places = {name: disk.root for name, disk in disks.items()}
        with watching(*disks.values()), worlds.booted(1), recorder.recording():
            async with worlds.world_of(places, self.start.facts, life=1) as world:
                for name in worlds.DEVICES:
                    await (await world.begin(name)).begin()
                for disk in disks.values():
                    disk.settle()
                for name, kinds in histories.items():
                    for number, kind in enumerate(kinds):
                        await worlds.perform(world, Change(name, kind), kinds[:number].count(kind))
                recorder.begin()
                tree = await world.settle(order)
                recorder.is_on = False
                await world.assert_served_soundly()
            world.assert_sound()
        self.settled[key_of(histories, order)] = normal(tree)
        return recorder.moments

    async def after(self, images: dict[str, Image], order: Order, *, boots: dict[str, int]) -> Any:
        """What all show after they have met again, from these disks."""
        key = (*(digest(images[name]) for name in worlds.MACHINES), repr((order, boots)).encode())
        if key not in self.recovered:
            with cleared(self.base / "recovered") as place:
                async with worlds.world_of(worlds.placed(images, place), self.start.facts, life=2) as world:
                    for name in order:
                        with worlds.booted(boots.get(name, 1)):
                            device = await world.begin(name)
                        await device.begin()
                    tree = await world.settle(order)
                    await world.assert_served_soundly()
                world.assert_sound()
            self.recovered[key] = normal(tree)
        return self.recovered[key]


def key_of(histories: Histories, order: Order) -> tuple[Any, ...]:
    return (*sorted((name, kinds) for name, kinds in histories.items() if kinds), order)


def prefixes(histories: Histories, device: str) -> Iterator[Histories]:
    """What is left if a device forgets its last changes, down to the last that it made durable."""
    kinds = histories[device]
    durable = max((number + 1 for number, kind in enumerate(kinds) if kind == "fsync"), default=0)
    return ({**histories, device: kinds[:count]} for count in range(durable, len(kinds) + 1))


def normal(tree: Tree) -> Any:
    """A tree as people see it: which paths are one file, but not by which number."""
    ranks: dict[Any, int] = {}
    return {p: entry._replace(inode=ranks.setdefault(entry.inode, len(ranks))) for p, entry in sorted(tree.items())}


def try_all(start: Start, base: Path, histories: list[tuple[Histories, Order]]) -> None:
    together = Together(start, base)

    async def run() -> None:
        for each, order in histories:
            with suppress(Impossible):
                await together.run(each, order)

    with small_sizes():
        trio.run(run)
    print(
        f"{together.history_count} histories, {together.point_count} crash points,"
        f" {len(together.recovered)} triples of disks"
    )
