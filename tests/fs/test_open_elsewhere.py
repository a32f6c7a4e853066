"""Open files that another device changes, replaces or removes: nothing is mixed, and nothing that was open is lost."""

import os

import pytest

from drivefs.fs import errors
from drivefs.fs.attributes import Wanted
from drivefs.protocol.changes import Base, Store
from drivefs.protocol.ids import InodeId, RevisionNumber, Seq
from drivefs.protocol.model import InodeKind, InodeState
from tests.fs.bench import ROOT, FsBench
from tests.fs.test_files import arrives_from_elsewhere, read
from tests.fs.test_publishing import conflict_copy

OLD, NEW = b"what was there", b"WHAT ANOTHER DEVICE WROTE"


@pytest.fixture
def inode(bench: FsBench) -> InodeId:
    """A file that the backend has."""
    inode = bench.file(b"file", OLD)
    bench.publish(inode)
    return inode


def base_of(bench: FsBench, inode: InodeId) -> Base:
    draft = bench.local.journal.drafts.draft(inode)
    assert draft is not None
    return draft.base


@pytest.mark.fault(69)
def test_the_first_write_on_an_older_revision_is_made_on_that_revision(bench: FsBench, inode: InodeId) -> None:
    before = bench.fs.inode(inode).revision
    number = bench.open_file(inode)
    arrives_from_elsewhere(bench, inode, NEW)
    bench.fs.write(number, 0, b"HERE")
    assert bench.fs.inode(inode).size == len(OLD)
    assert read(bench, number) == b"HERE was there"
    assert base_of(bench, inode) == Base(revision=before)
    bench.reopen()
    assert bench.read(inode) == b"HERE was there"
    assert base_of(bench, inode) == Base(revision=before)
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    assert bench.content_of(snapshot) == b"HERE was there"
    bench.store(snapshot)
    assert [m.base.revision for m in bench.mutations() if isinstance(m, Store)] == [before]


def test_a_read_of_the_newer_revision_makes_it_the_base(bench: FsBench, inode: InodeId) -> None:
    number = bench.open_file(inode)
    arrives_from_elsewhere(bench, inode, NEW)
    newer = bench.fs.inode(inode).revision
    assert read(bench, number, 0, 4) == b"WHAT"
    bench.fs.write(number, 0, b"here")
    assert read(bench, number) == b"here ANOTHER DEVICE WROTE"
    assert base_of(bench, inode) == Base(revision=newer)


def test_a_read_of_one_descriptor_says_nothing_of_another(bench: FsBench, inode: InodeId) -> None:
    before = bench.fs.inode(inode).revision
    number = bench.open_file(inode)
    arrives_from_elsewhere(bench, inode, NEW)
    assert bench.read(inode) == NEW
    bench.fs.write(number, 0, b"HERE")
    assert base_of(bench, inode) == Base(revision=before)


def test_of_several_newer_revisions_none_is_taken_for_the_one_that_was_seen(bench: FsBench, inode: InodeId) -> None:
    before = bench.fs.inode(inode).revision
    number = bench.open_file(inode)
    arrives_from_elsewhere(bench, inode, NEW)
    arrives_from_elsewhere(bench, inode, NEW * 2)
    bench.fs.write(number, 0, b"HERE")
    assert base_of(bench, inode) == Base(revision=before)


def test_what_is_changed_here_keeps_what_is_known_of_the_content_below_it(bench: FsBench) -> None:
    inode = bench.file(b"file", OLD * 100)
    bench.publish(inode)
    bench.reopen()
    number = bench.open_file(inode)
    bench.fs.write(number, len(OLD) * 100, b"HERE")
    assert read(bench, number, 0, 2000) == OLD * 100 + b"HERE"
    bench.backend.contents.clear()
    bench.local.replica.database.write("DELETE FROM contents")
    bench.fs.forget_cached([inode], [])
    assert read(bench, number, 0, 2000) == OLD * 100 + b"HERE"


def test_own_publications_move_the_base_of_all_descriptors(bench: FsBench, inode: InodeId) -> None:
    first, second = bench.open_file(inode), bench.open_file(inode)
    bench.fs.write(first, 0, b"HERE")
    published = bench.publish(inode)
    bench.fs.write(second, 5, b"IS ")
    assert read(bench, second) == b"HERE IS  there"
    assert base_of(bench, inode) == Base(revision=published)


