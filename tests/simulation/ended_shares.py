"""What devices have of shares that their users are not in any more, which nobody tells them of.

Owns two judgements. Until the commit that takes a share away comes to a device, what is in it may be as that device was
told last: it is given nothing of the share any more, of no earlier commit either. And of a file that was written and
not sent when its share ended, the device has what was written there for sure. The rest may have been in its cache only,
which rots, and has no room on a full disk; the server does not give it any more, since it is not this user's to see.
"""

from collections.abc import Iterable, Mapping

from drivefs.protocol.ids import InodeId, Seq
from tests.simulation.device import Device
from tests.simulation.ledger import Ledger
from tests.simulation.orders import Orders
from tests.simulation.sequence import Tree, shown


def wrong_there(device: Device, orders: Orders, seq: int, untold: Iterable[InodeId]) -> str:
    """What a device has of these inodes that was never so, as far as it had heard; empty: nothing."""
    replica = device.local.replica
    trees = [orders.tree(device.login.workspace, each) for each in map(Seq, range(1, seq + 1))]
    for inode in untold:
        state, names = replica.inode(inode), dict(replica.names(inode))
        earlier = [tree for tree in trees if inode in tree.inodes]
        if state is not None and not any(shown(state) == tree.looks(inode) for tree in earlier):
            return f"{device.name} at {seq} has {shown(state)} of {inode}, which it never was"
        if not any(_fits(names, tree, inode, is_complete=replica.is_complete(inode)) for tree in earlier):
            return f"{device.name} at {seq} has {names} in {inode}, which it never had"
    return ""


def _fits(names: Mapping[bytes, int], tree: Tree, directory: int, *, is_complete: bool) -> bool:
    there = tree.listed(directory)
    return names == there or (not is_complete and names.items() <= there.items())


def kept_in_part(
    missing: Iterable[bytes], device: Device, orders: Orders, ledger: Ledger, contents: Mapping[bytes, bytes]
) -> set[bytes]:
    """Those contents of a device of which all that was written there is in its `lost+found`, since a share ended."""
    left = orders.ever_left(device.login.workspace)
    of_shares = {packed for (inode, _), packed in orders.sequence.stored.items() if inode in left}
    bases = {contents[packed] for packed in of_shares if packed in contents}
    parts = [path.read_bytes() for path in device.lost_and_found()]
    return {
        content
        for content in missing
        if ledger.is_by(device.name, content)
        for base in bases
        if ledger.led_to(base, content) and any(is_without(part, content, base) for part in parts)
    }


def is_without(part: bytes, content: bytes, base: bytes) -> bool:
    """Whether these are a content, with zeros where it is as what it was made on."""
    return (
        len(part) == len(content)
        and any(part)
        and all(
            here == there or (not here and there == before)
            for here, there, before in zip(part, content, base[: len(content)].ljust(len(content), b"\0"), strict=True)
        )
    )
