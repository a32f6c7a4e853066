"""What a file was made on is gone for good: that keeps back this file, and nothing else of the device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drivefs.fs.snapshots import Snapshot
from drivefs.protocol.changes import OpResult, Status, Store
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import BlockId, InodeId
from drivefs.protocol.model import BlockRef, unpack_blocks
from drivefs.remote.errors import BlockGone, BlockLost, Refused, RemoteError
from drivefs.sync.nowhere import MISSED_SECONDS, Nowhere
from drivefs.sync.publisher import BASE_GONE
from tests.sync.fleet import Device, sailing

LOST = BlockGone("the server does not have it any more")
UNKNOWN = Refused(ProtocolError(Code.NOT_FOUND, "there is no such revision"))


async def publish(device: Device) -> None:
    device.publications.forced(device.local.journal.drafts.draft_inodes())
    async with trio.open_nursery() as nursery:
        await device.publisher.publish_due(nursery, lambda error: None)


async def publish_without(device: Device, lost: InodeId, error: RemoteError = LOST) -> None:
    """Publish all, while the base of one file cannot be had."""
    uploader = device.publisher._uploader
    store = uploader.store_small

    async def store_small(snapshots: Sequence[Any], *turn: Any) -> list[list[BlockRef]]:
        if any(snapshot.inode == lost for snapshot in snapshots):
            raise error
        return await store(snapshots, *turn)

    uploader.store_small = store_small  # type: ignore[method-assign]
    await publish(device)
    uploader.store_small = store  # type: ignore[method-assign]


async def publish_unlisted(device: Device, lost: InodeId, error: RemoteError) -> None:
    """Publish all, while it cannot be had which blocks the base of one file has."""
    contents = device.fs.contents
    snapshot = contents.snapshot

    async def known(inode: InodeId) -> Any:
        if inode == lost:
            raise error
        return await snapshot(inode)

    contents.snapshot = known  # type: ignore[method-assign]
    await publish(device)
    contents.snapshot = snapshot  # type: ignore[method-assign]


def stored(device: Device) -> dict[InodeId, bool]:
    """The files that are not published, and of which there is a store."""
    drafts = device.local.journal.drafts
    return {inode: bool(draft.frozen_op) for inode in drafts.draft_inodes() if (draft := drafts.draft(inode))}


def test_a_file_whose_base_is_gone_keeps_no_other_file_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (_, (anna, _bert)):
            for name in ("lost", "one", "other"):
                await anna.write(name, b"of anna")
            lost = (await anna.known("lost")).inode
            await publish_without(anna, lost)
            found = stored(anna)
            assert found.pop(lost) is False
            assert list(found.values()) == [True, True]

    trio.run(main)


@pytest.mark.parametrize("error", [LOST, UNKNOWN])
def test_nor_does_one_of_which_not_even_the_blocks_are_known(tmp_path: Path, error: RemoteError) -> None:
    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (_, (anna, _bert)):
            for name in ("lost", "one", "other"):
                await anna.write(name, b"of anna")
            lost = (await anna.known("lost")).inode
            await publish_unlisted(anna, lost, error)
            found = stored(anna)
            assert found.pop(lost) is False
            assert list(found.values()) == [True, True]

    trio.run(main)


@pytest.mark.parametrize(
    ("error", "is_old", "is_gone"),
    [
        (LOST, False, False),
        (LOST, True, True),
        (BlockLost("block 0 arrives damaged."), True, False),
        (UNKNOWN, False, False),
        (UNKNOWN, True, True),
    ],
)
def test_it_is_given_up_if_it_is_gone_and_not_what_the_file_is_now(
    tmp_path: Path, error: RemoteError, is_old: bool, is_gone: bool
) -> None:
    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (_, (anna, _bert)):
            await anna.write("lost", b"of anna")
            lost, refused = (await anna.known("lost")).inode, list[tuple[InodeId, str]]()

            async def known(inode: InodeId) -> bool:
                return is_old

            anna.publisher.is_base_gone = known
            anna.publisher.refused = lambda inode, why: refused.append((inode, why))
            await (publish_unlisted if error is UNKNOWN else publish_without)(anna, lost, error)
            assert refused == ([(lost, BASE_GONE)] if is_gone else [])
            assert anna.publications.is_on_its_way(lost) is not is_gone

    trio.run(main)


def test_people_are_told_of_a_file_that_waits_for_its_base_until_it_is_sent_or_gone(tmp_path: Path) -> None:
    """It is tried again without end, and nothing else would say so."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (_, (anna, _bert)):
            for name, follows in (("removed", anna.unlink), ("sent", lambda name: publish(anna))):
                await anna.write(name, b"of anna")
                inode = (await anna.known(name)).inode
                await publish_without(anna, inode)
                assert list(anna.publisher.kept_back) == [inode]
                assert "nowhere to be had (the server does not have it" in anna.publisher.kept_back[inode]
                await follows(name)
                assert anna.publisher.kept_back == {}

    trio.run(main)


@pytest.mark.parametrize("is_new", [True, False])
def test_a_block_that_the_server_asks_for_is_nowhere_when_only_what_is_on_its_way_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    """The disk lost it in a power cut, and the server has let it go. What the file was, another device may have."""

    async def main() -> None:
        async with sailing(tmp_path, "anna") as (_, (anna,)):
            if not is_new:
                await anna.write("f", b"of old")
                await anna.sync()
                old = unpack_blocks((await anna.known("f")).blocks or b"")[0].block
            await anna.write("f", b"new")
            await publish(anna)
            (store,) = (row.mutation for row in anna.local.journal.unsettled(9) if isinstance(row.mutation, Store))
            own = unpack_blocks(store.new_runs[0])[0].block
            answer = OpResult(n=store.n, status=Status.NEEDS_BLOCKS, blocks=[own])
            anna.publisher.is_nowhere = Nowhere(anna.ends).is_nowhere

            async def resend(lost: BlockId) -> bool:
                async def read(*_: object) -> bytes:
                    raise BlockGone("the server does not have it any more", lost)

                monkeypatch.setattr(Snapshot, "read", read)
                return await anna.publisher.resend(store, answer)

            for lost in [own] if is_new else [own, old]:
                with pytest.raises(BlockGone):
                    await resend(lost)
            await trio.sleep(MISSED_SECONDS)
            assert not await resend(own)
            if not is_new:
                with pytest.raises(BlockGone):
                    await resend(old)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
