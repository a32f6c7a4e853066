"""Held removals that are taken back: a file is again what it was, whatever was pending about it."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from cache.check import check
from drivefs.fs.attributes import Wanted
from drivefs.protocol.changes import Unlink
from drivefs.protocol.ids import InodeId, Seq
from drivefs.sync.contents import Shown
from drivefs.sync.restoring import Restoring
from tests.fs.bench import ROOT, FsBench

OLD = b"old"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[FsBench]:
    """A file system over a fresh journal; what it leaves is checked."""
    bench = FsBench(tmp_path)
    yield bench
    bench.close()
    assert check(tmp_path / "state", tmp_path / "cache") == []


def restore(bench: FsBench) -> list[InodeId]:
    """Take all removals back that wait; gives the files that are offered to be sent."""
    offered: list[InodeId] = []
    held = [change.n for change in bench.mutations() if isinstance(change, Unlink)]
    guard: Any = SimpleNamespace(
        last_held=lambda step: [held.pop()] if held else [], dealt_with=lambda n, inode: None, keep=lambda: None
    )
    invalidator: Any = SimpleNamespace(inode=lambda *args, **options: None, entry=lambda *args: None)
    shown = Shown(bench.fs, invalidator)
    trio.run(Restoring(bench.local, guard, shown, offered.append, bench.fs.contents).restore)
    return offered


def known(bench: FsBench) -> InodeId:
    """A file that the backend has; nothing of it is in the journal."""
    inode = bench.file(b"file", OLD)
    bench.publish(inode)
    state, replica = bench.fs.inode(inode), bench.local.replica
    replica.put_inodes([state], Seq(1000))
    replica.database.write("INSERT INTO dentries VALUES (?, ?, ?, 1000)", (ROOT, b"file", inode))
    bench.local.journal.forget(Seq(1000))
    bench.fs.forget_cached([inode], [(ROOT, b"file")])
    return inode


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_file_that_was_changed_before_is_whole(bench: FsBench, *, is_kept: bool) -> None:
    if is_kept:
        bench.fs.contents.await_forgetting()
    inode = known(bench)
    bench.fs.set_attributes(inode, Wanted(mode=0o600))
    number = bench.open_file(inode)
    bench.fs.write(number, 0, b"much longer")
    bench.fs.release(number)
    bench.unlink(b"file")
    assert restore(bench) == ([inode] if is_kept else [])
    found = bench.lookup(b"file")
    assert found is not None
    assert found.nlink == 1
    expected = b"much longer" if is_kept else OLD
    assert (found.size, bench.read(inode)) == (len(expected), expected)


@pytest.mark.parametrize("is_written", [False, True])
def test_what_was_written_before_is_sent_where_nobody_is_to_close_it(bench: FsBench, *, is_written: bool) -> None:
    inode = known(bench)
    number, other = bench.open_file(inode), bench.open_file(inode, os.O_RDWR if is_written else os.O_RDONLY)
    bench.fs.write(number, 0, b"much longer")
    bench.unlink(b"file")
    bench.fs.release(number)
    assert restore(bench) == ([] if is_written else [inode])
    bench.fs.release(other)
    assert bench.read(inode) == b"much longer"


def test_there_is_no_moment_in_which_what_was_written_has_neither_a_name_nor_a_removal(bench: FsBench) -> None:
    bench.fs.contents.await_forgetting()
    inode = known(bench)
    number = bench.open_file(inode)
    bench.fs.write(number, 0, b"much longer")
    bench.fs.release(number)
    bench.unlink(b"file")
    journal, seen = bench.local.journal, []

    def look() -> None:
        state = journal.overlay.inode(inode)
        removals = [row for row in journal.touching(inode) if isinstance(row.mutation, Unlink)]
        seen.append((state.nlink if state is not None else None, len(removals)))
        committed()

    committed, bench.local._database.on_committed = bench.local._database.on_committed, look
    restore(bench)
    assert set(seen) == {(1, 0)}
