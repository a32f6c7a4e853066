"""Extended attributes, held against ext4 where its own limits allow.

Owns the section "Extended attributes" of SEMANTICS.md.
"""

import errno
import os
from pathlib import Path

import pytest

from tests.mount.oracle import Pair, Refused, call, write_file

CREATE, REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE
VALUES = [b"", b"plain", b"\0binary\xff\0", b"x" * 2000]
LONGEST_VALUE = 64 * 1024


def furnish(root: Path) -> None:
    write_file(root / "file")
    (root / "directory").mkdir()


@pytest.mark.parametrize("value", VALUES, ids=["empty", "plain", "binary", "long"])
@pytest.mark.parametrize("name", ["file", "directory"])
def test_values_are_kept(both: Pair, value: bytes, name: str) -> None:
    """[xattr-values]"""

    def work(root: Path) -> tuple[bytes, list[str], bytes]:
        furnish(root)
        os.setxattr(root / name, "user.first", b"to be replaced")
        os.setxattr(root / name, "user.first", value)
        os.setxattr(root / name, "user.ünïcode", b"second")
        os.rename(root / name, root / "renamed")
        found = os.getxattr(root / "renamed", "user.first")
        names = sorted(os.listxattr(root / "renamed"))
        os.removexattr(root / "renamed", "user.ünïcode")
        return found, names, os.getxattr(root / "renamed", "user.first")

    assert both(work) == (value, ["user.first", "user.ünïcode"], value)
    both.assert_same_tree()


def test_a_save_by_rename_takes_no_attributes_along(both: Pair) -> None:
    """[xattr-replaced]"""

    def work(root: Path) -> tuple[list[str], list[str]]:
        furnish(root)
        os.setxattr(root / "file", "user.note", b"of the first file")
        with (root / "file").open("rb") as replaced:
            write_file(root / "temporary", b"saved")
            os.rename(root / "temporary", root / "file")
            return os.listxattr(root / "file"), os.listxattr(replaced.fileno())

    assert both(work) == ([], ["user.note"])


def test_descriptors_and_links_reach_the_same_attributes(both: Pair) -> None:
    """[xattr-values]"""

    def work(root: Path) -> list[bytes]:
        furnish(root)
        os.link(root / "file", root / "second")
        (root / "link").symlink_to("file")
        descriptor = os.open(root / "file", os.O_RDWR)
        os.setxattr(descriptor, "user.x", b"by descriptor")
        os.unlink(root / "file")
        found = [os.getxattr(descriptor, "user.x"), os.getxattr(root / "second", "user.x")]
        os.close(descriptor)
        return found

    assert both(work) == [b"by descriptor"] * 2


@pytest.mark.parametrize(
    ("there", "flag", "expected"),
    [
        (True, CREATE, Refused("EEXIST")),
        (False, REPLACE, Refused("ENODATA")),
        (False, CREATE, b"new"),
        (True, REPLACE, b"new"),
    ],
)
def test_flags_choose_between_new_and_old(both: Pair, there: bool, flag: int, expected: object) -> None:
    """[xattr-flags]"""

    def work(root: Path) -> bytes:
        furnish(root)
        if there:
            os.setxattr(root / "file", "user.x", b"old")
        os.setxattr(root / "file", "user.x", b"new", flag)
        return os.getxattr(root / "file", "user.x")

    assert both(work) == expected


def test_missing_attributes(both: Pair) -> None:
    """[xattr-missing]"""
    both(furnish)
    assert both(lambda root: os.getxattr(root / "file", "user.x")) == Refused("ENODATA")
    assert both(lambda root: os.removexattr(root / "file", "user.x")) == Refused("ENODATA")
    assert both(lambda root: os.listxattr(root / "file")) == []
    assert both(lambda root: os.getxattr(root / "missing", "user.x")) == Refused("ENOENT")


@pytest.mark.parametrize(
    ("size", "expected"), [(0, 10), (10, 10), (200, 10), (9, Refused("ERANGE")), (1, Refused("ERANGE"))]
)
def test_buffers_of_every_size(both: Pair, size: int, expected: object) -> None:
    """[xattr-sizes]"""

    def work(root: Path) -> int:
        furnish(root)
        os.setxattr(root / "file", "user.x", b"0123456789")
        return call("getxattr", os.fsencode(root / "file"), b"user.x", bytes(size) if size else None, size)

    assert both(work) == expected


