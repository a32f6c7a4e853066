"""Notifications: in order, once, off the event loop, and never fatal."""

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyfuse3
import pytest
import trio
import trio.testing

from drivefs.fs.ownership import Owner
from drivefs.fuse import invalidation
from drivefs.fuse.attributes import Translation
from drivefs.fuse.invalidation import Invalidation, Notification
from drivefs.protocol.ids import InodeId

ROOT = InodeId(1000)


class Threads:
    """Stands for threads: notes what they would do, and may be held up."""

    def __init__(self) -> None:
        self.told: list[Notification] = []
        self.batches = 0
        self.may_go = trio.Event()
        self.may_go.set()

    async def __call__(self, work: Callable[..., Any], /, *args: Any) -> Any:
        assert work is invalidation.notify
        await self.may_go.wait()
        batch: Sequence[Notification] = args[0]
        self.told += batch
        self.batches += 1
        return []


def run(scenario: Callable[[Invalidation, Threads], None]) -> Threads:
    threads: list[Threads] = []

    async def main() -> None:
        threads.append(Threads())
        told = Invalidation(Translation(ROOT, Owner(0, 0)), threads[0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(told.run)
            await trio.testing.wait_all_tasks_blocked()
            scenario(told, threads[0])
            await trio.testing.wait_all_tasks_blocked()
            threads[0].may_go.set()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main)
    return threads[0]


def test_what_concerns_one_directory_is_told_in_order() -> None:
    names = [b"%d" % index for index in range(1000)]

    def scenario(told: Invalidation, threads: Threads) -> None:
        for name in names:
            told.entry(InodeId(77), name)

    threads = run(scenario)
    assert threads.told == [Notification(77, name) for name in names]
    assert threads.batches > 1


def test_the_root_is_told_of_by_its_kernel_number() -> None:
    def scenario(told: Invalidation, threads: Threads) -> None:
        told.inode(ROOT, content=False)
        told.entry(ROOT, b"name")

    assert run(scenario).told == [Notification(pyfuse3.ROOT_INODE), Notification(pyfuse3.ROOT_INODE, b"name")]


def test_what_waits_to_be_told_is_told_once() -> None:
    def scenario(told: Invalidation, threads: Threads) -> None:
        threads.may_go = trio.Event()
        for _ in range(100):
            told.inode(InodeId(77), content=True)

    assert run(scenario).told.count(Notification(77)) <= 2


def test_one_directory_does_not_wait_for_another() -> None:
    async def main() -> None:
        told = Invalidation(Translation(ROOT, Owner(0, 0)), held_up)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(told.run)
            told.entry(InodeId(0), b"held up")
            told.entry(InodeId(1), b"name")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    seen: list[Notification] = []

    async def held_up(work: Callable[..., Any], /, *args: Any) -> Any:
        if args[0][0].number == 0:
            await trio.sleep_forever()
        seen.extend(args[0])

    trio.run(main)
    assert seen == [Notification(1, b"name")]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """What the kernel is told; inodes above 100 are refused with that error."""
    told: list[tuple[Any, ...]] = []

    def tell(*args: Any, **named: Any) -> None:
        told.append((*args, *named.values()))
        if args[0] > 100:
            raise OSError(args[0] - 100, "refused")

    monkeypatch.setattr(pyfuse3, "invalidate_inode", tell)
    monkeypatch.setattr(pyfuse3, "invalidate_entry", tell)
    return told


def test_attributes_are_told_without_touching_pages(kernel: list[tuple[Any, ...]]) -> None:
    invalidation.notify([Notification(5), Notification(6, b"name")])
    assert kernel == [(5, True), (6, b"name")]


def test_what_the_kernel_does_not_know_is_no_matter(
    kernel: list[tuple[Any, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    invalidation.notify([Notification(100 + errno.ENOENT), Notification(5)])
    assert len(kernel) == 2
    assert caplog.records == []
    invalidation.notify([Notification(100 + errno.EIO), Notification(5)])
    assert len(kernel) == 4
    assert len(caplog.records) == 1


def test_an_inode_that_the_kernel_did_not_know_yet_is_told_again(kernel: list[tuple[Any, ...]]) -> None:
    async def at_once(work: Callable[..., Any], /, *args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return work(*args)

    async def main() -> None:
        told = Invalidation(Translation(ROOT, Owner(0, 0)), at_once)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(told.run)
            for inode in (100 + errno.ENOENT, 5):
                told.inode(InodeId(inode), content=True)
            told.entry(InodeId(100 + errno.ENOENT), b"name")
            await trio.sleep(60.0)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert kernel.count((100 + errno.ENOENT, True)) == 1 + len(invalidation.AGAIN_SECONDS)
    assert kernel.count((5, True)) == kernel.count((100 + errno.ENOENT, b"name")) == 1
