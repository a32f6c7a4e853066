"""The journal: numbers, order, what may be changed when, and when a change and its overlay are forgotten."""

from contextlib import suppress

import msgspec
import pytest

from cache.errors import OutOfIds
from cache.journal import OP_STRIDE, RowState
from cache.overlay import MISSING
from cache.workspace import LocalState
from drivefs.protocol.changes import Exchange, Link, Rename, SetAttributes, Status
from drivefs.protocol.ids import ID_RANGE_LENGTH, NO_INODE, Epoch, InodeId, OpNumber, RevisionNumber, Seq
from drivefs.protocol.model import DentryState, InodeKind, InodeState
from tests.cache.states import FIRST_ID, ROOT, Bench, change_mode, create, unlink
from tests.support.journals import mark_sent


def numbers(local: LocalState) -> list[int]:
    return [row.n for row in local.journal.unsettled(1000)]


def acknowledge(local: LocalState, n: OpNumber, seq: int) -> None:
    mark_sent(local.journal, [n])
    local.journal.settle(n, Seq(seq), RevisionNumber(1))


def acknowledge_and_fail(local: LocalState, n: OpNumber) -> None:
    with local.journal.transaction():
        acknowledge(local, n, 1)
        assert local.journal.watermark() > n
        local.journal.aliases.add(ROOT, InodeId(77))
        raise ZeroDivisionError


def create_and_fail(local: LocalState, name: bytes) -> None:
    with local.journal.transaction():
        create(local.journal, name, content=b"hello")
        raise ZeroDivisionError


def remove_and_fail(local: LocalState, n: OpNumber) -> None:
    with local.journal.transaction():
        local.journal.remove(n)
        raise ZeroDivisionError


def create_around_a_failure(local: LocalState) -> None:
    with local.journal.transaction():
        create(local.journal, b"a")
        with suppress(ZeroDivisionError):
            create_and_fail(local, b"b")


def test_a_change_and_its_overlay_are_there_after_closing_and_opening(bench: Bench, local: LocalState) -> None:
    inode, n = create(local.journal, b"a", content=b"hello")
    assert bench.close(local) == []
    again = bench.open().journal
    assert again.overlay.dentry(ROOT, b"a") == inode
    state = again.overlay.inode(inode)
    assert state is not None
    assert state.size == 5
    assert [row.n for row in again.unsettled(10)] == [n]
    assert (again.pending_count, again.pending_bytes) == (1, 5)


def test_an_exception_rolls_all_of_a_transaction_back(local: LocalState) -> None:
    journal = local.journal
    with pytest.raises(ZeroDivisionError):
        create_and_fail(local, b"a")
    assert journal.overlay.dentry(ROOT, b"a") is MISSING
    assert numbers(local) == []
    assert (journal.pending_count, journal.pending_bytes) == (0, 0)


def test_a_part_that_failed_dooms_the_whole_transaction(local: LocalState) -> None:
    with pytest.raises(RuntimeError, match="had failed"):
        create_around_a_failure(local)
    assert numbers(local) == []


def test_numbers_are_never_given_out_twice(bench: Bench, local: LocalState) -> None:
    inode, n = create(local.journal, b"a")
    local.journal.remove(n)
    with pytest.raises(ZeroDivisionError):
        create_and_fail(local, b"b")
    assert local.journal.last_op() == n + OP_STRIDE
    assert bench.close(local) == []
    again, m = create(bench.open().journal, b"c")
    assert again > inode + 1
    assert m > n + 1


def test_ids_that_a_failed_change_reserved_are_reserved_again(bench: Bench, local: LocalState) -> None:
    with pytest.raises(ZeroDivisionError):
        create_and_fail(local, b"a")
    inode, n = create(local.journal, b"b")
    local.journal.add_id_range(FIRST_ID)
    bench.crash()
    again, m = create(bench.open("crashed").journal, b"c")
    assert again > inode
    assert m > n


