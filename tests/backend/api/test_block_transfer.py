"""Blocks over the API: what is acknowledged is there, whole and sealed; what is wrong is refused, and costs little."""

import random
import struct
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import anyio
import anyio.from_thread
import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from backend.metadata.schema import accounts, pins
from backend.service import block_rows
from backend.service.sealing import SMALL_PAYLOAD_BYTES
from drivefs.protocol import blocks as codec
from drivefs.protocol import messages, routes
from drivefs.protocol.errors import Code
from tests.backend.api.conftest import QUOTA_BYTES
from tests.backend.api.served import USER, Drive, Request, Served, framed

pytestmark = pytest.mark.anyio

LARGE = SMALL_PAYLOAD_BYTES * 3


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


async def test_what_was_put_is_got_back_in_the_order_asked_for(served: Served) -> None:
    plaintexts = [b"small", noise(1, LARGE), b"text " * 100_000, noise(2, codec.MAX_BLOCK_BYTES)]
    reply = (await served.put(*plaintexts)).message(messages.PutReply)
    assert reply.stored_count == 4
    wanted = list(reversed(plaintexts))
    frames = await served.get(*map(codec.block_id, wanted))
    found = [codec.decode_payload(frame.payload or b"", frame.block) for frame in frames]
    assert found == wanted


async def test_missing_names_what_has_to_be_sent_once_each(served: Served) -> None:
    here, absent = codec.block_id(b"here"), codec.block_id(b"absent")
    await served.put(b"here")
    assert await served.missing(absent, here, absent) == [absent]


async def test_small_blocks_of_a_request_share_an_object_and_large_ones_do_not(served: Served) -> None:
    await served.put(*[b"file %d" % number for number in range(200)])
    assert len(served.objects()) == 1
    await served.put(noise(1, LARGE), noise(2, LARGE))
    assert len(served.objects()) == 3


async def test_nothing_of_a_block_can_be_read_in_the_store(served: Served) -> None:
    secret = b"the quick brown fox jumps over the lazy dog"
    await served.put(secret, noise(3, LARGE), compression=codec.Compression.RAW)
    stored = b"".join(path.read_bytes() for path in served.objects())
    assert len(stored) > LARGE
    assert secret not in stored
    assert noise(3, LARGE)[1000:1064] not in stored


async def test_a_block_that_is_not_here_is_said_to_be_so(served: Served) -> None:
    await served.put(b"here")
    frames = await served.get(codec.block_id(b"absent"), codec.block_id(b"here"))
    assert frames[0].payload is None
    assert frames[1].payload is not None


@pytest.mark.fault(47)
async def test_a_poisoned_block_is_refused_and_not_kept(served: Served) -> None:
    body = b"".join(codec.frame(codec.block_id(b"what it says"), codec.encode_payload(b"what it is")))
    reply = await served.post(routes.PUT_BLOCKS, body)
    assert reply.problem() == "block_invalid"
    assert reply.status == 422
    assert await served.missing(codec.block_id(b"what it says")) == [codec.block_id(b"what it says")]
    assert served.objects() == []


@pytest.mark.parametrize("size", [100, LARGE])
async def test_what_comes_with_a_poisoned_block_takes_no_room_unless_it_is_counted(served: Served, size: int) -> None:
    """Else the store could be filled past any quota."""
    good = noise(5, size)
    poisoned = b"".join(codec.frame(codec.block_id(b"what it says"), codec.encode_payload(b"what it is")))
    assert (await served.post(routes.PUT_BLOCKS, framed(good) + poisoned)).problem() == "block_invalid"
    is_counted = (await served.usage()).pinned_bytes == size
    assert len(served.objects()) == is_counted


@pytest.mark.fault(47)
async def test_a_body_that_ends_within_a_block_is_refused_and_what_came_whole_is_kept(served: Served) -> None:
    first, second = noise(1, codec.MAX_BLOCK_BYTES), noise(2, LARGE)
    reply = await served.post(routes.PUT_BLOCKS, framed(first, second)[:-1])
    assert reply.problem() == "block_invalid"
    ids = [codec.block_id(first), codec.block_id(second)]
    assert await served.missing(*ids) == ids[1:]


