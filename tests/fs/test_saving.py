"""A file that is shared by itself, saved by programs that move it aside first: it stays shared, and under its name."""

import os
from collections.abc import Callable
from unittest.mock import Mock

import pytest

from cache.errors import DiskFull
from drivefs.fs import errors, saving
from drivefs.fs.namespace import NewInode
from drivefs.protocol.changes import Rename
from drivefs.protocol.ids import InodeId, WorkspaceId
from drivefs.protocol.messages import Share
from drivefs.protocol.model import InodeKind
from tests.fs.bench import ME, ROOT, FsBench
from tests.fs.test_files import read
from tests.fs.test_replacing import synced_with_the_log

OLD, NEW = b"what was there, and more of it", b"what was saved"


def share(bench: FsBench, inode: InodeId, role: str = "editor") -> None:
    bench.local.shares.told([Share(workspace=WorkspaceId(9), root=inode, role=role)])


@pytest.fixture
def shared(bench: FsBench) -> InodeId:
    """A file that the backend has, shared by itself."""
    inode = bench.file(b"f", OLD)
    bench.publish(inode)
    share(bench, inode)
    return inode


def tree(bench: FsBench) -> dict[bytes, bytes]:
    found = {name: bench.lookup(name) for name in bench.names()}
    return {name: bench.read(state.inode) for name, state in found.items() if state is not None}


def inode_of(bench: FsBench, name: bytes) -> InodeId:
    state = bench.lookup(name)
    assert state is not None
    return state.inode


@pytest.mark.parametrize("aside", [b"f~", b"f.~1~", b"f.12", b"f.bak", b"f.ORIG"])
@pytest.mark.parametrize("is_renamed", [False, True], ids=["created", "renamed"])
def test_under_the_name_of_a_backup_a_copy_stays(
    bench: FsBench, shared: InodeId, aside: bytes, is_renamed: bool
) -> None:
    """It has the times, mode and owners of what it was; the shared file keeps its own mode."""
    before = bench.fs.inode(shared)
    bench.rename(b"f", aside)
    if is_renamed:
        bench.file(b"new", NEW)
        bench.rename(b"new", b"f", replace=False)
    else:
        bench.file(b"f", NEW)
    assert tree(bench) == {b"f": NEW, aside: OLD}
    assert inode_of(bench, b"f") == shared
    copy = bench.lookup(aside)
    assert copy is not None
    assert (copy.mode, copy.uid, copy.gid, copy.mtime_ns) == (before.mode, before.uid, before.gid, before.mtime_ns)
    moves = [(each.name, each.new_name) for each in bench.mutations() if isinstance(each, Rename)]
    assert moves == [(b"f", aside), (aside, b"f")]
    bench.unlink(aside)
    assert tree(bench) == {b"f": NEW}


@pytest.mark.parametrize("aside", [b"g", b"f-shared", b"f.txt", b"f.old.txt", b"old", b"~f"])
def test_under_any_other_name_it_was_moved_until_that_is_removed(bench: FsBench, shared: InodeId, aside: bytes) -> None:
    bench.rename(b"f", aside)
    private = bench.file(b"f", NEW)
    assert (inode_of(bench, aside), inode_of(bench, b"f")) == (shared, private)
    assert tree(bench) == {b"f": NEW, aside: OLD}
    bench.unlink(aside)
    assert (tree(bench), inode_of(bench, b"f")) == ({b"f": NEW}, shared)


