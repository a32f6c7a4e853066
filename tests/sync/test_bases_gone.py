"""What was written on a content that is not the file's any more: it is known to be gone, and kept in `lost+found`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from drivefs.protocol.changes import SetAttributes
from drivefs.protocol.ids import NO_INODE, InodeId, RevisionNumber, Seq
from drivefs.protocol.messages import Entry
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.remote.errors import BlockGone
from drivefs.sync.publisher import BASE_GONE
from tests.fs.bench import ME
from tests.sync.giving_up_world import World, only, sound


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from sound(tmp_path)


@pytest.mark.parametrize("is_all_gone", [True, False])
def test_what_was_made_on_a_content_that_is_gone_keeps_what_was_written_and_what_can_be_had(
    world: World, monkeypatch: pytest.MonkeyPatch, is_all_gone: bool
) -> None:
    inode = world.published(b"a", b"x" * 100)
    world.write(inode, 10, b"mine")
    world.remote_side.states[inode] = world.bench.fs.inode(inode)
    assert not trio.run(world.giving_up.is_base_gone, inode), "the feed has not told of it yet"
    world.learned(b"a", inode)
    assert not trio.run(world.giving_up.is_base_gone, inode), "it is what the file is"
    world.learned(b"a", inode, revision=2, blocks=b"", size=0)
    world.remote_side.kept.add((inode, RevisionNumber(1)))
    assert not trio.run(world.giving_up.is_base_gone, inode), "the history has it, and its blocks may be found again"
    world.remote_side.kept.clear()
    assert trio.run(world.giving_up.is_base_gone, inode)
    trio.run(world.bench.local.blocks.clear)

    fetch, asked = world.bench.backend.fetch, list[object]()

    async def gone(*wanted: Any, **how: Any) -> None:
        asked.append(wanted)
        if asked[1:] and not is_all_gone:
            return await fetch(*wanted, **how)
        raise BlockGone("the server does not have it any more")

    monkeypatch.setattr(world.bench.backend, "fetch", gone)
    world.giving_up.refused(inode, BASE_GONE)
    world.give_up()
    assert only(world.lost)[1] == bytes(10) + b"mine" + (bytes(86) if is_all_gone else b"x" * 86)
    (note,) = world.giving_up.notes
    assert "the server has let those go" in note
    assert "without what was never on this device" in note
    assert world.bench.fs.inode(inode).size == 0
    assert world.journal.pending_count == world.journal.drafts.count() == 0


def test_a_copy_is_made_on_a_content_of_another_file(world: World) -> None:
    assert trio.run(world.giving_up.is_base_gone, world.bench.file(b"a", b"mine"))


def test_what_a_file_was_is_gone_with_the_file_for_who_never_listed_it(world: World) -> None:
    inode = world.published(b"a", b"x" * 100)
    world.write(inode, 10, b"mine")
    known = world.remote_side.states
    known[inode] = world.bench.fs.inode(inode)
    assert not trio.run(world.giving_up.is_base_gone, inode), "it is what the file is"
    known[inode] = msgspec.structs.replace(known[inode], nlink=0)
    assert trio.run(world.giving_up.is_base_gone, inode), "it is removed, and in the trash"
    del known[inode]
    assert trio.run(world.giving_up.is_base_gone, inode), "it is gone for good"


@pytest.mark.parametrize("is_in_folder", [False, True])
def test_so_is_what_it_was_in_a_share_that_was_left_though_it_is_known_still(world: World, is_in_folder: bool) -> None:
    inode = world.published(b"a", b"x" * 100)
    world.write(inode, 10, b"mine")
    if is_in_folder:
        share = InodeState(inode=InodeId(2**40), kind=InodeKind.DIRECTORY, mode=0o755)
        world.apply([share], {b"share": share.inode})
        entry = Entry(name=b"a", inode=world.bench.fs.inode(inode))
        world.bench.local.replica.apply_listing(share, [entry], Seq(9), complete=True)
        world.journal.forget(Seq(9))
    else:
        world.learned(b"a", inode)
    assert not trio.run(world.giving_up.is_base_gone, inode), "it is what the file is"
    world.apply([], {b"share" if is_in_folder else b"a": NO_INODE})
    assert world.bench.local.replica.inode(inode) is not None
    assert trio.run(world.giving_up.is_base_gone, inode)
    world.giving_up.refused(inode, BASE_GONE)
    world.give_up()
    assert only(world.lost)[1] == b"x" * 10 + b"mine" + b"x" * 86
    assert world.journal.pending_count == world.journal.drafts.count() == 0


@pytest.mark.parametrize("is_open", [False, True])
def test_what_was_written_there_and_not_sent_yet_goes_with_a_mode_that_is_refused(world: World, is_open: bool) -> None:
    """The mode is refused first, and the file is not in the drive any more: its content goes with it, whole."""
    inode = world.published(b"a", b"x" * 100)
    world.learned(b"a", inode)
    number = world.bench.fs.open(inode, os.O_WRONLY, ME)
    world.bench.fs.write(number, 10, b"mine")
    world.chmod(inode, 0o600)
    world.reject(*world.pending(SetAttributes, inode), reason="role")
    world.apply([], {b"a": NO_INODE})
    if is_open:
        world.give_up()
        assert world.lost == {}
        world.bench.fs.write(number, 14, b" too")
    world.bench.fs.release(number)
    world.give_up()
    assert only(world.lost)[1] == b"x" * 10 + (b"mine too" + b"x" * 82 if is_open else b"mine" + b"x" * 86)
    assert world.journal.pending_count == world.journal.drafts.count() == 0
