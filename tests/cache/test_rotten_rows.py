"""Rows of the journal that rot while it is open: whoever reads one is told, and the next start looks at everything."""

from collections.abc import Callable
from typing import Any

import pytest

from cache.errors import SUSPECT, Corrupt
from cache.journal import Journal
from cache.workspace import LocalState
from drivefs.protocol.ids import InodeId, OpNumber
from tests.cache.states import ROOT, Bench, create

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
