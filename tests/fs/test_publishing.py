"""What a publication sees and leaves, step by step."""

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from cache.errors import Corrupt
from drivefs.fs.attributes import Wanted
from drivefs.protocol.changes import Base, Store, Unlink
from drivefs.protocol.ids import NO_REVISION, InodeId
from drivefs.protocol.model import InodeKind, InodeState
from tests.fs.bench import FsBench
from tests.fs.test_files import written_elsewhere
from tests.support.journals import mark_sent


def test_a_published_file_is_clean_and_reads_the_same(bench: FsBench) -> None:
    inode = bench.file(b"file", b"some content of a file")
    revision = bench.publish(inode)
    state = bench.fs.inode(inode)
    assert (state.revision, state.size, bench.local.journal.drafts.draft(inode)) == (revision, 22, None)
    assert bench.read(inode) == b"some content of a file"
    assert bench.fs.quota.pending_bytes == 0


def test_a_published_file_reads_the_same_from_the_backend_on_the_next_mount(bench: FsBench) -> None:
    inode = bench.file(b"file", b"some content of a file")
    bench.publish(inode)
    bench.reopen()
    assert bench.read(inode) == b"some content of a file"


def test_mtime_does_not_jump_when_a_file_is_published(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    before = bench.fs.inode(inode)
    bench.publish(inode)
    after = bench.fs.inode(inode)
    assert (before.mtime_ns, before.ctime_ns) == (after.mtime_ns, after.ctime_ns)


def test_a_store_says_the_mtime_that_was_set_last(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    bench.fs.set_attributes(inode, Wanted(mtime_ns=12345, atime_ns=1))
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    assert snapshot.mtime_ns == 12345


@pytest.mark.parametrize("is_written", [False, True])
def test_time_that_is_set_while_the_content_is_sent_is_that_of_its_store(bench: FsBench, is_written: bool) -> None:
    inode = bench.file(b"file", b"content")
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    before = snapshot.mtime_ns
    bench.fs.set_attributes(inode, Wanted(mtime_ns=12345))
    if is_written:
        number = bench.open_file(inode)
        bench.fs.write(number, 0, b"more")
        bench.fs.release(number)
    assert bench.store(snapshot) is not None
    assert snapshot.mtime_ns == (before if is_written else 12345)


def test_nothing_is_published_of_a_file_without_changes(bench: FsBench) -> None:
    inode = bench.file(b"empty")
    assert bench.freeze(inode) is None
    other = bench.file(b"file", b"content")
    bench.publish(other)
    assert bench.freeze(other) is None


def test_one_publication_of_a_file_at_a_time(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    op = bench.store(snapshot)
    bench.file(b"other")
    assert bench.freeze(inode) is None
    assert op is not None
    bench.commit(op)


def test_writes_after_a_freeze_are_a_draft_over_the_new_revision(bench: FsBench) -> None:
    inode = bench.file(b"file", b"aaaaaaaaaaaaaaaaaaaa")
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    number = bench.open_file(inode)
    bench.fs.write(number, 5, b"bbb")
    op = bench.store(snapshot)
    assert op is not None
    revision = bench.commit(op)
    draft = bench.local.journal.drafts.draft(inode)
    assert draft is not None
    assert draft.base == Base(revision=revision)
    assert bench.read(inode) == b"aaaaabbbaaaaaaaaaaaa"
    bench.fs.release(number)
    again = bench.freeze(inode)
    assert again is not None
    assert again.dirty_ranges() == [(5, 8)]
    assert bench.content_of(again) == b"aaaaabbbaaaaaaaaaaaa"


def test_a_file_removed_while_its_store_is_on_the_way_stays_removed(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    op = bench.store(snapshot)
    assert op is not None
    bench.unlink(b"file")
    assert "dropped" in bench.backend.told(inode)
    mark_sent(bench.local.journal, [op])
    with bench.local.journal.transaction():
        bench.fs.contents.published(inode, op, bench.fs.inode(inode).revision)
    assert bench.lookup(b"file") is None
    assert bench.local.journal.drafts.draft(inode) is None


def test_a_store_is_not_appended_for_a_file_that_was_removed_meanwhile(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    bench.unlink(b"file")
    assert bench.store(snapshot) is None
    stores = [each for each in bench.mutations() if isinstance(each, Store)]
    assert stores == []


def test_a_store_is_not_appended_for_a_file_that_is_open_and_has_no_name(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    number = bench.open_file(inode)
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    bench.unlink(b"file")
    assert bench.store(snapshot) is None
    assert bench.run(bench.fs.read, number, 0, 99) == b"content"
    bench.fs.release(number)


def test_of_two_snapshots_of_one_draft_one_is_stored(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    first, second = bench.freeze(inode), bench.freeze(inode)
    assert first is not None
    assert second is not None
    assert bench.store(first) is not None
    assert bench.store(second) is None


def test_what_was_written_since_the_older_of_two_snapshots_stays_when_that_is_stored(bench: FsBench) -> None:
    inode = bench.file(b"file", b"first")
    older = bench.freeze(inode)
    number = bench.open_file(inode)
    bench.fs.write(number, 5, b" and second")
    bench.fs.release(number)
    newer = bench.freeze(inode)
    assert older is not None
    assert newer is not None
    op = bench.store(older)
    assert op is not None
    bench.commit(op)
    assert bench.read(inode) == b"first and second"
    bench.publish(inode)
    bench.reopen()
    assert bench.read(inode) == b"first and second"


def test_what_lies_over_a_new_revision_does_so_on_the_next_mount_too(bench: FsBench) -> None:
    inode = bench.file(b"file", b"a" * 40)
    bench.publish(inode)
    number = bench.open_file(inode)
    bench.fs.write(number, 0, b"b" * 16)
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    op = bench.store(snapshot)
    assert op is not None
    bench.fs.write(number, 39, b"c")
    bench.fs.release(number)
    bench.commit(op)
    bench.reopen()
    assert bench.read(inode) == b"b" * 16 + b"a" * 23 + b"c"


def test_a_snapshot_of_a_draft_that_was_given_up_is_not_the_store_of_the_next(bench: FsBench) -> None:
    inode = bench.file(b"file", b"first")
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    with bench.local.journal.transaction():
        bench.fs.contents.given_up(inode)
    number = bench.open_file(inode)
    bench.fs.write(number, 0, b"other")
    bench.fs.release(number)
    assert bench.store(snapshot) is None


def test_the_base_of_a_removal_is_the_revision_seen(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    revision = bench.publish(inode)
    bench.unlink(b"file")
    (removal,) = [each for each in bench.mutations() if isinstance(each, Unlink)]
    assert removal.base == Base(revision=revision)


def test_a_removal_that_leaves_a_name_expects_nothing_of_the_content(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    bench.publish(inode)
    bench.run(bench.fs.link, inode, bench.fs.root, b"other")
    bench.unlink(b"file")
    (removal,) = [each for each in bench.mutations() if isinstance(each, Unlink)]
    assert removal.base == Base()


def test_unpublished_bytes_are_those_of_drafts_and_of_files_being_written(bench: FsBench) -> None:
    unpublished = bench.fs.contents.unpublished_bytes
    inode = bench.file(b"file", b"content")
    assert unpublished(inode) == 7
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    op = bench.store(snapshot)
    assert unpublished(inode) is None
    number = bench.open_file(inode, os.O_WRONLY)
    assert unpublished(inode) == 7
    bench.fs.write(number, 7, b"!")
    bench.fs.release(number)
    assert unpublished(inode) == 8
    assert op is not None
    bench.commit(op)
    assert unpublished(inode) == 8
    bench.unlink(b"file")
    assert unpublished(inode) is None


def test_closing_tells_the_publisher_once_the_last_writer_is_gone(bench: FsBench) -> None:
    inode = bench.file(b"file")
    bench.backend.heard.clear()
    first, second = bench.open_file(inode, os.O_WRONLY), bench.open_file(inode, os.O_WRONLY)
    bench.fs.write(first, 0, b"x")
    bench.fs.release(first)
    assert bench.backend.told(inode) == []
    bench.fs.release(second)
    assert bench.backend.told(inode) == ["closed"]


def test_a_new_file_that_stays_empty_is_told_of_too(bench: FsBench) -> None:
    assert bench.backend.told(bench.file(b"empty")) == ["closed"]


def test_half_a_copy_is_not_offered(bench: FsBench) -> None:
    """A file that waits to be published is opened with O_TRUNC: what it had is gone, what it will have is not there."""
    inode = bench.file(b"file", b"content")
    bench.backend.heard.clear()
    number = bench.open_file(inode, os.O_WRONLY | os.O_TRUNC)
    assert bench.backend.told(inode) == ["dropped"]
    bench.fs.write(number, 0, b"half")
    assert bench.backend.told(inode) == ["dropped"]
    bench.fs.release(number)
    assert bench.backend.told(inode) == ["dropped", "closed"]


def test_truncating_a_file_that_nobody_writes_offers_it(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    bench.backend.heard.clear()
    bench.fs.set_attributes(inode, Wanted(size=3))
    assert bench.backend.told(inode) == ["closed"]


@pytest.mark.parametrize("block_bytes", [16, 1000])
def test_what_is_frozen_stays_readable_when_the_file_is_emptied(bench: FsBench, block_bytes: int) -> None:
    """Also when so much happened meanwhile that the file's content is not kept in memory."""
    content = bytes(range(250)) * 8
    inode = bench.file(b"file", content)
    bench.publish(inode, block_bytes=block_bytes)
    number = bench.open_file(inode)
    bench.fs.write(number, 0, b"changed")
    bench.fs.release(number)
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    bench.fs._contents._idle.clear()
    for _ in range(3):
        number = bench.open_file(inode, os.O_WRONLY | os.O_TRUNC)
        bench.fs.write(number, 0, b"new")
        bench.fs.release(number)
    assert bench.content_of(snapshot) == b"changed" + content[7:]
    op = bench.store(snapshot)
    assert op is not None
    bench.commit(op)
    assert bench.read(inode) == b"new"


def test_a_snapshot_that_came_to_nothing_holds_nothing_up(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    bench.freeze(inode)
    number = bench.open_file(inode)
    bench.fs.write(number, 0, b"C")
    bench.fs.release(number)
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    assert bench.content_of(snapshot) == b"Content"


def test_what_came_from_elsewhere_shows_though_a_snapshot_is_still_held(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    op = bench.store(snapshot)
    assert op is not None
    bench.commit(op)
    written_elsewhere(bench, inode, b"from another device")()
    assert bench.read(inode) == b"from another device"
    assert snapshot.size == 7


def test_a_reader_tells_the_publisher_nothing(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    bench.backend.heard.clear()
    assert bench.read(inode) == b"content"
    assert bench.backend.told(inode) == []


def test_fsync_offers_what_was_written_for_publication(bench: FsBench) -> None:
    inode = bench.file(b"file")
    number = bench.open_file(inode)
    bench.run(bench.fs.sync, number)
    assert "synced" not in bench.backend.told(inode)
    bench.fs.write(number, 0, b"x")
    bench.run(bench.fs.sync, number)
    assert bench.backend.told(inode)[-1] == "synced"
    assert not bench.local.dirty


def test_the_block_list_of_a_store_survives_a_crash(bench: FsBench) -> None:
    inode = bench.file(b"file", bytes(range(200)) * 5)
    bench.publish(inode, block_bytes=10)
    number = bench.open_file(inode)
    bench.fs.write(number, 500, b"changed")
    bench.fs.release(number)
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    op = bench.store(snapshot, block_bytes=10)
    expected = bench.fs.contents.frozen(inode)
    bench.reopen()
    found = bench.fs.contents.frozen(inode)
    assert expected is not None
    assert found is not None
    assert found[1] == expected[1]
    assert bench.content_of(found[0]) == bench.read(inode)
    assert op is not None
    bench.commit(op)
    assert bench.read(inode)[500:507] == b"changed"


@pytest.mark.fault(2)
def test_what_is_written_behind_a_store_of_nothing_stays_over_a_crash(bench: FsBench) -> None:
    """A power cut took what was written to a new file: it is sent empty, and written to meanwhile."""
    inode = bench.file(b"file", b"x" * 100_000)
    bench.local.close()
    for staged in (bench.place / "state" / "staging").iterdir():
        os.truncate(staged, 0)
    (bench.place / "state" / "suspect").touch()
    bench.open()
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    op = bench.store(snapshot)
    number = bench.open_file(inode)
    bench.fs.write(number, 0, b"written since")
    bench.reopen()
    assert op is not None
    bench.commit(op)
    assert bench.read(inode) == b"written since"
    bench.publish(inode)
    assert bench.read(inode) == b"written since"


def test_content_moves_to_a_copy_with_its_writers(bench: FsBench) -> None:
    inode = bench.file(b"file", b"what the server has")
    revision = bench.publish(inode)
    writer, reader = bench.open_file(inode), bench.open_file(inode, os.O_RDONLY)
    bench.fs.write(writer, 0, b"WHAT")
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    op = bench.store(snapshot)
    assert op is not None
    copy, again = conflict_copy(bench, inode, op)
    assert bench.read(inode) == b"what the server has"
    assert bytes(bench.run(bench.fs.read, reader, 0, 100)) == b"WHAT the server has"
    assert bytes(bench.run(bench.fs.read, writer, 0, 100)) == b"WHAT the server has"
    bench.fs.write(writer, 5, b"THE")
    assert bench.read(inode) == b"what the server has"
    assert bench.read(copy) == b"WHAT THE server has"
    assert bench.fs.inode(inode).revision == revision
    bench.fs.release(writer)
    bench.fs.release(reader)
    bench.commit(again)
    assert bench.read(copy) == b"WHAT THE server has"
    bench.publish(copy)
    bench.reopen()
    assert bench.read(copy) == b"WHAT THE server has"


def conflict_copy(bench: FsBench, inode: InodeId, op: int) -> tuple[InodeId, int]:
    """What is done with a store that the backend refused: a new file has its content."""
    journal = bench.local.journal
    row = journal.get(op)
    assert row is not None
    assert isinstance(row.mutation, Store)
    found = bench.fs.contents.frozen(inode)
    assert found is not None
    with journal.transaction():
        copy, again = journal.allocate_inode(), journal.next_op()
        bench.fs.contents.moved(inode, copy, again)
        size = row.mutation.size
        journal.append(
            Store(n=again, time_ns=1, inode=copy, base=Base(), size=size, runs=row.mutation.runs,
                  new_runs=[found[1]], mtime_ns=1)
        )  # fmt: skip
        journal.overlay.put_inode(
            InodeState(inode=copy, kind=InodeKind.FILE, mode=0o644, size=size, blocks=None), again
        )
        before = journal.overlay.inode(inode)
        assert before is not None
        journal.remove(op)
    bench.fs.forget_cached([inode, copy], [])
    assert before.revision != NO_REVISION
    return copy, again


@pytest.mark.fault(16)
@pytest.mark.parametrize("length", [10, 100_000])
def test_dirty_bytes_that_rotted_are_never_read_as_good(bench: FsBench, length: int) -> None:
    inode = bench.file(b"file", b"x" * length)
    for staged in (bench.place / "state" / "staging").iterdir():
        staged.write_bytes(b"y" * staged.stat().st_size)
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    if length == 10:
        assert bench.content_of(snapshot) == b"x" * length
        return

    with pytest.raises(Corrupt):
        bench.content_of(snapshot)
    for start, end in [(0, length), (1, length - 1)]:
        with pytest.raises(Corrupt):
            bench.run(snapshot.read_into, start, memoryview(bytearray(end - start)))
    bench.unlink(b"file")


@pytest.mark.fault(16)
def test_written_bytes_that_the_disk_does_not_give_are_as_damaged(
    bench: FsBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file that is not sent; also where all is read back at a start."""
    inode = bench.file(b"file", b"x" * 100_000)
    (staged,) = bench.local.staging.paths()
    snapshot = bench.freeze(inode)
    assert snapshot is not None

    def failing(read: Callable[..., Any]) -> Callable[..., Any]:
        def call(descriptor: int, *args: Any) -> Any:
            if staged.exists() and os.path.samestat(os.fstat(descriptor), staged.stat()):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return read(descriptor, *args)

        return call

    for name in ("pread", "preadv"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    with pytest.raises(Corrupt):
        bench.content_of(snapshot)
    with pytest.raises(Corrupt):
        bench.run(snapshot.read_into, 0, memoryview(bytearray(100_000)))
    bench.local.close()
    (bench.place / "state" / "suspect").touch()
    bench.open()
    assert bench.read(inode) == b""
    (kept,) = (bench.place / "state" / "lost+found").iterdir()
    assert kept.stat().st_size == 100_000


def test_what_is_frozen_is_read_into_memory_as_it_is_read_otherwise(bench: FsBench) -> None:
    inode = bench.file(b"file", bytes(range(256)) * 300)
    number = bench.open_file(inode)
    for place in (70_000, 200_000, 100_000, 400_000):
        bench.fs.write(number, place, bytes([place % 251]) * 90_000)
    bench.fs.release(number)
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    whole = bench.content_of(snapshot)
    for start, end in [(0, 490_000), (69_999, 70_001), (75_000, 150_000), (150_000, 350_000), (399_000, 490_000)]:
        target = bytearray(b"?" * (end - start))
        bench.run(snapshot.read_into, start, memoryview(target))
        assert target == whole[start:end]
    bench.unlink(b"file")
    bench.run(snapshot.read_into, 0, memoryview(target))
    assert target == bytes(len(target)), "nothing of it is left"