def test_cutting_through_a_descriptor_is_done_on_what_it_has_seen(bench: FsBench, inode: InodeId) -> None:
    before = bench.fs.inode(inode).revision
    number = bench.open_file(inode)
    arrives_from_elsewhere(bench, inode, NEW)
    bench.fs.set_attributes(inode, Wanted(size=8), number)
    assert read(bench, number) == OLD[:8]
    assert base_of(bench, inode) == Base(revision=before)


def test_cutting_to_the_newer_size_through_a_descriptor_is_no_change_of_the_newer(
    bench: FsBench, inode: InodeId
) -> None:
    number = bench.open_file(inode)
    arrives_from_elsewhere(bench, inode, NEW)
    bench.fs.set_attributes(inode, Wanted(size=len(NEW)), number)
    assert read(bench, number) == OLD + bytes(len(NEW) - len(OLD))


def test_cutting_by_name_is_done_on_what_the_name_has(bench: FsBench, inode: InodeId) -> None:
    number = bench.open_file(inode)
    arrives_from_elsewhere(bench, inode, NEW)
    newer = bench.fs.inode(inode).revision
    bench.fs.set_attributes(inode, Wanted(size=4))
    assert base_of(bench, inode) == Base(revision=newer)
    bench.fs.write(number, 4, b"!")
    assert read(bench, number) == b"WHAT!"


def test_an_addition_at_the_end_goes_behind_what_is_there(bench: FsBench, inode: InodeId) -> None:
    number = bench.open_file(inode, os.O_WRONLY | os.O_APPEND)
    arrives_from_elsewhere(bench, inode, NEW)
    newer = bench.fs.inode(inode).revision
    bench.fs.write(number, len(OLD), b"!")
    assert bench.read(inode) == NEW + b"!"
    assert base_of(bench, inode) == Base(revision=newer)


def test_pages_that_come_through_a_newer_descriptor_are_those_of_the_older(bench: FsBench) -> None:
    inode = bench.file(b"file", b"a" * 8192)
    before = bench.publish(inode)
    mapped = bench.open_file(inode)
    arrives_from_elsewhere(bench, inode, b"b" * 8192)
    newer = bench.open_file(inode)
    bench.fs.write(newer, 4096, b"c" + b"a" * 4095)
    assert base_of(bench, inode) == Base(revision=before)
    assert read(bench, mapped, 0, 8192) == b"a" * 4096 + b"c" + b"a" * 4095


def test_a_long_block_list_of_the_older_revision_is_asked_for(bench: FsBench) -> None:
    inode = bench.file(b"file", OLD * 100)
    bench.publish(inode)
    bench.reopen()
    number = bench.open_file(inode)
    arrives_from_elsewhere(bench, inode, NEW)
    bench.fs.write(number, 0, b"HERE")
    assert read(bench, number, 0, 2000) == b"HERE" + (OLD * 100)[4:]


def test_descriptors_that_have_not_written_stay_with_the_name(bench: FsBench, inode: InodeId) -> None:
    before = bench.fs.inode(inode).revision
    writer, idle = bench.open_file(inode), bench.open_file(inode)
    bench.fs.write(writer, 0, b"HERE")
    bench.fs.release(writer)
    followed: list[tuple[InodeId, InodeId]] = []
    bench.fs.hear_of_followers(lambda one, other: followed.append((one, other)))
    copy = refused(bench, inode)
    assert followed == []
    assert bench.read(copy) == b"HERE was there"
    arrives_from_elsewhere(bench, inode, NEW)
    assert bench.read(inode) == NEW
    bench.fs.write(idle, 0, b"idle")
    assert base_of(bench, inode) == Base(revision=before)
    assert read(bench, idle) == b"idle was there"
    assert bench.read(copy) == b"HERE was there"


def test_descriptors_that_wrote_follow_into_the_copy(bench: FsBench, inode: InodeId) -> None:
    writer = bench.open_file(inode)
    arrives_from_elsewhere(bench, inode, NEW)
    bench.fs.write(writer, 0, b"HERE")
    followed: list[tuple[InodeId, InodeId]] = []
    bench.fs.hear_of_followers(lambda one, other: followed.append((one, other)))
    copy = refused(bench, inode)
    assert followed == [(inode, copy)]
    bench.fs.write(writer, 5, b"IS ")
    bench.fs.set_attributes(copy, Wanted(size=8), writer)
    assert read(bench, writer) == b"HERE IS "
    assert bench.read(copy) == b"HERE IS "
    assert bench.read(inode) == NEW


