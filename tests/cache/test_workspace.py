"""The local state as a whole: one at a time, for its owner only, its logs bounded, its space given back."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from cache.check import check
from cache.errors import StateInUse
from cache.workspace import CHECKPOINT_BYTES, FINISH_BYTES, LocalState
from tests.cache.states import Bench, content_of, create

OPENS = "import sys; from tests.cache.states import Bench; from pathlib import Path; Bench(Path(sys.argv[1])).open()"


@pytest.mark.fault(20)
def test_a_second_process_is_refused_in_one_line(bench: Bench, local: LocalState) -> None:
    state, _ = bench.places()
    second = subprocess.run(
        [sys.executable, "-c", OPENS, str(state.parent.parent)], capture_output=True, text=True, check=False
    )
    assert second.returncode == 1
    last = second.stderr.strip().splitlines()[-1]
    assert "StateInUse" in last
    assert str(state) in last
    with pytest.raises(StateInUse):
        check(*bench.places())


def test_a_state_that_could_not_be_opened_is_not_left_locked(bench: Bench, local: LocalState) -> None:
    with pytest.raises(StateInUse):
        bench.open()
    assert bench.close(local) == []
    bench.open()


def test_everything_is_for_its_owner_only(bench: Bench, local: LocalState) -> None:
    create(local.journal, b"a", content=b"x" * 10)
    local.staging.append(create(local.journal, b"b")[0], b"y" * 100_000)
    state, cache = bench.places()
    found = [*state.rglob("*"), *cache.rglob("*"), state, cache]
    assert len(found) > 10
    assert [path for path in found if path.stat().st_mode & 0o077] == []


def test_a_log_that_has_grown_is_copied_away(local: LocalState) -> None:
    async def main() -> tuple[int, int]:
        index = 0
        while local.journal._database.wal_bytes < CHECKPOINT_BYTES:
            create(local.journal, b"%d" % index, content=b"x" * 20_000)
            index += 1
        await local.checkpoint()
        create(local.journal, b"last")
        await local.barrier()
        return index, local.journal._database.wal_bytes

    count, log_bytes = trio.run(main)
    assert log_bytes < CHECKPOINT_BYTES // 10
    assert len(local.journal.unsettled(100_000)) == count + 1


MOST_CHANGES = 100_000
"""Far more than it takes, however slow the thread is that copies."""


def test_a_log_begins_afresh_although_changes_never_pause(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.workspace.CHECKPOINT_BYTES", CHECKPOINT_BYTES // 64)
    monkeypatch.setattr("cache.workspace.FINISH_BYTES", FINISH_BYTES // 64)

    async def main() -> list[int]:
        """How many changes there had been each time."""
        local = bench.open(offload=trio.to_thread.run_sync)
        sizes: list[int] = []
        afresh: list[int] = []

        async def copy() -> None:
            while True:
                await local.checkpoint()
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy)
            for index in range(MOST_CHANGES):
                if sum(after < before for before, after in pairwise(sizes[-2:])):
                    afresh.append(index)
                if len(afresh) == 2:
                    break
                create(local.journal, b"%d" % index, content=b"x" * 1000)
                sizes.append(local.journal._database.wal_bytes)
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        return afresh

    assert len(trio.run(main)) == 2


def test_space_of_what_was_uploaded_is_given_back_at_the_next_start(bench: Bench, local: LocalState) -> None:
    big = b"x" * 4096
    with local.journal.transaction():
        made = [create(local.journal, b"%d" % index, content=big * 12)[0] for index in range(1000)]
    with local.journal.transaction():
        for inode in made:
            local.journal.drafts.drop_draft(inode)
    kept, _ = create(local.journal, b"kept", content=b"kept")
    bench.close(local)
    state, _ = bench.places()
    assert (state / "journal.db").stat().st_size > 40 * 2**20
    again = bench.open()
    assert (state / "journal.db").stat().st_size < 2**20
    assert content_of(again, kept) == b"kept"


def test_a_missing_state_has_no_findings(tmp_path: Path) -> None:
    assert check(tmp_path / "state", tmp_path / "cache") == []
