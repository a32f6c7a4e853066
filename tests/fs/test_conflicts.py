"""Conflict copies as the file system shows them: their mark, what they lost to, and the entries for merging by hand."""

import json

import pytest

from cache.schema import IS_MARKED
from drivefs.fs import errors, virtual
from drivefs.fs.conflicts import Conflict
from drivefs.protocol import blocks as codec
from drivefs.protocol.changes import SetXattr
from drivefs.protocol.conflicts import CONFLICT_XATTR, ConflictMark, encode_mark
from drivefs.protocol.ids import InodeId, RevisionNumber, Seq
from drivefs.protocol.model import BlockRef, InodeKind, pack_blocks
from tests.fs.bench import ROOT, FsBench

COPY = b"note (conflicted copy, b, 2026-11-22).txt"


def mark(bench: FsBench, copy: InodeId, of: InodeId, *, parent: InodeId = ROOT, base: int = 1) -> None:
    """Mark a copy as whoever makes it does."""
    value = ConflictMark(of, b"note.txt", parent, RevisionNumber(base), RevisionNumber(2), "b", 7)
    journal = bench.local.journal
    with journal.transaction():
        n = journal.next_op()
        journal.append(SetXattr(n=n, time_ns=1, inode=copy, name=CONFLICT_XATTR, value=encode_mark(value)))
        state = journal.overlay.inode(copy)
        assert state is not None
        state.xattrs = {**state.xattrs, CONFLICT_XATTR: encode_mark(value)}
        journal.overlay.put_inode(state, n)
    bench.fs.forget_cached([copy], [])


@pytest.fixture
def pair(bench: FsBench) -> tuple[InodeId, InodeId]:
    """The original and its copy."""
    original = bench.file(b"note.txt", b"theirs")
    copy = bench.file(COPY, b"mine")
    mark(bench, copy, original)
    return original, copy


def only(bench: FsBench) -> Conflict:
    (conflict,) = bench.fs.conflicts.all()
    return conflict


def entry(bench: FsBench, *names: bytes) -> InodeId:
    inode = virtual.DIRECTORY
    for name in (b"conflicts", *names):
        state = bench.lookup(name, inode)
        assert state is not None
        inode = state.inode
    return inode


def listed(bench: FsBench, inode: InodeId) -> list[bytes]:
    number = bench.fs.open_directory(inode)
    found = [name for name, _, _ in bench.run(bench.fs.read_directory, number, 0)]
    bench.fs.release_directory(number)
    return found


def test_a_copy_is_listed_with_what_it_lost_to(bench: FsBench, pair: tuple[InodeId, InodeId]) -> None:
    original, copy = pair
    found = only(bench)
    assert (found.copy.inode, found.theirs) == (copy, original)
    assert found.place == (ROOT, COPY)
    assert found.original == (ROOT, b"note.txt")
    assert bench.fs.conflicts.about(original) == bench.fs.conflicts.about(copy) == [found]


def test_the_mark_survives_the_process_and_is_found_in_the_replica_too(
    bench: FsBench, pair: tuple[InodeId, InodeId]
) -> None:
    original, copy = pair
    bench.reopen()
    assert only(bench).copy.inode == copy
    state = bench.fs.inode(copy)
    bench.local.replica.put_inodes([state], Seq(5))
    assert bench.local.replica.marked() == [copy]
    assert bench.local.journal.overlay.marked() == [copy]
    assert only(bench).theirs == original


def test_lists_of_marked_inodes_come_from_an_index(bench: FsBench) -> None:
    for database in (bench.local.replica.database, bench.local.journal.overlay._database):
        plan = database.rows(f"EXPLAIN QUERY PLAN SELECT inode FROM inodes WHERE {IS_MARKED}")
        assert "inodes_marked" in plan[0][3]
        assert CONFLICT_XATTR.hex() in IS_MARKED


