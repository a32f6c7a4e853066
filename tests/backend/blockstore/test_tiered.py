"""Objects in a hot and a cold place: each is whole in one of them, whatever is cut off, and is found where it is."""

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backend.blockstore import errors
from backend.blockstore.places import MARK_NAME, Places, open_places, tier_of
from backend.blockstore.tiered import OFTEN, TieredStore
from backend.service.ground import Limits
from backend.service.retention import DAY
from backend.service.tiering import DAY_NS, Use, rests
from drivefs.protocol import blocks as codec
from drivefs.protocol.errors import ProtocolError
from tests.backend.api.served import Drive, Served, serving
from tests.backend.api.test_garbage import LARGE, a_drive

pytestmark = pytest.mark.anyio
OLDER, SMALL = LARGE, b"small"


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


def opened(place: Path) -> TieredStore:
    for name in ("hot", "cold"):
        (place / name).mkdir(exist_ok=True)
    store = tier_of(open_places(Places(place / "hot", place / "cold"), os.urandom))
    assert store is not None
    return store


def names(store: TieredStore) -> tuple[list[str], list[str]]:
    return sorted(e.name for e in store.hot.objects()), sorted(e.name for e in store.cold.objects())


def put(store: TieredStore, name: str, data: bytes) -> None:
    store.put(name, [data])
    store.settle([name])


def test_an_object_moves_and_is_read_where_it_is(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store, "a/b", b"content")
    assert store.cool("a/b") == 7
    assert names(store) == ([], ["a/b"])
    assert store.cool("a/b") == 0
    for count in (OFTEN - 1, OFTEN):
        store.forget_reads()
        assert store.read_often() == []
        for _ in range(count):
            assert store.get("a/b", 3, 4) == b"tent"
    assert [each.name for each in store.objects()] == ["a/b"]
    assert store.read_often() == ["a/b"]
    assert store.read_often() == []
    assert store.warm("a/b") == 7
    assert names(store) == (["a/b"], [])
    store.cool("a/b")
    store.delete("a/b")
    with pytest.raises(errors.ObjectMissing):
        store.get("a/b", 0, 1)


@pytest.mark.parametrize("step", ["put", "settle", "get", "delete"])
def test_a_move_that_is_cut_off_loses_nothing_and_is_ended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = opened(tmp_path)
    put(store, "a/b", b"content")

    def fail(*_arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(store.hot if step == "delete" else store.cold, step, fail)
        with pytest.raises(OSError, match="Input/output"):
            store.cool("a/b")
        assert store.get("a/b", 0, 7) == b"content"
    assert [each.name for each in store.objects()] == ["a/b"]
    assert store.cool("a/b") == 7
    assert names(store) == ([], ["a/b"])


def test_what_comes_back_between_two_looks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    put(store, "a/b", b"content")
    store.cool("a/b")
    look = store.cold.get

    def warmed_first(name: str, offset: int, length: int) -> bytes:
        monkeypatch.undo()
        store.warm(name)
        return look(name, offset, length)

    monkeypatch.setattr(store.cold, "get", warmed_first)
    assert store.get("a/b", 0, 7) == b"content"


def test_what_reads_back_differently_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    put(store, "a/b", b"content")
    with monkeypatch.context() as patched:
        patched.setattr(store.cold, "get", lambda *_arguments: b"rotten!")
        with pytest.raises(OSError, match="differently"):
            store.cool("a/b")
    assert names(store) == (["a/b"], [])


def test_a_cold_place_that_is_not_mounted_is_out_of_reach_and_nothing_is_missing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store, "a/b", b"content")
    store.cool("a/b")
    (tmp_path / "cold").rename(tmp_path / "elsewhere")
    (tmp_path / "cold").mkdir()
    for attempt in (lambda: store.get("a/b", 0, 7), lambda: store.delete("a/b"), lambda: store.cool("a/b")):
        with pytest.raises(OSError, match="not at its place"):
            attempt()
    for cold in (tmp_path / "cold", None):
        with pytest.raises(errors.PlaceUnusable, match="cold"):
            open_places(Places(tmp_path / "hot", cold), os.urandom)
    (tmp_path / "cold").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "cold")
    assert opened(tmp_path).get("a/b", 0, 7) == b"content"
    assert (tmp_path / "hot" / MARK_NAME).exists()


def test_a_cold_place_of_another_data_directory_is_not_taken(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store, "a/b", b"content")
    store.cool("a/b")
    (tmp_path / "other").mkdir()
    with pytest.raises(errors.PlaceUnusable, match="another data directory"):
        open_places(Places(tmp_path / "other", tmp_path / "cold"), os.urandom)
    assert opened(tmp_path).get("a/b", 0, 7) == b"content"
    (tmp_path / "cold" / MARK_NAME).unlink()
    open_places(Places(tmp_path / "other", tmp_path / "cold"), os.urandom)
    with pytest.raises(errors.PlaceUnusable, match="not at"):
        opened(tmp_path)


@pytest.mark.parametrize(("cold", "mirror"), [("data", None), ("link", None), (None, "data"), ("other", "other")])
def test_no_two_places_are_one_directory(tmp_path: Path, cold: str | None, mirror: str | None) -> None:
    """What is moved from the one to the other would be written over itself, and then deleted."""
    for name in ("data", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("data")
    chosen = (None if name is None else tmp_path / name for name in (cold, mirror))
    with pytest.raises(errors.PlaceUnusable, match="are one directory"):
        open_places(Places(tmp_path / "data", *chosen), os.urandom)
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("step", ["write_text", "rename"])
def test_a_cold_place_that_was_taken_in_part_is_taken_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write = Path.write_text

    def fail(path: Path, *arguments: str) -> int:
        if step == "write_text" and path.name != MARK_NAME:
            return write(path, *arguments)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Path, step, fail)
        with pytest.raises(errors.PlaceUnusable, match="cannot be used"):
            opened(tmp_path)
    put(opened(tmp_path), "a/b", b"content")
    assert opened(tmp_path).get("a/b", 0, 7) == b"content"


