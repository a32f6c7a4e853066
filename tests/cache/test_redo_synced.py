"""The file of what no sync of the log has covered: synced in the place of the log, it loses nothing to a power cut."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
import trio.testing

from cache import redo, workspace
from cache.check import check
from cache.durable import sync_path
from cache.redo import MOST_STATEMENTS, MOST_TRANSACTIONS
from cache.workspace import LocalState, last_group
from drivefs.protocol.ids import InodeId
from tests.cache.states import Bench, create, power_cut
from tests.cache.test_recovery import stage
from tests.cache.test_redo import Refusing, make, names

LOG = "journal.db-wal"


def test_it_has_several_commits_that_a_power_cut_takes(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    trio.run(local.barrier)
    image = bench.crash()
    made = make(local, 2 * MOST_TRANSACTIONS + 5)
    image.joinpath("redo").write_bytes((bench.places()[0] / "redo").read_bytes())
    assert check(image, image.parent / "cache") == []
    power_cut(monkeypatch)
    again = bench.open("crashed")
    assert (names(again), again.report) == (made, [])


@pytest.mark.parametrize("begun", [0, 2])
def test_what_does_not_follow_the_log_is_nothing_after_a_power_cut(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch, begun: int
) -> None:
    """A transaction has too many statements for the file: what came after it must not be there without it."""
    trio.run(local.barrier)
    image = bench.crash()
    made = make(local, begun)
    trio.run(local.barrier)
    with local.journal.transaction():
        make(local, MOST_STATEMENTS, 10)
    make(local, 5, 200)
    (image / "redo").write_bytes((bench.places()[0] / "redo").read_bytes())
    power_cut(monkeypatch)
    again = bench.open("crashed")
    assert (names(again), again.report) == (made, [])


def test_what_stands_behind_one_that_a_power_cut_took_is_nothing(tmp_path: Path) -> None:
    """In its place is still what the file had before, and that was as long."""
    path, images = tmp_path / "redo", list[bytes]()
    for group in (100, 200):
        file = redo.Redo.opened(path, group)
        assert file is not None
        for index in range(3):
            file.statements = [("INSERT INTO meta VALUES (?, ?)", ("name", bytes([group, index])))]
            assert file.accept()
        file.close()
        images.append(path.read_bytes())
    first, *_ = (place for place in range(len(images[1])) if images[1][place:].startswith(images[1][:4]) and place)
    path.write_bytes(images[1][:first] + images[0][first : 2 * first] + images[1][2 * first :])
    found = redo.read_redo(path, 199)
    assert len(found.transactions) == 1
    assert not found.is_whole


def test_it_does_not_grow(local: LocalState, bench: Bench) -> None:
    local.journal.drafts.put_base_blocks(InodeId(7), bytes(redo.SIZE_BYTES))
    assert (bench.places()[0] / "redo").stat().st_size == redo.SIZE_BYTES
    trio.run(local.barrier)
    assert local.journal.drafts.base_blocks(InodeId(7)) == bytes(redo.SIZE_BYTES)


def test_what_a_life_left_that_was_cut_is_nothing_to_a_later_one(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not follow the log is left in it, and may be there when the next life has done as many COMMITs."""
    trio.run(local.barrier)
    image = bench.crash()
    group = begun = last_group(local.journal._database) or 0
    with local.journal.transaction():
        make(local, MOST_STATEMENTS, 100)
    while group < begun + 5:
        make(local, 1, group)
        local.journal._database.flush()
        group = last_group(local.journal._database) or 0
    make(local, 3, 0)
    old = (bench.places()[0] / "redo").read_bytes()
    power_cut(monkeypatch)
    (image / "redo").write_bytes(old)
    again = bench.open("crashed")
    made: set[bytes] = set()
    monkeypatch.setattr(workspace, "boot_id", lambda: b"a third")
    for index in range(8):
        made |= make(again, 1, 100 + index)
        trio.run(again.barrier)
        (bench.crash(f"cut{index}", "crashed") / "redo").write_bytes(old)
        assert names(bench.open(f"cut{index}")) == made