def test_the_stored_mark_is_in_no_namespace_of_programs(bench: FsBench, pair: tuple[InodeId, InodeId]) -> None:
    copy = pair[1]
    assert bench.fs.xattr_names(copy) == []
    for call in (
        lambda: bench.fs.xattr(copy, CONFLICT_XATTR),
        lambda: bench.fs.set_xattr(copy, CONFLICT_XATTR, b"x"),
        lambda: bench.fs.remove_xattr(copy, CONFLICT_XATTR),
    ):
        with pytest.raises(errors.NotSupported):
            call()


def test_the_copy_says_of_itself_what_it_is(bench: FsBench, pair: tuple[InodeId, InodeId]) -> None:
    original, copy = pair
    told = json.loads(bench.fs.xattr(copy, b"user.drivefs.conflict"))
    assert told == {
        "original": "note.txt",
        "name": "note.txt",
        "device": "b",
        "time_ns": 7,
        "base_revision": 1,
        "their_revision": 2,
    }
    with pytest.raises(errors.NoAttribute):
        bench.fs.xattr(original, b"user.drivefs.conflict")
    for call in (
        lambda: bench.fs.set_xattr(copy, b"user.drivefs.conflict", b"x"),
        lambda: bench.fs.remove_xattr(copy, b"user.drivefs.conflict"),
    ):
        with pytest.raises(errors.NotPermitted):
            call()


def test_what_has_the_name_is_theirs_and_else_what_kept_it(bench: FsBench, pair: tuple[InodeId, InodeId]) -> None:
    original, _ = pair
    bench.rename(b"note.txt", b"elsewhere.txt")
    assert only(bench).theirs == original
    assert only(bench).original == (ROOT, b"elsewhere.txt")
    fresh = bench.file(b"note.txt", b"newer")
    assert only(bench).theirs == fresh
    bench.unlink(b"note.txt")
    bench.unlink(b"elsewhere.txt")
    assert only(bench).theirs == 0
    assert only(bench).original is None


def test_paths_lead_through_directories(bench: FsBench) -> None:
    outer = bench.mkdir(b"outer")
    inner = bench.mkdir(b"inner", outer)
    original = bench.file(b"note.txt", b"theirs", inner)
    copy = bench.file(COPY, b"mine", inner)
    mark(bench, copy, original, parent=inner)
    assert bench.fs.conflicts.path(only(bench).place) == b"outer/inner/" + COPY
    assert json.loads(bench.fs.xattr(copy, b"user.drivefs.conflict"))["original"] == "outer/inner/note.txt"


def test_a_copy_that_takes_the_name_back_has_settled_it(bench: FsBench, pair: tuple[InodeId, InodeId]) -> None:
    bench.rename(COPY, b"note.txt")
    assert bench.fs.conflicts.all() == []
    bench.rename(b"note.txt", b"other.txt")
    assert bench.fs.conflicts.all() == []


def test_settling_leaves_an_ordinary_file(bench: FsBench, pair: tuple[InodeId, InodeId]) -> None:
    copy = pair[1]
    bench.fs.settle(copy)
    assert bench.fs.conflicts.all() == []
    assert bench.read(copy) == b"mine"
    with pytest.raises(errors.NoAttribute):
        bench.fs.xattr(copy, b"user.drivefs.conflict")


def test_a_removed_copy_is_no_conflict(bench: FsBench, pair: tuple[InodeId, InodeId]) -> None:
    bench.unlink(COPY)
    assert bench.fs.conflicts.all() == []
    assert listed(bench, entry(bench)) == []


