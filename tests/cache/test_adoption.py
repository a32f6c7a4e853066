"""Files that the block cache takes over from staging: whose they are, and how their space comes back."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from drivefs.protocol.ids import BlockId
from tests.cache.block_bench import MIB, Bench, content


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "blocks")
    yield made
    made.close()


def staged(
    directory: Path, kept: list[tuple[BlockId, bytes]], gap: int = 0
) -> tuple[Path, list[tuple[BlockId, int, int]]]:
    path, ranges, position = directory / "staged", [], 0
    with path.open("wb") as file:
        for block, plaintext in kept:
            file.write(bytes(gap) + plaintext)
            ranges.append((block, position + gap, len(plaintext)))
            position += gap + len(plaintext)
    return path, ranges


def test_a_file_is_taken_over_without_its_owner_losing_it(bench: Bench, tmp_path: Path) -> None:
    async def scenario() -> None:
        cache = bench.open()
        kept = [content(seed, MIB + 100 * seed) for seed in range(8)]
        path, ranges = staged(tmp_path, kept)
        assert cache.adopt_file(path, ranges)
        assert path.stat().st_nlink == 2
        for block, plaintext in kept:
            assert await cache.get(block) == plaintext
        path.unlink()
        for block, plaintext in kept:
            assert await cache.read(block, 0, 2 * MIB) == plaintext
        bench.crash(cache)
        cache = bench.open()
        for block, plaintext in kept:
            assert await cache.read(block, 5, 2 * MIB) == plaintext[5:]

    trio.run(scenario)


def test_only_files_of_the_same_file_system_are_taken_over(bench: Bench, tmp_path: Path) -> None:
    cache = bench.open()
    assert cache.can_adopt_from(tmp_path)
    assert not cache.can_adopt_from(Path("/proc"))


def test_the_space_of_a_taken_over_file_is_given_back_block_by_block(bench: Bench, tmp_path: Path) -> None:
    async def scenario() -> None:
        cache = bench.open(limit_bytes=10 * MIB)
        kept = [content(seed, MIB + 4321) for seed in range(8)]
        path, ranges = staged(tmp_path, kept, gap=8192)
        assert cache.adopt_file(path, ranges)
        path.unlink()
        (adopted,) = (bench.directory / "adopted").iterdir()
        before = adopted.stat().st_blocks
        await cache.keep([content(seed, MIB) for seed in range(20, 24)])
        assert [cache.contains(block) for block, _ in kept] == [False] * 3 + [True] * 5
        assert adopted.stat().st_blocks * 512 < before * 512 - 3 * MIB
        for block, plaintext in kept[3:]:
            assert await cache.get(block) == plaintext
        await cache.clear()
        assert bench.files() == set()
        assert cache.used_bytes == 0

    trio.run(scenario)


def test_a_file_whose_owner_still_has_it_is_dropped_whole(bench: Bench, tmp_path: Path) -> None:
    async def scenario() -> None:
        cache = bench.open(limit_bytes=8 * MIB)
        kept = [content(seed, MIB) for seed in range(6)]
        path, ranges = staged(tmp_path, kept)
        assert cache.adopt_file(path, ranges)
        await cache.keep([content(seed, MIB) for seed in range(20, 24)])
        assert not any(cache.contains(block) for block, _ in kept)
        assert path.read_bytes() == b"".join(plaintext for _, plaintext in kept)
        assert cache.used_bytes == 4 * MIB

    trio.run(scenario)


@pytest.mark.parametrize("why", ["mostly gaps", "no room", "no such file"])
def test_a_file_that_is_not_worth_it_is_not_taken_over(bench: Bench, tmp_path: Path, why: str) -> None:
    async def scenario() -> None:
        cache = bench.open(limit_bytes=(2 if why == "no room" else 64) * MIB)
        kept = [content(seed, MIB) for seed in range(4)]
        path, ranges = staged(tmp_path, kept)
        if why == "mostly gaps":
            ranges = [(block, offset, 100_000) for block, offset, _ in ranges]
        if why == "no such file":
            path = tmp_path / "nothing"
        assert not cache.adopt_file(path, ranges)
        await cache.tidy()
        assert bench.files() == set()
        assert cache.used_bytes == 0

    trio.run(scenario)