def test_with_a_mirror_everything_is_there_though_it_rests(tmp_path: Path) -> None:
    for name in ("hot", "cold", "mirror"):
        (tmp_path / name).mkdir()
    store = open_places(Places(tmp_path / "hot", tmp_path / "cold", tmp_path / "mirror"), os.urandom)
    store.put("a/b", [b"content"])
    store.settle(["a/b"])
    tier = tier_of(store)
    assert tier is not None
    tier.cool("a/b")
    (tmp_path / "cold").rename(tmp_path / "elsewhere")
    assert store.get("a/b", 0, 7) == b"content"
    assert (tmp_path / "mirror/blocks/objects/a/b").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("is_current", "written", "read", "is_resting"),
    [
        (False, 0.5, None, False),
        (False, 2, None, True),
        (False, 50, 0.5, False),
        (False, 50, 2, True),
        (True, 29, None, False),
        (True, 31, None, True),
        (True, 50, 29, False),
        (True, 50, 31, True),
    ],
)
def test_what_rests(is_current: bool, written: float, read: float | None, is_resting: bool) -> None:
    now = 10**18
    at = [now - int(days * DAY_NS) if days is not None else None for days in (written, read)]
    assert at[0] is not None
    assert rests([Use(is_current, at[1])], at[0], now, 30) is is_resting
    assert rests([Use(False, None), Use(is_current, at[1])], at[0], now, 30) is is_resting


@asynccontextmanager
async def a_cold_drive(place: Path) -> AsyncIterator[tuple[Served, Drive, TieredStore]]:
    store = opened(place)
    async with serving(place / "hot", Limits(), store=store) as served:
        yield served, await a_drive(served), store


async def quiet(_done: int, _total: int) -> None:
    pass


async def test_maintenance_moves_what_rests_and_reading_brings_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_cold_drive(tmp_path) as (served, drive, store):
        await drive.store_file(1, b"doc", OLDER)
        await drive.write_anew(3, 1, LARGE[::-1], base=1)
        for each in store.hot.objects():  # files have the time of this machine, the server that of the test
            now = served.clock.ns
            os.utime(tmp_path / "hot/blocks/objects" / each.name, ns=(now, now))
        maintain = served.services.maintenance.run
        assert (await maintain()).cooled.object_count == 0
        served.clock.ns += 2 * DAY * 10**9
        told = await maintain(is_dry_run=True)
        assert (told.cooled.object_count, names(store)[1]) == (1, [])
        assert (await maintain()).cooled == told.cooled
        assert [len(each) for each in names(store)] == [1, 1]
        served.clock.ns += 40 * DAY * 10**9

        async def fail() -> None:
            raise OSError(errno.EHOSTUNREACH, "No route to host")

        with monkeypatch.context() as patched:  # a mirror that is away takes no deletions
            patched.setattr(served.services.garbage, "collect", fail)
            with pytest.raises(OSError, match="No route"):
                await maintain()
        assert [len(each) for each in names(store)] == [0, 2]
        assert (await maintain()).cooled.object_count == 0
        wanted = codec.block_id(LARGE[::-1])
        tiering = served.services.tiering
        for _ in range(OFTEN):  # often is so many times in a day, however far apart
            assert await tiering.bring_back() == 0
            served.clock.ns += 3600 * 10**9
            await tiering.flush()
            (frame,) = await served.get(wanted)
            assert frame.payload is not None
            assert codec.decode_payload(frame.payload, wanted) == LARGE[::-1]
        assert await tiering.bring_back() == 1
        assert (await maintain()).cooled.object_count == 0
        assert [len(each) for each in names(store)] == [1, 1]
        report = await served.services.checks.check(quiet, is_repair=True)
        assert (report.findings, report.mended.orphan_count) == ([], 0)
        copied = await served.services.backups.make(tmp_path / "backup", quiet)
        assert (copied.findings, copied.block_count) == ([], 2)
        (tmp_path / "hot/blocks/objects/notes.txt").write_text("no object of ours")
        assert (await maintain()).cooled.object_count == 0


async def test_a_check_without_the_cold_place_is_refused_and_takes_nothing_for_lost(tmp_path: Path) -> None:
    async with a_cold_drive(tmp_path) as (served, drive, store):
        await drive.store_file(1, b"doc", LARGE)
        (only,) = list(store.hot.objects())
        store.cool(only.name)
        (tmp_path / "cold").rename(tmp_path / "elsewhere")
        for is_repair in (False, True):
            with pytest.raises(ProtocolError, match="cold store is not at its place"):
                await served.services.checks.check(quiet, is_repair=is_repair)
        (tmp_path / "elsewhere").rename(tmp_path / "cold")
        assert await served.missing(codec.block_id(LARGE)) == []
        assert (await served.services.checks.check(quiet)).is_sound


async def test_what_nobody_needs_is_deleted_where_it_rests(tmp_path: Path) -> None:
    async with a_cold_drive(tmp_path) as (served, _, store):
        await served.put(LARGE)
        (only,) = list(store.hot.objects())
        store.cool(only.name)
        for _ in range(3):
            served.clock.ns += 4 * DAY * 10**9
            await served.services.garbage.collect()
        assert names(store) == ([], [])
