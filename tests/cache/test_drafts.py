"""Drafts: records in rows and in staging, what a publication drops, and which staging files go when."""

import msgspec
import pytest
import trio

from cache.drafts import INLINE_BYTES, DraftRow
from cache.errors import Corrupt
from cache.staging import StagedRange
from cache.workspace import LocalState
from drivefs.protocol.changes import Base
from drivefs.protocol.ids import InodeId, OpNumber, RevisionNumber
from tests.cache.states import Bench, content_of, create, draft_of

BIG = bytes(range(256)) * 400


def stage(local: LocalState, inode: InodeId, offset: int, data: bytes) -> int:
    """Write as the file system does: bytes to staging, then the record."""
    return local.journal.drafts.add_record(inode, offset, data, local.staging.append(inode, data))


def new_draft(local: LocalState, inode: int) -> InodeId:
    local.journal.drafts.put_draft(draft_of(InodeId(inode)))
    return InodeId(inode)


def test_a_draft_comes_back_as_it_was(bench: Bench, local: LocalState) -> None:
    inode, _ = create(local.journal, b"a", content=b"x")
    draft = draft_of(inode)
    local.journal.drafts.put_draft(draft)
    local.journal.drafts.put_base_blocks(inode, b"p" * 72)
    assert bench.close(local) == []
    drafts = bench.open().journal.drafts
    assert drafts.draft(inode) == draft
    assert drafts.base_blocks(inode) == b"p" * 72
    assert list(drafts.draft_inodes()) == [inode]
    assert drafts.draft(InodeId(99)) is None


def test_records_of_all_kinds_are_applied_in_order(bench: Bench, local: LocalState) -> None:
    drafts = local.journal.drafts
    inode, _ = create(local.journal, b"a")
    with local.journal.transaction():
        drafts.put_draft(draft_of(inode))
        drafts.add_record(inode, 0, b"hello world")
        drafts.add_truncate(inode, 5)
        stage(local, inode, 5, BIG)
        drafts.add_record(inode, 2, memoryview(b"LL"))
        state = local.journal.overlay.inode(inode)
        assert state is not None
        state.size = 5 + len(BIG)
        local.journal.overlay.put_inode(state, OpNumber(0))
    expected = b"heLLo" + BIG
    assert content_of(local, inode) == expected
    assert bench.close(local) == []
    assert content_of(bench.open(), inode) == expected


def test_a_long_write_becomes_rows_of_bounded_length(local: LocalState) -> None:
    inode = new_draft(local, 7)
    last = local.journal.drafts.add_record(inode, 3, BIG[:10_000])
    records = local.journal.drafts.records(inode)
    assert [record.length for record in records] == [INLINE_BYTES, INLINE_BYTES, 10_000 - 2 * INLINE_BYTES]
    assert records[-1].id == last
    assert content_of(local, inode) == bytes(3) + BIG[:10_000]


def test_records_up_to_an_id_leave_out_later_ones(local: LocalState) -> None:
    drafts, inode = local.journal.drafts, new_draft(local, 7)
    first = drafts.add_record(inode, 0, b"a")
    drafts.add_record(inode, 1, b"b")
    assert [record.id for record in drafts.records(inode, first)] == [first]


def test_drafts_do_not_see_each_others_records(local: LocalState) -> None:
    one, two = new_draft(local, 7), new_draft(local, 8)
    for index in range(5):
        local.journal.drafts.add_record(one, index, b"1")
        local.journal.drafts.add_record(two, index, b"2")
    assert content_of(local, one) == b"11111"
    local.journal.drafts.drop_draft(one)
    assert local.journal.drafts.records(one) == []
    assert content_of(local, two) == b"22222"
    assert local.journal.pending_bytes == 5


def test_a_record_needs_a_draft_and_bytes(local: LocalState) -> None:
    with pytest.raises(KeyError):
        local.journal.drafts.add_record(InodeId(7), 0, b"x")
    inode = new_draft(local, 7)
    with pytest.raises(ValueError, match="no bytes"):
        local.journal.drafts.add_record(inode, 0, b"")


def test_ids_of_records_go_on_after_a_restart_even_when_all_were_dropped(bench: Bench, local: LocalState) -> None:
    drafts = local.journal.drafts
    inode, _ = create(local.journal, b"a", content=b"x")
    (record,) = drafts.records(inode)
    draft = drafts.draft(inode)
    assert draft is not None
    bench.close(local)
    again = bench.open().journal.drafts
    assert again.add_record(inode, 1, b"y") > record.id


