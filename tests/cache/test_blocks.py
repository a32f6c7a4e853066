"""The block cache: what is kept, what is given out, what leaves, and what a crash or rot may do to it."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from cache import block_files
from cache.block_index import BlockIndex
from cache.blocks import FLOOR_BYTES, SMALL_BYTES
from cache.database import Database
from cache.errors import DiskFull
from drivefs.protocol.ids import BlockId
from tests.cache.block_bench import MIB, Bench, content, disk_bytes


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "blocks")
    yield made
    made.close()


@pytest.mark.parametrize("size", [1, 1000, SMALL_BYTES - 1, SMALL_BYTES, MIB])
def test_what_was_put_is_read_back_in_whole_and_in_part(bench: Bench, size: int) -> None:
    async def scenario() -> None:
        cache = bench.open()
        block, plaintext = content(1, size)
        assert not cache.contains(block)
        assert await cache.get(block) is None
        assert await cache.read(block, 0, 10) is None
        assert await cache.put(block, plaintext)
        assert cache.contains(block)
        assert await cache.get(block) == plaintext
        assert await cache.read(block, 0, size) == plaintext
        assert await cache.read(block, size // 2, 100) == plaintext[size // 2 : size // 2 + 100]
        assert await cache.read(block, size - 1, 100) == plaintext[-1:]
        assert await cache.read(block, size, 100) == b""
        assert cache.used_bytes == size

    trio.run(scenario)


def test_blocks_survive_a_remount(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open()
        kept = [content(seed, size) for seed, size in enumerate([10, 70_000, 500, MIB, 60_000])]
        await cache.keep(kept)
        used = cache.used_bytes
        bench.close()
        cache = bench.open()
        assert cache.used_bytes == used
        for block, plaintext in kept:
            assert await cache.read(block, 0, MIB) == plaintext
        more = content(99, 100)
        await cache.keep([more])
        assert await cache.get(more[0]) == more[1]
        assert await cache.get(kept[0][0]) == kept[0][1]

    trio.run(scenario)


def test_a_crash_loses_no_block_that_was_kept(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open()
        kept = [content(seed, size) for seed, size in enumerate([10, 70_000, 500, MIB])]
        await cache.keep(kept)
        bench.crash(cache)
        cache = bench.open()
        for block, plaintext in kept:
            assert await cache.get(block) == plaintext

    trio.run(scenario)


def test_an_index_that_is_rubbish_is_made_anew_from_the_files(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open()
        large, small = content(1, MIB), content(2, 100)
        await cache.keep([large, small])
        bench.crash(cache)
        for path in bench.directory.glob("blocks.db*"):
            path.write_bytes(b"rubbish" * 1000)
        cache = bench.open()
        assert cache.problem == ""
        assert await cache.get(large[0]) == large[1]
        assert await cache.get(small[0]) is None
        assert cache.used_bytes == MIB == disk_bytes(bench.directory)

    trio.run(scenario)


def test_an_index_of_another_format_is_made_anew(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open()
        large = content(1, MIB)
        await cache.keep([large])
        bench.close()
        index = apsw.Connection(str(bench.directory / "blocks.db"))
        index.execute("PRAGMA user_version = 99; DROP TABLE units")
        index.close()
        cache = bench.open()
        assert await cache.get(large[0]) == large[1]

    trio.run(scenario)


def test_a_block_that_comes_back_soon_after_it_went_stays(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open(limit_bytes=8 * MIB)
        returning = content(0, MIB)
        await cache.keep([returning])
        await cache.keep([content(seed, MIB) for seed in range(1, 9)])
        assert not cache.contains(returning[0])
        await cache.keep([returning])
        for seed in range(20, 60):
            await cache.keep([content(seed, MIB)])
        assert cache.contains(returning[0])

    trio.run(scenario)


def test_a_file_half_written_by_a_crash_is_never_given_out(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open()
        bench.crash(cache)
        block, plaintext = content(1, MIB)
        (bench.directory / "own" / block.hex()).write_bytes(plaintext[: MIB // 2])
        cache = bench.open()
        assert cache.contains(block)
        assert await cache.read(block, 0, 100) is None
        assert not cache.contains(block)
        assert bench.files() == set()

    trio.run(scenario)


def rot(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_file_that_has_become_shorter_gives_nothing_of_a_block_that_was_whole(tmp_path: Path) -> None:
    path = tmp_path / "block"
    path.write_bytes(b"short")
    wanted = block_files.Wanted(BlockId(bytes(32)), 0, 10, 1, 0, 10, is_verified=True)
    fd, data = block_files.open_and_read(str(path), wanted)
    assert fd is not None
    os.close(fd)
    assert data is None


@pytest.mark.fault(15)
@pytest.mark.parametrize("size", [1000, MIB])
@pytest.mark.parametrize("how", ["get", "read"])
def test_a_rotten_block_is_dropped_and_not_given_out(bench: Bench, size: int, how: str) -> None:
    async def scenario() -> None:
        cache = bench.open()
        block, plaintext = content(1, size)
        await cache.put(block, plaintext)
        bench.close()
        for path in bench.directory.glob("*/*"):
            rot(path)
        cache = bench.open()
        found = await (cache.get(block) if how == "get" else cache.read(block, 0, 10))
        assert found is None
        assert not cache.contains(block)
        assert cache.damaged_count == 1
        assert await cache.put(block, plaintext)
        assert await cache.read(block, 0, size) == plaintext

    trio.run(scenario)


def test_a_block_is_not_given_out_for_another_one_that_was_looked_at(bench: Bench) -> None:
    """Small ones lie in one file, and each is verified for itself."""

    async def scenario() -> None:
        one, other = content(1, 1000), content(2, 1000)
        await bench.open().keep([one, other])
        bench.close()
        (path,) = (path for path in bench.directory.rglob("*") if path.is_file() and path.stat().st_size == 2000)
        path.write_bytes(one[1] + bytes(1000))
        cache = bench.open()
        assert await cache.read(one[0], 0, 1000) == one[1]
        assert cache.read_now(other[0], 0, 1000) is None
        assert await cache.read(other[0], 0, 1000) is None

    trio.run(scenario)


def test_a_file_that_vanished_is_a_block_that_is_not_here(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open()
        block, plaintext = content(1, MIB)
        await cache.put(block, plaintext)
        (bench.directory / "own" / block.hex()).unlink()
        assert await cache.read(block, 0, 10) is None
        assert not cache.contains(block)
        assert cache.used_bytes == 0

    trio.run(scenario)


def test_the_limit_holds_and_old_blocks_make_room(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open(limit_bytes=8 * MIB)
        kept = [content(seed, MIB) for seed in range(20)]
        for each in kept:
            await cache.keep([each])
            assert cache.used_bytes <= 8 * MIB
        assert [cache.contains(block) for block, _ in kept] == [False] * 12 + [True] * 8
        assert disk_bytes(bench.directory) == 8 * MIB

    trio.run(scenario)


def test_segments_of_small_blocks_are_evicted_too(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open(limit_bytes=MIB)
        kept = [content(seed, 10_000) for seed in range(300)]
        for each in kept:
            await cache.keep([each])
        here = [each for each in kept if cache.contains(each[0])]
        assert 80 <= len(here) <= 104
        assert cache.contains(kept[-1][0])
        for block, plaintext in here:
            assert await cache.get(block) == plaintext
        assert disk_bytes(bench.directory) <= MIB

    trio.run(scenario)


def test_a_scan_does_not_push_out_what_is_used(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open(limit_bytes=8 * MIB)
        hot = [content(seed, MIB) for seed in range(4)]
        await cache.keep(hot)
        for seed in range(100, 140):
            for block, _ in hot:
                assert await cache.read(block, 0, 10) is not None
            await cache.keep([content(seed, MIB)])
        assert all(cache.contains(block) for block, _ in hot)

    trio.run(scenario)


def test_pinned_blocks_stay(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open(limit_bytes=4 * MIB)
        first = content(0, MIB)
        await cache.keep([first])
        with cache.pinned([first[0]]):
            for seed in range(1, 20):
                await cache.keep([content(seed, MIB)])
            assert await cache.get(first[0]) == first[1]
        await cache.clear()
        assert not cache.contains(first[0])

    trio.run(scenario)


@pytest.mark.fault(13)
def test_when_all_is_pinned_a_block_is_refused_quietly(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open(limit_bytes=2 * MIB)
        kept = [content(seed, MIB) for seed in range(2)]
        await cache.keep(kept)
        with cache.pinned([block for block, _ in kept]):
            assert not await cache.put(*content(9, MIB))
        assert all(cache.contains(block) for block, _ in kept)

    trio.run(scenario)


def test_what_is_larger_than_the_cache_is_refused_and_evicts_little(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open(limit_bytes=MIB // 2)
        assert not await cache.put(*content(1, MIB))
        assert disk_bytes(bench.directory) == 0

    trio.run(scenario)


def test_a_lower_limit_is_kept_from_the_next_opening_on(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open()
        await cache.keep([content(seed, MIB) for seed in range(10)])
        bench.close()
        assert bench.open(limit_bytes=3 * MIB).used_bytes == 3 * MIB
        assert disk_bytes(bench.directory) == 3 * MIB

    trio.run(scenario)


def test_near_the_floor_of_free_disk_the_cache_does_not_grow(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open()
        await cache.keep([content(seed, MIB) for seed in range(10)])
        bench.disk.free_bytes = FLOOR_BYTES
        assert await cache.put(*content(50, MIB))
        assert cache.used_bytes == 10 * MIB
        bench.disk.free_bytes = FLOOR_BYTES - 4 * MIB
        assert await cache.put(*content(51, MIB))
        assert cache.used_bytes == 6 * MIB
        bench.disk.free_bytes = 0
        await cache.clear()
        assert not await cache.put(*content(52, MIB))

    trio.run(scenario)


def failing_writes(count: int, number: int) -> Callable[..., Any]:
    """An `offload` in whose threads the first so many writes of blocks fail."""
    real = os.pwrite
    left = [count]

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return real(fd, data, offset)

    async def offload(work: Callable[..., Any], *args: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(block_files.os, "pwrite", pwrite)
            return work(*args)

    return offload


@pytest.mark.fault(13)
def test_a_full_disk_evicts_and_tries_once_more(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open()
        await cache.keep([content(seed, MIB) for seed in range(6)])
        cache._offload = failing_writes(1, errno.ENOSPC)
        assert await cache.put(*content(50, MIB))
        assert cache.used_bytes == 5 * MIB
        cache._offload = failing_writes(2, errno.ENOSPC)
        assert not await cache.put(*content(51, MIB))
        assert cache.used_bytes == disk_bytes(bench.directory) == 3 * MIB

    trio.run(scenario)


def test_a_write_error_is_a_refusal(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open(offload=failing_writes(1, errno.EIO))
        assert not await cache.put(*content(1, MIB))
        assert await cache.put(*content(1, MIB))
        assert cache.used_bytes == MIB

    trio.run(scenario)


def test_a_cancelled_put_leaves_the_accounts_in_order(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open(limit_bytes=4 * MIB)
        await cache.keep([content(seed, MIB) for seed in range(4)])
        with trio.CancelScope() as scope:
            scope.cancel()
            await cache.keep([content(9, MIB), content(10, 100)])
        assert scope.cancelled_caught
        await cache.keep([content(seed, MIB) for seed in range(20, 24)])
        assert all(cache.contains(content(seed, MIB)[0]) for seed in range(20, 24))
        assert cache.used_bytes == disk_bytes(bench.directory) == 4 * MIB
        assert not cache._pins

    trio.run(scenario)


def test_evicting_a_block_does_not_disturb_one_who_reads_it(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open(limit_bytes=4 * MIB)
        first = content(0, MIB)
        await cache.keep([first])
        bench.close()
        cache = bench.open(limit_bytes=4 * MIB)
        found: list[object] = []

        async def read() -> None:
            found.append(await cache.read(first[0], 0, MIB))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(read)
            for seed in range(1, 9):
                nursery.start_soon(cache.keep, [content(seed, MIB)])
        assert all(data in (first[1], None) for data in found)
        assert cache.used_bytes <= 4 * MIB

    trio.run(scenario)


def test_a_cache_that_cannot_be_written_is_bypassed(bench: Bench) -> None:
    async def scenario() -> None:
        bench.directory.mkdir()
        (bench.directory / "blocks.db").mkdir()
        cache = bench.open()
        assert cache.problem
        block, plaintext = content(1, MIB)
        assert not await cache.put(block, plaintext)
        assert await cache.read(block, 0, 10) is None
        assert cache.used_bytes == 0

    trio.run(scenario)


@pytest.mark.fault(13)
def test_what_is_here_stays_while_the_disk_is_full(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        cache = bench.open()
        first, second = content(1, MIB), content(2, 1000)
        await cache.put(*first)
        assert cache.protect([first[0]]) == {first[0]}

        def full(database: Database) -> None:
            database._roll_back()
            raise DiskFull("no room")

        with monkeypatch.context() as patched:
            patched.setattr(Database, "commit", full)
            assert not await cache.put(*second)
            assert cache.protect([first[0]]) == set()
            assert await cache.shrink(MIB) == 0
            assert await cache.read(first[0], 5, 10) == first[1][5:15]
        assert (cache.problem, cache.used_bytes, cache.protected_bytes) == ("", MIB, MIB)
        assert await cache.put(*second)
        bench.close()
        cache = bench.open()
        assert await cache.get(first[0]) == first[1]
        assert await cache.get(second[0]) == second[1]
        # Its place in the segment was taken by the first attempt as well.
        assert cache.used_bytes == MIB + 2000

    trio.run(scenario)


@pytest.mark.parametrize("had_room", [True, False])
def test_an_index_that_had_no_room_is_not_taken_for_whole_the_next_time(tmp_path: Path, had_room: bool) -> None:
    """Files may lie about that it does not know."""
    index = BlockIndex(tmp_path / "index.db")
    assert had_room or index.goes_on(DiskFull("no room"))
    index.close()
    again = BlockIndex(tmp_path / "index.db")
    assert again.was_closed_in_order is had_room
    again.close()


def test_clear_removes_everything(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open()
        await cache.keep([content(seed, size) for seed, size in enumerate([10, 70_000, 500, MIB])])
        await cache.clear()
        assert cache.used_bytes == 0
        assert bench.files() == set()
        assert await cache.put(*content(1, 70_000))

    trio.run(scenario)
