"""The barrier: what it covers, in which order, for how many at once, and what a failing disk does to it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from cache.errors import SUSPECT, DiskFull, Poisoned
from cache.workspace import LocalState
from drivefs.protocol.ids import NO_OP, InodeId
from drivefs.protocol.model import InodeKind, InodeState
from tests.cache.states import Bench, content_of, create, draft_of

BIG = b"0123456789abcdef" * 8192


class Syncs:
    """Records what is synced, and can fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.error: OSError | None = None
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self)
        monkeypatch.setattr(os, "fdatasync", self)

    def __call__(self, descriptor: int) -> None:
        if self.error is not None:
            raise self.error
        self.names.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        self._fsync(descriptor)


@pytest.fixture
def syncs(local: LocalState, monkeypatch: pytest.MonkeyPatch) -> Syncs:
    return Syncs(monkeypatch)


def write(local: LocalState, inode: int) -> int:
    """Stage bytes of a new draft; gives the staging file."""
    with local.journal.transaction():
        local.journal.drafts.put_draft(draft_of(InodeId(inode)))
        staged = local.staging.append(InodeId(inode), BIG)
        local.journal.drafts.add_record(InodeId(inode), 0, BIG, staged)
        state = InodeState(InodeId(inode), InodeKind.FILE, 0o644, size=len(BIG))
        local.journal.overlay.put_inode(state, NO_OP)
    return staged.file


def test_staged_bytes_are_synced_before_the_log_that_names_them(local: LocalState, syncs: Syncs) -> None:
    file = write(local, 7)
    assert local.dirty
    trio.run(local.barrier)
    assert syncs.names == [f"{file:016x}", "staging", "journal.db-wal"]
    assert not local.dirty
    create(local.journal, b"a")
    assert local.dirty
    trio.run(local.barrier)
    assert syncs.names[3:] == ["redo"]
    file = write(local, 8)
    trio.run(local.barrier)
    assert syncs.names[4:] == [f"{file:016x}", "staging", "redo"]


