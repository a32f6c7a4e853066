"""I8: what is pinned is never evicted.

Owns what each device was seen to keep: the blocks that its pins cover, once they are all here. As long as the same
pins cover the same contents in the life of one process, each of them stays. What they cover is worked out from the
sequential tree, as of the device's cursor, while nothing of the device's own waits.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from drivefs.protocol.ids import BlockId
from drivefs.protocol.model import InodeKind, unpack_blocks
from tests.simulation.device import Device
from tests.simulation.sequence import Tree


class _Kept(NamedTuple):
    life: object
    roots: frozenset[int]
    blocks: set[BlockId]
    damaged_count: int
    """How many blocks of the cache did not verify by then."""


@dataclass
class PinnedFiles:
    """What the devices of one run keep."""

    _kept: dict[str, _Kept] = field(default_factory=dict)

    def look_for_evicted(self, device: Device, tree: Tree) -> str | None:
        """What a device should have kept and has not, or None."""
        roots = frozenset(device.local.pins.roots)
        if not roots or device.has_unsent:
            self._kept.pop(device.name, None)
            return None
        covered = covered_blocks(tree, roots)
        here = {block for block in covered if device.local.blocks.contains(block)}
        before = self._kept.get(device.name)
        if before is not None and (before.life, before.roots) != (device.life, roots):
            before = None
        gone = (before.blocks & covered) - here if before is not None else set()
        # What has rotted is dropped as soon as somebody reads it, and is fetched again.
        damaged_count = device.local.blocks.damaged_count
        if before is not None and len(gone) > damaged_count - before.damaged_count:
            return f"{device.name} evicted {len(gone)} blocks of what is pinned: {sorted(roots)}"
        prefetcher = device.drive.prefetcher
        if not prefetcher.is_busy and not prefetcher.lacking_bytes:
            self._kept[device.name] = _Kept(device.life, roots, here, damaged_count)
        return None


def covered_blocks(tree: Tree, roots: frozenset[int]) -> set[BlockId]:
    """The blocks of all files that are pinned, or below something that is."""
    found: set[BlockId] = set()
    for (parent, _), inode in tree.names.items():
        known = tree.inodes[inode]
        if known.kind is InodeKind.FILE and (inode in roots or any(tree.is_below(parent, root) for root in roots)):
            found.update(ref.block for ref in unpack_blocks(known.blocks))
    return found
