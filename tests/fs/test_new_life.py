"""What becomes of a running file system when its databases change under it: new ids, and another history."""

import os

import msgspec
import pytest

from drivefs.fs.attributes import Wanted
from drivefs.protocol.changes import Base, Create, Store
from drivefs.protocol.ids import ID_RANGE_LENGTH, BlockId, Epoch, InodeId, RevisionNumber, Seq
from drivefs.protocol.model import InodeKind
from tests.fs.bench import FIRST_ID, ME, ROOT, FsBench
from tests.fs.test_files import read


def begin_epoch(bench: FsBench) -> dict[InodeId, InodeId]:
    """As a session does it in the middle of a mount."""
    journal = bench.local.journal
    with journal.transaction():
        journal.begin_epoch(Epoch(2))
        journal.add_id_range(InodeId(FIRST_ID + 4 * ID_RANGE_LENGTH))
        fresh = bench.local.renumber_creations()
    bench.fs.renumbered(fresh)
    return fresh


@pytest.mark.fault(18)
def test_open_files_and_directories_follow_their_new_ids(bench: FsBench) -> None:
    directory = bench.mkdir(b"directory")
    inode = bench.file(b"file", b"12345", directory)
    number = bench.open_file(inode)
    listing = bench.fs.open_directory(directory)
    list(bench.run(bench.fs.read_directory, listing, 0))
    bench.fs.write(number, 5, b"6")
    fresh = begin_epoch(bench)
    assert set(fresh) == {directory, inode}
    bench.fs.write(number, 6, b"7")
    assert read(bench, number) == b"1234567"
    again = list(bench.run(bench.fs.read_directory, listing, 0))
    assert [(name, state.inode) for name, state, _ in again if name == b"file"] == [(b"file", fresh[inode])]
    found = bench.lookup(b"file", fresh[directory])
    assert found is not None
    assert (found.inode, found.size) == (fresh[inode], 7)
    bench.file(b"second", b"x", fresh[directory])
    bench.fs.set_attributes(fresh[inode], Wanted(size=3), number)
    bench.fs.release(number)
    assert bench.backend.told(fresh[inode])[-1] == "closed"
    assert {m.inode for m in bench.mutations() if isinstance(m, Create)} >= set(fresh.values())
    bench.reopen()
    assert bench.read(fresh[inode]) == b"123"
    assert bench.names(fresh[directory]) == {b"file", b"second"}


def test_a_file_removed_while_open_follows_too(bench: FsBench) -> None:
    inode = bench.file(b"file", b"12345")
    bench.make(b"other", InodeKind.FILE)
    number = bench.open_file(inode)
    bench.run(bench.fs.link, inode, ROOT, b"second")
    bench.unlink(b"second")
    bench.unlink(b"file")
    begin_epoch(bench)
    assert read(bench, number) == b"12345"
    bench.fs.release(number)


def test_what_was_stored_on_the_way_counts_for_nothing(bench: FsBench) -> None:
    inode = bench.file(b"file", b"12345")
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    fresh = begin_epoch(bench)
    assert bench.store(snapshot) is None
    revision = bench.publish(fresh[inode])
    assert bench.fs.inode(fresh[inode]).revision == revision
    assert bench.read(fresh[inode]) == b"12345"


def test_what_is_written_over_a_past_content_while_it_is_sent_lies_over_what_that_becomes(bench: FsBench) -> None:
    inode = bench.file(b"file", b"12345")
    bench.publish(inode)
    number = bench.open_file(inode)
    bench.fs.write(number, 0, b"one")
    drafts = bench.local.journal.drafts
    draft = drafts.draft(inode)
    assert draft is not None
    drafts.put_draft(msgspec.structs.replace(draft, is_over_past=True))
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    op = bench.store(snapshot)
    assert op is not None
    bench.fs.write(number, 0, b"two")
    revision = bench.commit(op)
    left = drafts.draft(inode)
    assert left is not None
    assert (left.base, left.is_over_past) == (Base(revision=revision), False)
    bench.fs.release(number)