def refused(bench: FsBench, inode: InodeId) -> InodeId:
    """The draft is published, and refused: it becomes a copy."""
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    op = bench.store(snapshot)
    assert op is not None
    copy, _ = conflict_copy(bench, inode, op)
    with bench.local.journal.transaction():
        bench.local.journal.overlay.drop_inode(inode)
    bench.fs.forget_cached([inode], [])
    return copy


def removed_elsewhere(bench: FsBench, inode: InodeId) -> None:
    """The feed says that a file of the backend is gone."""
    state, replica = bench.fs.inode(inode), bench.local.replica
    replica.put_inodes([state], Seq(1000))
    bench.local.journal.forget(Seq(1000))
    gone = InodeState(inode=inode, kind=state.kind, mode=state.mode, nlink=0)
    replica.put_inodes([gone], Seq(1001))
    bench.fs.forget_cached([inode], [(ROOT, b"file")])


@pytest.mark.parametrize("how", ["write", "cut"])
def test_a_write_to_a_file_that_was_removed_elsewhere_survives(bench: FsBench, inode: InodeId, how: str) -> None:
    revision = bench.fs.inode(inode).revision
    number = bench.open_file(inode)
    removed_elsewhere(bench, inode)
    assert bench.fs.inode(inode).nlink == 0
    assert read(bench, number) == OLD
    if how == "write":
        bench.fs.write(number, 0, b"HERE")
    else:
        bench.fs.set_attributes(inode, Wanted(size=4), number)
    bench.fs.release(number)
    assert "closed" in bench.backend.told(inode)
    bench.reopen()
    draft = bench.local.journal.drafts.draft(inode)
    assert draft is not None
    assert draft.base == Base(revision=revision)
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    assert bench.content_of(snapshot) == (b"HERE was there" if how == "write" else OLD[:4])


@pytest.mark.parametrize("how", ["mode", "same size", "xattr"])
def test_so_does_one_behind_a_change_of_attributes(bench: FsBench, inode: InodeId, how: str) -> None:
    number = bench.open_file(inode)
    removed_elsewhere(bench, inode)
    if how == "xattr":
        bench.fs.set_xattr(inode, b"user.one", b"1")
    else:
        bench.fs.set_attributes(inode, Wanted(mode=0o600) if how == "mode" else Wanted(size=len(OLD)), number)
    bench.fs.write(number, 0, b"HERE")
    bench.fs.release(number)
    bench.reopen()
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    assert bench.content_of(snapshot) == b"HERE was there"


def test_what_was_brought_back_and_is_removed_here_goes(bench: FsBench, inode: InodeId) -> None:
    number = bench.open_file(inode)
    state = bench.fs.inode(inode)
    removed_elsewhere(bench, inode)
    bench.add_remote_directory(b"directory", directory := InodeId(77), {b"file": state})
    bench.fs.forget_cached([inode], [(ROOT, b"directory")])
    bench.unlink(b"file", directory)
    bench.fs.write(number, 0, b"HERE")
    bench.fs.release(number)
    assert bench.local.journal.drafts.draft(inode) is None


def comes_back(bench: FsBench, state: InodeState) -> None:
    """Another device has given a file a name in a directory that was not known here."""
    bench.local.replica.put_inodes([state], Seq(1002))
    bench.add_remote_directory(b"directory", directory := InodeId(77), {b"moved": state})
    bench.fs.forget_cached([state.inode], [(ROOT, b"directory")])
    bench.run(bench.fs.lookup, directory, b"moved")


def test_what_was_written_to_a_removed_file_that_comes_back_is_whole(bench: FsBench, inode: InodeId) -> None:
    number, state = bench.open_file(inode), bench.fs.inode(inode)
    bench.unlink(b"file")
    bench.fs.write(number, 0, longer := b"much more than there was before it went")
    comes_back(bench, state)
    assert bench.fs.inode(inode).size == len(longer)
    assert read(bench, number) == longer
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    assert bench.content_of(snapshot) == longer
    bench.fs.release(number)


