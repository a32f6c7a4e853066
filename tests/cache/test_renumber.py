"""Fresh ids for what no server knows: the tree stays the same, and the old ids are gone from everywhere."""

import typing
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from cache.database import Database
from cache.effects import INODE_FIELDS
from cache.errors import DiskFull, OutOfIds
from cache.journal import RowState
from cache.overlay import MISSING
from cache.workspace import LocalState
from drivefs.protocol import changes
from drivefs.protocol.changes import (
    Base,
    Create,
    Exchange,
    Link,
    Mutation,
    Rename,
    Restore,
    SetXattr,
    Store,
)
from drivefs.protocol.ids import ID_RANGE_LENGTH, NO_INODE, NO_OP, Epoch, InodeId, OpNumber, RevisionNumber, Seq
from drivefs.protocol.model import InodeKind, InodeState
from tests.cache.states import FIRST_ID, ROOT, T0, Bench, change_mode, content_of, create, draft_of, unlink
from tests.cache.writer import pattern
from tests.support.journals import mark_sent

SERVERS_FILE = InodeId(7)
FRESH_RANGE = InodeId(9 * ID_RANGE_LENGTH)
LOWER_RANGE = InodeId(ID_RANGE_LENGTH // 2)
BIG = pattern(100_000)


def add(local: LocalState, mutation: Mutation, *entries: tuple[InodeId, bytes, InodeId]) -> OpNumber:
    """A mutation with its effect on names."""
    local.journal.append(mutation)
    for parent, name, inode in entries:
        local.journal.overlay.put_dentry(parent, name, inode, mutation.n)
    return mutation.n


def make_directory(local: LocalState, name: bytes, parent: InodeId = ROOT) -> tuple[InodeId, OpNumber]:
    journal = local.journal
    with journal.transaction():
        inode, n, kind = journal.allocate_inode(), journal.next_op(), InodeKind.DIRECTORY
        made = Create(n=n, time_ns=T0 + n, inode=inode, parent=parent, name=name, kind=kind, mode=0o755)
        add(local, made, (parent, name, inode))
        journal.overlay.put_inode(InodeState(inode, InodeKind.DIRECTORY, 0o755, nlink=2), n)
    return inode, n


def stage(local: LocalState, inode: InodeId, data: bytes) -> None:
    with local.journal.transaction():
        state = local.journal.overlay.inode(inode)
        assert state is not None
        staged = local.staging.append(inode, data)
        local.journal.drafts.add_record(inode, state.size, data, staged)
        state.size += len(data)
        local.journal.overlay.put_inode(state, NO_OP)


def rename(local: LocalState, inode: InodeId, source: tuple[InodeId, bytes], target: tuple[InodeId, bytes]) -> None:
    journal = local.journal
    replaced = journal.overlay.dentry(*target)
    replaced = NO_INODE if replaced is MISSING or replaced is None else replaced
    with journal.transaction():
        n = journal.next_op()
        moved = Rename(
            n=n, time_ns=T0, inode=inode, parent=source[0], name=source[1], new_parent=target[0], new_name=target[1],
            replaced=replaced,
        )  # fmt: skip
        add(local, moved, (*source, NO_INODE), (*target, inode))


def furnish(local: LocalState) -> list[OpNumber]:
    """Every kind of mutation, on inodes of this device and of the server; gives the ops of what was created."""
    journal = local.journal
    local.replica.put_inodes([InodeState(SERVERS_FILE, InodeKind.FILE, 0o644, size=3)], Seq(1))
    outer, made_outer = make_directory(local, b"outer")
    inner, _ = make_directory(local, b"inner", outer)
    small, made_small = create(journal, b"small", parent=inner, content=b"12345")
    large, _ = create(journal, b"large", parent=inner, content=b"1")
    stage(local, large, BIG)
    victim, _ = create(journal, b"victim", content=b"old")
    winner, _ = create(journal, b"winner", parent=outer, content=b"new")
    rename(local, winner, (outer, b"winner"), (ROOT, b"victim"))
    rename(local, inner, (outer, b"inner"), (ROOT, b"moved"))
    gone, _ = create(journal, b"gone")
    unlink(journal, b"gone", gone)
    change_mode(journal, create(journal, b"mode")[0], 0o600)
    swapped, _ = create(journal, b"swapped", parent=outer)
    with journal.transaction():
        op = journal.next_op
        add(local, Link(n=op(), time_ns=T0, inode=small, parent=ROOT, name=b"second"), (ROOT, b"second", small))
        add(local, Link(n=op(), time_ns=T0, inode=SERVERS_FILE, parent=inner, name=b"s"), (inner, b"s", SERVERS_FILE))
        exchange = Exchange(
            n=op(), time_ns=T0, parent=outer, name=b"swapped", inode=swapped, other_parent=inner, other_name=b"s",
            other=SERVERS_FILE,
        )  # fmt: skip
        add(local, exchange, (outer, b"swapped", SERVERS_FILE), (inner, b"s", swapped))
        add(local, Restore(n=op(), time_ns=T0, inode=victim, parent=outer, name=b"back"), (outer, b"back", victim))
        add(local, SetXattr(n=op(), time_ns=T0, inode=large, name=b"user.a", value=b"1"))
        add(local, Store(n=op(), time_ns=T0, inode=small, base=Base(), size=5, runs=[], mtime_ns=T0))
        draft = journal.drafts.draft(small)
        assert draft is not None
        last = journal.drafts.records(small)[-1].id
        journal.drafts.put_draft(msgspec.structs.replace(draft, frozen=last, frozen_op=journal.last_op()))
        journal.drafts.put_base_blocks(large, b"b" * 36)
        journal.overlay.put_inode(InodeState(SERVERS_FILE, InodeKind.FILE, 0o644, size=3), NO_OP)
        journal.drafts.put_draft(draft_of(SERVERS_FILE, 3))
        journal.drafts.put_base_blocks(SERVERS_FILE, b"c" * 36)
    mark_sent(journal, [made_outer, made_small])
    return [row.n for row in journal.unsettled(100) if isinstance(row.mutation, Create)]


def tree(local: LocalState, parent: InodeId = ROOT, path: bytes = b"") -> Iterator[tuple[Any, ...]]:
    """Everything that can be told of the tree without its ids; hard links by the position of the first name."""
    journal = local.journal
    for name, inode in journal.overlay.children(parent):
        state = journal.overlay.inode(inode) if inode else None
        if state is None:
            yield path + name, None
            continue
        names = len(journal.overlay.names_of(inode))
        told = msgspec.structs.replace(state, inode=NO_INODE)
        yield path + name, told, names, content_of(local, inode), journal.drafts.base_blocks(inode)
        yield from tree(local, inode, path + name + b"/")


def rows(bench: Bench, name: str = "one") -> dict[str, list[tuple[Any, ...]]]:
    """All that stands in the journal's database but facts and numbers reserved."""
    bench.flush()
    database = Database(bench.places(name)[0] / "journal.db", cache_kibibytes=100, is_for_reading=True)
    tables = ("inodes", "dentries", "mutations", "drafts", "bases", "records", "id_ranges")
    found = {table: sorted(database.rows(f"SELECT * FROM {table}"), key=repr) for table in tables}
    database.close()
    return found


def numbers(value: object) -> Iterator[int]:
    """All integers in a row, also within what is encoded in it."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, bytes):
        try:
            yield from numbers(msgspec.msgpack.decode(value)) if len(value) > 8 else ()
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
    elif isinstance(value, dict):
        yield from numbers(list(value.items()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from numbers(part)


def begin_epoch(local: LocalState, start: InodeId | None = FRESH_RANGE) -> dict[InodeId, InodeId]:
    with local.journal.transaction():
        local.journal.begin_epoch(Epoch(2))
        if start is not None:
            local.journal.add_id_range(start)
        return local.renumber_creations()


@pytest.mark.parametrize("start", [FRESH_RANGE, LOWER_RANGE], ids=["higher", "lower"])
def test_the_tree_is_the_same_under_fresh_ids(bench: Bench, local: LocalState, start: InodeId) -> None:
    made = furnish(local)
    before, order = list(tree(local)), [row.n for row in local.journal.unsettled(100)]
    assert {FIRST_ID, FIRST_ID + len(made) - 1} <= set(numbers(list(rows(bench).values())))
    fresh = begin_epoch(local, start)
    assert len(fresh) == len(made)
    assert list(tree(local)) == before
    assert {row.state for row in local.journal.unsettled(100)} == {RowState.PENDING}
    assert [row.n for row in local.journal.unsettled(100)] == order
    assert fresh.keys().isdisjoint(numbers(list(rows(bench).values())))
    assert local.journal.drafts.draft(SERVERS_FILE) == draft_of(SERVERS_FILE, 3)
    assert bench.close(local) == []
    again = bench.open()
    assert again.report == []
    assert list(tree(again)) == before
    assert bench.close(again) == []


def test_every_field_that_names_an_inode_is_known() -> None:
    named = {
        field
        for kind in typing.get_args(changes.Mutation)
        for field, hint in typing.get_type_hints(kind).items()
        if hint is InodeId
    }
    assert named == set(INODE_FIELDS)


def test_a_draft_can_be_written_on_under_its_fresh_id(bench: Bench, local: LocalState) -> None:
    inode, _ = create(local.journal, b"file", content=b"12345")
    stage(local, inode, BIG)
    fresh = begin_epoch(local)
    stage(local, fresh[inode], b"end")
    assert content_of(local, fresh[inode]) == b"12345" + BIG + b"end"
    assert local.journal.drafts.records(inode) == []
    with pytest.raises(KeyError):
        local.journal.drafts.add_record(inode, 0, b"x")
    assert create(local.journal, b"next")[0] not in fresh.values()
    assert bench.close(local) == []


def test_ids_that_a_server_hands_out_twice_are_not_taken_twice(bench: Bench, local: LocalState) -> None:
    """It was put back to an older state, and the range is the one that this device had."""
    made = furnish(local)
    before = list(tree(local))
    fresh = begin_epoch(local, FIRST_ID)
    assert len(set(fresh.values()) - fresh.keys()) == len(made)
    assert list(tree(local)) == before
    assert bench.close(local) == []


def test_what_a_server_has_lost_is_not_known_under_its_old_id(local: LocalState) -> None:
    inode, _ = create(local.journal, b"file")
    local.replica.put_inodes([InodeState(inode, InodeKind.FILE, 0o644)], Seq(6))
    begin_epoch(local)
    assert local.replica.inode(inode) is None


def test_what_is_committed_keeps_its_id(bench: Bench, local: LocalState) -> None:
    acked, n = create(local.journal, b"acked", content=b"later")
    heard, m = create(local.journal, b"heard")
    unheard, o = create(local.journal, b"unheard")
    mark_sent(local.journal, [n, m, o])
    local.journal.settle(n, Seq(4))
    local.replica.put_inodes([InodeState(heard, InodeKind.FILE, 0o644, seq=Seq(5))], Seq(6))
    fresh = begin_epoch(local)
    assert list(fresh) == [unheard]
    assert content_of(local, acked) == b"later"
    found = {row.n: row for n in (n, m, o) if (row := local.journal.get(n)) is not None}
    assert [(found[n].state, found[n].seq) for n in (n, m)] == [(RowState.ACKED, 4), (RowState.ACKED, 5)]
    assert found[o].state is RowState.PENDING
    assert local.journal.pending_count == 1
    assert bench.close(local) == []


def test_a_base_that_only_the_old_epoch_knows_is_named_by_its_number(local: LocalState) -> None:
    journal = local.journal
    with journal.transaction():
        store = Store(n=journal.next_op(), time_ns=T0, inode=SERVERS_FILE, base=Base(), size=0, runs=[], mtime_ns=T0)
        journal.append(store)
        second = msgspec.structs.replace(store, n=journal.next_op(), base=Base(revision_op=store.n))
        third = msgspec.structs.replace(store, n=journal.next_op(), base=Base(revision_op=second.n))
        journal.append(second)
        journal.append(third)
    mark_sent(journal, [store.n, second.n, third.n])
    journal.settle(store.n, Seq(3), RevisionNumber(8))
    begin_epoch(local)
    bases = [row.mutation.base for row in journal.unsettled(10) if isinstance(row.mutation, Store)]
    assert bases == [Base(revision=RevisionNumber(8)), Base(revision_op=second.n)]


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("move_count", [0, 2])
def test_a_crash_in_the_middle_leaves_the_old_state(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch, move_count: int
) -> None:
    furnish(local)
    before, shown = rows(bench), list(tree(local))
    real, left = local.journal.drafts.move_draft, [move_count]

    def killing(inode: InodeId, other: InodeId) -> None:
        real(inode, other)
        left[0] -= 1
        if left[0] < 0:
            bench.crash(flushed=False)
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(local.journal.drafts, "move_draft", killing)
        with pytest.raises(Killed):
            begin_epoch(local)
    assert rows(bench) == before
    again = bench.open("crashed")
    assert rows(bench, "crashed") == before
    assert again.journal.epoch == local.journal.epoch == 0
    for each, name in ((local, "one"), (again, "crashed")):
        assert list(tree(each)) == shown
        begin_epoch(each)
        assert list(tree(each)) == shown
        assert bench.close(each, name) == []


def test_without_ids_nothing_is_changed(bench: Bench, local: LocalState) -> None:
    furnish(local)
    before, shown = rows(bench), list(tree(local))
    with pytest.raises(OutOfIds):
        begin_epoch(local, start=None)
    assert rows(bench) == before
    assert list(tree(local)) == shown
    assert bench.close(local) == []


def test_it_is_one_transaction_also_by_itself(bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(local)
    before, shown = rows(bench), list(tree(local))

    def failing(inode: InodeId, other: InodeId) -> None:
        raise DiskFull("no room")

    with monkeypatch.context() as patch:
        patch.setattr(local.journal.drafts, "move_draft", failing)
        with pytest.raises(DiskFull):
            local.renumber_creations()
    assert rows(bench) == before
    assert list(tree(local)) == shown
    assert bench.close(local) == []