@pytest.mark.fault(50)
async def test_when_the_connection_breaks_only_the_block_under_way_is_sent_again(served: Served) -> None:
    plaintexts = [noise(seed, LARGE) for seed in range(5)]
    body = framed(*plaintexts)
    path = routes.PUT_BLOCKS.format(workspace=served.workspace)
    pieces = [body[: len(body) // 2], body[len(body) // 2 : -10]]
    request = await served.run(Request(path, pieces, served.token, is_broken_off=True))
    assert request.status == 0
    ids = [codec.block_id(plaintext) for plaintext in plaintexts]
    assert await served.missing(*ids) == ids[-1:]


@pytest.mark.fault(56)
async def test_a_frame_that_promises_too_much_is_refused_before_it_comes(served: Served) -> None:
    header = struct.pack(">32sI", bytes(32), 2**31)
    path = routes.PUT_BLOCKS.format(workspace=served.workspace)
    request = Request(path, [header, *[bytes(2**20)] * 64], served.token)
    assert (await served.run(request)).problem() == "block_invalid"
    assert request.taken_count == 1


async def test_a_body_beyond_the_bound_is_refused_by_what_it_declares_or_by_what_comes(served: Served) -> None:
    path = routes.PUT_BLOCKS.format(workspace=served.workspace)
    declared = Request(path, [b""], served.token, {"content-length": str(2**40)})
    assert (await served.run(declared)).problem() == "too_large"
    assert declared.taken_count == 0
    padding = framed(b"x") * 1000
    endless = Request(path, [padding] * 2000, served.token)
    assert len(padding) * 2000 > messages.MAX_TRANSFER_BYTES
    assert (await served.run(endless)).problem() == "too_large"
    assert endless.taken_count < 2000


async def test_too_many_blocks_in_one_request_are_refused(served: Served) -> None:
    blocks = [b"%d" % number for number in range(messages.MAX_BLOCKS_PER_REQUEST + 1)]
    assert (await served.put(*blocks)).problem() == "too_large"


async def test_a_block_announced_and_not_sent_is_refused(served: Served) -> None:
    body = b"".join(codec.frame(codec.block_id(b"x"), None))
    assert (await served.post(routes.PUT_BLOCKS, body)).problem() == "block_invalid"


@pytest.mark.fault(45)
async def test_the_same_block_twice_is_stored_once_and_counted_once(served: Served) -> None:
    block = noise(4, LARGE)
    reply = (await served.put(block, block)).message(messages.PutReply)
    assert reply.stored_count == 2
    assert (await served.put(block)).status == 200
    assert len(served.objects()) == 1
    assert (await served.usage()).pinned_bytes == LARGE


async def test_two_devices_that_send_one_block_at_once_leave_one_object(served: Served) -> None:
    other = await served.log_in_as("ann")
    block = noise(5, LARGE)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(served.put, block)
        tasks.start_soon(other.put, block)
    assert len(served.objects()) == 1
    assert (await served.usage()).pinned_bytes == LARGE
    assert codec.decode_payload((await other.get(codec.block_id(block)))[0].payload or b"", codec.block_id(block))


@pytest.mark.fault(55)
async def test_an_upload_over_the_quota_is_refused_and_leaves_nothing(served: Served) -> None:
    blocks = [noise(seed, 4 * 2**20) for seed in range(7)]
    assert len(blocks) * 4 * 2**20 > QUOTA_BYTES
    assert (await served.put(*blocks)).problem() == "over_quota"
    assert served.objects() == []
    assert (await served.usage()).pinned_bytes == 0
    assert (await served.put(*blocks[:6])).status == 200
    path = routes.PUT_BLOCKS.format(workspace=served.workspace)
    one_more = Request(path, [framed(b"one byte more")], served.token)
    assert (await served.run(one_more)).problem() == "over_quota"
    assert one_more.taken_count == 0, "a full account takes nothing that it would throw away"


async def test_pins_that_have_run_out_give_their_bytes_back(served: Served) -> None:
    await served.put(noise(1, 2**20), noise(2, 2**20))
    assert (await served.usage()).pinned_bytes == 2 * 2**20
    served.clock.ns += (served.ground.limits.pin_seconds + 1) * 10**9
    await served.put(noise(3, 2**20))
    assert (await served.usage()).pinned_bytes == 2**20
    await served.missing(codec.block_id(noise(1, 2**20)))
    assert (await served.usage()).pinned_bytes == 2 * 2**20


async def test_a_pin_that_has_run_out_takes_no_other_of_the_same_block_along(served: Served) -> None:
    await served.put(b"wanted by two")
    served.clock.ns += served.ground.limits.pin_seconds * 10**9
    phone = await served.log_in_as(USER)
    assert await phone.missing(codec.block_id(b"wanted by two")) == []
    served.clock.ns += 10**9
    await served.put(b"more")
    assert (await served.usage()).pinned_bytes == len(b"wanted by two" + b"more")


async def column(served: Served, which: Any) -> list[Any]:
    """All values of a column."""
    return await served.ground.database.read(lambda connection: list(connection.execute(select(which)).scalars()))


async def test_to_ask_for_a_block_is_not_to_have_sent_it(served: Served) -> None:
    """However often: who has sent one may name it, whosever it is."""
    await served.put(b"here")
    phone, block = await served.log_in_as(USER), codec.block_id(b"here")
    for _ in range(2):
        assert await phone.missing(block) == []
    (account,) = await column(served, accounts.c.account)
    devices = await column(served, pins.c.device)
    assert len(devices) == 2
    database = served.ground.database
    proven = [await database.read(block_rows.proven_blocks, account, device, [block]) for device in devices]
    assert sorted(proven, key=len) == [set(), {block}]


@pytest.mark.fault(57)
async def test_blocks_of_another_account_are_as_if_they_did_not_exist(served: Served) -> None:
    await served.services.accounts.add_user("bob", "correct horse")
    bob = await served.log_in_as("bob")
    await bob.put(b"bob's")
    block = codec.block_id(b"bob's")
    assert await served.missing(block) == [block]
    assert [frame.payload for frame in await served.get(block)] == [None]
    served.workspace = bob.workspace
    foreign = [
        (routes.MISSING, messages.MissingRequest(blocks=[block])),
        (routes.GET_BLOCKS, messages.BlocksRequest(blocks=[block])),
        (routes.PUT_BLOCKS, framed(b"mine")),
    ]
    for path, message in foreign:
        assert (await served.post(path, message)).problem() == "not_found"


@pytest.mark.fault(46)
async def test_a_lost_block_is_not_served_is_asked_for_and_is_healed(served: Served) -> None:
    block = noise(6, LARGE)
    await served.put(block)
    served.objects()[0].unlink()
    assert [frame.payload for frame in await served.get(codec.block_id(block))] == [None]
    assert await served.missing(codec.block_id(block)) == [codec.block_id(block)]
    await served.put(block)
    assert await served.missing(codec.block_id(block)) == []
    assert codec.decode_payload((await served.get(codec.block_id(block)))[0].payload or b"", codec.block_id(block))


async def test_a_block_that_could_not_be_read_for_a_while_is_served_again(served: Served) -> None:
    block = noise(10, LARGE)
    await served.put(block)
    path = served.objects()[0]
    path.rename(served.data / "away")
    assert [frame.payload for frame in await served.get(codec.block_id(block))] == [None]
    assert await served.missing(codec.block_id(block)) == [codec.block_id(block)]
    (served.data / "away").rename(path)
    assert (await served.get(codec.block_id(block)))[0].payload
    assert await served.missing(codec.block_id(block)) == []


async def test_a_block_of_which_there_is_a_newer_copy_is_not_lost(served: Served, drive: Drive) -> None:
    await drive.store_file(10, b"file", b"content")
    await served.ground.database.write(add_lost_copy)
    assert (await served.post(routes.LOST, messages.LostRequest())).message(messages.LostReply).blocks == []


def add_lost_copy(connection: block_rows.Connection) -> None:
    """An earlier copy of the one block that there is, which cannot be read."""
    copies = block_rows.block_copies
    row = connection.execute(copies.select()).one()._asdict()
    connection.execute(copies.insert(), {**row, "generation": 0, "state": block_rows.CopyState.OWED})


async def test_what_has_arrived_is_recorded_though_nobody_waits_for_it_any_more(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, scope = served.ground.store, anyio.CancelScope()
    settle = store.settle

    def settle_and_leave(names: Iterable[str]) -> None:
        settle(names)
        anyio.from_thread.run_sync(scope.cancel)

    monkeypatch.setattr(store, "settle", settle_and_leave)
    with scope:
        await served.put(b"here")
    assert await served.missing(codec.block_id(b"here")) == []
    assert len(served.objects()) == 1


async def test_when_nobody_knows_whether_blocks_were_recorded_their_bytes_stay(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, database = noise(11, LARGE), served.ground.database
    write = database.write

    async def outcome_unknown(work: Any, *args: Any) -> Any:
        result = await write(work, *args)
        if work is block_rows.record:
            raise OperationalError("the connection broke after COMMIT", None, ConnectionError())
        return result

    monkeypatch.setattr(database, "write", outcome_unknown)
    assert (await served.put(block)).problem() == Code.INTERNAL
    monkeypatch.undo()
    assert await served.missing(codec.block_id(block)) == []
    assert (await served.get(codec.block_id(block)))[0].payload


@pytest.mark.parametrize("position", [0, 3, 20, 5000, -1])
async def test_a_damaged_block_is_never_served(served: Served, position: int) -> None:
    block = noise(7, LARGE)
    await served.put(block)
    path = served.objects()[0]
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    assert [frame.payload for frame in await served.get(codec.block_id(block))] == [None]
    assert await served.missing(codec.block_id(block)) == [codec.block_id(block)]


async def test_one_sealed_block_does_not_pass_for_another(served: Served) -> None:
    await served.put(noise(8, LARGE))
    await served.put(noise(9, LARGE))
    first, second = served.objects()
    data = first.read_bytes(), second.read_bytes()
    first.write_bytes(data[1])
    second.write_bytes(data[0])
    frames = await served.get(codec.block_id(noise(8, LARGE)), codec.block_id(noise(9, LARGE)))
    assert [frame.payload for frame in frames] == [None, None]


async def test_a_download_keeps_to_the_bound_of_one_body(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.service.blocks.MAX_TRANSFER_BYTES", 2 * LARGE + 1000)
    blocks = [noise(seed, LARGE) for seed in range(3)]
    await served.put(*blocks)
    frames = await served.get(*map(codec.block_id, blocks))
    assert [frame.block for frame in frames] == [codec.block_id(block) for block in blocks[:2]]


@pytest.mark.fault(45)
async def test_a_store_that_fails_is_told_as_such_and_nothing_is_acknowledged(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_name: str, _parts: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(served.ground.store, "put", fail)
    reply = await served.put(b"x")
    assert reply.problem() == "unavailable"
    assert reply.reply_headers["retry-after"]
    monkeypatch.undo()
    assert await served.missing(codec.block_id(b"x")) == [codec.block_id(b"x")]
    assert (await served.put(b"x")).status == 200


@pytest.mark.fault(45)
async def test_what_the_store_does_not_give_now_is_left_out_and_not_taken_for_lost(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [noise(seed, 2 * LARGE) for seed in range(3)]
    for content in contents:
        await served.put(content)
    ids = [codec.block_id(content) for content in contents]
    real, asked = served.ground.store.get, list[str]()

    def fail_first(name: str, offset: int, length: int) -> bytes:
        asked.append(name)
        if name == asked[0]:
            raise OSError(5, "Input/output error")
        return real(name, offset, length)

    monkeypatch.setattr(served.ground.store, "get", fail_first)
    assert [frame.block for frame in await served.get(*ids)] == ids[1:]
    monkeypatch.undo()
    assert [frame.payload is not None for frame in await served.get(*ids)] == [True, True, True]
    assert await served.missing(*ids) == []


async def test_blocks_are_not_acknowledged_before_their_directory_is_synced(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_names: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(served.ground.store, "settle", fail)
    assert (await served.put(b"x")).problem() == "unavailable"
    assert served.objects() == []
    assert await served.missing(codec.block_id(b"x")) == [codec.block_id(b"x")]


@pytest.mark.fault(49)
async def test_a_block_being_deleted_comes_back_as_a_new_generation(served: Served) -> None:
    await served.put(b"comes back")
    block = codec.block_id(b"comes back")
    await served.ground.database.write(set_state, block, block_rows.BlockState.DELETING)
    assert await served.missing(block) == [block]
    await served.put(b"comes back")
    assert await served.missing(block) == []
    assert codec.decode_payload((await served.get(block))[0].payload or b"", block) == b"comes back"


def test_a_copy_that_is_older_than_what_is_known_is_not_wanted() -> None:
    """It was on its way while the block was deleted, and came back as another."""
    block = codec.block_id(b"here")
    state = block_rows.BlockState.DELETING
    known = block_rows.KnownBlock(block, state, generation=2, size_bytes=4, refs=0, has_copy=True)
    for generation, is_wanted in ((1, False), (2, True), (3, True)):
        place = block_rows.CopyPlace(block, generation, key=1, object="object", offset=0, length=4)
        written = block_rows.StoredBlock(place, size_bytes=4, payload_bytes=4)
        assert block_rows._is_wanted(known, written) is is_wanted


@pytest.mark.fault(49)
async def test_missing_revives_a_condemned_block(served: Served) -> None:
    await served.put(b"condemned")
    block = codec.block_id(b"condemned")
    await served.ground.database.write(set_state, block, block_rows.BlockState.CONDEMNED)
    assert await served.missing(block) == []
    assert await served.ground.database.read(state_of, block) == block_rows.BlockState.STORED


def set_state(connection: block_rows.Connection, block: bytes, state: block_rows.BlockState) -> None:
    rows = block_rows.blocks
    connection.execute(rows.update().where(rows.c.block == block).values(state=state))


def state_of(connection: block_rows.Connection, block: bytes) -> int:
    rows = block_rows.blocks
    state: int = connection.execute(rows.select().where(rows.c.block == block)).one().state
    return state


async def test_what_is_found_of_a_copy_says_nothing_of_the_one_in_its_place(served: Served) -> None:
    """Somebody reads a copy that is damaged, while the block is sent again."""
    await served.put(b"here")
    block, database = codec.block_id(b"here"), served.ground.database
    (account,) = await column(served, accounts.c.account)
    place = (await database.read(block_rows.places, account, [block]))[block]
    for other in (replace(place, object="other"), replace(place, generation=2), replace(place, offset=1)):
        await database.write(block_rows.mark_lost, account, other)
    assert await served.missing(block) == []
    await database.write(block_rows.mark_lost, account, place)
    assert await served.missing(block) == [block]


async def test_a_device_gives_back_the_room_of_what_it_has_sent_but_for_what_it_names(served: Served) -> None:
    blocks = [noise(number, LARGE) for number in (11, 12, 13)]
    await served.put(*blocks)
    ids = [codec.block_id(each) for each in blocks]
    assert (await served.usage()).pinned_bytes == sum(map(len, blocks))
    asked = messages.MissingRequest(blocks=ids[:1], lets_go=True)
    assert (await served.post(routes.MISSING, asked)).message(messages.MissingReply).missing == []
    assert (await served.usage()).pinned_bytes == len(blocks[0])
    assert await served.missing(*ids) == [], "they are still here, and pinned again"
    assert (await served.usage()).pinned_bytes == sum(map(len, blocks))