def test_what_it_had_before_numbers_began_anew_is_nothing_after_a_power_cut(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start had no room for it, so no number is known any more; a repair leaves a journal without one too."""
    make(local, 3)
    bench.close(local)
    with monkeypatch.context() as patch:
        patch.setattr(redo.Redo, "opened", lambda _path, _group: None)
        without = bench.open()
        made = names(without) | make(without, 1, 10)
        bench.close(without)
    with (bench.places()[0] / "redo").open("r+b") as old:
        data = old.read()
        bench.open()
        old.seek(0)
        old.write(data)  # the disk has not got yet what has been written over it
    bench.crash(flushed=False)
    power_cut(monkeypatch)
    again = bench.open("crashed")
    assert (names(again), again.report) == (made, [])


class Synced:
    """The names of what barriers sync."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        monkeypatch.setattr("cache.barrier.sync_path", self)

    def __call__(self, path: Path) -> None:
        self.names.append(path.name)
        sync_path(path)

    def of(self, local: LocalState) -> str:
        trio.run(local.barrier)
        return self.names[-1]


def test_it_is_synced_in_the_place_of_the_log(bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the COMMITs that came since the log was synced, which a cut may take."""
    synced = Synced(monkeypatch)
    make(local, 3)
    assert synced.of(local) == LOG
    image = bench.crash()
    made = names(local)
    for count in (1, 5, MOST_TRANSACTIONS, 2 * MOST_TRANSACTIONS):
        made |= make(local, count, 1000 * count)
        assert synced.of(local) == "redo"
    (image / "redo").write_bytes((bench.places()[0] / "redo").read_bytes())
    power_cut(monkeypatch)
    again = bench.open("crashed")
    assert (names(again), again.report) == (made, [])
    assert bench.close(again, "crashed") == []


def test_what_it_lacks_needs_a_sync_of_the_log(local: LocalState, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = Synced(monkeypatch)
    make(local, 3)
    assert synced.of(local) == LOG
    with local.journal.transaction():
        make(local, MOST_STATEMENTS, 10)
    assert synced.of(local) == LOG
    make(local, 1, 200)
    assert synced.of(local) == "redo"
    with monkeypatch.context() as patch:
        patch.setattr(redo.os, "pwrite", lambda _descriptor, _data, _offset: 0)
        make(local, 1, 201)
    make(local, 1, 202)
    assert synced.of(local) == LOG
    make(local, 1, 203)
    assert synced.of(local) == "redo"


def test_what_was_promised_is_not_written_over_before_the_log_is_synced(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much comes between: a power cut that takes the log since its last sync finds it in the file."""
    synced = Synced(monkeypatch)
    monkeypatch.setattr(redo, "SIZE_BYTES", 2**16)
    monkeypatch.setattr(redo, "MOST_SYNCED_BYTES", 2**15)
    make(local, 1)
    assert synced.of(local) == LOG
    power_cut(monkeypatch)
    seen = set()
    durable = names(local)
    logged = bench.crash("log", flushed=False)
    for index in range(30):
        durable |= make(local, 1 + index % 3 * 20, 1000 * (index + 1))
        last = synced.of(local)
        seen.add(last)
        if last == LOG:
            shutil.rmtree(logged.parent)
            logged = bench.crash("log", flushed=False)
        make(local, index % 5 * 30, 100_000 + 1000 * index)
        image = bench.crash(f"cut{index}", "log", flushed=False)
        (image / "redo").write_bytes((bench.places()[0] / "redo").read_bytes())
        assert names(bench.open(f"cut{index}")) >= durable
        durable = names(local)
        trio.run(local.barrier)
        if synced.names[-1] == LOG:
            shutil.rmtree(logged.parent)
            logged = bench.crash("log", flushed=False)
    assert seen == {LOG, "redo"}


def test_what_comes_while_the_log_is_synced_is_durable_with_the_next_sync(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = trio.Event()

    async def slow(work: Callable[..., Any], /, *args: Any) -> Any:
        await gate.wait()
        return work(*args)

    async def main() -> set[bytes]:
        local = bench.open(offload=slow)
        make(local, 3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(local.barrier)
            await trio.testing.wait_all_tasks_blocked()
            bench.crash(flushed=False)  # with what this sync covers in the log
            made = make(local, MOST_TRANSACTIONS + 5, 10)
            gate.set()
        made |= make(local, MOST_TRANSACTIONS + 5, 200)
        await local.barrier()
        return names(local)

    synced = Synced(monkeypatch)
    made = trio.run(main)
    state = bench.places("crashed")[0]
    for name in {*synced.names[1:]} & {LOG, "redo"}:
        (state / name).write_bytes((bench.places()[0] / name).read_bytes())
    power_cut(monkeypatch)
    assert names(bench.open("crashed")) == made


def test_a_full_disk_refuses_no_sync_that_went_well(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of files that were removed after it waits for room: a COMMIT has to come before it is changed."""
    inode, _ = create(local.journal, b"long", content=b"x")
    stage(local, inode, 1, bytes(300_000))
    trio.run(local.barrier)
    assert local.journal.drafts.drop_draft(inode)
    made = make(local, MOST_TRANSACTIONS - 1) | {b"long"}
    with monkeypatch.context() as full:
        full.setattr(local.journal._database, "_execute", Refusing(local, apsw.FullError))
        trio.run(local.barrier)
    assert not list(local.staging.paths())
    bench.crash(flushed=False)
    again = bench.open("crashed")
    assert (names(again), again.report) == (made, [])
    assert bench.close(again, "crashed") == []
