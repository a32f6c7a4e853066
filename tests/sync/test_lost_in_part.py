"""A server was put back, and of what it has lost not all bytes are here: what was made on it goes over nothing.

The numbers of lost revisions are given anew, to what others write then.
"""

from pathlib import Path
from random import Random

import msgspec
import pytest
import trio

from drivefs.fs.errors import Unavailable
from drivefs.protocol import blocks
from drivefs.protocol.ids import InodeId, OpNumber
from drivefs.remote.errors import BlockGone
from tests.sync.fleet import Device, Fleet, sailing
from tests.sync.test_put_back import furnished, send

pytestmark = pytest.mark.fault(40)

LOST = b"0123456789" * 1000
KNOWN = pytest.mark.parametrize("is_known", [True, False])


async def written_since(
    fleet: Fleet, saved: Path, device: Device, contents: dict[str, bytes], *, is_known: bool
) -> None:
    """Nobody has any bytes in the cache, the server is put back, and a device goes on there."""
    for each in fleet.devices:
        await each.local.blocks.clear()
    await fleet.put_back(saved, is_noticed=is_known)
    await device.sync()
    for name, content in contents.items():
        await device.write(name, content)
    await send(device)


async def forget_blocks(device: Device, inode: InodeId) -> None:
    """As if the file were too large to have its block list in its state, and nobody had read it."""
    local = device.local
    state = local.replica.inode(inode)
    assert state is not None
    local.replica.put_inodes([msgspec.structs.replace(state, blocks=None)], state.seq)
    shown = local.journal.overlay.inode(inode)
    assert shown is not None
    with local.journal.transaction():
        local.journal.overlay.put_inode(msgspec.structs.replace(shown, blocks=None), OpNumber(0))
        local.journal.drafts.put_base_blocks(inode, None)
    device.close()
    await device.open()


@KNOWN
@pytest.mark.parametrize("is_heard", [True, False])
def test_a_draft_on_it_goes_beside_what_others_wrote_since(tmp_path: Path, is_known: bool, is_heard: bool) -> None:
    """Its device knows the lost content by the feed, or has sent it itself; the server has the bytes elsewhere."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert", "carl") as (fleet, (anna, bert, carl)):
            saved = await furnished(fleet, anna)
            await (carl if is_heard else bert).write("changed", LOST)
            await (fleet.settle() if is_heard else send(bert))
            await bert.edit("changed", b"bert's")
            await written_since(fleet, saved, anna, {"changed": b"anna's", "other": LOST}, is_known=is_known)
            await bert.pull()
            tree = await fleet.settle()
            assert tree["changed"] == b"anna's"
            assert b"bert's" + LOST[6:] in tree.values()

    trio.run(main)


@KNOWN
def test_it_waits_and_is_no_mixture_where_nobody_knows_the_bytes(tmp_path: Path, is_known: bool) -> None:
    """Neither when it is sent nor when it is read, nor after a restart."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert", "carl") as (fleet, (anna, bert, carl)):
            saved = await furnished(fleet, anna)
            await carl.write("changed", LOST)
            await fleet.settle()
            await bert.edit("changed", b"bert's")
            inode = (await bert.known("changed")).inode
            await forget_blocks(bert, inode)
            await written_since(fleet, saved, anna, {"changed": b"anna's"}, is_known=is_known)
            await bert.pull()
            with pytest.raises(BlockGone):
                await bert.push()
            with pytest.raises(Unavailable):
                await bert.content(inode)
            await bert.restart(keeps_cache=False)
            draft = bert.local.journal.drafts.draft(inode)
            assert draft is not None
            assert draft.base.revision <= 1
            await anna.pull()
            assert (await anna.tree())["changed"] == b"anna's"

    trio.run(main)


@KNOWN
@pytest.mark.parametrize("is_removed", [True, False])
def test_what_was_acknowledged_goes_over_nothing_where_its_number_is_given_anew(
    tmp_path: Path, is_known: bool, is_removed: bool
) -> None:
    """The second of two contents, or a removal of it, after the first one met what another device has written since."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, bert)):
            saved = await furnished(fleet, anna)
            both = Random(1).randbytes(blocks.MAX_BLOCK_BYTES)
            second = both[: blocks.cut(both, final=True)[0]]
            for content in (LOST, second):
                await bert.write("changed", content)
                await send(bert)
            if is_removed:
                await bert.unlink("changed")
            await written_since(fleet, saved, anna, {"changed": both}, is_known=is_known)
            if is_removed:
                await anna.edit("changed", both[:1])
                await send(anna)
            await bert.pull()
            assert (await fleet.settle())["changed"] == both

    trio.run(main)
