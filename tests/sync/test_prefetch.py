"""What pins keep here while changes of this device hide it: they may be refused, and it is shown again."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cache.blocks import BlockCache
from drivefs.protocol.ids import BlockId, WorkspaceId
from drivefs.sync.pins import PinnedTrees
from drivefs.sync.places import Places
from drivefs.sync.prefetch import Prefetcher
from tests.sync.fleet import Device, sailing

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


class Kept:
    """What was protected, or asked for where it is not here: takes the place of the downloader."""

    def __init__(self, cache: BlockCache, patch: pytest.MonkeyPatch) -> None:
        self.blocks: set[BlockId] = set()
        protect = cache.protect

        def protected(blocks: Iterable[BlockId]) -> set[BlockId]:
            done = protect(blocks)
            self.blocks |= done
            return done

        patch.setattr(cache, "protect", protected)

    async def fetch_behind(self, workspace: WorkspaceId, blocks: Mapping[BlockId, int]) -> None:
        self.blocks.update(blocks)


@asynccontextmanager
async def pinning_all(
    place: Path, patch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Device, Device, Prefetcher, set[BlockId]]]:
    """Two devices with `d/f` and `g`; the second one has pinned the whole drive, and has not looked at it yet."""
    async with sailing(place, "first", "second") as (fleet, (first, second)):
        await first.mkdir("d")
        await first.write("d/f", b"in a directory")
        await first.write("g", b"beside it")
        await fleet.settle()
        trees = PinnedTrees(second.local, Places(second.local, second.root), second.root)
        trees.pins.put(second.root, b"")
        kept = Kept(second.local.blocks, patch)
        prefetcher = Prefetcher(second.ends, trees, kept, second.lister, ahead_bytes=0)
        yield first, second, prefetcher, kept.blocks


async def block_of(device: Device, path: str) -> set[BlockId]:
    inode = (await device.known(path)).inode
    refs = await device.lister.content(inode, (await device.known(path)).revision)
    return {BlockId(refs[:32])}


@pytest.mark.parametrize("hide", ["unlink", "move", "rewrite", "replace"])
async def test_a_walk_keeps_what_a_change_hides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hide: str) -> None:
    async with pinning_all(tmp_path, monkeypatch) as (first, second, prefetcher, kept):
        wanted = await block_of(first, "d/f") | await block_of(first, "g")
        match hide:
            case "unlink":
                await second.remove_tree("d")
                await second.unlink("g")
            case "move":
                await second.rename("d", "e")
                await second.rename("g", "h")
            case "rewrite":
                await second.edit("d/f", b"MINE")
                await second.edit("g", b"MINE")
            case _:
                await second.save("d/f", b"mine")
                await second.save("g", b"mine")
        await prefetcher.work()
        assert wanted <= kept


async def test_what_changes_elsewhere_while_it_is_hidden_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pinning_all(tmp_path, monkeypatch) as (first, second, prefetcher, kept):
        await prefetcher.work()
        await second.remove_tree("d")
        await first.edit("d/f", b"THEIRS")
        await first.push()
        coming: Any = second.follower
        coming.coming = prefetcher.coming
        await second.pull()
        await prefetcher.work()
        assert await block_of(first, "d/f") <= kept
