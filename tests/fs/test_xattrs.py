"""Extended attributes: which there are, their limits, and those that are computed."""

import pytest

from drivefs.fs import errors
from drivefs.protocol.names import MAX_XATTRS_TOTAL_BYTES
from tests.fs.bench import ROOT, FsBench


def test_values_are_kept_byte_for_byte(bench: FsBench) -> None:
    inode = bench.file(b"file")
    bench.fs.set_xattr(inode, b"user.empty", b"")
    bench.fs.set_xattr(inode, b"trusted.bytes", b"\0\xff")
    bench.fs.set_xattr(inode, b"security.label", b"x")
    bench.reopen()
    assert bench.fs.xattr(inode, b"user.empty") == b""
    assert bench.fs.xattr(inode, b"trusted.bytes") == b"\0\xff"
    assert sorted(bench.fs.xattr_names(inode)) == [b"security.label", b"trusted.bytes", b"user.empty"]


def test_what_is_not_there_is_no_attribute(bench: FsBench) -> None:
    inode = bench.file(b"file")
    with pytest.raises(errors.NoAttribute):
        bench.fs.xattr(inode, b"user.missing")
    with pytest.raises(errors.NoAttribute):
        bench.fs.remove_xattr(inode, b"user.missing")


@pytest.mark.parametrize("name", [b"system.posix_acl_access", b"system.nfs4_acl", b"unknown.x"])
def test_other_namespaces_are_not_supported(bench: FsBench, name: bytes) -> None:
    inode = bench.file(b"file")
    for call in (
        lambda: bench.fs.xattr(inode, name),
        lambda: bench.fs.set_xattr(inode, name, b"x"),
        lambda: bench.fs.remove_xattr(inode, name),
    ):
        with pytest.raises(errors.NotSupported):
            call()


def test_all_of_a_file_together_are_bounded(bench: FsBench) -> None:
    inode = bench.file(b"file")
    bench.fs.set_xattr(inode, b"user.a", b"x" * (MAX_XATTRS_TOTAL_BYTES - 6))
    with pytest.raises(errors.NoSpace):
        bench.fs.set_xattr(inode, b"user.b", b"")
    bench.fs.set_xattr(inode, b"user.a", b"short")
    bench.fs.set_xattr(inode, b"user.b", b"")


def test_changing_attributes_moves_ctime_only(bench: FsBench) -> None:
    inode = bench.file(b"file")
    before = bench.fs.inode(inode)
    bench.fs.set_xattr(inode, b"user.a", b"1")
    after = bench.fs.inode(inode)
    assert after.ctime_ns > before.ctime_ns
    assert after.mtime_ns == before.mtime_ns
    assert before.xattrs == {}


def test_computed_attributes_can_be_read_and_nothing_else(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    assert bench.fs.xattr(inode, b"user.drivefs.status") == b"pending"
    assert bench.fs.xattr(inode, b"user.drivefs.revision") == b"0"
    revision = bench.publish(inode)
    assert bench.fs.xattr(inode, b"user.drivefs.revision") == str(revision).encode()
    assert bench.fs.xattr_names(inode) == []
    with pytest.raises(errors.NoAttribute):
        bench.fs.xattr(ROOT, b"user.drivefs.revision")
    with pytest.raises(errors.NotPermitted):
        bench.fs.set_xattr(inode, b"user.drivefs.status", b"x")
    with pytest.raises(errors.NotPermitted):
        bench.fs.remove_xattr(inode, b"user.drivefs.status")


@pytest.mark.parametrize("name", [b"user.", b"trusted.", b"security."])
def test_a_namespace_alone_is_no_name(bench: FsBench, name: bytes) -> None:
    inode = bench.file(b"file")
    for call in (
        lambda: bench.fs.xattr(inode, name),
        lambda: bench.fs.set_xattr(inode, name, b"x"),
        lambda: bench.fs.remove_xattr(inode, name),
    ):
        with pytest.raises(errors.Invalid):
            call()
