"""Rows of the journal that rot while it is open: whoever reads one is told, and the next start looks at everything."""

from collections.abc import Callable
from typing import Any

import pytest

from cache.errors import SUSPECT, Corrupt
from cache.journal import Journal
from cache.workspace import LocalState
from drivefs.protocol.ids import InodeId, OpNumber
from tests.cache.states import ROOT, Bench, content_of, create, damage_row, unlink

Read = Callable[[Journal, InodeId, OpNumber], Any]


def read_records(journal: Journal, inode: InodeId, _n: OpNumber) -> Any:
    return journal.drafts.records(inode)


def read_bytes(journal: Journal, inode: InodeId, _n: OpNumber) -> Any:
    return journal.drafts.record_data(journal.drafts.records(inode)[0])


def read_mutation(journal: Journal, _inode: InodeId, n: OpNumber) -> Any:
    return journal.get(n)


@pytest.mark.parametrize(
    ("rot", "read"),
    [
        ("UPDATE mutations SET body = CAST(body || x'00' AS BLOB)", read_mutation),
        ("UPDATE mutations SET state = 2", read_mutation),
        ("UPDATE inodes SET op = op + 1", lambda journal, inode, n: journal.overlay.inode(inode)),
        ("UPDATE inodes SET op = op + 1", lambda journal, inode, n: journal.overlay.inodes([inode])),
        ("UPDATE dentries SET inode = 0", lambda journal, inode, n: journal.overlay.dentry(ROOT, b"a")),
        ("UPDATE dentries SET inode = 0", lambda journal, inode, n: journal.overlay.children(ROOT)),
        ("UPDATE drafts SET place = place + 1", lambda journal, inode, n: journal.drafts.draft(inode)),
        ("UPDATE bases SET blocks = x'00'", lambda journal, inode, n: journal.drafts.base_blocks(inode)),
        ("UPDATE records SET file_offset = 7", read_records),
        ("UPDATE records SET data = x'6a656c6c6f'", read_bytes),
    ],
)
def test_a_row_that_is_not_what_was_written_is_not_believed(
    bench: Bench, local: LocalState, rot: str, read: Read
) -> None:
    journal = local.journal
    inode, n = create(journal, b"a", content=b"hello")
    journal.drafts.put_base_blocks(inode, bytes(36))
    read(journal, inode, n)
    journal._database.write(rot)
    journal.drafts.rolled_back()  # what is remembered is read again
    with pytest.raises(Corrupt):
        read(journal, inode, n)
    assert (bench.places()[0] / SUSPECT).exists()


def test_ids_of_a_range_that_is_not_what_the_server_gave_are_not_used(bench: Bench, local: LocalState) -> None:
    local.journal._database.write("UPDATE id_ranges SET next = next + 1")
    with pytest.raises(Corrupt):
        local.journal.allocate_inode()
    assert (bench.places()[0] / SUSPECT).exists()


@pytest.mark.parametrize("is_anothers", [False, True])
def test_what_was_written_to_a_draft_whose_row_names_another_place_is_found(bench: Bench, is_anothers: bool) -> None:
    local = bench.open()
    one, _ = create(local.journal, b"one", content=b"of one")
    other, _ = create(local.journal, b"other", content=b"of another")
    state = bench.crash()
    wrong = f"(SELECT place FROM drafts WHERE inode = {other})" if is_anothers else "place + 77"
    damage_row(state, f"UPDATE drafts SET place = {wrong} WHERE inode = {one}")
    again = bench.open("crashed")
    assert content_of(again, other) == b"of another"
    (kept,) = (state / "lost+found").iterdir()
    assert kept.read_bytes() == b"of one"
    assert again.journal.drafts.draft(one) is None


def test_a_name_that_is_made_again_leads_to_what_came_last(bench: Bench, local: LocalState) -> None:
    inode, _ = create(local.journal, b"a")
    unlink(local.journal, b"a", inode)
    other, _ = create(local.journal, b"b")
    unlink(local.journal, b"b", other)
    last, _ = create(local.journal, b"b")
    state = bench.crash()
    damage_row(state, "UPDATE dentries SET inode = 7 WHERE name = x'61'")
    damage_row(state, "UPDATE dentries SET inode = 7 WHERE name = x'62'")
    names = bench.open("crashed").journal.overlay
    assert [names.dentry(ROOT, name) for name in (b"a", b"b")] == [None, last]


def test_a_draft_that_has_lost_its_file_is_in_it_again(bench: Bench, local: LocalState) -> None:
    inode, _ = create(local.journal, b"a", content=b"hello")
    damage_row(bench.crash(), f"DELETE FROM inodes WHERE inode = {inode}")
    again = bench.open("crashed")
    state = again.journal.overlay.inode(inode)
    assert state is not None
    assert (state.size, content_of(again, inode)) == (5, b"hello")
