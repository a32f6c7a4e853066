"""The `.drivefs` directory: there, not listed, and not to be changed."""

import json
import os

import pytest
import trio

from drivefs.fs import errors, virtual
from drivefs.fs.attributes import Wanted
from drivefs.protocol.ids import InodeId
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
    assert [name for name, _, _ in bench.run(bench.fs.read_directory, number, 0)] == [
        b"status",
        b"conflicts",
        b"revisions",
        b"at",
        b"trash",
    ]
    bench.fs.release_directory(number)


def test_all_in_it_is_for_the_owner_alone(bench: FsBench) -> None:
    """It names files in directories that others, whom `allow_other` lets in, may not look into."""
    number = bench.fs.open_directory(virtual.DIRECTORY)
    shown = {name: state.mode & 0o077 for name, state, _ in bench.run(bench.fs.read_directory, number, 0)}
    assert shown == dict.fromkeys((b"status", b"conflicts", b"revisions", b"at", b"trash"), 0)
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
    with pytest.raises(errors.NotFound):
        bench.lookup(b"missing", virtual.DIRECTORY)
    with pytest.raises(errors.NoAttribute):
        bench.fs.xattr(virtual.DIRECTORY, b"user.x")


def leaf(name: str) -> virtual.Text:
    return virtual.Text(name, name.encode)


def tree(root: virtual.Directory) -> virtual.Virtual:
    """A tree on its own; what is real or past cannot be opened in it."""
    return virtual.Virtual(root, None, lambda inode, flags, caller: 0, 1)  # type: ignore[arg-type]


def test_the_same_node_keeps_its_number_and_others_never_get_it() -> None:
    async def lookup(name: bytes) -> virtual.Item | None:
        return leaf(name.decode())

    async def names() -> virtual.Children:
        return []

    shown = tree(virtual.Directory("root", lookup, names))

    async def number(name: bytes) -> int:
        return (await shown.lookup(virtual.DIRECTORY, name)).inode

    async def main() -> None:
        first = await number(b"a")
        assert first != await number(b"b")
        assert first == await number(b"a") > virtual.FIRST
        seen = {await number(b"%d" % count) for count in range(virtual.MAX_ITEMS)}
        assert len(seen) == virtual.MAX_ITEMS
        with pytest.raises(errors.NotFound):
            shown.inode(InodeId(first))
        assert await number(b"a") not in seen | {first}
        assert shown.inode(virtual.DIRECTORY).kind is InodeKind.DIRECTORY

    trio.run(main)


def test_a_listing_stays_as_it_was_when_reading_began() -> None:
    present = {b"a": leaf("a"), b"b": leaf("b")}
    shown = tree(virtual.fixed("root", present))

    async def main() -> None:
        number = shown.open_directory(virtual.DIRECTORY)
        assert [name for name, _, _ in await shown.read_directory(number, 0)] == [b"a", b"b"]
        present[b"c"] = leaf("c")
        assert [name for name, _, _ in await shown.read_directory(number, 1)] == [b"b"]
        assert [name for name, _, _ in await shown.read_directory(number, 0)] == [b"a", b"b", b"c"]
        shown.release_directory(number)

    trio.run(main)


def test_a_text_stays_the_same_for_a_descriptor(bench: FsBench) -> None:
    status = bench.lookup(b"status", virtual.DIRECTORY)
    assert status is not None
    number = bench.open_file(status.inode, os.O_RDONLY)
    assert number >= virtual.UNSIZED
    before = bench.run(bench.fs.read, number, 0, 100)
    bench.backend.is_online = False
    assert bench.run(bench.fs.read, number, 0, 100) == before
    bench.fs.release(number)
    assert bench.read(status.inode) != before