def test_what_a_failed_transaction_took_back_goes_on_showing(local: LocalState) -> None:
    journal = local.journal
    inode, n = create(journal, b"a")
    with pytest.raises(ZeroDivisionError):
        remove_and_fail(local, n)
    create(journal, b"b")
    assert journal.overlay.dentry(ROOT, b"a") == inode
    assert journal.overlay.inode(inode) is not None


def test_inode_ids_come_from_the_ranges_and_end_with_them(local: LocalState) -> None:
    journal = local.journal
    assert journal.ids_left() == ID_RANGE_LENGTH
    assert journal.allocate_inode() == FIRST_ID
    assert journal.ids_left() == ID_RANGE_LENGTH - 1
    journal.begin_epoch(Epoch(77))
    assert (journal.epoch, journal.ids_left()) == (77, 0)
    with pytest.raises(OutOfIds):
        journal.allocate_inode()
    journal.add_id_range(InodeId(5 * ID_RANGE_LENGTH))
    assert journal.allocate_inode() == 5 * ID_RANGE_LENGTH


def test_a_range_that_is_used_up_is_followed_by_the_next(local: LocalState) -> None:
    journal = local.journal
    journal.add_id_range(InodeId(3 * ID_RANGE_LENGTH))
    with journal.transaction():
        given = [journal.allocate_inode() for _ in range(ID_RANGE_LENGTH + 2)]
    assert given[-1] == 3 * ID_RANGE_LENGTH + 1
    assert len(set(given)) == len(given)
    assert journal.ids_left() == ID_RANGE_LENGTH - 2


def test_only_what_was_not_sent_may_be_replaced_or_removed(local: LocalState) -> None:
    journal = local.journal
    inode, n = create(journal, b"a")
    mutation = journal.unsettled(1)[0].mutation
    journal.replace(msgspec.structs.replace(mutation, time_ns=5))
    assert journal.unsettled(1)[0].mutation.time_ns == 5
    mark_sent(journal, [n])
    assert journal.unsettled(1)[0].state is RowState.SENT
    with pytest.raises(ValueError, match="replaced"):
        journal.replace(mutation)
    with pytest.raises(ValueError, match="removed"):
        journal.remove(n)
    assert journal.touching(inode)[0].mutation.time_ns == 5


def test_a_mutation_is_sent_once_and_only_what_has_no_answer_is_unsent(local: LocalState) -> None:
    journal = local.journal
    _, n = create(journal, b"a")
    mark_sent(journal, [n])
    with pytest.raises(ValueError, match="sent"):
        mark_sent(journal, [n])
    journal.fail(n, Status.CONFLICT, "changed")
    journal.unsend(n)
    row = journal.get(n)
    assert row is not None
    assert row.state is RowState.FAILED


def test_what_is_to_be_committed_once_more_is_not_taken_for_settled(local: LocalState) -> None:
    journal = local.journal
    _, n = create(journal, b"a")
    acknowledge(local, n, 1)
    assert journal.watermark() > n
    journal.offer_again([])
    assert numbers(local) == [n]


def test_what_the_replica_has_is_not_committed_once_more(local: LocalState) -> None:
    journal = local.journal
    (_, known), (_, lost) = create(journal, b"a"), create(journal, b"b")
    acknowledge(local, known, 1)
    acknowledge(local, lost, 2)
    journal.offer_again([], Seq(1))
    assert numbers(local) == [lost]


def test_an_answer_that_was_rolled_back_is_none(local: LocalState) -> None:
    journal = local.journal
    _, n = create(journal, b"a")
    with pytest.raises(ZeroDivisionError):
        acknowledge_and_fail(local, n)
    assert numbers(local) == [n]
    assert journal.watermark() == n
    assert journal.aliases.inode(ROOT) == ROOT


def test_removing_a_change_lets_its_overlay_go(local: LocalState) -> None:
    journal = local.journal
    inode, n = create(journal, b"a")
    journal.remove(n)
    assert journal.overlay.dentry(ROOT, b"a") is MISSING
    assert journal.overlay.inode(inode) is None
    assert journal.pending_count == 0


