"""Changes of attributes: what of them becomes one mutation, and what stands by itself, in its place."""

import pytest

from cache.errors import DiskFull
from drivefs.fs.attributes import Wanted
from drivefs.protocol.changes import Create, Rename, SetAttributes, Store
from tests.fs.bench import FsBench
from tests.support.journals import mark_sent


def test_attribute_changes_merge_into_an_unsent_creation(bench: FsBench) -> None:
    inode = bench.file(b"file")
    bench.fs.set_attributes(inode, Wanted(mode=0o600))
    bench.fs.set_attributes(inode, Wanted(uid=5, gid=6))
    (created,) = bench.mutations()
    assert isinstance(created, Create)
    assert (created.mode, created.uid, created.gid) == (0o600, 5, 6)
    bench.fs.set_attributes(inode, Wanted(uid=1000, gid=1000))
    (created,) = bench.mutations()
    assert isinstance(created, Create)
    assert (created.uid, created.gid) == (None, None)


def test_attribute_changes_merge_into_the_unsent_one_before(bench: FsBench) -> None:
    inode = bench.file(b"file")
    bench.fs.set_attributes(inode, Wanted(mtime_ns=1, uid=7))
    bench.fs.set_attributes(inode, Wanted(mode=0o600, mtime_ns=2, uid=1000))
    _created, change = bench.mutations()
    assert isinstance(change, SetAttributes)
    assert (change.mode, change.mtime_ns, change.atime_ns, change.uid, change.own_uid) == (0o600, 2, None, None, True)
    assert change.time_ns == bench.fs.inode(inode).ctime_ns


def test_attribute_changes_do_not_merge_across_another_mutation(bench: FsBench) -> None:
    inode = bench.file(b"file")
    bench.fs.set_attributes(inode, Wanted(mtime_ns=1))
    bench.rename(b"file", b"other")
    bench.fs.set_attributes(inode, Wanted(mtime_ns=2))
    assert [type(each) for each in bench.mutations()] == [Create, SetAttributes, Rename, SetAttributes]


def test_attribute_changes_do_not_merge_into_what_was_sent(bench: FsBench) -> None:
    inode = bench.file(b"file")
    mark_sent(bench.local.journal, [each.n for each in bench.mutations()])
    bench.fs.set_attributes(inode, Wanted(mode=0o600))
    assert [type(each) for each in bench.mutations()] == [Create, SetAttributes]


def test_attribute_changes_do_not_merge_into_one_that_failed(bench: FsBench, monkeypatch: pytest.MonkeyPatch) -> None:
    inode = bench.file(b"file")
    bench.fs.set_attributes(inode, Wanted(mtime_ns=1))

    def fails(_change: object) -> None:
        raise DiskFull("no room")

    with monkeypatch.context() as patched:
        patched.setattr(bench.fs._mutations, "hear", fails)
        with pytest.raises(DiskFull):
            bench.fs.set_attributes(inode, Wanted(mode=0o600))
    bench.fs.set_attributes(inode, Wanted(uid=7))
    changes = [each for each in bench.mutations() if isinstance(each, SetAttributes)]
    assert [(each.mtime_ns, each.mode, each.uid) for each in changes] == [(1, None, None), (None, None, 7)]


def test_attribute_changes_do_not_merge_across_a_store(bench: FsBench) -> None:
    inode = bench.file(b"file", b"first")
    bench.publish(inode)
    bench.fs.set_attributes(inode, Wanted(mtime_ns=1))
    number = bench.open_file(inode)
    bench.fs.write(number, 0, b"more")
    bench.fs.release(number)
    snapshot = bench.freeze(inode)
    assert snapshot is not None
    assert bench.store(snapshot) is not None
    bench.fs.set_attributes(inode, Wanted(mtime_ns=2))
    assert [type(each) for each in bench.mutations()][-3:] == [SetAttributes, Store, SetAttributes]