def test_what_comes_after_a_restart_is_not_among_what_is_on_its_way(bench: Bench, local: LocalState) -> None:
    """Also where the records on their way are gone: recovery drops those that lack bytes, and the draft stands on."""
    inode, _ = create(local.journal, b"a", content=b"x")
    (record,) = local.journal.drafts.records(inode)
    draft = local.journal.drafts.draft(inode)
    assert draft is not None
    local.journal.drafts.put_draft(msgspec.structs.replace(draft, frozen=record.id))
    local.journal.drafts.drop_records(inode, record.id)
    bench.crash()
    assert bench.open("crashed").journal.drafts.add_record(inode, 0, b"y") > record.id


def test_a_draft_is_as_before_when_the_transaction_fails(local: LocalState) -> None:
    drafts, inode = local.journal.drafts, new_draft(local, 7)
    before = drafts.draft(inode)
    assert before is not None
    with pytest.raises(ZeroDivisionError):
        change_and_fail(local, msgspec.structs.replace(before, size=9))
    assert drafts.draft(inode) == before


def test_a_place_that_a_failed_transaction_took_is_that_of_one_draft(bench: Bench, local: LocalState) -> None:
    one, *others = (create(local.journal, name)[0] for name in (b"a", b"b", b"c"))
    with pytest.raises(ZeroDivisionError):
        change_and_fail(local, draft_of(one))
    local.journal.drafts.add_record(new_draft(local, one), 0, b"one")
    bench.crash()
    again = bench.open("crashed")
    for other in others:
        again.journal.drafts.add_record(new_draft(again, other), 0, b"another")
    assert [content_of(again, each) for each in (one, *others)] == [b"one", b"another", b"another"]


def change_and_fail(local: LocalState, draft: DraftRow) -> None:
    with local.journal.transaction():
        local.journal.drafts.put_draft(draft)
        raise ZeroDivisionError


def test_another_draft_of_the_inode_has_nothing_of_the_one_before(local: LocalState) -> None:
    drafts, inode = local.journal.drafts, new_draft(local, 7)
    drafts.put_base_blocks(inode, b"blocks")
    stage(local, inode, 0, BIG)
    drafts.drop_draft(inode)
    new_draft(local, 7)
    assert drafts.base_blocks(inode) is None
    assert drafts.records(inode) == []


def test_what_was_published_goes_and_what_came_later_stays(local: LocalState) -> None:
    drafts, inode = local.journal.drafts, new_draft(local, 7)
    frozen = stage(local, inode, 0, BIG)
    local.staging.roll(inode)
    later = stage(local, inode, 0, b"later")
    drafts.drop_records(inode, frozen)
    assert [record.id for record in drafts.records(inode)] == [later]
    assert local.journal.pending_bytes == 5