def test_a_refused_change_stays_until_it_was_dealt_with(local: LocalState) -> None:
    journal = local.journal
    inode, n = create(journal, b"a")
    mark_sent(journal, [n])
    journal.fail(n, Status.CONFLICT, "exists")
    (row,) = journal.failed(10)
    assert (row.n, row.state, row.status, row.reason) == (n, RowState.FAILED, Status.CONFLICT, "exists")
    assert (numbers(local), journal.pending_count, journal.watermark()) == ([], 1, n)
    with journal.transaction():
        again = journal.next_op()
        journal.append(msgspec.structs.replace(row.mutation, n=again, name=b"a (2)"))
        journal.overlay.put_dentry(ROOT, b"a (2)", inode, again)
        journal.remove(n)
    assert journal.overlay.names_of(inode) == [(ROOT, b"a (2)")]
    assert journal.overlay.dentry(ROOT, b"a") is MISSING
    assert numbers(local) == [again]


def test_a_rejected_change_that_nobody_can_help_stays_and_holds_up_nothing(local: LocalState) -> None:
    journal = local.journal
    _, n = create(journal, b"a")
    mark_sent(journal, [n])
    journal.fail(n, Status.CONFLICT, "no_parent")
    journal.keep_rejected(n)
    row = journal.get(n)
    assert row is not None
    assert (row.state, row.status, row.reason) == (RowState.FAILED, Status.REJECTED, "no_parent")
    assert journal.failed(10) == []
    assert (journal.pending_count, journal.watermark()) == (1, n + OP_STRIDE)


def test_what_is_made_in_the_place_of_another_stands_right_behind_it_however_often(local: LocalState) -> None:
    journal = local.journal
    _, n = create(journal, b"a")
    _, later = create(journal, b"b")
    placed = n
    for _ in range(100):
        again = journal.op_after(placed)
        assert placed < again < later
        inode, _ = create(journal, b"c")
        row = journal.touching(inode)[0]
        journal.append(msgspec.structs.replace(row.mutation, n=again))
        placed = again
    assert journal.op_after(n) < journal.touching(inode)[-1].n


def test_where_there_is_no_room_left_a_number_at_the_end_is_given(local: LocalState) -> None:
    journal = local.journal
    inode, n = create(journal, b"a")
    row = journal.touching(inode)[0]
    journal.append(msgspec.structs.replace(row.mutation, n=OpNumber(n + 1)))
    assert journal.op_after(n) > n + 1


def test_what_was_sent_goes_on_naming_what_it_named(local: LocalState) -> None:
    journal, one, other = local.journal, InodeId(77), InodeId(78)
    sent, committed, queued = (create(journal, name, parent=one)[1] for name in (b"a", b"b", b"c"))
    mark_sent(journal, [sent])
    acknowledge(local, committed, 1)
    journal.rename_queued(one, other)
    parents = [row.mutation.parent for n in (sent, committed, queued) if (row := journal.get(n))]  # type: ignore[union-attr]
    assert parents == [one, one, other]


def test_no_two_directories_are_each_the_other(local: LocalState) -> None:
    aliases, one, other = local.journal.aliases, InodeId(77), InodeId(78)
    aliases.add(one, other)
    assert aliases.apart(other, one) == other
    assert aliases.apart(one, other) == one
    aliases.add(other, one)
    assert [aliases.inode(each) for each in (one, other)] == [one, one]


def test_alias_stands_for_a_directory_in_what_is_queued_until_nothing_is(bench: Bench, local: LocalState) -> None:
    journal = local.journal
    made, first = create(journal, b"a")
    _, second = create(journal, b"b")
    with journal.transaction():
        journal.aliases.add(ROOT, InodeId(77))
        journal.overlay.drop_dentry(ROOT, b"a")
        journal.overlay.put_dentry(InodeId(77), b"a", made, first)
        journal.overlay.drop_dentry(ROOT, b"b")
        journal.remove(second)
    assert journal.overlay.names_of(made) == [(77, b"a")]
    assert bench.close(local) == []
    local = bench.open()
    assert [row.mutation.parent for row in local.journal.unsettled(9)] == [77]  # type: ignore[union-attr]
    acknowledge(local, first, 1)
    local.journal.forget(Seq(1))
    assert local.journal.overlay.names_of(made) == []
    assert bench.close(local) == []
    assert bench.open().journal.aliases.inode(ROOT) == ROOT


