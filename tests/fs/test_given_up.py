"""What was frozen of a content that is another one by now: it is as if it had never been."""

import msgspec
import pytest

from drivefs.fs.attributes import Wanted
from drivefs.fs.snapshots import Snapshot
from drivefs.protocol.changes import Base
from drivefs.protocol.ids import InodeId, RevisionNumber
from tests.fs.bench import FsBench
from tests.fs.test_files import written_elsewhere


def frozen(bench: FsBench, data: bytes) -> tuple[InodeId, Snapshot]:
    """A published file, and what was frozen of what was written to it since."""
    inode = bench.file(b"file", b"first")
    bench.publish(inode)
    number = bench.open_file(inode)
    bench.fs.write(number, 0, data)
    bench.fs.release(number)
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    return inode, snapshot


def written_anew(bench: FsBench, inode: InodeId, data: bytes) -> None:
    """What was written to a file is given up, and a program writes to it again."""
    with bench.local.journal.transaction():
        bench.fs.contents.given_up(inode)
    number = bench.open_file(inode)
    bench.fs.write(number, 0, data)
    bench.fs.release(number)


def test_the_answer_to_a_store_that_was_given_up_is_none_to_what_was_written_since(bench: FsBench) -> None:
    inode, snapshot = frozen(bench, b"given up")
    op = bench.store(snapshot)
    assert op is not None
    written_anew(bench, inode, b"anew")
    with bench.local.journal.transaction():
        bench.fs.contents.published(inode, op, RevisionNumber(9))
    assert bench.local.journal.drafts.draft(inode) is not None
    assert bench.read(inode) == b"anewt"


def test_a_store_is_not_appended_for_what_stood_on_another_revision(bench: FsBench) -> None:
    inode, snapshot = frozen(bench, b"given up")
    with bench.local.journal.transaction():
        bench.fs.contents.given_up(inode)
    written_elsewhere(bench, inode, b"elsewhere")()
    written_anew(bench, inode, b"anew")
    assert bench.store(snapshot) is None
    assert bench.read(inode) == b"anewwhere"


def test_a_store_is_not_appended_for_a_draft_that_was_put_on_another_revision(bench: FsBench) -> None:
    inode, snapshot = frozen(bench, b"mine")
    drafts = bench.local.journal.drafts
    draft = drafts.draft(inode)
    assert draft is not None
    drafts.put_draft(msgspec.structs.replace(draft, base=Base(revision=RevisionNumber(9))))
    assert bench.store(snapshot) is None


@pytest.mark.parametrize("length", [5, 100_000])
def test_what_was_written_anew_is_not_mixed_with_what_was_frozen_before(bench: FsBench, length: int) -> None:
    """Also not on the same revision: it is as if what was frozen had never been."""
    inode, snapshot = frozen(bench, b"x" * length)
    written_anew(bench, inode, b"anew")
    bench.run(bench.local.barrier)
    bench.run(snapshot.read_into, 0, memoryview(bytearray(length)))
    assert bench.store(snapshot) is None
    bench.publish(inode)
    assert bench.read(inode) == b"anewt"


def test_what_was_frozen_is_pointless_once_its_content_belongs_to_another_file(bench: FsBench) -> None:
    inode = bench.file(b"file", b"x" * 100_000)
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    other, journal = bench.file(b"other"), bench.local.journal
    with journal.transaction():
        bench.fs.contents.moved(inode, other)
    bench.fs.set_attributes(other, Wanted(size=0))
    target = bytearray(b"?" * 100_000)
    bench.run(snapshot.read_into, 0, memoryview(target))
    assert target == bytes(100_000)
    assert bench.store(snapshot) is None