def test_in_another_directory_or_long_ago_it_was_moved(
    bench: FsBench, shared: InodeId, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = bench.mkdir(b"elsewhere")
    bench.run(bench.fs.rename, (ROOT, b"f"), (elsewhere, b"f~"))
    bench.file(b"f", NEW)
    assert bench.lookup(b"f~", elsewhere) == bench.fs.inode(shared)
    bench.unlink(b"f")
    bench.run(bench.fs.rename, (elsewhere, b"f~"), (ROOT, b"f"))
    monkeypatch.setattr(saving, "ASIDE_NS", -1)
    bench.rename(b"f", b"f~")
    bench.file(b"f", NEW)
    assert inode_of(bench, b"f~") == shared


def test_a_directory_under_its_name_is_no_save(bench: FsBench, shared: InodeId) -> None:
    bench.rename(b"f", b"f~")
    bench.mkdir(b"f")
    assert inode_of(bench, b"f~") == shared


def test_what_is_open_is_what_was_opened(bench: FsBench, shared: InodeId) -> None:
    """Who has the old file open goes on in what is aside, and who made the new one in what is shared."""
    heard: list[tuple[InodeId, InodeId]] = []
    bench.fs.hear_of_followers(lambda inode, other: heard.append((inode, other)))
    reader, writer = bench.open_file(shared, os.O_RDONLY), bench.open_file(shared, os.O_WRONLY)
    bench.fs.write(writer, 0, b"WHAT")
    bench.rename(b"f", b"f~")
    new = NewInode(parent=ROOT, name=b"f", kind=InodeKind.FILE, mode=0o600)
    state, number = bench.run(bench.fs.create_file, new, os.O_WRONLY | os.O_EXCL, ME)
    assert (state.inode, state.size, heard) == (shared, 0, [(shared, inode_of(bench, b"f~"))])
    # Nothing of it is to be sent before that descriptor is closed.
    assert bench.backend.told(shared)[-1] == "dropped"
    bench.fs.write(writer, 4, b" WAS")
    bench.fs.write(number, 0, NEW)
    assert read(bench, reader) == b"WHAT WAS" + OLD[8:]
    for each in (reader, writer, number):
        bench.fs.release(each)
    assert tree(bench) == {b"f": NEW, b"f~": b"WHAT WAS" + OLD[8:]}
    assert bench.backend.told(shared)[-1] == "closed"


def test_a_move_that_is_taken_back_is_one(bench: FsBench, shared: InodeId) -> None:
    bench.rename(b"f", b"f~")
    bench.rename(b"f~", b"f")
    assert (tree(bench), inode_of(bench, b"f")) == ({b"f": OLD}, shared)
    bench.file(b"f~", NEW)
    assert (tree(bench), inode_of(bench, b"f")) == ({b"f": OLD, b"f~": NEW}, shared)


def test_a_program_that_cannot_write_the_new_one_puts_the_old_one_back(bench: FsBench, shared: InodeId) -> None:
    bench.rename(b"f", b"f~")
    bench.file(b"f", b"part")
    bench.rename(b"f~", b"f")
    assert (tree(bench), inode_of(bench, b"f")) == ({b"f": OLD}, shared)


@pytest.mark.parametrize("is_renamed", [False, True], ids=["created", "renamed"])
def test_who_may_only_read_it_saves_nothing_under_its_name(bench: FsBench, shared: InodeId, is_renamed: bool) -> None:
    share(bench, shared, "viewer")
    bench.rename(b"f", b"f~")
    if is_renamed:
        bench.file(b"new", NEW)
    with pytest.raises(errors.AccessDenied):
        bench.rename(b"new", b"f") if is_renamed else bench.file(b"f", NEW)
    assert tree(bench) == {b"f~": OLD} | ({b"new": NEW} if is_renamed else {})
    bench.rename(b"f~", b"f")
    assert inode_of(bench, b"f") == shared


def test_what_is_not_here_and_cannot_be_had_is_as_it_was_moved(bench: FsBench, shared: InodeId) -> None:
    bench.run(bench.local.blocks.clear)
    bench.reopen()
    bench.backend.is_online = False
    bench.rename(b"f", b"f~")
    bench.file(b"f", NEW)
    bench.backend.is_online = True
    assert (tree(bench), inode_of(bench, b"f~")) == ({b"f": NEW, b"f~": OLD}, shared)


def test_one_that_changes_while_its_content_is_fetched_is_copied_as_it_is_then(bench: FsBench, shared: InodeId) -> None:
    bench.run(bench.local.blocks.clear)
    bench.reopen()
    bench.rename(b"f", b"f~")

    def write() -> None:
        number = bench.open_file(shared)
        bench.fs.write(number, 0, b"WHAT")
        bench.fs.release(number)

    bench.backend.during = write
    bench.file(b"f", NEW)
    assert tree(bench) == {b"f": NEW, b"f~": b"WHAT" + OLD[4:]}


@pytest.mark.parametrize("step", ["make_like", "copy"])
def test_where_there_is_no_room_for_the_copy_it_was_moved(
    bench: FsBench, shared: InodeId, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    held = bench.open_file(shared, os.O_RDONLY)
    bench.rename(b"f", b"f~")
    place = bench.fs._saving._names if step == "make_like" else bench.fs._saving._files
    with monkeypatch.context() as full:
        full.setattr(place, step, Mock(side_effect=DiskFull("no room")))
        bench.file(b"f", NEW)
    assert (tree(bench), inode_of(bench, b"f~"), read(bench, held)) == ({b"f": NEW, b"f~": OLD}, shared, OLD)
    bench.unlink(b"f")
    bench.file(b"f", NEW)
    assert (tree(bench), inode_of(bench, b"f"), read(bench, held)) == ({b"f": NEW, b"f~": OLD}, shared, OLD)
    bench.fs.release(held)


@pytest.mark.fault(1)
def test_killed_after_each_step_of_a_save_it_has_both_contents_or_the_old_one(bench: FsBench, shared: InodeId) -> None:
    """The new content may lack what was not written yet."""
    new = NewInode(parent=ROOT, name=b"f", kind=InodeKind.FILE, mode=0o644)

    def moved() -> None:
        bench.rename(b"f", b"f~")

    def made() -> int:
        moved()
        return bench.run(bench.fs.create_file, new, os.O_WRONLY, ME)[1]

    def written() -> int:
        number = made()
        bench.fs.write(number, 0, NEW)
        return number

    def removed() -> None:
        bench.fs.release(written())
        bench.unlink(b"f~")

    steps: list[tuple[Callable[[], object], dict[bytes, bytes]]] = [
        (moved, {b"f~": OLD}),
        (made, {b"f": b"", b"f~": OLD}),
        (written, {b"f": NEW, b"f~": OLD}),
        (removed, {b"f": NEW}),
    ]
    for step, expected in steps:
        step()
        bench.reopen()
        assert tree(bench) == expected
        assert shared in (inode_of(bench, name) for name in expected)
        # As it was at first, for the next step.
        if b"f~" in expected:
            bench.rename(b"f~", b"f")
        assert inode_of(bench, b"f") == shared


@pytest.mark.fault(2)
def test_the_copy_is_durable_before_the_log_lets_go_of_the_old_content(
    bench: FsBench, shared: InodeId, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = bench.open_file(shared)
    bench.fs.write(number, 0, b"x" * 100_000)
    bench.fs.release(number)
    bench.run(bench.local.barrier)
    before = set(bench.local.staging.paths())
    bench.rename(b"f", b"f~")
    new = NewInode(parent=ROOT, name=b"f", kind=InodeKind.FILE, mode=0o644)
    _, number = bench.run(bench.fs.create_file, new, os.O_WRONLY, ME)
    (copy,) = set(bench.local.staging.paths()) - before
    assert synced_with_the_log(bench, monkeypatch) == [copy.name, "staging"]
    bench.fs.release(number)


def test_a_shared_file_does_not_become_the_content_of_another_one(bench: FsBench, shared: InodeId) -> None:
    """Its own members would have nothing any more."""
    other = bench.file(b"other", NEW)
    bench.publish(other)
    shares = [Share(workspace=WorkspaceId(9 + at), root=each, role="editor") for at, each in enumerate((shared, other))]
    bench.local.shares.told(shares)
    with pytest.raises(errors.Busy):
        bench.rename(b"other", b"f")
    assert tree(bench) == {b"f": OLD, b"other": NEW}


class TestOverIt:
    """What is renamed over a shared file becomes its content, whole, or nothing happens."""

    @pytest.fixture
    def new(self, bench: FsBench, shared: InodeId) -> InodeId:
        return bench.file(b"new", NEW)

    def test_as_it_is_once_it_was_fetched(self, bench: FsBench, shared: InodeId, new: InodeId) -> None:
        bench.publish(new)
        bench.run(bench.local.blocks.clear)
        bench.reopen()

        def write() -> None:
            number = bench.open_file(new)
            bench.fs.write(number, 0, b"WHAT")
            bench.fs.release(number)

        bench.backend.during = write
        bench.rename(b"new", b"f")
        assert (tree(bench), inode_of(bench, b"f")) == ({b"f": b"WHAT" + NEW[4:]}, shared)

    def test_not_while_it_is_written(self, bench: FsBench, shared: InodeId, new: InodeId) -> None:
        number = bench.open_file(new)
        with pytest.raises(errors.CrossDevice):
            bench.rename(b"new", b"f")
        assert (tree(bench), inode_of(bench, b"f")) == ({b"f": OLD, b"new": NEW}, shared)
        bench.fs.release(number)

    @pytest.mark.usefixtures("new")
    def test_not_where_it_may_only_be_read(self, bench: FsBench, shared: InodeId) -> None:
        share(bench, shared, "viewer")
        with pytest.raises(errors.AccessDenied):
            bench.rename(b"new", b"f")
        assert (tree(bench), inode_of(bench, b"f")) == ({b"f": OLD, b"new": NEW}, shared)

    def test_not_without_room(
        self, bench: FsBench, shared: InodeId, new: InodeId, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = bench.open_file(shared, os.O_RDONLY)
        with monkeypatch.context() as full:
            full.setattr(bench.fs._saving._names, "remove", Mock(side_effect=DiskFull("no room")))
            with pytest.raises(DiskFull):
                bench.rename(b"new", b"f")
        assert (tree(bench), read(bench, held)) == ({b"f": OLD, b"new": NEW}, OLD)
        bench.rename(b"new", b"f")
        assert (tree(bench), inode_of(bench, b"f")) == ({b"f": NEW}, shared)
        bench.fs.release(held)