@pytest.mark.parametrize(("size", "expected"), [(0, 14), (14, 14), (13, Refused("ERANGE"))])
def test_list_buffers_of_every_size(both: Pair, size: int, expected: object) -> None:
    """[xattr-sizes]"""

    def work(root: Path) -> int:
        furnish(root)
        os.setxattr(root / "file", "user.x", b"1")
        os.setxattr(root / "file", "user.y", b"2")
        return call("listxattr", os.fsencode(root / "file"), bytes(size) if size else None, size)

    assert both(work) == expected


def test_values_up_to_64_kib(both: Pair) -> None:
    """[xattr-limits]"""
    path = write_file(both.drive / "file")
    value = os.urandom(LONGEST_VALUE - len("user.long"))
    os.setxattr(path, "user.long", value)
    assert os.getxattr(path, "user.long") == value
    with pytest.raises(OSError, match="No space") as all_together:
        os.setxattr(path, "user.more", b"x" * 100)
    with pytest.raises(OSError, match="too long") as one_value:
        os.setxattr(path, "user.more", b"x" * (LONGEST_VALUE + 1))
    assert (all_together.value.errno, one_value.value.errno) == (errno.ENOSPC, errno.E2BIG)
    assert os.listxattr(path) == ["user.long"]
    os.removexattr(path, "user.long")
    os.setxattr(path, "user.more", b"x" * 100)


def test_names_up_to_255_bytes(both: Pair) -> None:
    """[xattr-limits]"""
    both(furnish)
    longest = "user." + "n" * 250
    assert both(lambda root: os.setxattr(root / "file", longest, b"1")) is None
    assert both(lambda root: os.getxattr(root / "file", longest)) == b"1"
    assert both(lambda root: os.setxattr(root / "file", longest + "n", b"1")) == Refused("ERANGE")
    assert both(lambda root: os.setxattr(root / "file", "user.", b"1")) == Refused("EINVAL")


def test_list_names_each_attribute_once(both: Pair) -> None:
    """[xattr-list]"""

    def work(root: Path) -> list[str]:
        furnish(root)
        for number in range(60):
            os.setxattr(root / "file", f"user.{number % 40}", b"%d" % number)
        for number in range(10):
            os.removexattr(root / "file", f"user.{number}")
        return sorted(os.listxattr(root / "file"))

    assert both(work) == sorted(f"user.{number}" for number in range(10, 40))
    both.assert_same_tree()


def test_namespaces(both: Pair) -> None:
    """[xattr-kinds]"""

    def work(root: Path) -> None:
        furnish(root)
        (root / "link").symlink_to("file")
        os.mkfifo(root / "fifo")

    both(work)
    for name in ("link", "fifo"):
        refused = both(lambda root, name=name: os.setxattr(root / name, "user.x", b"1", follow_symlinks=False))
        assert refused == Refused("EPERM")
    assert both(lambda root: os.setxattr(root / "file", "nonsense.x", b"1")) == Refused("ENOTSUP")
    assert both(lambda root: os.setxattr(root / "file", "x", b"1")) == Refused("ENOTSUP")


@pytest.mark.needs_root
def test_privileged_namespaces(both: Pair) -> None:
    """[xattr-privileged]"""

    def work(root: Path) -> tuple[list[str], bytes, bytes]:
        furnish(root)
        os.setxattr(root / "file", "trusted.x", b"1")
        os.setxattr(root / "directory", "trusted.overlay.opaque", b"y")
        os.setxattr(root / "file", "security.selinux", b"label")
        return (
            sorted(os.listxattr(root / "file")),
            os.getxattr(root / "file", "trusted.x"),
            os.getxattr(root / "directory", "trusted.overlay.opaque"),
        )

    assert both(work) == (["security.selinux", "trusted.x"], b"1", b"y")


def test_access_lists_are_refused(both: Pair) -> None:
    """[no-acl]"""
    path = write_file(both.drive / "file")
    acl = bytes.fromhex("0200000001000600ffffffff04000400ffffffff20000400ffffffff")
    with pytest.raises(OSError, match="not supported") as refused:
        os.setxattr(path, "system.posix_acl_access", acl)
    assert refused.value.errno == errno.EOPNOTSUPP
    with pytest.raises(OSError, match="not supported"):
        os.getxattr(path, "system.posix_acl_access")
