"""Symbolic links that the backend refuses for good: where they lead is kept in `lost+found`, as content is."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivefs.protocol.changes import Create
from drivefs.protocol.model import InodeKind
from tests.sync.giving_up_world import World, sound


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from sound(tmp_path)


def test_links_go_to_lost_and_found_each_under_a_name_of_its_own(world: World) -> None:
    """Two of one name, as in two directories of programs; both lead to nothing."""
    targets = {b"../one", b"../two \xff"}
    for target in targets:
        world.bench.make(b"link", InodeKind.SYMLINK, world.bench.mkdir(target[3:]), target=target)
    world.reject(*world.pending(Create), reason="role")
    world.give_up()
    directory = os.fsencode(world.bench.place / "state/lost+found")
    assert {os.readlink(os.path.join(directory, name)) for name in os.listdir(directory)} == targets
    assert world.journal.pending_count == 0
    assert sum("is now in" in note for note in world.giving_up.notes) == 2


def test_the_same_link_is_kept_once_however_often_it_was_begun(world: World) -> None:
    lost = world.bench.local.lost
    places = [lost.keep_link("link", target) for target in (b"one", b"two", b"two")]
    assert [os.readlink(place) for place in places] == ["two"] * 3
    assert os.listdir(lost.directory) == ["link"]
