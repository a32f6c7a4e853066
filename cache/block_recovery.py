"""Opens the index of the block cache, and brings it and the files into agreement after a crash or a loss.

Owns nothing but the procedure; it blocks, and runs before anything else uses the cache. On return every file in the
cache's folders has its row. (A row without its file is found out when it is read.)
"""

from cache import block_files, errors
from cache.block_files import ADOPTED, OWN, SEGMENT, Layout
from cache.block_index import BlockIndex, Place, Unit
from cache.database import remove_database
from drivefs.protocol.blocks import MAX_BLOCK_BYTES

BATCH = 500


def open_index(layout: Layout) -> BlockIndex:
    """Open the index; one that is damaged is made anew from the files whose names say what they hold.

    Raises:
        errors.CacheError: not even that is possible (the disk is full, or refuses to be written).
    """
    try:
        index = BlockIndex(layout.index)
        if index.was_closed_in_order:
            return index
        if not index.is_sound():
            index.abandon()
            raise errors.Corrupt("the index of the block cache is damaged")
    except errors.Corrupt:
        remove_database(layout.index)
        index = BlockIndex(layout.index)
    reconcile(layout, index)
    return index


def reconcile(layout: Layout, index: BlockIndex) -> None:
    """Enter the blocks' own files that are not in the index, and remove other files that it does not know."""
    _enter_own_files(layout, index)
    known: dict[int, set[int]] = {OWN: set(), SEGMENT: set(), ADOPTED: set()}
    for page in index.pages_of_units():
        for unit in page:
            known[unit.kind].add(unit.unit if unit.kind == SEGMENT else unit.file)
    for kind in (SEGMENT, ADOPTED):
        for number in block_files.numbered_files(layout, kind):
            if number not in known[kind]:
                block_files.remove(layout.numbered(kind, number))


def _enter_own_files(layout: Layout, index: BlockIndex) -> None:
    found: list[Place] = []
    for block, size in block_files.own_files(layout):
        if not 0 < size <= MAX_BLOCK_BYTES or _lies_elsewhere(index.find(block)):
            block_files.remove(layout.own(block))
        elif index.find(block) is None:
            found.append(Place(block, Unit(index.new_unit(), OWN, 0, 0, size), 0, size, None))
        if len(found) == BATCH:
            index.add(found)
            found = []
    index.add(found)


def _lies_elsewhere(place: Place | None) -> bool:
    return place is not None and place.unit.kind != OWN