def acknowledged(bench: FsBench) -> InodeId:
    """A file with two revisions, the second of which the server has acknowledged and the feed has not brought."""
    inode = bench.file(b"file", b"first")
    first = bench.publish(inode)
    state = bench.fs.inode(inode)
    bench.local.replica.put_inodes([msgspec.structs.replace(state, seq=Seq(3))], Seq(3))
    number = bench.fs.open(inode, os.O_WRONLY, ME)
    bench.fs.write(number, 0, b"SECOND")
    bench.fs.release(number)
    bench.publish(inode)
    assert bench.fs.inode(inode).revision != first
    return inode


def keep_blocks(bench: FsBench) -> None:
    bench.run(bench.local.blocks.keep, list(bench.backend.blocks.items()))


@pytest.mark.fault(40)
def test_an_acknowledged_content_that_was_lost_is_a_change_again(bench: FsBench) -> None:
    inode = acknowledged(bench)
    keep_blocks(bench)
    journal = bench.local.journal
    stores = [row.mutation for row in journal.acknowledged() if isinstance(row.mutation, Store)]
    lost, base = bench.fs.inode(inode), Base(revision=RevisionNumber(stores[-1].base.revision))
    assert bench.run(bench.fs.offering.offer_again, lost, base)
    journal.offer_again([store.n for store in stores])
    assert bench.read(inode) == b"SECOND"
    assert [m.inode for m in bench.mutations() if isinstance(m, Create)] == [inode]
    bench.reopen()
    draft = bench.local.journal.drafts.draft(inode)
    assert draft is not None
    assert draft.base == base
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    assert bench.content_of(snapshot) == b"SECOND"
    bench.store(snapshot)
    assert [m.base for m in bench.mutations() if isinstance(m, Store)] == [base]


def test_changes_over_a_lost_content_stay_over_it(bench: FsBench) -> None:
    inode = acknowledged(bench)
    keep_blocks(bench)
    lost = bench.fs.inode(inode)
    number = bench.open_file(inode)
    bench.fs.write(number, 3, b"!!")
    assert bench.run(bench.fs.offering.offer_again, lost, Base(revision=RevisionNumber(1)))
    bench.fs.write(number, 6, b"?")
    assert read(bench, number) == b"SEC!!D?"
    bench.fs.release(number)
    bench.local.journal.offer_again([])
    bench.reopen()
    assert bench.read(inode) == b"SEC!!D?"


@pytest.mark.parametrize("is_dirty", [False, True])
def test_what_is_written_while_it_is_copied_lies_over_it(
    bench: FsBench, monkeypatch: pytest.MonkeyPatch, is_dirty: bool
) -> None:
    inode = acknowledged(bench)
    keep_blocks(bench)
    lost, read_block = bench.fs.inode(inode), bench.local.blocks.read
    number = bench.open_file(inode)
    if is_dirty:
        bench.fs.write(number, 5, b"?")

    async def write_first(block: BlockId, offset: int, length: int) -> bytes | bytearray | None:
        data = await read_block(block, offset, length)
        bench.fs.write(number, 0, b"WR")
        return data

    with monkeypatch.context() as patch:
        patch.setattr(bench.local.blocks, "read", write_first)
        bench.run(bench.fs.offering.offer_again, lost, Base(revision=RevisionNumber(1)))
    expected = b"WRCON?" if is_dirty else b"WRCOND"
    assert read(bench, number) == expected
    bench.fs.release(number)
    bench.local.journal.offer_again([])
    bench.reopen()
    assert bench.read(inode) == expected


def test_what_is_not_here_any_more_stays_as_it_was(bench: FsBench) -> None:
    inode = acknowledged(bench)
    bench.run(bench.local.blocks.clear)
    stores = [row.mutation for row in bench.local.journal.acknowledged() if isinstance(row.mutation, Store)]
    assert not bench.run(bench.fs.offering.offer_again, bench.fs.inode(inode), Base())
    assert bench.local.journal.drafts.draft(inode) is None
    bench.local.journal.offer_again([])
    assert [m.n for m in bench.mutations() if isinstance(m, Store)] == [store.n for store in stores]
