"""What is made of drafts whose last bytes a power cut took, and what is asked of a journal before it is used again."""

import os
from pathlib import Path

import msgspec
import pytest

from cache.database import PAGE_BYTES
from cache.drafts import Record
from cache.errors import DiskFull, Unusable
from cache.findings import Severity
from cache.standing import Found, standing
from cache.workspace import LocalState
from drivefs.protocol.changes import Base, Store
from drivefs.protocol.ids import BlockId, InodeId, RevisionNumber, Seq
from drivefs.protocol.model import BlockRef, InodeKind, InodeState, cut_runs, pack_blocks, run_id
from tests.cache.states import T0, Bench, content_of, create, damage, damage_row, draft_of, power_cut
from tests.cache.test_recovery import BIG, stage

KNOWN, OTHER = InodeId(77), InodeId(78)
BEFORE, AFTER = BlockRef(BlockId(b"b" * 32), 3), BlockRef(BlockId(b"a" * 32), len(BIG))


def edit(local: LocalState) -> int:
    """Write over a file that the server has; gives the staging file."""
    state = InodeState(KNOWN, InodeKind.FILE, 0o640, size=3, revision=RevisionNumber(2))
    local.replica.put_inodes([state], Seq(1))
    with local.journal.transaction():
        local.journal.overlay.put_inode(state, local.journal.next_op())
        draft = msgspec.structs.replace(draft_of(KNOWN, base_size=3), base=Base(revision=RevisionNumber(2)))
        local.journal.drafts.put_draft(draft)
    return stage(local, KNOWN, 3, BIG)