def test_an_answer_is_taken_once(local: LocalState) -> None:
    _, n = create(local.journal, b"a")
    acknowledge(local, n, 1)
    with pytest.raises(ValueError, match="answer"):
        local.journal.settle(n, Seq(2))


def test_the_watermark_is_the_lowest_number_without_an_answer(local: LocalState) -> None:
    journal = local.journal
    made = [create(journal, name)[1] for name in (b"a", b"b", b"c")]
    assert journal.watermark() == made[0]
    acknowledge(local, made[1], 1)
    assert journal.watermark() == made[0]
    acknowledge(local, made[0], 2)
    assert (journal.watermark(), numbers(local)) == (made[2], [made[2]])
    acknowledge(local, made[2], 3)
    assert journal.watermark() > made[2]
    assert journal.watermark() == journal.last_op() + OP_STRIDE


def test_touching_tells_what_is_about_an_inode_and_not_what_lies_in_it(local: LocalState) -> None:
    journal = local.journal
    directory, n = create(journal, b"d")
    create(journal, b"child", parent=directory)
    m = change_mode(journal, directory, 0o700)
    assert [row.n for row in journal.touching(directory)] == [n, m]
    assert journal.touching(NO_INODE) == []


class TestForgetting:
    """An overlay row goes when, and only when, nothing needs it any more."""

    def test_what_the_replica_has_not_passed_stays(self, local: LocalState) -> None:
        inode, n = create(local.journal, b"a")
        acknowledge(local, n, 7)
        assert local.journal.forget(Seq(6)).inodes == []
        assert local.journal.overlay.dentry(ROOT, b"a") == inode
        forgotten = local.journal.forget(Seq(7))
        assert ([state.inode for state in forgotten.inodes], forgotten.more) == ([inode], False)
        assert forgotten.names == [DentryState(ROOT, b"a", inode)]
        assert local.journal.overlay.dentry(ROOT, b"a") is MISSING
        assert local.journal.get(n) is None

    def test_a_directory_stays_while_a_change_in_it_is_pending(self, bench: Bench, local: LocalState) -> None:
        journal = local.journal
        _, n = create(journal, b"a")
        _, m = create(journal, b"b")
        journal.overlay.put_inode(InodeState(ROOT, InodeKind.DIRECTORY, 0o755, mtime_ns=5), m)
        acknowledge(local, m, 1)
        journal.forget(Seq(1))
        assert journal.overlay.inode(ROOT) is not None
        acknowledge(local, n, 2)
        assert ROOT in [state.inode for state in journal.forget(Seq(2)).inodes]
        assert journal.overlay.inode(ROOT) is None
        assert bench.close(local) == []

    def test_a_draft_keeps_its_inode(self, local: LocalState) -> None:
        journal = local.journal
        inode, n = create(journal, b"a", content=b"x")
        acknowledge(local, n, 1)
        assert journal.forget(Seq(1)).inodes == []
        assert journal.overlay.inode(inode) is not None
        journal.drafts.drop_draft(inode)
        assert journal.overlay.inode(inode) is None

    def test_a_later_change_keeps_the_entry_and_the_inode(self, local: LocalState) -> None:
        journal = local.journal
        inode, n = create(journal, b"a")
        m = unlink(journal, b"a", inode)
        acknowledge(local, n, 1)
        assert journal.forget(Seq(9)).names == []
        assert journal.overlay.dentry(ROOT, b"a") is None
        acknowledge(local, m, 2)
        forgotten = journal.forget(Seq(9))
        assert [state.inode for state in forgotten.inodes] == [inode]
        assert forgotten.names == [DentryState(ROOT, b"a")]

    def test_it_goes_by_parts_and_says_when_there_is_more(self, local: LocalState) -> None:
        journal = local.journal
        for i in range(10):
            acknowledge(local, create(journal, b"%d" % i)[1], 1)
        first = journal.forget(Seq(1), limit=7)
        second = journal.forget(Seq(1), limit=7)
        assert (len(first.names), first.more) == (7, True)
        assert (len(second.names), second.more) == (3, False)


