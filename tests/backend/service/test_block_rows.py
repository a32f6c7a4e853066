"""What the rows of blocks say of them, whatever else is under way."""

import pytest
from sqlalchemy import update

from backend.metadata.schema import BlockState, blocks
from backend.service import block_rows, garbage
from tests.backend.service.drive import Device, Drive

pytestmark = pytest.mark.anyio
LONG_NS = 10**18


def pin_of(device: Device, *, is_proven: bool = False) -> block_rows.Pin:
    return block_rows.Pin(device.caller.account, device.caller.device, 0, LONG_NS, is_proven)


async def test_who_has_sent_a_block_has_sent_it_however_often_it_asks(drive: Drive, laptop: Device) -> None:
    (ref,) = await drive.upload(laptop, b"a")
    account, device = laptop.caller.account, laptop.caller.device
    for is_proven in (True, False):
        await drive.database.write(block_rows.pin_present, pin_of(laptop, is_proven=is_proven), {ref.block})
        assert await drive.database.read(block_rows.proven_blocks, account, device, {ref.block}) == {ref.block}


async def test_what_is_being_deleted_is_neither_given_nor_pinned(drive: Drive, laptop: Device) -> None:
    (ref,) = await drive.upload(laptop, b"a")
    account = laptop.caller.account
    assert set(await drive.database.read(block_rows.places, account, {ref.block})) == {ref.block}
    await drive.execute(update(blocks).values(state=BlockState.DELETING))
    assert await drive.database.read(block_rows.places, account, {ref.block}) == {}
    assert await drive.database.write(block_rows.pin_present, pin_of(laptop), {ref.block}) == set()
    await drive.execute(update(blocks).values(state=BlockState.STORED))


async def test_a_copy_of_an_earlier_life_is_none(drive: Drive, laptop: Device) -> None:
    (ref,) = await drive.upload(laptop, b"a")
    account = laptop.caller.account
    await drive.execute(update(blocks).values(generation=blocks.c.generation + 1))
    assert await drive.database.read(block_rows.places, account, {ref.block}) == {}
    known = await drive.database.read(block_rows.known_blocks, account, {ref.block})
    assert not known[ref.block].is_here
    assert await laptop.say(laptop.store(await laptop.make(b"a"), [ref])) == "needs_blocks"
    await drive.execute(update(blocks).values(generation=blocks.c.generation - 1))


async def test_what_a_revision_names_is_wanted_whatever_else_its_row_says(drive: Drive, laptop: Device) -> None:
    (ref,) = await drive.upload(laptop, b"a")
    account = laptop.caller.account
    now_ns = 5 * LONG_NS
    await drive.execute(update(blocks).values(unreferenced_ns=0))
    assert set(await drive.database.read(garbage._unwanted, account, [ref.block], now_ns)) == {ref.block}
    await drive.execute(update(blocks).values(refs=1))
    assert await drive.database.read(garbage._unwanted, account, [ref.block], now_ns) == {}
    await drive.execute(update(blocks).values(refs=0))
