"""A file whose state got lost, with content here that no revision has: its content is kept and sent all the same."""

import os

import pytest

from drivefs.fs.attributes import Wanted
from drivefs.protocol.changes import Base
from drivefs.protocol.ids import InodeId
from tests.fs.bench import FsBench


def lose_state(bench: FsBench, inode: InodeId) -> None:
    """Nothing but the draft is known of an inode, in the databases and in memory."""
    bench.local.journal.overlay.drop_inode(inode)
    bench.compose()


def test_a_store_that_is_answered_for_a_lost_file_settles_and_what_was_written_since_is_kept(bench: FsBench) -> None:
    inode = bench.file(b"file", b"aaaaaaaaaa")
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    number = bench.open_file(inode)
    bench.fs.write(number, 8, b"bbbb")
    op = bench.store(snapshot)
    assert op is not None
    bench.fs.release(number)
    lose_state(bench, inode)
    revision = bench.commit(op)
    draft = bench.local.journal.drafts.draft(inode)
    assert draft is not None
    assert draft.base == Base(revision=revision)
    again = bench.freeze(inode)
    assert again is not None
    assert bench.content_of(again) == b"aaaaaaaabbbb"
    (note,) = bench.fs.contents.notes
    assert "lost+found" in note


@pytest.mark.parametrize("is_made_here", [True, False])
def test_content_of_a_lost_file_is_published(bench: FsBench, is_made_here: bool) -> None:
    inode = bench.file(b"file", b"0123456789")
    number = bench.open_file(inode, os.O_WRONLY)
    bench.fs.set_attributes(inode, Wanted(size=4), number)
    bench.fs.release(number)
    if not is_made_here:
        (create,) = bench.mutations()
        bench.local.journal.remove(create.n)
    lose_state(bench, inode)
    assert bench.fs.contents.unpublished_bytes(inode) == 4
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    assert bench.content_of(snapshot) == b"0123"
    assert bench.store(snapshot) is not None


def test_an_inode_of_which_nothing_is_known_has_nothing_to_publish(bench: FsBench) -> None:
    assert bench.fs.contents.unpublished_bytes(InodeId(4711)) is None
    assert bench.freeze(InodeId(4711)) is None
    assert bench.fs.contents.notes == []


def test_the_next_mount_finds_the_file_again(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    bench.local.journal.overlay.drop_inode(inode)
    bench.reopen()
    assert bench.read(inode) == b"content"
    (found,) = bench.local.report
    assert str(inode) in found.what


def test_the_next_mount_keeps_content_that_belongs_to_nothing_in_lost_and_found(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    (create,) = bench.mutations()
    bench.local.journal.remove(create.n)
    bench.local.journal.overlay.drop_inode(inode)
    bench.reopen()
    (kept,) = (bench.place / "state" / "lost+found").iterdir()
    assert kept.read_bytes() == b"content"
    assert bench.local.journal.drafts.draft(inode) is None