def test_both_sides_can_be_read_in_the_entry(bench: FsBench, pair: tuple[InodeId, InodeId]) -> None:
    original, copy = pair
    bench.backend.past[original, RevisionNumber(1)] = pack_blocks([])
    assert listed(bench, entry(bench)) == [COPY]
    assert listed(bench, entry(bench, COPY)) == [b"mine", b"theirs", b"base"]
    assert bench.read(entry(bench, COPY, b"mine")) == b"mine"
    assert bench.read(entry(bench, COPY, b"theirs")) == b"theirs"
    number = bench.open_file(original)
    bench.fs.write(number, 0, b"THEIRS, longer")
    bench.fs.release(number)
    assert bench.read(entry(bench, COPY, b"theirs")) == b"THEIRS, longer"
    state = bench.fs.inode(entry(bench, COPY, b"mine"))
    assert (state.size, state.mode, state.nlink) == (4, 0o444, 1)
    assert state.inode != copy
    with pytest.raises(errors.NotPermitted):
        bench.open_file(entry(bench, COPY, b"mine"))


def test_the_base_is_read_from_its_revision_when_it_is_asked_for(bench: FsBench, pair: tuple[InodeId, InodeId]) -> None:
    original, _ = pair
    pieces = [b"the common ", b"base"]
    refs = [BlockRef(codec.block_id(piece), len(piece)) for piece in pieces]
    bench.backend.past[original, RevisionNumber(1)] = pack_blocks(refs)
    bench.backend.blocks.update(zip((ref.block for ref in refs), pieces, strict=True))
    bench.backend.is_online = False
    # Listing never waits; looking at the file itself asks for its length.
    assert listed(bench, entry(bench, COPY)) == [b"mine", b"theirs", b"base"]
    with pytest.raises(errors.Unavailable):
        entry(bench, COPY, b"base")
    bench.backend.is_online = True
    base = entry(bench, COPY, b"base")
    assert bench.fs.inode(base).size == 15
    assert bench.backend.fetched == []
    assert bench.read(base) == b"the common base"
    assert bench.read(base, 11, 2) == b"ba"


def test_a_base_that_cannot_be_had_any_more_is_left_out(bench: FsBench, pair: tuple[InodeId, InodeId]) -> None:
    """It was in a share that has ended, or is not kept: the server knows no such content."""
    assert listed(bench, entry(bench, COPY)) == [b"mine", b"theirs"]
    with pytest.raises(errors.NotFound):
        bench.lookup(b"base", entry(bench, COPY))


def test_without_a_common_base_there_is_none(bench: FsBench) -> None:
    original = bench.file(b"note.txt", b"theirs")
    copy = bench.file(COPY, b"mine")
    mark(bench, copy, original, base=0)
    assert listed(bench, entry(bench, COPY)) == [b"mine", b"theirs"]


def test_links_are_shown_as_links(bench: FsBench) -> None:
    original = bench.file(b"note.txt", b"theirs")
    copy = bench.make(COPY, InodeKind.SYMLINK, target=b"somewhere").inode
    mark(bench, copy, original, base=0)
    assert bench.fs.target_of(entry(bench, COPY, b"mine")) == b"somewhere"


def test_copies_of_one_name_have_entries_of_their_own(bench: FsBench, pair: tuple[InodeId, InodeId]) -> None:
    directory = bench.mkdir(b"directory")
    original = bench.file(b"note.txt", b"theirs", directory)
    copy = bench.file(COPY, b"another", directory)
    mark(bench, copy, original, parent=directory)
    other = COPY + b" %d" % copy
    assert listed(bench, entry(bench)) == [COPY, other]
    assert bench.read(entry(bench, other, b"mine")) == b"another"
    bench.unlink(COPY)
    assert listed(bench, entry(bench)) == [other]


def test_a_mark_that_cannot_be_read_is_no_conflict(bench: FsBench) -> None:
    copy = bench.file(COPY, b"mine")
    journal = bench.local.journal
    state = journal.overlay.inode(copy)
    assert state is not None
    state.xattrs = {CONFLICT_XATTR: b"\xc1"}
    with journal.transaction():
        n = journal.next_op()
        journal.append(SetXattr(n=n, time_ns=1, inode=copy, name=CONFLICT_XATTR, value=b"\xc1"))
        journal.overlay.put_inode(state, n)
    bench.fs.forget_cached([copy], [])
    assert bench.fs.conflicts.all() == []
