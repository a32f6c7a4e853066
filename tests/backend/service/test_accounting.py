"""What takes the room of an account: each block once, where it is needed most."""

import random
import threading

import pytest
import trio
from sqlalchemy import Connection

from backend.metadata.sqlite import MAX_READERS
from backend.service.accounting import Accounting, Figures
from drivefs.protocol.accounting import QuotaReply
from drivefs.protocol.history import EmptyTrashRequest
from drivefs.protocol.ids import AccountId, Seq
from tests.backend.service.drive import Device, Drive

pytestmark = pytest.mark.anyio


async def quota(drive: Drive, device: Device) -> QuotaReply:
    found = await Accounting(drive.ground).quota(device.caller)
    assert found.current_bytes + found.history_bytes + found.trash_bytes == found.stored_bytes
    return found


async def parts(drive: Drive, device: Device) -> tuple[int, int, int]:
    found = await quota(drive, device)
    return found.current_bytes, found.history_bytes, found.trash_bytes


async def test_each_block_counts_once_where_it_is_needed_most(drive: Drive, laptop: Device) -> None:
    assert await parts(drive, laptop) == (0, 0, 0)
    file = await laptop.save(b"doc", b"1", b"22")
    await laptop.write(file, b"22", b"333", base=1)
    assert await parts(drive, laptop) == (5, 1, 0)
    gone = await laptop.save(b"gone", b"4444", b"1")
    await laptop.write(gone, b"55555", b"333", base=1)
    await laptop.send(laptop.unlink(gone, b"gone", base=2))
    assert await parts(drive, laptop) == (5, 1, 9)
    await laptop.save(b"other", b"55555")
    assert await parts(drive, laptop) == (10, 1, 4)
    found = await quota(drive, laptop)
    assert found.logical_bytes == (1 + 2) + (2 + 3) + (4 + 1) + (5 + 3) + 5
    await drive.trash.empty(laptop.caller, drive.workspace, EmptyTrashRequest(until=Seq(2**62)))
    assert await parts(drive, laptop) == (10, 1, 0)


async def test_what_is_counted_once_is_remembered_until_something_changes(drive: Drive, laptop: Device) -> None:
    accounting = Accounting(drive.ground)
    await laptop.save(b"doc", b"1")
    first = await accounting._figures(drive.home.account)
    assert await accounting._figures(drive.home.account) is first
    await laptop.save(b"more", b"22")
    assert (await accounting._figures(drive.home.account)).current_bytes == 3


async def test_counts_leave_connections_to_others_however_many_ask(
    drive: Drive, laptop: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounting, begun, going_on = Accounting(drive.ground), list[int](), threading.Event()

    def long_count(_connection: Connection, account: AccountId) -> Figures:
        begun.append(account)
        assert going_on.wait(60)
        return Figures()

    monkeypatch.setattr("backend.service.accounting.count", long_count)
    async with trio.open_nursery() as asking:
        for _ in range(MAX_READERS):
            asking.start_soon(accounting.quota, laptop.caller)
        try:
            with trio.fail_after(30):
                while not begun:
                    await laptop.head()
                await laptop.head()
        finally:
            going_on.set()
    assert begun == [drive.home.account]


@pytest.mark.parametrize("seed", range(3))
async def test_the_parts_are_the_whole_whatever_happened(drive: Drive, laptop: Device, seed: int) -> None:
    draw, files = random.Random(seed), dict[bytes, int]()
    for step in range(40):
        name = draw.choice([b"a", b"b", b"c"])
        contents = [b"%d" % draw.randrange(30) * 3 for _ in range(draw.randint(0, 3))]
        if name not in files:
            files[name] = await laptop.save(name, *contents)
        elif draw.random() < 0.4:
            await laptop.write(files[name], *contents, base=(await laptop.known(files[name])).revision)
        elif draw.random() < 0.5:
            new = await laptop.save(b"tmp", *contents)
            base = (await laptop.known(files[name])).revision
            await laptop.send(laptop.rename(new, b"tmp", name, replaced=files[name], base=base))
            files[name] = new
        else:
            base = (await laptop.known(files[name])).revision
            await laptop.send(laptop.unlink(files.pop(name), name, base=base))
        if step % 8 == 7:
            await quota(drive, laptop)
