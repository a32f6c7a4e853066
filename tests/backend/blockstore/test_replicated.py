"""Two stores as one: what was acknowledged is in both, or in one and owed; what was refused is in neither."""

import errno
import os
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from backend.blockstore import errors
from backend.blockstore.local import LocalStore
from backend.blockstore.places import Places, open_places
from backend.blockstore.replicated import ReplicatedStore
from backend.service.ground import Limits
from drivefs.protocol import blocks as codec
from tests.backend.api.served import Drive, Served, serving
from tests.backend.api.test_garbage import a_drive

FILE = os.urandom(300_000)


class Region(LocalStore):
    """A store in a place that may be out of reach."""

    is_down = False
    settles = True

    def _answer(self) -> None:
        if self.is_down:
            raise OSError(errno.EHOSTUNREACH, "No route to host")

    def put(self, name: str, parts: Iterable[bytes | bytearray]) -> None:
        self._answer()
        super().put(name, parts)

    def settle(self, names: Iterable[str]) -> None:
        self._answer()
        if not self.settles:
            raise OSError(errno.EIO, "Input/output error")
        super().settle(names)

    def get(self, name: str, offset: int, length: int) -> bytes:
        self._answer()
        return super().get(name, offset, length)

    def delete(self, name: str) -> None:
        self._answer()
        super().delete(name)

    def names(self) -> set[str]:
        return {each.name for each in self.objects()}


class World:
    """Two regions and the store over them."""

    def __init__(self, place: Path, *, needs_both: bool) -> None:
        self.regions = Region(place / "first/blocks"), Region(place / "second/blocks")
        for region in self.regions:
            region.prepare()
        self.store = ReplicatedStore(*self.regions, needs_both=needs_both)
        self.store.copy_owed()


