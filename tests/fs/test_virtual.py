"""The `.drivefs` directory: there, not listed, and not to be changed."""

import json
import os

import pytest

from drivefs.fs import errors, virtual
from drivefs.fs.attributes import Wanted
from drivefs.protocol.model import InodeKind
from tests.fs.bench import ROOT, FsBench


def test_status_can_be_read_and_says_what_is_now(bench: FsBench) -> None:
    directory = bench.lookup(virtual.NAME)
    assert directory is not None
    status = bench.lookup(b"status", directory.inode)
    assert status is not None
    for is_online in (True, False):
        bench.backend.is_online = is_online
        assert json.loads(bench.read(status.inode)) == {"online": is_online}


def test_it_is_not_listed_at_the_root(bench: FsBench) -> None:
    assert bench.names() == set()
    number = bench.fs.open_directory(virtual.DIRECTORY)
    assert [name for name, _, _ in bench.run(bench.fs.read_directory, number, 0)] == [b"status"]
    bench.fs.release_directory(number)


def test_it_is_only_at_the_root(bench: FsBench) -> None:
    assert bench.lookup(virtual.NAME, bench.mkdir(b"directory")) is None


def test_nothing_in_it_can_be_changed(bench: FsBench) -> None:
    status = bench.lookup(b"status", virtual.DIRECTORY)
    assert status is not None
    inode = bench.file(b"file")
    for call in (
        lambda: bench.make(b"file", parent=virtual.DIRECTORY),
        lambda: bench.make(virtual.NAME, InodeKind.DIRECTORY),
        lambda: bench.unlink(b"status", virtual.DIRECTORY),
        lambda: bench.run(bench.fs.rmdir, ROOT, virtual.NAME),
        lambda: bench.rename(b"file", virtual.NAME),
        lambda: bench.run(bench.fs.exchange, (ROOT, b"file"), (ROOT, virtual.NAME)),
        lambda: bench.run(bench.fs.link, status.inode, ROOT, b"link"),
        lambda: bench.run(bench.fs.link, inode, virtual.DIRECTORY, b"link"),
        lambda: bench.fs.set_attributes(status.inode, Wanted(mode=0)),
        lambda: bench.fs.set_xattr(status.inode, b"user.x", b""),
        lambda: bench.open_file(status.inode, os.O_RDWR),
    ):
        with pytest.raises(errors.NotPermitted):
            call()
    assert bench.names() == {b"file"}


def test_what_is_not_there_is_missing(bench: FsBench) -> None:
    assert bench.lookup(b"missing", virtual.DIRECTORY) is None
    with pytest.raises(errors.NoAttribute):
        bench.fs.xattr(virtual.DIRECTORY, b"user.x")
