"""The downloader: what is asked for together, first, again and never; who is told what, and when."""

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from cache.blocks import BlockCache
from drivefs.protocol import blocks as codec
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import BlockId, InodeId, WorkspaceId
from drivefs.protocol.model import BlockRef
from drivefs.remote import errors
from drivefs.sync import downloader as downloading
from drivefs.sync.downloader import Downloader

WORKSPACE, INODE = WorkspaceId(3), InodeId(7)
Arrived = Callable[[list[codec.Frame]], Awaitable[None]]


class Source:
    """A backend that has what `add` gave it; each reply takes a second, and waits while `gate` is shut."""

    def __init__(self) -> None:
        self.payloads: dict[BlockId, bytes | None] = {}
        self.requests: list[list[BlockId]] = []
        self.running = 0
        self.most_running = 0
        self.failures: list[errors.RemoteError] = []
        self.withheld: set[BlockId] = set()
        self.gate = trio.Event()
        self.gate.set()

    def add(self, seed: int, size: int = 100_000) -> tuple[BlockId, bytes]:
        plaintext = hashlib.shake_128(seed.to_bytes(8, "big")).digest(size)
        block = codec.block_id(plaintext)
        self.payloads[block] = codec.encode_payload(plaintext)
        return block, plaintext

    def is_asked(self, block: BlockId) -> int:
        return sum(request.count(block) for request in self.requests)

    async def get_blocks(self, workspace: WorkspaceId, blocks: Sequence[BlockId], arrived: Arrived) -> None:
        assert workspace == WORKSPACE
        self.requests.append(list(blocks))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.gate.wait()
            await trio.sleep(1)
            if self.failures:
                raise self.failures.pop(0)
            for block in blocks:
                if block in self.withheld:
                    continue
                await arrived([codec.Frame(block, self.payloads[block])])
        finally:
            self.running -= 1


