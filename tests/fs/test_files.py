"""Open files: reading, writing, sizes, and what happens when names go or bytes are not here."""

import os
from collections.abc import Callable
from unittest.mock import Mock

import pytest
import trio
import trio.testing

from cache import errors as cache_errors
from drivefs.fs import contents, errors
from drivefs.fs.attributes import Wanted
from drivefs.protocol.changes import Create, SetAttributes, Unlink
from drivefs.protocol.ids import InodeId, RevisionNumber, Seq
from drivefs.protocol.messages import Limits
from drivefs.protocol.model import InodeKind, InodeState
from tests.fs.bench import FsBench, User


def read(bench: FsBench, number: int, offset: int = 0, length: int = 1000) -> bytes:
    return bytes(bench.run(bench.fs.read, number, offset, length))


def test_descriptors_of_one_file_share_its_content(bench: FsBench) -> None:
    inode = bench.file(b"file", b"before")
    first, second = bench.open_file(inode), bench.open_file(inode)
    bench.fs.write(first, 0, b"AFTER!!")
    assert read(bench, second) == b"AFTER!!"
    assert bench.fs.inode(inode).size == 7
    for number in (first, second):
        bench.fs.release(number)


def test_a_descriptor_does_only_what_it_was_opened_for(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    reader, writer = bench.open_file(inode, os.O_RDONLY), bench.open_file(inode, os.O_WRONLY)
    with pytest.raises(errors.BadHandle):
        bench.fs.write(reader, 0, b"x")
    with pytest.raises(errors.BadHandle):
        read(bench, writer)
    bench.fs.release(reader)
    bench.fs.release(writer)
    with pytest.raises(errors.BadHandle):
        read(bench, reader)


def arrives_from_elsewhere(bench: FsBench, inode: InodeId, content: bytes) -> None:
    """Another device has written a file, and this one was told."""
    written_elsewhere(bench, inode, content)()


def written_elsewhere(bench: FsBench, inode: InodeId, content: bytes) -> Callable[[], None]:
    """Another device has written a file; gives what has to be called for this device to hear of it."""
    other = bench.file(b"elsewhere", content)
    bench.publish(other)
    there, here = bench.fs.inode(other), bench.fs.inode(inode)
    newer = InodeState(
        inode=inode, kind=InodeKind.FILE, mode=here.mode, size=len(content), blocks=there.blocks,
        revision=RevisionNumber(there.revision + 100), mtime_ns=there.mtime_ns, seq=Seq(1000),
    )  # fmt: skip
    bench.unlink(b"elsewhere")

    def hear() -> None:
        with bench.local.journal.transaction():
            bench.local.journal.overlay.drop_inode(inode)
        bench.local.replica.put_inodes([newer], Seq(1000))
        bench.fs.forget_cached([inode], [])

    return hear


def test_an_open_file_shows_what_another_device_wrote(bench: FsBench) -> None:
    inode = bench.file(b"file", b"before")
    bench.publish(inode)
    number = bench.open_file(inode)
    assert read(bench, number) == b"before"
    arrives_from_elsewhere(bench, inode, b"from another device")
    assert bench.fs.inode(inode).size == 19
    assert read(bench, number) == b"from another device"
    bench.fs.release(number)


def test_o_trunc_empties_a_file_and_moves_its_times(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    before = bench.fs.inode(inode)
    bench.fs.release(bench.open_file(inode, os.O_WRONLY | os.O_TRUNC))
    after = bench.fs.inode(inode)
    assert after.size == 0
    assert after.mtime_ns > before.mtime_ns
    assert after.ctime_ns > before.ctime_ns


def test_truncating_an_empty_file_to_nothing_makes_no_revision(bench: FsBench) -> None:
    inode = bench.file(b"file")
    bench.fs.release(bench.open_file(inode, os.O_WRONLY | os.O_TRUNC))
    assert bench.freeze(inode) is None
    (created,) = bench.mutations()[:1]
    assert isinstance(created, Create)


def test_truncating_what_is_no_file_is_refused(bench: FsBench) -> None:
    directory = bench.mkdir(b"directory")
    with pytest.raises(errors.IsDirectory):
        bench.fs.set_attributes(directory, Wanted(size=0))
    fifo = bench.make(b"fifo", InodeKind.FIFO).inode
    with pytest.raises(errors.Invalid):
        bench.fs.set_attributes(fifo, Wanted(size=0))


def test_an_unlinked_file_stays_whole_while_it_is_open(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    number = bench.open_file(inode)
    bench.unlink(b"file")
    assert bench.fs.inode(inode).nlink == 0
    bench.fs.write(number, 7, b" and more")
    bench.fs.set_attributes(inode, Wanted(mode=0o600))
    assert read(bench, number) == b"content and more"
    bench.fs.release(number)
    assert bench.local.journal.drafts.draft(inode) is None
    assert bench.fs.quota.pending_bytes == 0


def test_what_was_replaced_before_anybody_else_had_it_is_not_opened_empty(bench: FsBench) -> None:
    replaced = bench.file(b"file", b"never sent")
    bench.file(b"fresh", b"new")
    bench.rename(b"fresh", b"file")
    with pytest.raises(errors.NotFound):
        bench.open_file(replaced, os.O_RDONLY)


def test_file_that_is_gone_from_everything_is_closed_like_any_other(
    bench: FsBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode = bench.file(b"file", b"content")
    bench.publish(inode)
    reader = bench.open_file(inode, os.O_RDONLY)
    with monkeypatch.context() as gone:
        gone.setattr(bench.fs._view, "inode", Mock(side_effect=errors.NotFound))
        bench.fs.release(reader)
    assert not bench.fs.contents.is_open(inode)


def test_a_published_file_unlinked_while_open_stays_whole(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    bench.publish(inode)
    number = bench.open_file(inode)
    bench.unlink(b"file")
    bench.fs.write(number, 0, b"C")
    assert read(bench, number) == b"Content"
    bench.fs.release(number)
    assert bench.local.journal.drafts.draft(inode) is None
    assert any(isinstance(each, Unlink) for each in bench.mutations())


def test_what_was_unlinked_while_open_is_gone_after_a_crash(bench: FsBench) -> None:
    inode = bench.file(b"file", b"x" * 100_000)
    bench.publish(inode)
    number = bench.open_file(inode)
    bench.fs.write(number, 0, b"y" * 100_000)
    bench.unlink(b"file")
    assert bench.local.journal.drafts.draft(inode) is not None
    bench.reopen()
    assert bench.local.journal.drafts.draft(inode) is None
    assert bench.lookup(b"file") is None


def test_a_file_replaced_by_rename_stays_whole_for_its_readers(bench: FsBench) -> None:
    old = bench.file(b"file", b"old")
    number = bench.open_file(old, os.O_RDONLY)
    new = bench.file(b"new", b"new")
    bench.rename(b"new", b"file")
    assert read(bench, number) == b"old"
    assert bench.read(new) == b"new"
    bench.fs.release(number)


@pytest.mark.parametrize("length", [1, 4096, 4097, 65_536, 65_537, 1_000_000])
def test_content_of_any_length_survives_a_crash(bench: FsBench, length: int) -> None:
    content = bytes(index * 7 % 251 for index in range(length))
    inode = bench.file(b"file", content)
    bench.reopen()
    assert bench.read(inode) == content


@pytest.mark.fault(16)
def test_what_an_earlier_mount_wrote_and_has_rotted_since_is_an_error_and_the_rest_is_read(bench: FsBench) -> None:
    written = [bytes([number]) * 100_000 for number in range(6)]
    inode = bench.file(b"file", b"".join(written[:3]))
    number = bench.open_file(inode)
    for part, content in enumerate(written[3:], start=3):
        bench.fs.write(number, part * 100_000, content)
    bench.fs.release(number)
    bench.reopen()
    (staged,) = (bench.place / "state" / "staging").iterdir()
    with staged.open("r+b") as file:
        file.seek(450_000)
        file.write(b"rot")
    for start in (0, 250_000, 299_999, 399_999, 500_000, 599_990):
        assert bench.read(inode, start, 1) == bytes([start // 100_000])
    for start, length in ((400_000, 1), (399_990, 20), (499_999, 1), (499_990, 20), (0, 600_000)):
        with pytest.raises(cache_errors.Corrupt):
            bench.read(inode, start, length)
    assert bench.read(inode, 0, 400_000) == b"".join(written[:4])
    number = bench.open_file(inode)
    bench.fs.write(number, 400_000, b"new" * 30_000 + b"x" * 10_000)
    bench.fs.release(number)
    assert bench.read(inode) == b"".join([*written[:4], b"new" * 30_000 + b"x" * 10_000, written[5]])
    bench.unlink(b"file")


def test_small_content_needs_no_file_of_its_own(bench: FsBench) -> None:
    for index in range(20):
        bench.file(b"%d" % index, b"x" * 3000)
    assert list((bench.place / "state" / "staging").iterdir()) == []


def test_a_draft_that_grows_goes_on_in_staging(bench: FsBench) -> None:
    inode = bench.file(b"file")
    number = bench.open_file(inode)
    for start in range(0, contents.MAX_INLINE_BYTES + 20_000, 5000):
        bench.fs.write(number, start, b"x" * 5000)
    bench.fs.release(number)
    assert len(list((bench.place / "state" / "staging").iterdir())) == 1
    assert bench.read(inode) == b"x" * 90_000


def test_past_the_limit_of_file_size_nothing_is_written(bench: FsBench) -> None:
    bench.fs.quota.told(Limits(file_bytes=10, quota_bytes=10**9), bench.fs.quota.usage)
    inode = bench.file(b"file", b"0123456789")
    number = bench.open_file(inode)
    with pytest.raises(errors.TooLarge):
        bench.fs.write(number, 8, b"xyz")
    with pytest.raises(errors.TooLarge):
        bench.fs.set_attributes(inode, Wanted(size=11))
    bench.fs.release(number)
    assert bench.read(inode) == b"0123456789"


def test_over_quota_writes_are_refused_and_removing_makes_room(bench: FsBench) -> None:
    bench.fs.quota.told(Limits(file_bytes=10**9, quota_bytes=100), bench.fs.quota.usage)
    inode = bench.file(b"file", b"x" * 90)
    number = bench.open_file(inode)
    with pytest.raises(errors.OverQuota):
        bench.fs.write(number, 90, b"y" * 11)
    bench.fs.release(number)
    assert bench.fs.space().free_bytes == 10
    bench.unlink(b"file")
    assert bench.fs.space().free_bytes == 100
    bench.file(b"other", b"y" * 100)


def test_a_full_disk_refuses_a_write_before_anything_is_accepted(
    bench: FsBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode = bench.file(b"file", b"content")
    number = bench.open_file(inode)

    def full(byte_count: int) -> None:
        raise cache_errors.DiskFull("no room")

    with monkeypatch.context() as patched:
        patched.setattr(bench.local.journal, "admit", full)
        with pytest.raises(cache_errors.DiskFull):
            bench.fs.write(number, 0, b"C")
        with pytest.raises(cache_errors.DiskFull):
            bench.make(b"other")
        bench.rename(b"file", b"renamed")
    assert bench.read(inode) == b"content"
    bench.fs.release(number)
    bench.unlink(b"renamed")


def test_blocks_that_are_not_here_are_fetched(bench: FsBench) -> None:
    inode = remote_file(bench, b"file", bytes(range(100)))
    assert bench.read(inode, 20, 30) == bytes(range(20, 50))
    assert len(bench.backend.fetched) == 3
    bench.backend.fetched.clear()
    assert bench.read(inode, 20, 30) == bytes(range(20, 50))
    assert bench.backend.fetched == []


def remote_file(bench: FsBench, name: bytes, content: bytes) -> InodeId:
    """A file that is on the backend, and of which this device has no block."""
    inode = bench.file(name, content)
    bench.publish(inode, block_bytes=16)
    return inode


def test_content_that_is_not_here_is_an_error_offline_and_what_is_here_is_not(bench: FsBench) -> None:
    inode = remote_file(bench, b"file", bytes(range(100)))
    assert bench.read(inode, 0, 16) == bytes(range(16))
    bench.backend.is_online = False
    assert bench.read(inode, 0, 16) == bytes(range(16))
    with pytest.raises(errors.Unavailable):
        bench.read(inode, 10, 20)


def test_writing_into_content_that_is_not_here_works_offline(bench: FsBench) -> None:
    inode = remote_file(bench, b"file", bytes(range(100)))
    bench.backend.is_online = False
    number = bench.open_file(inode)
    bench.fs.write(number, 10, b"offline")
    assert read(bench, number, 10, 7) == b"offline"
    with pytest.raises(errors.Unavailable):
        read(bench, number, 0, 100)
    bench.fs.release(number)
    bench.reopen()
    bench.backend.is_online = True
    assert bench.read(inode) == bytes(range(10)) + b"offline" + bytes(range(17, 100))


def test_a_long_block_list_is_asked_for_when_it_is_needed(bench: FsBench) -> None:
    content = bytes(index % 256 for index in range(1000))
    inode = remote_file(bench, b"file", content)
    assert bench.fs.inode(inode).blocks is None
    bench.reopen()
    assert bench.read(inode) == content
    number = bench.open_file(inode)
    bench.fs.write(number, 500, b"changed")
    bench.fs.release(number)
    bench.reopen()
    assert bench.read(inode) == content[:500] + b"changed" + content[507:]
    bench.publish(inode)
    bench.reopen()
    assert bench.read(inode) == content[:500] + b"changed" + content[507:]


def test_a_read_that_had_to_wait_shows_one_content_only(bench: FsBench) -> None:
    inode = remote_file(bench, b"file", b"a" * 64)
    number = bench.open_file(inode, os.O_RDONLY)
    bench.backend.during = written_elsewhere(bench, inode, b"b" * 64)
    assert read(bench, number) == b"b" * 64
    bench.fs.release(number)


def test_a_read_gives_up_at_its_deadline(bench: FsBench) -> None:
    inode = remote_file(bench, b"file", b"a" * 64)

    async def never(*args: object, **named: object) -> None:
        await trio.sleep_forever()

    bench.backend.fetch = never  # type: ignore[method-assign]
    number = bench.open_file(inode, os.O_RDONLY)
    with pytest.raises(errors.Unavailable):
        trio.run(bench.fs.read, number, 0, 64, clock=trio.testing.MockClock(autojump_threshold=0))
    bench.fs.release(number)


def test_no_attribute_change_is_lost_among_writes(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    bench.fs.set_attributes(inode, Wanted(mtime_ns=5, atime_ns=6))
    assert (bench.fs.inode(inode).mtime_ns, bench.fs.inode(inode).atime_ns) == (5, 6)
    assert any(isinstance(each, SetAttributes) for each in bench.mutations())
    bench.reopen()
    assert (bench.fs.inode(inode).mtime_ns, bench.fs.inode(inode).size) == (5, 7)


@pytest.mark.parametrize(("uid", "mode", "expected"), [(33, 0o6775, 0o775), (33, 0o6764, 0o2764), (0, 0o6775, 0o6775)])
def test_opening_with_truncation_clears_privileges_unless_by_root(
    bench: FsBench, uid: int, mode: int, expected: int
) -> None:
    inode = bench.file(b"program", b"content")
    bench.fs.set_attributes(inode, Wanted(mode=mode))
    bench.fs.release(bench.open_file(inode, os.O_WRONLY | os.O_TRUNC, User(uid, uid)))
    assert bench.fs.inode(inode).mode == expected