@pytest.fixture(params=[0, 1], ids=["the first is down", "the second is down"])
def down(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def test_what_is_found_in_the_second_only_is_owed_to_the_first(tmp_path: Path) -> None:
    world = World(tmp_path, needs_both=True)
    put(world.store, "aa/1")
    world.store.settle(["aa/1"])
    assert not world.store.is_owed
    world.regions[0].delete("aa/1")
    assert world.store.get("aa/1", 0, len(FILE)) == FILE
    assert world.store.is_owed
    assert world.store.copy_owed() == 1
    assert world.regions[0].names() == {"aa/1"}


def put(store: ReplicatedStore, name: str, data: bytes = FILE) -> None:
    store.put_filled(name, len(data), lambda memory: memory.__setitem__(slice(None), data))
    store.settle([name])


def test_both_have_all_and_either_gives_it(tmp_path: Path, down: int) -> None:
    world = World(tmp_path, needs_both=True)
    put(world.store, "a/one")
    assert world.regions[0].names() == world.regions[1].names() == {"a/one"}
    assert len(list(world.store.objects())) == 1
    world.regions[down].is_down = True
    assert world.store.get("a/one", 5, 10) == FILE[5:15]
    with pytest.raises(OSError, match="No route"):
        world.store.get("a/none", 0, 1)
    with pytest.raises(OSError, match="No route"):
        world.store.delete("a/one")
    world.regions[down].is_down = False
    with pytest.raises(errors.ObjectMissing):
        world.store.get("a/none", 0, 1)
    world.store.delete("a/one")
    assert not world.regions[0].names() | world.regions[1].names()


@pytest.mark.fault(51)
@pytest.mark.parametrize("when", ["put", "settle"])
def test_where_both_are_needed_a_refusal_leaves_nothing(tmp_path: Path, down: int, when: str) -> None:
    world = World(tmp_path, needs_both=True)
    region = world.regions[down]
    region.is_down, region.settles = when == "put", when != "settle"
    with pytest.raises(OSError, match=r"No route|Input/output"):
        put(world.store, "a/one")
    region.is_down, region.settles = False, True
    assert not world.regions[0].names() | world.regions[1].names()
    put(world.store, "a/one")


@pytest.mark.fault(51)
@pytest.mark.parametrize("when", ["put", "settle"])
def test_where_one_is_enough_the_other_gets_it_later(tmp_path: Path, down: int, when: str) -> None:
    world = World(tmp_path, needs_both=False)
    region = world.regions[down]
    region.is_down, region.settles = when == "put", when != "settle"
    put(world.store, "a/one")
    assert world.store.is_owed
    assert world.regions[1 - down].names() == {"a/one"}
    if when == "put":
        with pytest.raises(OSError, match="No route"):
            world.store.copy_owed()
        assert world.store.is_owed
    region.is_down, region.settles = False, True
    assert world.store.copy_owed() == (when == "put")
    assert not world.store.is_owed
    assert region.get("a/one", 0, len(FILE)) == FILE


@pytest.mark.fault(51)
def test_what_only_one_has_and_cannot_keep_is_refused(tmp_path: Path, down: int) -> None:
    """The one was down for the bytes, the other for what makes them durable: nobody has it for sure."""
    world = World(tmp_path, needs_both=False)
    world.regions[down].is_down = True
    world.store.put("a/one", [FILE])
    world.regions[down].is_down, world.regions[1 - down].settles = False, False
    with pytest.raises(OSError, match="Input/output"):
        world.store.settle(["a/one"])
    assert not world.regions[0].names() | world.regions[1].names()


@asynccontextmanager
async def served_from(world: World, place: Path) -> AsyncIterator[tuple[Served, Drive]]:
    async with serving(place, Limits(), store=world.store) as served:
        yield served, await a_drive(served)


async def quiet(_done: int, _total: int) -> None:
    pass


@pytest.mark.fault(51)
@pytest.mark.anyio
@pytest.mark.parametrize("needs_both", [True, False])
async def test_while_a_region_is_down_its_blocks_are_read_and_nothing_is_half_acknowledged(
    tmp_path: Path, down: int, needs_both: bool
) -> None:
    world = World(tmp_path, needs_both=needs_both)
    async with served_from(world, tmp_path) as (served, drive):
        await drive.store_file(10, b"before", b"before")
        world.regions[down].is_down = True
        block = codec.block_id(b"before")
        assert codec.decode_payload((await served.get(block))[0].payload or b"", block) == b"before"
        reply = await served.put(FILE)
        if needs_both:
            assert reply.problem() == "unavailable"
            assert await served.missing(codec.block_id(FILE)) == [codec.block_id(FILE)]
            assert (await served.usage()).pinned_bytes == 0
            world.regions[down].is_down = False
        await drive.store_file(20, b"after", FILE)
        world.regions[down].is_down = False
        world.store.copy_owed()
        assert world.regions[0].names() == world.regions[1].names()
        for name in world.regions[1 - down].names():
            world.regions[1 - down].delete(name)
        assert (await served.services.checks.check(quiet)).is_sound


@pytest.mark.anyio
@pytest.mark.parametrize("damaged", [0, 1])
async def test_what_one_place_has_damaged_is_read_from_the_other_and_mended(tmp_path: Path, damaged: int) -> None:
    """A disk that gives other bytes than were written says nothing of it."""
    world = World(tmp_path, needs_both=True)
    async with served_from(world, tmp_path) as (served, drive):
        await drive.store_file(10, b"file", FILE)
        (name,) = world.regions[0].names()
        path = tmp_path / ("first", "second")[damaged] / "blocks/objects" / name
        rotten = bytearray(path.read_bytes())
        whole = bytes(rotten)
        rotten[1000] ^= 1
        path.write_bytes(rotten)
        block = codec.block_id(FILE)
        assert codec.decode_payload((await served.get(block))[0].payload or b"", block) == FILE
        assert (await served.services.checks.check(quiet, is_repair=True)).is_sound
        assert (path.read_bytes() == whole) is (damaged == 0)
        for region in world.regions:
            (tmp_path / ("first", "second")[world.regions.index(region)] / "blocks/objects" / name).write_bytes(rotten)
        assert (await served.get(block))[0].payload is None


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


def away(mirror: Path) -> None:
    """Its disk is not mounted: what it is mounted on is there."""
    mirror.rename(mirror.with_name("elsewhere"))
    mirror.mkdir()


def back(mirror: Path) -> None:
    shutil.rmtree(mirror)
    mirror.with_name("elsewhere").rename(mirror)


@pytest.mark.fault(51)
@pytest.mark.parametrize("needs_both", [True, False])
def test_a_mirror_that_is_not_mounted_is_out_of_reach(tmp_path: Path, needs_both: bool) -> None:
    """Else both copies would lie on one disk, and what was deleted meanwhile would come back with it."""
    mirror, places = tmp_path / "mirror", Places(tmp_path / "data", None, tmp_path / "mirror", needs_both)
    mirror.mkdir()
    put(cast(ReplicatedStore, open_places(places, os.urandom)), "a/one")
    away(mirror)
    if needs_both:
        with pytest.raises(errors.PlaceUnusable, match="not at its place"):
            open_places(places, os.urandom)
    else:
        store = cast(ReplicatedStore, open_places(places, os.urandom))
        aside, gone = (lambda: store.quarantine("a/one")), (lambda: store.delete("a/one"))
        for attempt in (aside, gone, lambda: store.get("a/none", 0, 1), store.copy_owed):
            with pytest.raises(OSError, match="not at its place"):
                attempt()
        put(store, "a/two")
        assert store.is_owed
        assert not list(mirror.iterdir())
    back(mirror)
    store = cast(ReplicatedStore, open_places(places, os.urandom)) if needs_both else store
    store.copy_owed()
    assert (mirror / "blocks/objects/a/two").exists() is not needs_both


def test_a_mirror_is_used_as_soon_as_it_is_there_and_by_one_data_directory(tmp_path: Path) -> None:
    places = Places(tmp_path / "data", None, tmp_path / "mirror", False)
    store = cast(ReplicatedStore, open_places(places, os.urandom))
    put(store, "a/one")
    places.mirror.mkdir()  # type: ignore[union-attr]
    assert store.copy_owed() == 1
    assert (tmp_path / "mirror/blocks/objects/a/one").read_bytes() == FILE
    with pytest.raises(errors.PlaceUnusable, match="another data directory"):
        open_places(Places(tmp_path / "other", None, tmp_path / "mirror", False), os.urandom)


def test_a_copy_that_is_too_short_is_made_again_and_counts_once_it_is_durable(tmp_path: Path) -> None:
    first, second = Region(tmp_path / "first"), Region(tmp_path / "second")
    for region in (first, second):
        region.prepare()
    both = ReplicatedStore(first, second, needs_both=True)
    both.put("a/one", [FILE])
    both.settle(["a/one"])
    os.truncate(tmp_path / "second" / "objects" / "a" / "one", 1000)
    second.settles = False
    with pytest.raises(OSError, match="Input/output error"):
        both.copy_owed()
    assert both.is_owed
    second.settles = True
    os.truncate(tmp_path / "second" / "objects" / "a" / "one", 1000)
    assert both.copy_owed() == 1
    assert second.get("a/one", 0, len(FILE)) == FILE
