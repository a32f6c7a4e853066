"""The block cache: verified plaintexts of blocks that the backend holds, bounded, evicted by S3-FIFO.

Owns what is admitted, where it lies and what leaves; `block_files` does the work on disk, in threads, and
`block_index` remembers. Large blocks have a file each, small ones share segments, and a file that was just uploaded is
taken over from staging as it is. The cache may be deleted while nothing is mounted, and may refuse to keep a block:
whoever reads is ready to fetch. Nothing is synced on the way: after a crash, what does not verify is dropped.

Invariants: `used_bytes`, with what is being written, stays within `limit_bytes`; a block that is being read is not
evicted, nor one that is protected; bytes are given out only after they verified once since the cache was opened.
"""

import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import trio

from cache import block_files, block_recovery, errors
from cache.block_files import ADOPTED, OWN, SEGMENT, Layout, Removal, Stored, Wanted, Write
from cache.block_index import BlockIndex, Place, Unit, tiled
from cache.disk_space import FreeSpace, free_space
from cache.open_files import OpenFiles
from cache.prompt_reads import PromptReads
from drivefs.protocol.ground import Offload
from drivefs.protocol.ids import BlockId

SMALL_BYTES = 64 * 2**10
"""Blocks below this size share a segment."""
SEGMENT_BYTES = 4 * 2**20
FLOOR_BYTES = 2**30
"""How much of the disk is left free for others; on small disks, a twentieth of it."""
FLOOR_PART = 20
RECOVER_BYTES = 64 * 2**20
"""How much an admission gives back at most when the disk is below the floor."""
CHECKPOINT_BYTES = 4 * 2**20
UNPROTECTED_TOGETHER = 500
LEAST_COVERED = 0.25
"""A file is taken over only if so much of it is blocks; the rest would be space taken for nothing."""


class _Planned(NamedTuple):
    write: Write
    places: list[Place]


