"""Protected blocks are never victims, whatever else is wanted; and those whose protection lapsed are again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from cache.blocks import BlockCache
from drivefs.protocol.ids import BlockId
from tests.cache.block_bench import MIB, Bench, content


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "blocks")
    yield made
    made.close()


async def flood(cache: BlockCache) -> None:
    """Read through far more than the cache can hold."""
    for seed in range(1000, 1000 + 3 * cache.limit_bytes // MIB):
        await cache.keep([content(seed, MIB)])


def lapse(cache: BlockCache, moment: int) -> None:
    while cache.unprotect_before(moment):
        pass


def test_protected_blocks_outlive_a_flood_and_a_clear_and_a_remount(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open()
        kept = [content(seed, size) for seed, size in enumerate([10, 70_000, 500, MIB])]
        await cache.keep(kept)
        wanted = {block for block, _ in kept}
        assert cache.protect(wanted) == wanted
        assert cache.protected_bytes == sum(len(plaintext) for _, plaintext in kept)
        await flood(cache)
        await cache.clear()
        bench.close()
        cache = bench.open()
        await flood(cache)
        for block, plaintext in kept:
            assert await cache.get(block) == plaintext
        assert cache.used_bytes <= cache.limit_bytes

    trio.run(scenario)


def test_what_is_not_confirmed_is_evicted_again(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open()
        stays, goes = content(1, MIB), content(2, MIB)
        await cache.keep([stays, goes])
        cache.protect([stays[0], goes[0]])
        moment = cache.protection_now()
        cache.protect([stays[0]])
        lapse(cache, moment)
        assert cache.protected_bytes == MIB
        await cache.clear()
        assert cache.contains(stays[0])
        assert not cache.contains(goes[0])

    trio.run(scenario)


def test_no_more_is_protected_than_the_limit_allows(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open()
        cache.protected_limit_bytes = 3 * MIB
        blocks = [content(seed, MIB) for seed in range(5)]
        await cache.keep(blocks)
        done = cache.protect([block for block, _ in blocks])
        assert len(done) == 3
        assert cache.protected_bytes == 3 * MIB
        absent = BlockId(bytes(32))
        assert cache.protect([absent]) == set()

    trio.run(scenario)


def test_a_segment_that_is_protected_goes_on_growing(bench: Bench) -> None:
    async def scenario() -> None:
        cache = bench.open()
        first, second = content(1, 1000), content(2, 2000)
        await cache.keep([first])
        cache.protect([first[0]])
        await cache.keep([second])
        assert cache.protected_bytes == cache.used_bytes == 3000
        bench.close()
        cache = bench.open()
        assert cache.protected_bytes == 3000
        assert await cache.get(second[0]) == second[1]

    trio.run(scenario)