def test_it_is_published_where_somebody_only_reads_it(bench: FsBench, inode: InodeId) -> None:
    state = bench.fs.inode(inode)
    reader, writer = bench.open_file(inode, os.O_RDONLY), bench.open_file(inode)
    bench.fs.write(writer, 0, b"HERE")
    bench.fs.release(writer)
    bench.unlink(b"file")
    bench.backend.heard.clear()
    comes_back(bench, state)
    assert bench.backend.told(inode) == ["closed"]
    assert read(bench, reader) == b"HERE was there"
    bench.fs.release(reader)


def test_what_was_written_before_a_removal_does_not_come_back_with_the_file(bench: FsBench, inode: InodeId) -> None:
    bench.fs.contents.await_forgetting()
    state = bench.fs.inode(inode)
    number = bench.open_file(inode)
    bench.fs.write(number, 0, b"much more than there was before it went")
    bench.fs.release(number)
    bench.unlink(b"file")
    comes_back(bench, state)
    assert bench.local.journal.drafts.draft(inode) is None
    assert bench.read(inode) == OLD


def test_what_is_open_when_the_kernel_forgets_it_goes_with_its_last_descriptor(bench: FsBench, inode: InodeId) -> None:
    """Or when so much is removed at once that nobody waits any longer for who is on the way."""
    bench.fs.contents.await_forgetting()
    writer = bench.open_file(inode)
    bench.fs.write(writer, 0, b"HERE")
    bench.fs.release(writer)
    bench.unlink(b"file")
    reader = bench.open_file(inode)
    bench.fs.contents.forgotten(inode)
    assert read(bench, reader) == b"HERE was there"
    bench.fs.release(reader)
    bench.fs.contents.forgotten(inode)
    assert bench.local.journal.drafts.draft(inode) is None


def test_changes_to_a_file_that_is_removed_elsewhere_stay(bench: FsBench, inode: InodeId) -> None:
    number = bench.open_file(inode)
    bench.fs.write(number, 0, b"HERE")
    removed_elsewhere(bench, inode)
    assert read(bench, number) == b"HERE was there"
    bench.reopen()
    assert bench.read(inode) == b"HERE was there"
    assert bench.freeze(inode) is not None


def test_a_write_to_a_file_that_was_removed_here_goes_with_it(bench: FsBench, inode: InodeId) -> None:
    number = bench.open_file(inode)
    bench.unlink(b"file")
    bench.fs.write(number, 0, b"HERE")
    assert bench.fs.inode(inode).nlink == 0
    assert bench.freeze(inode) is None
    bench.fs.release(number)
    assert bench.local.journal.drafts.draft(inode) is None


def test_nothing_comes_back_that_was_only_read(bench: FsBench, inode: InodeId) -> None:
    number = bench.open_file(inode)
    removed_elsewhere(bench, inode)
    assert read(bench, number) == OLD
    bench.fs.release(number)
    assert bench.local.journal.drafts.draft(inode) is None
    with pytest.raises(errors.BadHandle):
        read(bench, number)


def test_a_revision_number_is_that_of_the_newest(bench: FsBench, inode: InodeId) -> None:
    number = bench.open_file(inode)
    arrives_from_elsewhere(bench, inode, NEW)
    newer = bench.fs.inode(inode).revision
    bench.fs.write(number, 0, b"HERE")
    assert bench.fs.inode(inode).revision == newer != RevisionNumber(0)


def test_what_vanishes_here_does_not_show_what_another_device_has_put_there(bench: FsBench) -> None:
    """It was made and removed before it was sent; theirs has not been shown yet."""
    bench.file(b"file", b"mine")
    theirs = InodeState(InodeId(77), InodeKind.FILE, 0o644, nlink=1, seq=Seq(9))
    with bench.local.replica.transaction():
        bench.local.replica.put_inodes([theirs], Seq(9))
        bench.local.replica.database.write("INSERT INTO dentries VALUES (?, ?, ?, 9)", (ROOT, b"file", theirs.inode))
    bench.unlink(b"file")
    assert bench.lookup(b"file") is None
    bench.reopen()
    assert bench.lookup(b"file") is None