class Reach:
    """Whether the backend can be reached; `why` it cannot, from when it was found lost."""

    def __init__(self) -> None:
        self.why: errors.Offline | None = None
        self.is_gone = False
        self.lost_count = 0

    async def reachable(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.why is not None:
            raise self.why

    def lost(self, error: errors.RemoteError) -> None:
        self.lost_count += 1
        if self.is_gone:
            self.why = errors.Offline(str(error))


async def at_once(work: Callable[..., Any], *args: Any) -> Any:
    """An `offload` without threads, so that the virtual clock knows when all is idle."""
    await trio.lowlevel.checkpoint()
    return work(*args)


class Bench:
    """A downloader with its workers, over a fake backend and a real cache."""

    def __init__(self, source: Source, cache: BlockCache) -> None:
        self.source = source
        self.cache = cache
        self.reach = Reach()
        self.downloader = Downloader(source, cache, at_once, self.reach)

    async def fetch(self, *blocks: BlockId) -> None:
        await self.downloader.fetch(WORKSPACE, blocks)

    def expect(self, *blocks: BlockId, size_bytes: int = 2**20) -> None:
        self.downloader.expect(WORKSPACE, [BlockRef(block, size_bytes) for block in blocks])

    async def read(self, block: BlockId) -> bytes:
        return await self.downloader.read(WORKSPACE, INODE, block)

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(downloading.PARALLEL_REQUESTS):
                    nursery.start_soon(self.downloader.serve)
                await scenario()
                nursery.cancel_scope.cancel()

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    cache = BlockCache(tmp_path, offload=at_once, limit_bytes=10**9, space=lambda _: (2**40, 2**41))
    yield Bench(Source(), cache)
    cache.close()


def test_fetched_blocks_are_in_the_cache(bench: Bench) -> None:
    made = [bench.source.add(seed) for seed in range(20)]

    async def scenario() -> None:
        await bench.fetch(*(block for block, _ in made))
        for block, plaintext in made:
            assert await bench.cache.get(block) == plaintext
        before = len(bench.source.requests)
        await bench.fetch(*(block for block, _ in made))
        assert len(bench.source.requests) == before
        assert bench.downloader.received_bytes == sum(len(payload or b"") for payload in bench.source.payloads.values())

    bench.run(scenario)


def test_many_blocks_travel_in_parallel_batches(bench: Bench) -> None:
    made = [bench.source.add(seed) for seed in range(20)]

    async def scenario() -> None:
        await bench.fetch(*(block for block, _ in made))
        assert bench.source.most_running == downloading.PARALLEL_REQUESTS
        assert max(map(len, bench.source.requests)) <= downloading.BATCH_BLOCKS

    bench.run(scenario)


def test_callers_who_want_the_same_block_share_one_request(bench: Bench) -> None:
    block, plaintext = bench.source.add(1)
    read: list[bytes] = []

    async def reader() -> None:
        read.append(await bench.read(block))

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(bench.fetch, block)
                nursery.start_soon(reader)
        assert bench.source.is_asked(block) == 1
        assert read == [plaintext] * 5

    bench.run(scenario)


def test_one_who_gives_up_does_not_disturb_the_others(bench: Bench) -> None:
    block, plaintext = bench.source.add(1)

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def impatient() -> None:
                with scope:
                    await bench.fetch(block)

            nursery.start_soon(impatient)
            await trio.sleep(0.5)
            nursery.start_soon(bench.fetch, block)
            await trio.sleep(0.1)
            scope.cancel()
        assert await bench.cache.get(block) == plaintext
        assert bench.source.is_asked(block) == 1

    bench.run(scenario)


def test_what_nobody_waits_for_any_more_is_not_asked_for(bench: Bench) -> None:
    first = [bench.source.add(seed)[0] for seed in range(downloading.PARALLEL_REQUESTS)]
    last, _ = bench.source.add(99)

    async def scenario() -> None:
        bench.source.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            for block in first:
                nursery.start_soon(bench.fetch, block)
            await trio.sleep(0.1)
            with trio.move_on_after(1):
                await bench.fetch(last)
            bench.source.gate.set()
        assert bench.source.is_asked(last) == 0
        assert not bench.downloader._wants

    bench.run(scenario)


def test_urgent_blocks_overtake_those_that_nobody_waits_for(bench: Bench) -> None:
    later = [bench.source.add(seed)[0] for seed in range(60)]
    urgent, _ = bench.source.add(99)

    async def scenario() -> None:
        bench.expect(*later)
        await trio.sleep(0.1)
        began = trio.current_time()
        await bench.fetch(urgent)
        assert trio.current_time() - began < 1.5
        assert sum(map(len, bench.source.requests)) < len(later)
        await trio.sleep(30)
        assert all(bench.cache.contains(block) for block in later)

    bench.run(scenario)


def test_a_prefetched_block_that_becomes_urgent_is_not_asked_for_twice(bench: Bench) -> None:
    later = [bench.source.add(seed)[0] for seed in range(60)]

    async def scenario() -> None:
        bench.expect(*later)
        await bench.fetch(later[-1])
        assert any(bench.source.is_asked(block) == 0 for block in later)
        await trio.sleep(30)
        assert [bench.source.is_asked(block) for block in later] == [1] * len(later)

    bench.run(scenario)


def test_the_queue_of_prefetches_is_bounded(bench: Bench) -> None:
    later = [bench.source.add(seed, 100)[0] for seed in range(downloading.MOST_PREFETCHED + 100)]

    async def scenario() -> None:
        bench.source.gate = trio.Event()
        bench.expect(*later)
        assert len(bench.downloader._wants) == downloading.MOST_PREFETCHED
        bench.source.gate.set()
        await trio.sleep(60)
        assert bench.cache.contains(later[-1])
        assert not bench.cache.contains(later[0])

    bench.run(scenario)


def test_what_somebody_waits_for_is_not_forgotten_with_the_oldest_prefetches(bench: Bench) -> None:
    """Read ahead of a reader, and pinned too."""
    later = [bench.source.add(seed, 100)[0] for seed in range(downloading.MOST_PREFETCHED + 100)]
    pinned = later[-1]

    async def scenario() -> None:
        bench.source.gate = trio.Event()
        bench.expect(*later[:12])
        await trio.sleep(0.1)
        bench.expect(pinned)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.downloader.fetch_behind, WORKSPACE, {pinned: 100})
                await trio.sleep(0.1)
                bench.expect(*later[12:-1])
                bench.source.gate.set()
        assert bench.cache.contains(pinned)

    bench.run(scenario)