def test_one_sync_serves_all_who_came_before_it_began(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = trio.Event()

    async def slow(work: Callable[..., Any], /, *args: Any) -> Any:
        await gate.wait()
        return work(*args)

    async def main() -> list[str]:
        local = bench.open(offload=slow)
        syncs = Syncs(monkeypatch)
        create(local.journal, b"a")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(local.barrier)
            await trio.testing.wait_all_tasks_blocked()
            create(local.journal, b"b")
            for _ in range(50):
                nursery.start_soon(local.barrier)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        return syncs.names

    # The first began at once; what came while it ran needs one more, which serves all who wait for that.
    assert trio.run(main) == ["journal.db-wal", "redo"]


@pytest.mark.fault(3)
@pytest.mark.parametrize("is_log_first", [True, False])
def test_what_a_barrier_of_the_log_is_about_to_sync_is_not_durable_yet(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, is_log_first: bool
) -> None:
    """Another barrier comes while staged bytes are synced that take the place of others."""
    gates = [trio.Event(), trio.Event()]

    async def slow(work: Callable[..., Any], /, *args: Any) -> Any:
        await gates.pop(0).wait()
        return work(*args)

    async def main() -> None:
        local = bench.open(offload=slow)
        file = write(local, 7)
        local.journal.content_goes()
        syncs, (_, second) = Syncs(monkeypatch), gates
        barriers = (local.journal.log_barrier, local.barrier)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(barriers[not is_log_first])
            await trio.testing.wait_all_tasks_blocked()
            second.set()
            await barriers[is_log_first]()
            assert syncs.names[:2] == [f"{file:016x}", "staging"]
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_cancelled_barrier_of_the_log_leaves_what_comes_first_to_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        local = bench.open()
        file = write(local, 7)
        local.journal.content_goes()
        syncs = Syncs(monkeypatch)
        with trio.CancelScope() as scope:
            scope.cancel()
            await local.journal.log_barrier()
        await local.journal.log_barrier()
        assert syncs.names == [f"{file:016x}", "staging", "journal.db-wal"]

    trio.run(main)


def test_who_has_nothing_new_is_served_by_the_sync_before(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, ended = trio.Event(), []

    async def slow(work: Callable[..., Any], /, *args: Any) -> Any:
        await gate.wait()
        return work(*args)

    async def main() -> list[str]:
        local = bench.open(offload=slow)
        syncs = Syncs(monkeypatch)
        create(local.journal, b"a")

        async def wait() -> None:
            await local.barrier()
            ended.append(len(syncs.names))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert ended == []
            gate.set()
        await wait()
        return syncs.names

    assert trio.run(main) == ["journal.db-wal"]
    assert ended == [1, 1, 1]


def test_who_has_nothing_new_after_a_cancelled_sync_is_not_served_by_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> list[str]:
        local = bench.open()
        create(local.journal, b"a")
        await local.barrier()
        create(local.journal, b"b")
        syncs = Syncs(monkeypatch)
        with trio.CancelScope() as scope:
            scope.cancel()
            await local.barrier()
        assert syncs.names == []
        assert local.dirty
        await local.barrier()
        return syncs.names

    assert trio.run(main) == ["redo"]


def test_a_cancelled_barrier_leaves_its_work_to_the_next(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        local = bench.open()
        file = write(local, 7)
        syncs = Syncs(monkeypatch)
        with trio.CancelScope() as scope:
            scope.cancel()
            await local.barrier()
        assert local.dirty
        await local.barrier()
        assert syncs.names == [f"{file:016x}", "staging", "journal.db-wal"]
        local.staging.remove(file)
        with trio.CancelScope() as scope:
            scope.cancel()
            await local.barrier()
        assert local.staging.path(file).exists()
        await local.barrier()
        assert not local.staging.path(file).exists()

    trio.run(main)


def test_those_who_waited_for_a_cancelled_barrier_are_served(bench: Bench) -> None:
    async def main() -> None:
        local = bench.open()
        create(local.journal, b"a")
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def first() -> None:
                with scope:
                    await local.barrier()

            nursery.start_soon(first)
            nursery.start_soon(local.barrier)
            await trio.lowlevel.checkpoint()
            scope.cancel()
        assert not local.dirty

    trio.run(main)


class TestFailure:
    """A failed sync is told to all who wait, is never tried again, and ends all changes."""

    @pytest.mark.fault(12)
    def test_all_who_wait_are_told_and_nothing_more_is_accepted(self, local: LocalState, syncs: Syncs) -> None:
        inode, _ = create(local.journal, b"a", content=b"x")
        syncs.error = OSError(5, "Input/output error")
        told = []

        async def wait() -> None:
            try:
                await local.barrier()
            except Poisoned as error:
                told.append(error)

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(wait)

        trio.run(main)
        assert len(told) == 3
        syncs.error = None
        with pytest.raises(Poisoned):
            trio.run(local.barrier)
        with pytest.raises(Poisoned):
            create(local.journal, b"b")
        assert syncs.names == []
        assert content_of(local, inode) == b"x"

    def test_nobody_is_told_that_a_later_sync_went_well(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        gate, told = trio.Event(), list[str]()

        async def slow(work: Callable[..., Any], /, *args: Any) -> Any:
            await gate.wait()
            return work(*args)

        async def main() -> None:
            local = bench.open(offload=slow)
            syncs = Syncs(monkeypatch)
            create(local.journal, b"a")
            syncs.error = OSError(5, "Input/output error")

            async def wait() -> None:
                try:
                    await local.barrier()
                except Poisoned:
                    told.append("failed")
                else:
                    told.append("durable")
                syncs.error = None

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                gate.set()

        trio.run(main)
        assert told == ["failed"] * 3

    @pytest.mark.fault(12)
    def test_the_next_start_verifies_all_from_the_disk(
        self, bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = write(local, 7)
        syncs = Syncs(monkeypatch)
        syncs.error = OSError(5, "Input/output error")
        with pytest.raises(Poisoned):
            trio.run(local.barrier)
        syncs.error = None
        bench.close(local)
        state, _ = bench.places()
        assert (state / SUSPECT).exists()
        path = state / "staging" / f"{file:016x}"
        path.write_bytes(b"rot" + path.read_bytes()[3:])
        again = bench.open()
        assert any("not on the disk" in finding.what for finding in again.report)
        assert content_of(again, InodeId(7)) == b""
        assert (state / "lost+found" / f"staging-{file:016x}").read_bytes()[3:] == BIG[3:]
        assert not (state / SUSPECT).exists()


class TestDiskFull:
    """What does not fit is refused before it is accepted; what frees space is not."""

    @pytest.fixture
    def full(self, local: LocalState, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.statvfs

        def statvfs(path: Any) -> Any:
            found = real(path)
            values = list(found)
            values[4] = 24 * 2**20 // found.f_frsize  # f_bavail
            return os.statvfs_result(values)

        monkeypatch.setattr(os, "statvfs", statvfs)

    @pytest.mark.fault(14)
    @pytest.mark.usefixtures("full")
    def test_new_bytes_and_names_are_refused(self, local: LocalState) -> None:
        with pytest.raises(DiskFull):
            local.journal.admit(200)
        with pytest.raises(DiskFull):
            local.staging.append(InodeId(7), BIG)
        assert local.staging.used_bytes == 0

    @pytest.mark.fault(14)
    @pytest.mark.usefixtures("full")
    def test_changes_that_are_not_asked_for_go_on(self, local: LocalState) -> None:
        for index in range(200):
            create(local.journal, b"%d" % index)
        trio.run(local.barrier)
        assert not local.dirty

    def test_the_reserve_is_given_back_when_it_gets_tight_and_taken_again(
        self, bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reserve = bench.places()[0] / "reserve"
        assert reserve.stat().st_blocks * 512 >= 64 * 2**20
        real, free = os.statvfs, [8 * 2**20]

        def statvfs(path: Any) -> Any:
            found = real(path)
            values = list(found)
            values[4] = free[0] // found.f_frsize
            return os.statvfs_result(values)

        monkeypatch.setattr(os, "statvfs", statvfs)
        for index in range(100):
            create(local.journal, b"%d" % index)
        assert reserve.stat().st_size == 0
        free[0] = 96 * 2**20 - 4096
        with pytest.raises(DiskFull):
            local.journal.admit(1)
        free[0] = 200 * 2**20
        local.journal.admit(1)
        assert reserve.stat().st_blocks * 512 >= 64 * 2**20

    def test_a_write_that_the_disk_cuts_short_leaves_nothing(
        self, local: LocalState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.pwrite
        left = [1000]

        def pwrite(descriptor: int, data: bytes | memoryview, offset: int) -> int:
            if not left[0]:
                raise OSError(28, "No space left on device")
            count = real(descriptor, data[: left[0]], offset)
            left[0] -= count
            return count

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", pwrite)
            with pytest.raises(DiskFull):
                local.staging.append(InodeId(7), BIG)
        write(local, 7)
        assert content_of(local, InodeId(7)) == BIG


def test_barrier_of_the_log_leaves_staged_bytes_to_the_next_full_one(local: LocalState, syncs: Syncs) -> None:
    file = write(local, 7)
    trio.run(local.journal.log_barrier)
    assert syncs.names == ["journal.db-wal"]
    assert local.dirty
    trio.run(local.barrier)
    assert syncs.names[1:] == [f"{file:016x}", "staging", "redo"]


def test_staging_that_nothing_needs_any_more_is_not_synced_before_it_goes(local: LocalState, syncs: Syncs) -> None:
    file = write(local, 7)
    with local.journal.transaction():
        local.journal.drafts.drop_draft(InodeId(7))
    assert local.staging.has_retired
    trio.run(local.barrier)
    assert f"{file:016x}" not in syncs.names
    assert not local.staging.path(file).exists()


def test_closing_syncs_what_was_staged_before_the_log_that_says_that_all_is_in_order(
    bench: Bench, local: LocalState, syncs: Syncs
) -> None:
    file = write(local, 7)
    bench.close(local)
    assert syncs.names[:3] == [f"{file:016x}", "staging", "journal.db-wal"]