def test_what_was_replaced_is_gone_for_as_long_as_that_is_not_known(local: LocalState) -> None:
    journal, replaced = local.journal, InodeId(77)
    acknowledge(local, change_mode(journal, replaced, 0o600), 1)
    with journal.transaction():
        n = journal.next_op()
        rename = Rename(
            n=n, time_ns=n, parent=ROOT, name=b"a", new_parent=ROOT, new_name=b"b", inode=InodeId(78), replaced=replaced
        )
        journal.append(rename)
        journal.overlay.put_inode(InodeState(replaced, InodeKind.FILE, 0o600, nlink=0), n)
    journal.forget(Seq(1))
    assert journal.overlay.inode(replaced) is not None
    acknowledge(local, n, 2)
    journal.forget(Seq(2))
    assert journal.overlay.inode(replaced) is None


def test_an_overlay_row_keeps_its_op_when_only_a_draft_changed_it(local: LocalState) -> None:
    journal = local.journal
    inode, n = create(journal, b"a")
    journal.overlay.put_inode(InodeState(inode, InodeKind.FILE, 0o600, size=9), OpNumber(0))
    acknowledge(local, n, 1)
    assert [state.inode for state in journal.forget(Seq(1)).inodes] == [inode]


def test_children_are_in_byte_order_with_tombstones(local: LocalState) -> None:
    journal = local.journal
    inode, _ = create(journal, b"b")
    other, _ = create(journal, b"\xff")
    unlink(journal, b"a", InodeId(99))
    assert journal.overlay.children(ROOT) == [(b"a", NO_INODE), (b"b", inode), (b"\xff", other)]


def test_names_of_an_inode_are_those_that_lead_to_it_now(local: LocalState) -> None:
    journal = local.journal
    inode, _ = create(journal, b"a")
    with journal.transaction():
        n = journal.next_op()
        journal.append(Link(n=n, time_ns=1, inode=inode, parent=ROOT, name=b"b"))
        journal.overlay.put_dentry(ROOT, b"b", inode, n)
    assert journal.overlay.names_of(inode) == [(ROOT, b"a"), (ROOT, b"b")]
    unlink(journal, b"a", inode)
    assert journal.overlay.names_of(inode) == [(ROOT, b"b")]
    other, _ = create(journal, b"other")
    with journal.transaction():
        n = journal.next_op()
        exchange = Exchange(
            n=n, time_ns=1, parent=ROOT, name=b"b", inode=inode, other_parent=ROOT, other_name=b"other", other=other
        )
        journal.append(exchange)
        journal.overlay.put_dentry(ROOT, b"b", other, n)
        journal.overlay.put_dentry(ROOT, b"other", inode, n)
    assert journal.overlay.names_of(inode) == [(ROOT, b"other")]
    assert journal.overlay.names_of(other) == [(ROOT, b"b")]


def test_a_mutation_of_any_kind_comes_back_as_it_was(local: LocalState) -> None:
    journal = local.journal
    mutation = SetAttributes(n=journal.next_op(), time_ns=3, inode=InodeId(5), mode=0o4755, own_uid=True, atime_ns=1)
    journal.append(mutation)
    row = journal.get(mutation.n)
    assert row is not None
    assert row.mutation == mutation


def test_facts_are_kept_by_name(bench: Bench, local: LocalState) -> None:
    local.journal.set_meta("nonce", b"1")
    local.journal.set_meta("nonce", b"2")
    local.journal.set_meta("other", b"3")
    local.journal.set_meta("other", None)
    assert bench.close(local) == []
    journal = bench.open().journal
    assert (journal.meta("nonce"), journal.meta("other")) == (b"2", None)