class TestStagingFiles:
    """A file goes when no record needs it and a barrier has made that durable."""

    def files(self, local: LocalState) -> int:
        return len(list(local.staging.paths()))

    def test_not_before_the_barrier(self, local: LocalState) -> None:
        inode = new_draft(local, 7)
        stage(local, inode, 0, BIG)
        local.journal.drafts.drop_draft(inode)
        assert self.files(local) == 1
        trio.run(local.barrier)
        assert self.files(local) == 0
        assert local.staging.used_bytes == 0

    def test_not_while_a_later_record_needs_it(self, local: LocalState) -> None:
        inode = new_draft(local, 7)
        first = stage(local, inode, 0, BIG)
        second = stage(local, inode, 5, BIG)
        local.staging.roll(inode)
        local.journal.drafts.drop_records(inode, first)
        trio.run(local.barrier)
        assert self.files(local) == 1
        local.journal.drafts.drop_records(inode, second)
        trio.run(local.barrier)
        assert self.files(local) == 0

    def test_not_while_it_takes_more_bytes(self, local: LocalState) -> None:
        inode = new_draft(local, 7)
        record = stage(local, inode, 0, BIG)
        staged = local.staging.append(inode, b"on its way")
        local.journal.drafts.drop_records(inode, record)
        trio.run(local.barrier)
        local.journal.drafts.add_record(inode, 0, b"on its way", staged)
        assert content_of(local, inode) == b"on its way"

    def test_not_for_another_that_has_its_number(self, local: LocalState) -> None:
        inode = new_draft(local, 7)
        stage(local, inode, 0, BIG)
        local.staging.roll(inode)
        numbers = iter([*(int(path.name, 16) for path in local.staging.paths()), 99])
        local.staging._take_number = lambda: next(numbers)
        stage(local, inode, 0, b"another")
        assert content_of(local, inode) == b"another" + BIG[7:]
        assert self.files(local) == 2

    def test_not_when_the_transaction_fails(self, local: LocalState) -> None:
        inode = new_draft(local, 7)
        stage(local, inode, 0, BIG)
        with pytest.raises(ZeroDivisionError):
            self.drop_and_fail(local, inode)
        local.journal.set_meta("another", b"transaction")
        trio.run(local.barrier)
        assert content_of(local, inode) == BIG

    def drop_and_fail(self, local: LocalState, inode: InodeId) -> None:
        with local.journal.transaction():
            local.journal.drafts.drop_draft(inode)
            raise ZeroDivisionError

    def test_not_those_of_another_draft_that_has_the_inode_since(self, local: LocalState) -> None:
        drafts, inode = local.journal.drafts, new_draft(local, 7)
        stage(local, inode, 0, BIG)
        drafts.move_draft(inode, InodeId(8))
        stage(local, new_draft(local, 7), 0, BIG[::-1])
        drafts.drop_draft(InodeId(8))
        trio.run(local.barrier)
        assert content_of(local, inode) == BIG[::-1]

    def test_those_that_a_failed_write_began_go_too(self, bench: Bench, local: LocalState) -> None:
        """The call had failed: the next start has nothing to tell of."""
        (earlier, _), (inode, _) = create(local.journal, b"a"), create(local.journal, b"b")
        for each in (earlier, inode):
            local.journal.drafts.put_draft(draft_of(each))
        stage(local, earlier, 0, BIG)
        with pytest.raises(ZeroDivisionError):
            self.write_and_fail(local, earlier, inode)
        trio.run(local.barrier)
        assert (self.files(local), local.staging.used_bytes) == (1, 2 * len(BIG))
        stage(local, inode, 0, BIG)
        assert (content_of(local, earlier), content_of(local, inode)) == (BIG, BIG)
        state = bench.crash()
        bench.open("crashed")
        assert not (state / "lost+found").exists()

    def write_and_fail(self, local: LocalState, *inodes: InodeId) -> None:
        with local.journal.transaction():
            for inode in inodes:
                stage(local, inode, len(BIG), BIG)
            raise ZeroDivisionError

    def test_but_not_when_the_disk_failed(self, local: LocalState) -> None:
        """It may have taken the transaction all the same: the next start would find records without their bytes."""
        inode = new_draft(local, 7)
        with pytest.raises(ZeroDivisionError):
            self.write_while_the_disk_fails(local, inode)
        assert self.files(local) == 1
        assert not local.staging.has_retired

    def write_while_the_disk_fails(self, local: LocalState, inode: InodeId) -> None:
        with local.journal.transaction():
            stage(local, inode, 0, BIG)
            local.journal._database.poison(OSError("no such disk"))
            raise ZeroDivisionError

    def test_nor_those_that_were_begun_before_the_transaction(self, local: LocalState) -> None:
        inode = new_draft(local, 7)
        staged = local.staging.append(inode, BIG)
        with pytest.raises(ZeroDivisionError):
            self.drop_and_fail(local, inode)
        local.journal.drafts.add_record(inode, 0, BIG, staged)
        trio.run(local.barrier)
        assert content_of(local, inode) == BIG

    def test_they_go_at_the_next_start_if_the_barrier_never_came(self, bench: Bench, local: LocalState) -> None:
        inode = new_draft(local, 7)
        stage(local, inode, 0, BIG)
        local.journal.drafts.drop_draft(inode)
        state = bench.crash()
        again = bench.open("crashed")
        assert self.files(again) == 0
        assert not (state / "lost+found").exists()
        assert again.report == []


def test_a_base_that_is_an_own_op_is_kept(local: LocalState) -> None:
    draft = draft_of(InodeId(7))
    for base in (Base(revision=RevisionNumber(3)), Base(revision_op=OpNumber(9))):
        changed = type(draft)(draft.inode, base, 10, 5, 20, 1, frozen=4, frozen_op=OpNumber(2))
        local.journal.drafts.put_draft(changed)
        assert local.journal.drafts.draft(InodeId(7)) == changed


def test_rotten_bytes_are_never_given_out(local: LocalState) -> None:
    inode = new_draft(local, 7)
    stage(local, inode, 0, BIG)
    (record,) = local.journal.drafts.records(inode)
    assert record.staged is not None
    path = local.staging.path(record.staged.file)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt):
        local.staging.load(record.staged, record.digest)
    with pytest.raises(Corrupt):
        local.staging.load(StagedRange(record.staged.file, 0, len(BIG) + 1), record.digest)
    with pytest.raises(Corrupt):
        local.staging.load(StagedRange(12345, 0, 1), record.digest)
    path.write_bytes(data[:-1])
    with pytest.raises(Corrupt):
        local.staging.read(record.staged, 0, len(BIG))
