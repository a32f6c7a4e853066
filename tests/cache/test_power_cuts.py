"""What is made of drafts whose last bytes a power cut took, and what is asked of a journal before it is used again."""

import os
from pathlib import Path

import msgspec
import pytest

from cache.database import PAGE_BYTES
from cache.errors import DiskFull, Unusable
from cache.findings import Severity
from cache.workspace import LocalState
from drivefs.protocol.changes import Base, Store
from drivefs.protocol.ids import BlockId, InodeId, RevisionNumber, Seq
from drivefs.protocol.model import BlockRef, InodeKind, InodeState, cut_runs, pack_blocks, run_id
from tests.cache.states import T0, Bench, content_of, create, damage, damage_row, draft_of, power_cut
from tests.cache.test_recovery import BIG, stage

KNOWN = InodeId(77)
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