def cut(image: Path, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power goes, and takes most of a staging file."""
    os.truncate(image / "staging" / f"{file:016x}", 10)
    power_cut(monkeypatch)


def test_a_draft_of_which_no_write_is_left_is_none(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published, it would be a change that nobody made."""
    file = edit(local)
    cut(bench.crash(), file, monkeypatch)
    again = bench.open("crashed")
    assert again.journal.drafts.draft(KNOWN) is None
    assert bench.close(again, "crashed") == []


@pytest.mark.parametrize("is_all_known", [True, False])
def test_a_draft_whose_content_is_on_its_way_stands_on_it_if_all_its_blocks_are_known(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch, is_all_known: bool
) -> None:
    file = edit(local)
    packed = list(cut_runs([BEFORE, AFTER]))
    with local.journal.transaction():
        draft = local.journal.drafts.draft(KNOWN)
        assert draft is not None
        store = Store(
            n=local.journal.next_op(), time_ns=T0, inode=KNOWN, base=draft.base, size=3 + len(BIG), mtime_ns=T0,
            runs=[run_id(run) for run in packed], new_runs=packed if is_all_known else [],
        )  # fmt: skip
        local.journal.append(store)
        last = local.journal.drafts.records(KNOWN)[-1].id
        local.journal.drafts.put_draft(msgspec.structs.replace(draft, frozen=last, frozen_op=store.n))
    image = bench.crash()
    cut(image, file, monkeypatch)
    again = bench.open("crashed")
    assert again.journal.drafts.records(KNOWN) == []
    assert again.journal.drafts.base_blocks(KNOWN) == (pack_blocks([BEFORE, AFTER]) if is_all_known else None)
    assert (image / "lost+found").exists() is not is_all_known, "what is on its way is nothing that was found"
    assert bench.close(again, "crashed") == []


def frozen(local: LocalState, size: int) -> None:
    """All that was written is on its way as one block."""
    packed = list(cut_runs([BlockRef(BlockId(b"a" * 32), size)]))
    with local.journal.transaction():
        draft = local.journal.drafts.draft(KNOWN)
        assert draft is not None
        store = Store(
            n=local.journal.next_op(), time_ns=T0, inode=KNOWN, base=draft.base, size=size, mtime_ns=T0,
            runs=[run_id(run) for run in packed], new_runs=packed,
        )  # fmt: skip
        local.journal.append(store)
        last = local.journal.drafts.records(KNOWN)[-1].id
        local.journal.drafts.put_draft(msgspec.structs.replace(draft, frozen=last, frozen_op=store.n))


def test_of_what_is_on_its_way_those_writes_stay_that_are_on_the_disk(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were synced, and the backend may let go of what it was sent while the device is away."""
    edit(local)
    stage(local, KNOWN, 200_000, b"covered" * 10)
    stage(local, KNOWN, 400_000, b"apart")
    bench.flush()
    with local.journal.transaction():
        lost = local.staging.append(OTHER, BIG)
        local.journal.drafts.add_record(KNOWN, 200_050, BIG, lost)
    frozen(local, 400_005)
    stage(local, KNOWN, 3, b"later")
    image = bench.crash()
    cut(image, lost.file, monkeypatch)
    again = bench.open("crashed")
    assert [(each.file_offset, each.length) for each in again.journal.drafts.records(KNOWN)] == [
        (3, len(BIG)), (400_000, 5), (3, 5)
    ]  # fmt: skip
    draft = again.journal.drafts.draft(KNOWN)
    assert draft is not None
    assert (draft.base_size, len(content_of(again, KNOWN))) == (400_005, 400_005)
    (kept,) = (image / "lost+found").iterdir()
    assert kept.read_bytes() == bytes(200_000) + b"covered" * 10
    assert bench.close(again, "crashed") == []


@pytest.mark.parametrize(
    ("records", "stay"),
    [
        ([(0, 10, True), (20, 10, True), (30, 5, False)], {0, 1}),
        ([(0, 10, True), (5, 10, True), (12, 5, False)], set()),
        ([(0, 10, True), (12, 5, False), (5, 10, True)], {0, 2}),
        ([(0, 10, True), (0, 5, False), (10, 5, False), (20, 3, True), (3, 2, True)], {3, 4}),
        ([(0, 10, True), (10, 10, True), (12, 0, True), (14, 2, True), (30, 2, False)], {0, 3}),
        ([(0, 5, True), (20, 5, False), (0, 0, True), (7, 1, True), (1, 1, False)], {3}),
    ],
)
def test_a_write_stays_if_nothing_covers_it_that_does_not(records: list[tuple[int, int, bool]], stay: set[int]) -> None:
    found = [Found(Record(n, start, length, None, 0), good, True) for n, (start, length, good) in enumerate(records)]
    assert standing(found) == stay


def test_nothing_stays_under_a_write_of_which_nobody_knows_where_it_was() -> None:
    first, second, third = (Record(n, 100 * n, 5, None, 0) for n in range(3))
    assert standing([Found(first, True, True), Found(second, False, False), Found(third, True, True)]) == {2}


def with_a_page_that_nothing_uses(image: Path) -> None:
    """It harms nothing, but is not as SQLite leaves it."""
    damage_row(image, "UPDATE meta SET value = value WHERE key = 'open'")
    path = image / "journal.db"
    pages = path.stat().st_size // PAGE_BYTES
    damage(path, pages * PAGE_BYTES, bytes(PAGE_BYTES))
    damage(path, 28, (pages + 1).to_bytes(4, "big"))


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_structure_that_is_not_in_order_is_refused_after_a_cut_and_told_else(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch, is_cut: bool
) -> None:
    inode, _ = create(local.journal, b"one", content=b"12345")
    with_a_page_that_nothing_uses(bench.crash())
    if is_cut:
        power_cut(monkeypatch)
        with pytest.raises(Unusable, match="check --repair"):
            bench.open("crashed")
        return
    again = bench.open("crashed")
    assert [finding.severity for finding in again.report] == [Severity.DAMAGE]
    assert content_of(again, inode) == b"12345"


def test_what_a_disk_that_failed_has_is_read_from_the_disk(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not from what the kernel remembers of it."""
    create(local.journal, b"one")
    file = local.staging.append(InodeId(7), BIG).file
    image = bench.crash()
    (image / "suspect").touch()
    forgotten = set[str]()

    def forget(descriptor: int, _offset: int, _length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        forgotten.add(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "posix_fadvise", forget)
    bench.open("crashed")
    assert {"journal.db", "journal.db-wal", f"{file:016x}"} <= forgotten


def test_a_state_that_has_no_room_to_be_closed_has_all_in_its_log(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start would miss a log that is not there, since nothing says that it was closed."""
    inode, _ = create(local.journal, b"one", content=b"12345")

    def full(*_given: object) -> None:
        raise DiskFull("no room left")

    with monkeypatch.context() as patch:
        patch.setattr("cache.workspace.note_opened", full)
        local.close()
    again = bench.open()
    assert again.report == []
    assert content_of(again, inode) == b"12345"