class BlockCache:
    """The cache in one directory; one process has it open at a time. Its methods are called on the loop."""

    def __init__(self, directory: Path, *, offload: Offload, limit_bytes: int, space: FreeSpace = free_space) -> None:
        """Open or create the cache: blocks while it reads the index and, after a crash, looks through the files."""
        self.limit_bytes = limit_bytes
        self.protected_limit_bytes = limit_bytes * 3 // 4
        self.problem = ""
        """Why the cache keeps nothing until the next mount, or empty."""
        self.damaged_count = 0
        """How many blocks did not verify, and were dropped."""
        self._offload = offload
        self._space = space
        self._layout = Layout(directory)
        self._layout.create()
        self._files = OpenFiles()
        self._prompt = PromptReads()
        self._pins: Counter[int] = Counter()
        self._writing: set[BlockId] = set()
        self._reserved_bytes = 0
        self._verifying: dict[BlockId, trio.Event] = {}
        self._owed: list[Removal] = []
        self._is_checkpointing = False
        self._segment: Unit | None = None
        self._index: BlockIndex | None = None
        with self._bypass_on_failure():
            self._index = block_recovery.open_index(self._layout)
            self._segment = self._index.newest_segment(SEGMENT)
            self._make_room(0)
        block_files.release(self._take_owed())

    @contextmanager
    def _bypass_on_failure(self) -> Iterator[None]:
        """Around all use of the index: if it fails, the cache is as good as empty until it is opened again."""
        try:
            yield
        except errors.CacheError as error:
            if self._index is None or not self._index.goes_on(error):
                self.problem = str(error)
                if self._index is not None:
                    self._index.abandon()
                self._index = None

    @property
    def used_bytes(self) -> int:
        """How much the cache holds; the index and the file system's own needs come on top."""
        return self._index.used_bytes if self._index else 0

    def contains(self, block: BlockId) -> bool:
        """Whether the block is here, as far as the index knows."""
        return self._find(block) is not None

    def all_blocks(self) -> Iterator[BlockId]:
        """Every block that the index knows."""
        with self._bypass_on_failure():
            yield from self._index.all_blocks() if self._index else ()

    def _find(self, block: BlockId) -> Place | None:
        if self._index is not None:
            with self._bypass_on_failure():
                return self._index.find(block)
        return None

    @contextmanager
    def pinned(self, blocks: Iterable[BlockId]) -> Iterator[None]:
        """Keep those of the blocks that are here from being evicted."""
        units = [place.unit.unit for place in map(self._find, blocks) if place is not None]
        self._pins.update(units)
        try:
            yield
        finally:
            self._unpin(units)

    def _unpin(self, units: Iterable[int]) -> None:
        for unit in units:
            self._pins[unit] -= 1
            if not self._pins[unit]:
                del self._pins[unit]

    # What people want to have here

    @property
    def protected_bytes(self) -> int:
        """How much of what the cache holds is never evicted."""
        return self._index.protected_bytes if self._index else 0

    def protect(self, blocks: Iterable[BlockId]) -> set[BlockId]:
        """Never evict these blocks, until `unprotect_before`; gives those that are here and for which it holds.

        A small block takes those that share its segment with it. What is protected is bounded by
        `protected_limit_bytes`: the rest of the cache goes on working for what is read.
        """
        places = [place for place in map(self._find, blocks) if place is not None]
        done: set[int] = set()
        if self._index is not None:
            with self._bypass_on_failure():
                done = self._index.protect({place.unit.unit for place in places}, self.protected_limit_bytes)
        return {place.block for place in places if place.unit.unit in done}

    def protection_now(self) -> int:
        """A moment for `unprotect_before`: all that is protected or confirmed from now on is later."""
        return self._index.now if self._index else 0

    def unprotect_before(self, moment: int) -> bool:
        """Let blocks that were not protected or confirmed since a moment be evicted again; True: call again for more.

        A bounded number at a time, since it runs on the loop.
        """
        count = 0
        if self._index is not None:
            with self._bypass_on_failure():
                count = self._index.unprotect_before(moment, UNPROTECTED_TOGETHER)
        return count == UNPROTECTED_TOGETHER

    # Reading

    def read_now(self, block: BlockId, offset: int, length: int) -> bytes | bytearray | None:
        """A range of a block if it can be had at once; None says nothing about whether the block is here."""
        place = self._find(block)
        if place is None or not place.is_verified:
            return None
        fd = self._files.fd(self._path(place))
        if fd is None:
            return None
        data = self._prompt.read(fd, place.start + offset, _clamped(place, offset, length))
        if data is not None:
            self._note_read(place, offset, len(data))
        return data

    async def read(self, block: BlockId, offset: int, length: int) -> bytes | bytearray | None:
        """A range of a block, clamped to its size, or None if the block is not here (any more).

        Raises:
            nothing: what cannot be read or does not verify is not here. Cancellation leaves nothing behind.
        """
        data = self.read_now(block, offset, length)
        if data is not None:
            return data
        while (verifying := self._verifying.get(block)) is not None:
            await verifying.wait()
        place = self._find(block)
        if place is None:
            return None
        clamped = _clamped(place, offset, length)
        return await self._read_in_thread(place, _wanted(place, offset, clamped, place.is_verified))

    async def get(self, block: BlockId) -> bytes | None:
        """The whole block, verified now, or None if it is not here."""
        place = self._find(block)
        if place is None:
            return None
        return await self._read_in_thread(place, _wanted(place, 0, place.size, False))

    async def prepare(self, blocks: Iterable[BlockId]) -> None:
        """Open and verify those of the blocks that are here, so that `read_now` has them soon."""
        for block in blocks:
            await self.read(block, 0, 0)

    async def _read_in_thread(self, place: Place, wanted: Wanted) -> bytes | None:
        verified = None if wanted.is_verified else self._verifying.setdefault(place.block, trio.Event())
        self._pins[place.unit.unit] += 1
        file = self._files.take(self._path(place))
        try:
            if file is None:
                fd, data = await self._offload(block_files.open_and_read, self._path(place), wanted)
                file = None if fd is None else self._files.add(self._path(place), fd)
            else:
                data = await self._offload(block_files.read, file.fd, wanted)
        finally:
            if file is not None:
                self._files.give_back(file)
            self._unpin([place.unit.unit])
            if verified is not None:
                verified.set()
                self._verifying.pop(place.block, None)
        if data is None:
            await self._drop_damaged(place)
        else:
            place.is_verified = True
            self._note_read(place, wanted.offset, wanted.length)
        return data

    def _note_read(self, place: Place, offset: int, length: int) -> None:
        if length and self._index is not None:
            with self._bypass_on_failure():
                self._index.note_read(place, offset, length)

    async def _drop_damaged(self, place: Place) -> None:
        if self._find(place.block) is not place:
            return
        self.damaged_count += 1
        if place.unit.kind == SEGMENT and self._index is not None:
            with self._bypass_on_failure():
                self._index.forget_block(place)
        else:
            self._drop([place.unit.unit])
            await self._release()

    # Writing

    async def put(self, block: BlockId, plaintext: bytes | memoryview) -> bool:
        """Keep one block; says whether it is here now."""
        await self.keep([(block, plaintext)])
        return self.contains(block)

    async def keep(self, blocks: Sequence[tuple[BlockId, bytes | memoryview]]) -> None:
        """Keep blocks as far as there is room; the plaintexts are known to be what the ids say.

        Survives the death of the process on return, and most likely a power cut some time later. Cancellation may
        leave some of them out.
        """
        absent = {block: data for block, data in blocks if not (block in self._writing or self.contains(block))}
        if not (fresh := self._admitted(absent)):
            return
        self._writing.update(fresh)
        try:
            failed = await self._write(fresh)
            if failed and self._evict(2 * sum(map(len, failed.values()))):
                await self._write(failed)
        finally:
            self._writing.difference_update(fresh)
        await self._checkpoint_if_due()

    def _admitted(self, blocks: dict[BlockId, bytes | memoryview]) -> dict[BlockId, bytes | memoryview]:
        """As many of the blocks, from the first on, as there can be made room for."""
        room = self._make_room(min(sum(map(len, blocks.values())), self.limit_bytes))
        admitted = {}
        for block, plaintext in blocks.items():
            room -= len(plaintext)
            if room < 0:
                break
            admitted[block] = plaintext
        return admitted

    def _make_room(self, wanted_bytes: int) -> int:
        """Evict what has to go for so many bytes more; gives how much may be written now."""
        if self._index is None:
            return 0
        free_bytes, disk_bytes = self._space(self._layout.directory)
        floor = min(FLOOR_BYTES, disk_bytes // FLOOR_PART)
        within_limit = self.limit_bytes - self._index.used_bytes - self._reserved_bytes
        above_floor = free_bytes - self._reserved_bytes - floor
        over_limit = wanted_bytes - within_limit
        below_floor = min(wanted_bytes - above_floor, wanted_bytes + RECOVER_BYTES)
        freed = self._evict(max(over_limit, below_floor))
        if below_floor > 0:
            return min(within_limit + freed, max(above_floor, 0) + freed)
        return within_limit + freed

    def _evict(self, wanted_bytes: int) -> int:
        """Take units out of the index, for `_release` to remove; gives how many bytes that will free."""
        if wanted_bytes <= 0 or self._index is None:
            return 0
        with self._bypass_on_failure():
            return self._drop(self._index.choose_victims(wanted_bytes, self.limit_bytes, self._pins))
        return 0

    def _drop(self, units: Sequence[int]) -> int:
        freed = 0
        if self._index is None:
            return 0
        with self._bypass_on_failure():
            for unit, block in self._index.remove_units(units):
                freed += unit.size_bytes
                self._owe_removal(self._index, unit, block)
        return freed

    def _owe_removal(self, index: BlockIndex, unit: Unit, block: BlockId) -> None:
        if unit.kind == OWN:
            path = self._layout.own(block)
        elif unit.kind == SEGMENT:
            path = self._layout.numbered(SEGMENT, unit.unit)
            if self._segment is not None and self._segment.unit == unit.unit:
                self._segment = None
        else:
            path = self._layout.numbered(ADOPTED, unit.file)
            if index.units_of_file(unit.file):
                self._owed.append(Removal(path, unit.start, unit.size_bytes))
                return
        self._owed.append(Removal(path, fd=self._files.drop(path)))

    def _take_owed(self) -> list[Removal]:
        owed, self._owed = self._owed, []
        return owed

    async def _release(self) -> None:
        """Remove what was evicted."""
        while owed := self._take_owed():
            try:
                solid = await self._offload(block_files.release, owed)
            except BaseException:
                self._owed[:0] = owed
                raise
            self._drop_whole(solid)

    def _drop_whole(self, paths: Iterable[str]) -> None:
        """Drop all that lies in these adopted files: no part of them can be given back alone."""
        for path in paths:
            if self._index is None:
                return
            with self._bypass_on_failure():
                units = self._index.units_of_file(int(Path(path).name))
                self._drop(units)

    async def _write(self, blocks: dict[BlockId, bytes | memoryview]) -> dict[BlockId, bytes | memoryview]:
        """Write blocks and enter them in the index; gives those for which the disk had no room after all."""
        planned = self._plan(blocks)
        units = [plan.places[0].unit.unit for plan in planned]
        total = sum(map(len, blocks.values()))
        self._pins.update(units)
        self._reserved_bytes += total
        owed = self._take_owed()
        try:
            solid, stored = await self._offload(block_files.store, owed, [plan.write for plan in planned])
        except BaseException:
            self._owed[:0] = owed
            raise
        finally:
            self._reserved_bytes -= total
            self._unpin(units)
        self._enter(planned, stored)
        self._drop_whole(solid)
        lacking_room = [
            plan for plan, result in zip(planned, stored, strict=True) if result.failure in (errno.ENOSPC, errno.EDQUOT)
        ]
        return {place.block: blocks[place.block] for plan in lacking_room for place in plan.places}

    def _plan(self, blocks: dict[BlockId, bytes | memoryview]) -> list[_Planned]:
        """Decide where each block goes; segments are filled one after the other."""
        if self._index is None:
            return []
        planned: list[_Planned] = []
        current: _Planned | None = None
        for block, plaintext in blocks.items():
            size = len(plaintext)
            if size >= SMALL_BYTES:
                place = Place(block, Unit(self._index.new_unit(), OWN, 0, 0, size), 0, size, None, is_verified=True)
                planned.append(_Planned(Write(self._layout.own(block), 0, [plaintext]), [place]))
                continue
            segment, start = self._room_in_segment(self._index, size)
            place = Place(block, segment, start, size, None, is_verified=True)
            if current is None or current.places[0].unit.unit != segment.unit:
                path = self._layout.numbered(SEGMENT, segment.unit)
                current = _Planned(Write(path, start, []), [])
                planned.append(current)
            current.places.append(place)
            current.write.plaintexts.append(plaintext)
        return planned

    def _room_in_segment(self, index: BlockIndex, size: int) -> tuple[Unit, int]:
        """The segment that takes so many bytes, as it will be then, and where in it they begin."""
        segment = self._segment
        if segment is None or segment.size_bytes + size > min(SEGMENT_BYTES, self.limit_bytes // 8):
            segment = Unit(index.new_unit(), SEGMENT, 0, 0, 0)
        start = segment.size_bytes
        self._segment = segment._replace(size_bytes=start + size)
        return self._segment, start

    def _enter(self, planned: Sequence[_Planned], stored: Sequence[Stored]) -> None:
        places: list[Place] = []
        for plan, result in zip(planned, stored, strict=True):
            if not result.failure:
                for place, checksum in zip(plan.places, result.checksums, strict=True):
                    place.checksum = checksum
                places += plan.places
        if self._index is not None:
            with self._bypass_on_failure():
                self._index.add(places)

    # Taking over

    def can_adopt_from(self, directory: Path) -> bool:
        """Whether files of this directory can be taken over: they are on the same file system."""
        if self._index is None:
            return False
        return os.stat(directory).st_dev == os.stat(self._layout.directory).st_dev

    def adopt_file(self, path: Path, ranges: Sequence[tuple[BlockId, int, int]], *, is_verified: bool = True) -> bool:
        """Take over a file that will not change any more: each of the blocks lies at (offset, length) in it.

        The file gets a second name in the cache, and no byte is copied; removing the first name is its owner's. The
        caller has just hashed these bytes, or they are not `is_verified`. False, and the cache has not changed but for
        what it evicted, if there is no room, the file lies on another file system, or too little of it would be of use.
        """
        index = self._index
        stretches = sorted((offset, length, block) for block, offset, length in ranges if not self.contains(block))
        if index is None or not stretches:
            return False
        number = index.new_file()
        target = self._layout.numbered(ADOPTED, number)
        allocated = block_files.take_over(str(path), target)
        if allocated is None:
            return False
        covered = sum(length for _, length, _ in stretches)
        room = self.limit_bytes - index.used_bytes - self._reserved_bytes
        if covered < allocated * LEAST_COVERED or room + self._evict(allocated - room) < allocated:
            block_files.remove(target)
            return False
        with self._bypass_on_failure():
            index.add(tiled(index, number, stretches, allocated, is_verified=is_verified))
        return self.contains(stretches[0][2])

    # Housekeeping

    async def shrink(self, wanted_bytes: int) -> int:
        """Give at least so many bytes back to the disk, if there are as many; gives how many."""
        freed = self._evict(wanted_bytes)
        await self._release()
        return freed

    async def clear(self) -> None:
        """Drop everything that is not being read."""
        await self.shrink(self.used_bytes)

    async def tidy(self) -> None:
        """Remove what was evicted and copy the index's WAL if it has grown; cheap when there is nothing to do."""
        await self._release()
        await self._checkpoint_if_due()

    async def _checkpoint_if_due(self) -> None:
        index = self._index
        if index is None or index.wal_bytes < CHECKPOINT_BYTES or self._is_checkpointing:
            return
        self._is_checkpointing = True
        with self._bypass_on_failure():
            try:
                await self._offload(index.checkpoint)
                index.finish_checkpoint()
            finally:
                self._is_checkpointing = False

    def close(self) -> None:
        """Close; blocks while the last evicted files are removed."""
        block_files.release(self._take_owed())
        self._files.close()
        with self._bypass_on_failure():
            if self._index is not None:
                self._index.close()

    def _path(self, place: Place) -> str:
        if place.unit.kind == OWN:
            return self._layout.own(place.block)
        return self._layout.numbered(place.unit.kind, place.unit.file or place.unit.unit)


def _clamped(place: Place, offset: int, length: int) -> int:
    return max(0, min(length, place.size - offset))


def _wanted(place: Place, offset: int, length: int, is_verified: bool) -> Wanted:
    return Wanted(place.block, place.start, place.size, place.checksum, offset, length, is_verified)