@pytest.mark.fault(47)
def test_a_block_that_arrives_damaged_is_asked_for_once_more(bench: Bench) -> None:
    block, plaintext = bench.source.add(1)
    good = bench.source.payloads[block]
    assert good is not None
    bench.source.payloads[block] = good[:-1] + bytes([good[-1] ^ 1])

    async def scenario() -> None:
        async def mend() -> None:
            await trio.sleep(1.5)
            bench.source.payloads[block] = good

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mend)
            assert await bench.read(block) == plaintext
        assert bench.source.is_asked(block) == 2

    bench.run(scenario)


@pytest.mark.fault(47)
def test_a_block_that_always_arrives_damaged_is_never_cached(bench: Bench) -> None:
    block, _ = bench.source.add(1)
    other, _ = bench.source.add(2)
    bench.source.payloads[block] = bench.source.payloads[other]

    async def scenario() -> None:
        with pytest.raises(errors.BlockLost):
            await bench.read(block)
        assert not bench.cache.contains(block)
        assert bench.source.is_asked(block) == downloading.MOST_DAMAGED

    bench.run(scenario)


@pytest.mark.fault(46)
@pytest.mark.parametrize("is_told", [True, False])
def test_a_block_that_the_backend_lost_is_an_error_and_others_arrive(bench: Bench, is_told: bool) -> None:
    lost, other = bench.source.add(1)[0], bench.source.add(2)[0]
    if is_told:
        bench.source.payloads[lost] = None
    else:
        bench.source.withheld.add(lost)

    async def scenario() -> None:
        with trio.fail_after(60), pytest.raises(errors.BlockLost):
            await bench.fetch(lost, other)
        await bench.fetch(other)
        assert bench.cache.contains(other)

    bench.run(scenario)


def test_a_refusal_reaches_those_who_wait(bench: Bench) -> None:
    block, _ = bench.source.add(1)
    bench.source.failures = [errors.Refused(ProtocolError(Code.DEVICE_REVOKED, "This device was revoked."))]

    async def scenario() -> None:
        with pytest.raises(errors.Refused):
            await bench.fetch(block)
        await bench.fetch(block)

    bench.run(scenario)


def test_a_transfer_that_breaks_goes_on_while_the_backend_is_there(bench: Bench) -> None:
    block, plaintext = bench.source.add(1)
    bench.source.failures = [errors.Offline("gone") for _ in range(downloading.MOST_FAILURES - 1)]

    async def scenario() -> None:
        assert await bench.read(block) == plaintext
        assert bench.reach.lost_count == downloading.MOST_FAILURES - 1

    bench.run(scenario)


def test_transfers_that_always_break_end(bench: Bench) -> None:
    block, _ = bench.source.add(1)
    bench.source.failures = [errors.Offline("gone") for _ in range(1000)]

    async def scenario() -> None:
        with pytest.raises(errors.Offline, match="gone"):
            await bench.read(block)
        assert len(bench.source.requests) == downloading.MOST_FAILURES

    bench.run(scenario)


