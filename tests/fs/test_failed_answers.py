"""An answer that could not be noted: contents are in memory what they are in the databases."""

from contextlib import suppress

from cache.errors import DiskFull
from drivefs.protocol.ids import InodeId, OpNumber, RevisionNumber
from tests.fs.bench import FsBench


def publish_without_room(bench: FsBench, inode: InodeId, op: OpNumber) -> None:
    """The store is committed, and the transaction that is to note it fails at its end."""
    put_back = bench.fs.contents.remember([inode])
    with suppress(DiskFull), bench.local.journal.transaction():
        bench.fs.contents.published(inode, op, RevisionNumber(77))
        raise DiskFull("no room")
    put_back()


def test_a_content_that_nobody_has_open_is_read_afresh(bench: FsBench) -> None:
    inode = bench.file(b"file", b"what an earlier mount sent")
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    op = bench.store(snapshot)
    assert op is not None
    del snapshot
    bench.reopen()
    publish_without_room(bench, inode, op)
    assert bench.read(inode) == b"what an earlier mount sent"
    bench.commit(op)
    assert bench.read(inode) == b"what an earlier mount sent"
    assert bench.local.journal.drafts.draft(inode) is None
