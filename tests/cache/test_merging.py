"""Many small writes become few records: which of them, and what a crash, rot and a publication in flight then find."""

import errno
import os
from collections.abc import Callable

import msgspec
import pytest
import trio

from cache import merging
from cache.errors import Corrupt, DiskFull
from cache.staging import StagedRange
from cache.workspace import LocalState
from drivefs.protocol.ids import NO_OP, InodeId
from drivefs.protocol.model import InodeKind, InodeState
from tests.cache.states import Bench, content_of, damage, draft_of, power_cut

FILE = InodeId(7)
OTHER = InodeId(8)
MANY = merging.LEAST_RECORDS
Barrier = Callable[[LocalState], None]


def append(local: LocalState, content: bytes, count: int, inode: InodeId = FILE) -> bytes:
    """Append `count` times four bytes to a content; gives what it is then."""
    drafts = local.journal.drafts
    for number in range(count):
        data = b"%04d" % number
        with local.journal.transaction():
            if drafts.draft(inode) is None:
                drafts.put_draft(draft_of(inode))
            drafts.add_record(inode, len(content), data, local.staging.append(inode, data))
            content += data
            state = InodeState(inode, InodeKind.FILE, 0o644, size=len(content))
            local.journal.overlay.put_inode(state, NO_OP)
    return content


def lengths(local: LocalState) -> list[int]:
    return [record.length for record in local.journal.drafts.records(FILE)]


def log_barrier(local: LocalState) -> None:
    trio.run(local.journal.log_barrier)


def full_barrier(local: LocalState) -> None:
    trio.run(local.barrier)


@pytest.mark.parametrize("barrier", [log_barrier, full_barrier])
def test_small_appends_become_one_record_as_a_barrier_begins(bench: Bench, local: LocalState, barrier: Barrier) -> None:
    content = append(local, b"", MANY)
    last = local.journal.drafts.records(FILE)[-1].id
    barrier(local)
    (record,) = local.journal.drafts.records(FILE)
    assert (record.id, record.file_offset, record.length) == (last, 0, len(content))
    assert local.journal.drafts.record_bytes == len(content)
    content = append(local, content, MANY)
    barrier(local)
    assert len(lengths(local)) == 2
    assert content_of(local, FILE) == content
    assert bench.close(local) == []
    assert content_of(bench.open(), FILE) == content


def test_few_are_left_alone_until_there_are_many(local: LocalState) -> None:
    content = append(local, b"", MANY // 2)
    log_barrier(local)
    assert len(lengths(local)) == MANY // 2
    append(local, content, MANY - MANY // 2)
    log_barrier(local)
    assert len(lengths(local)) == 1


def test_what_was_synced_is_not_one_record_with_what_was_not(local: LocalState) -> None:
    content = append(local, b"", 10)
    full_barrier(local)
    append(local, content, MANY)
    log_barrier(local)
    assert lengths(local) == [4] * 10 + [4 * MANY]


@pytest.mark.fault(1)
def test_a_power_cut_takes_what_was_not_synced_alone(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = append(local, b"", MANY)
    full_barrier(local)
    content = append(local, synced, MANY)
    log_barrier(local)
    crashed = bench.crash()
    (staged,) = (crashed / "staging").iterdir()
    os.truncate(staged, len(content) - 1)
    power_cut(monkeypatch)
    assert content_of(bench.open("crashed"), FILE) == synced


def test_only_what_adjoins_becomes_one(bench: Bench, local: LocalState) -> None:
    content = append(local, b"", MANY)
    other = local.staging.append(FILE, b"over")
    drafts = local.journal.drafts
    with local.journal.transaction():
        drafts.add_record(FILE, 0, b"over", other)
    content = append(local, b"over" + content[4:], 3)
    with local.journal.transaction():
        drafts.add_truncate(FILE, len(content) - 2)
    content = append(local, content[:-2], 3)
    log_barrier(local)
    assert lengths(local) == [4 * MANY, 4, 12, 0, 12]
    assert content_of(local, FILE) == content
    assert bench.close(local) == []


def test_a_record_is_of_bounded_length(local: LocalState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "MERGED_BYTES", 401)
    append(local, b"", MANY)
    log_barrier(local)
    assert lengths(local) == [400, 400, 4 * MANY - 800]


def test_what_is_frozen_stays_apart(local: LocalState) -> None:
    """Later bytes go to another file, as `Contents.freeze` has it."""
    drafts = local.journal.drafts
    content = append(local, b"", MANY)
    frozen = drafts.records(FILE)[-1].id
    local.staging.roll(FILE)
    append(local, content, MANY)
    draft = drafts.draft(FILE)
    assert draft is not None
    with local.journal.transaction():
        drafts.put_draft(msgspec.structs.replace(draft, frozen=frozen))
    log_barrier(local)
    assert [(each.id, each.length) for each in drafts.records(FILE, frozen)] == [(frozen, len(content))]
    assert lengths(local) == [4 * MANY, 4 * MANY]


def test_a_row_that_is_not_what_was_written_is_left_to_who_reads_it(local: LocalState) -> None:
    append(local, b"", MANY)
    rotten = local.journal.drafts.records(FILE)[10].id
    local.journal._database.write("UPDATE records SET digest = digest + 1 WHERE id = ?", (rotten,))
    log_barrier(local)
    lengths = local.journal._database.rows("SELECT length FROM records ORDER BY id")
    assert lengths == [(40,), (4,), (4 * (MANY - 11),)]


def test_bytes_that_a_write_left_behind_that_came_to_nothing_are_no_part_of_what_is_merged(local: LocalState) -> None:
    content = append(local, b"", 10)
    local.staging.append(FILE, b"gone")
    content = append(local, content, MANY)
    log_barrier(local)
    assert lengths(local) == [40, 4 * MANY]
    assert content_of(local, FILE) == content


def test_rotten_bytes_are_given_no_good_checksum(local: LocalState) -> None:
    append(local, b"", MANY)
    (staged,) = local.staging.paths()
    damage(staged, 9, b"X")
    log_barrier(local)
    assert len(lengths(local)) == MANY


@pytest.mark.parametrize("error", [DiskFull("no room"), Corrupt("rot"), OSError(errno.EIO, "a read failed")])
def test_what_cannot_be_merged_is_synced_as_it_is_and_stays_apart_from_what_comes_later(
    local: LocalState, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    content = append(local, b"", 10)
    append(local, b"", MANY, OTHER)

    def fail(staged: StagedRange) -> bytes:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(local.staging, "peek", fail)
        full_barrier(local)
    assert not local.dirty
    append(local, content, MANY)
    log_barrier(local)
    assert lengths(local) == [4] * 10 + [4 * MANY]
    assert len(local.journal.drafts.records(OTHER)) == MANY
