"""What was made on the outcome of a refused store: it goes on naming what that store is, or was made on."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from drivefs.protocol.changes import Base, Store, Unlink
from tests.sync.giving_up_world import World, sound


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from sound(tmp_path)


def removed_behind(world: World) -> tuple[Store, Unlink]:
    """An edit that is refused, and the removal behind it, which names its outcome."""
    inode, store = world.edited(b"a", b"before", 0, b"after")
    number = world.bench.open_file(inode)
    world.bench.unlink(b"a")
    (removal,) = world.pending(Unlink, inode)
    assert isinstance(removal, Unlink)
    removal = msgspec.structs.replace(removal, base=Base(revision_op=store.n))
    world.journal.replace(removal)
    world.reject(store)
    world.bench.fs.release(number)
    return store, removal


def test_what_that_was_made_on_when_it_is_given_up(world: World) -> None:
    store, removal = removed_behind(world)
    world.give_up()
    (left,) = world.waiting(removal.inode)
    assert left == msgspec.structs.replace(removal, base=store.base)


def test_its_new_number_when_it_is_made_again(world: World) -> None:
    store, removal = removed_behind(world)
    row = world.journal.get(store.n)
    assert row is not None
    with world.journal.transaction():
        world.amends.again(row, at_end=False)
    (again,) = world.pending(Store, removal.inode)
    assert again.n != store.n
    (left,) = world.pending(Unlink, removal.inode)
    assert left == msgspec.structs.replace(removal, base=Base(revision_op=again.n))
