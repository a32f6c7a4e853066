"""Pins are kept with the journal: over restarts, beside an older program, and under an inode's new id."""

from cache.database import Database
from cache.pins import Pins
from cache.workspace import LocalState
from drivefs.protocol.ids import Epoch, InodeId
from tests.cache.states import Bench, create


def test_pins_survive_a_restart(bench: Bench, local: LocalState) -> None:
    local.pins.put(InodeId(7), b"photos")
    local.pins.put(InodeId(8), b"music")
    local.pins.put(InodeId(8), b"sounds")
    assert local.pins.remove(InodeId(7))
    assert not local.pins.remove(InodeId(7))
    bench.close(local)
    assert bench.open().pins.roots == {InodeId(8): b"sounds"}


def test_a_row_that_rotted_is_dropped_and_counted(bench: Bench, local: LocalState) -> None:
    local.pins.put(InodeId(7), b"photos")
    local.pins.put(InodeId(8), b"music")
    bench.close(local)
    state, _ = bench.places()
    database = Database(state / "journal.db", cache_kibibytes=100)
    database.write("UPDATE pins SET inode = 9 WHERE inode = 8")
    assert (pins := Pins(database)).roots == {InodeId(7): b"photos"}
    assert pins.damaged_count == 1
    assert Pins(database).damaged_count == 0
    database.close()


def test_a_pinned_inode_that_gets_a_new_id_stays_pinned(local: LocalState) -> None:
    inode, _ = create(local.journal, b"made offline")
    local.pins.put(inode, b"made offline")
    with local.journal.transaction():
        local.journal.begin_epoch(Epoch(5))
        local.journal.add_id_range(InodeId(2**40))
    fresh = local.renumber_creations()
    assert local.pins.roots == {fresh[inode]: b"made offline"}