def test_when_the_backend_is_gone_all_who_wait_are_told_and_nothing_is_asked(bench: Bench) -> None:
    made = [bench.source.add(seed) for seed in range(40)]
    bench.source.failures = [errors.Offline("gone") for _ in range(1000)]
    bench.reach.is_gone = True

    async def scenario() -> None:
        async def fails(block: BlockId) -> None:
            with pytest.raises(errors.Offline, match="gone"):
                await bench.read(block)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for block, _ in made:
                nursery.start_soon(fails, block)
        assert trio.current_time() - began < 2
        before = len(bench.source.requests)
        for block, _ in made:
            await fails(block)
        assert len(bench.source.requests) == before
        bench.source.failures.clear()
        bench.reach.why = None
        for block, plaintext in made:
            assert await bench.read(block) == plaintext

    bench.run(scenario)


def test_what_is_fetched_in_case_waits_until_nobody_else_does(bench: Bench) -> None:
    urgent = [bench.source.add(seed) for seed in range(30)]
    behind = {bench.source.add(seed)[0]: 100_000 for seed in range(100, 130)}

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.downloader.fetch_behind, WORKSPACE, behind)
            nursery.start_soon(bench.fetch, *[block for block, _ in urgent])
        order = [block for request in bench.source.requests for block in request]
        early = {block for request in bench.source.requests[: downloading.PARALLEL_BEHIND] for block in request}
        late = [place for place, block in enumerate(order) if block in behind and block not in early]
        assert all(place > order.index(block) for block, _ in urgent for place in late)
        assert all(bench.cache.contains(block) for block in behind)
        assert all(bench.source.is_asked(block) == 1 for block in order)

    bench.run(scenario)


def test_what_is_fetched_in_case_comes_beside_a_block_that_the_backend_lost(bench: Bench) -> None:
    behind = {bench.source.add(seed, 100)[0]: 100 for seed in range(4 * downloading.BEHIND_BLOCKS)}
    lost = next(iter(behind))
    bench.source.payloads[lost] = None

    async def scenario() -> None:
        with pytest.raises(errors.BlockLost):
            await bench.downloader.fetch_behind(WORKSPACE, behind)
        assert {block for block in behind if not bench.cache.contains(block)} == {lost}

    bench.run(scenario)


def test_a_block_fetched_in_case_that_becomes_urgent_overtakes(bench: Bench) -> None:
    behind = {bench.source.add(seed, 4_000_000)[0]: 4_000_000 for seed in range(20)}
    last = list(behind)[-1]

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.downloader.fetch_behind, WORKSPACE, behind)
            await trio.sleep(0.5)
            began = trio.current_time()
            await bench.fetch(last)
            assert trio.current_time() - began < 1.5
        assert bench.source.is_asked(last) == 1

    bench.run(scenario)


def test_bytes_are_given_even_if_the_cache_refuses_them(bench: Bench) -> None:
    block, plaintext = bench.source.add(1)
    bench.cache.limit_bytes = 10

    async def scenario() -> None:
        assert await bench.read(block) == plaintext
        assert not bench.cache.contains(block)

    bench.run(scenario)


def test_whoever_waits_when_the_mount_ends_is_told(bench: Bench) -> None:
    block, _ = bench.source.add(1)

    async def main() -> None:
        bench.source.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.downloader.serve)

            async def end() -> None:
                await trio.sleep(1)
                nursery.cancel_scope.cancel()

            nursery.start_soon(end)
            with trio.CancelScope(shield=True), pytest.raises(errors.Offline):
                await bench.fetch(block)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_blocks_that_are_here_are_made_ready_ahead_of_reading(bench: Bench) -> None:
    block, plaintext = bench.source.add(1)

    async def scenario() -> None:
        await bench.cache.put(block, plaintext)
        assert bench.cache.read_now(block, 0, 100) is None
        bench.expect(block)
        await trio.sleep(1)
        assert bench.cache.read_now(block, 0, 100) == plaintext[:100]
        assert not bench.source.requests

    bench.run(scenario)
