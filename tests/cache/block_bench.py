"""A block cache in a directory of its own, opened, crashed and opened again, on a disk as full as a test wants."""

import hashlib
from pathlib import Path
from typing import Any

import trio

from cache.blocks import BlockCache
from drivefs.protocol.blocks import block_id
from drivefs.protocol.ids import BlockId

MIB = 2**20
PLENTY = (2**40, 2**41)


class Disk:
    """How much space the cache believes there is."""

    def __init__(self) -> None:
        self.free_bytes, self.total_bytes = PLENTY

    def __call__(self, directory: Path) -> tuple[int, int]:
        return self.free_bytes, self.total_bytes


class Bench:
    """Opens caches in one directory and closes what is left open."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.disk = Disk()
        self.opened: list[BlockCache] = []

    def open(self, limit_bytes: int = 64 * MIB, offload: Any = trio.to_thread.run_sync) -> BlockCache:
        cache = BlockCache(self.directory, offload=offload, limit_bytes=limit_bytes, space=self.disk)
        self.opened.append(cache)
        return cache

    def crash(self, cache: BlockCache) -> None:
        """End as `kill -9` does: nothing is said to the index."""
        assert cache._index is not None
        cache._index.abandon()
        cache._files.close()
        self.opened.remove(cache)

    def close(self) -> None:
        for cache in self.opened:
            cache.close()
        self.opened.clear()

    def files(self) -> set[str]:
        return {str(path.relative_to(self.directory)) for path in self.directory.glob("*/*")}


def content(seed: int, size: int) -> tuple[BlockId, bytes]:
    plaintext = hashlib.shake_128(seed.to_bytes(8, "big")).digest(size)
    return block_id(plaintext), plaintext


def disk_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*/*"))
