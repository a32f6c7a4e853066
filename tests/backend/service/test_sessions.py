"""Sessions: epochs and nonces, id ranges, and what a device is told when it mounts."""

import pytest
from sqlalchemy import select, update

from backend.metadata import schema
from backend.service import ids, sessions
from drivefs.protocol import messages
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import ID_RANGE_LENGTH, Epoch, OpNumber
from tests.backend.service.drive import Device, Drive

pytestmark = pytest.mark.anyio


async def begin(device: Device, epoch: int, last: bytes, following: bytes, *asked: bytes) -> int:
    request = messages.SessionRequest(
        epoch=Epoch(epoch),
        last_nonce=last.ljust(16),
        next_nonce=following.ljust(16),
        asked=[each.ljust(16) for each in asked],
    )
    return (await device.drive.sessions.begin(device.caller, request)).epoch


async def test_a_device_keeps_its_epoch_as_long_as_it_knows_the_nonce(laptop: Device) -> None:
    first = await begin(laptop, 0, b"", b"a")
    assert first > 0
    assert await begin(laptop, first, b"a", b"b") == first
    assert await begin(laptop, first, b"b", b"c") == first


async def test_a_swap_whose_answer_was_lost_may_be_asked_for_again(laptop: Device) -> None:
    first = await begin(laptop, 0, b"", b"a")
    assert await begin(laptop, 0, b"", b"a") == first
    assert await begin(laptop, first, b"a", b"b") == first
    assert await begin(laptop, first, b"a", b"b") == first


@pytest.mark.parametrize("taken", [b"a", b"b", b"c"])
async def test_a_swap_of_which_an_earlier_process_never_heard_is_taken_up(laptop: Device, taken: bytes) -> None:
    first = await begin(laptop, 0, b"", b"a")
    if taken != b"a":
        assert await begin(laptop, first, b"a", taken, *([b"b"] if taken == b"c" else [])) == first
    assert await begin(laptop, first, b"a", b"d", b"b", b"c") == first
    assert await begin(laptop, first, b"d", b"e") == first


@pytest.mark.fault(18)
async def test_of_two_copies_that_never_heard_of_one_swap_only_one_goes_on(laptop: Device) -> None:
    first = await begin(laptop, 0, b"", b"a")
    assert await begin(laptop, first, b"a", b"b") == first
    assert await begin(laptop, first, b"a", b"one", b"b") == first
    assert await begin(laptop, first, b"a", b"two", b"b") not in (0, first)


@pytest.mark.fault(18)
async def test_a_copy_of_a_device_gets_a_new_epoch(laptop: Device) -> None:
    first = await begin(laptop, 0, b"", b"a")
    assert await begin(laptop, first, b"a", b"b") == first
    second = await begin(laptop, first, b"a", b"x")
    assert second not in (0, first)
    assert await begin(laptop, 0, b"", b"y") not in (0, first, second)
    assert await begin(laptop, second, b"y", b"z") not in (0, first, second)


@pytest.mark.fault(18)
async def test_a_copy_takes_nothing_from_the_original(laptop: Device) -> None:
    first = await begin(laptop, 0, b"", b"a")
    second = await begin(laptop, first, b"lost", b"x")
    assert await begin(laptop, first, b"a", b"b") == first
    assert await begin(laptop, second, b"x", b"y") == second
    assert await begin(laptop, first, b"x", b"c") not in (first, second)


async def test_a_new_epoch_that_was_not_heard_of_is_given_again(laptop: Device) -> None:
    first = await begin(laptop, 0, b"", b"a")
    second = await begin(laptop, first, b"lost", b"x")
    assert await begin(laptop, first, b"lost", b"x") == second
    assert await begin(laptop, first, b"lost", b"y", b"x") not in (first, second)  # a copy of it may have


async def test_of_very_many_lives_those_that_mounted_last_are_known(
    laptop: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_LIVES", 3)

    async def mount(epoch: int, last: bytes, following: bytes) -> int:
        laptop.drive.clock.ns += 1
        return await begin(laptop, epoch, last, following)

    first, second, third = [await mount(0, b"", each) for each in (b"a", b"b", b"c")]
    assert await mount(first, b"a", b"d") == first
    fourth = await mount(0, b"", b"e")
    assert await mount(second, b"b", b"f") not in (first, second, third, fourth)
    assert await mount(first, b"d", b"g") == first
    assert await mount(fourth, b"e", b"h") == fourth


@pytest.mark.fault(19)
async def test_a_device_that_knows_of_fewer_batches_than_came_gets_a_new_epoch(laptop: Device) -> None:
    async def begin_knowing(sent: int) -> int:
        nonce = laptop.nonce
        request = messages.SessionRequest(epoch=laptop.epoch, last_nonce=nonce, next_nonce=nonce, sent=sent)
        return (await laptop.drive.sessions.begin(laptop.caller, request)).epoch

    for sent in (1, 3, 2):
        request = messages.CommitRequest(
            epoch=laptop.epoch, watermark=OpNumber(1), sent=sent, mutations=[laptop.create(b"%d" % sent)]
        )
        await laptop.drive.commits.commit(laptop.caller, laptop.drive.workspace, request)
    assert await begin_knowing(4) == await begin_knowing(3) == laptop.epoch
    assert await begin_knowing(2) not in (0, laptop.epoch)


async def test_ranges_are_handed_out_once_and_bound_to_the_epoch(drive: Drive, laptop: Device, phone: Device) -> None:
    request = messages.IdRangesRequest(epoch=laptop.epoch, count=3)
    starts = (await drive.sessions.id_ranges(laptop.caller, request)).starts
    starts += (await drive.sessions.id_ranges(laptop.caller, request)).starts
    request = messages.IdRangesRequest(epoch=phone.epoch)
    starts += (await drive.sessions.id_ranges(phone.caller, request)).starts
    assert len(set(starts)) == 7
    assert all(0 < start < 2**63 and start % ID_RANGE_LENGTH == 0 for start in starts)
    assert not any(start <= drive.root < start + ID_RANGE_LENGTH for start in starts)
    (deployment,) = await drive.fetch(select(schema.deployment))
    assert {start >> 43 for start in starts} == {deployment.incarnation}
    with pytest.raises(ProtocolError) as caught:
        await drive.sessions.id_ranges(laptop.caller, request)
    assert caught.value.code is Code.STALE_EPOCH


async def test_no_user_uses_up_the_ranges_of_all(
    drive: Drive, laptop: Device, phone: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = await drive.stranger()
    monkeypatch.setattr(ids, "MAX_RANGES_OF_USER", len(await drive.fetch(select(schema.id_ranges))))
    for device in (phone, laptop):
        with pytest.raises(ProtocolError) as caught:
            await drive.sessions.id_ranges(device.caller, messages.IdRangesRequest(epoch=device.epoch, count=8))
        assert caught.value.code is Code.FORBIDDEN
    assert (await drive.sessions.id_ranges(stranger.caller, messages.IdRangesRequest(epoch=stranger.epoch))).starts


async def test_no_range_is_one_of_the_next_incarnation(drive: Drive, laptop: Device) -> None:
    await drive.execute(update(schema.deployment).values(next_range=2**ids.RANGE_BITS - 1))
    (start,) = (await drive.sessions.id_ranges(laptop.caller, messages.IdRangesRequest(epoch=laptop.epoch))).starts
    (deployment,) = await drive.fetch(select(schema.deployment))
    assert start >> 43 == deployment.incarnation
    with pytest.raises(ProtocolError) as caught:
        await drive.sessions.id_ranges(laptop.caller, messages.IdRangesRequest(epoch=laptop.epoch))
    assert caught.value.code is Code.UNAVAILABLE


async def test_ids_of_an_epoch_that_has_ended_are_not_used(laptop: Device) -> None:
    old = laptop.create(b"old")
    laptop.epoch = Epoch(0)
    laptop.nonce = b"other" * 4
    await laptop.begin()
    assert await laptop.say(old) == "id_taken inode"
    assert await laptop.say(laptop.create(b"new")) == "ok"


async def test_a_device_is_told_who_and_where_it_is(drive: Drive, laptop: Device) -> None:
    await laptop.save(b"a", b"content")
    reply = await laptop.begin()
    assert (reply.user_name, reply.device_name, reply.device) == ("someone", "device 1", laptop.caller.device)
    (info,) = reply.workspaces
    assert (info.workspace, info.root, info.kind, info.role) == (drive.workspace, drive.root, "home", "owner")
    assert info.head.seq == await laptop.head()
    assert reply.usage == messages.Usage(stored_bytes=7)
    assert reply.limits == messages.Limits(file_bytes=50_000, quota_bytes=100_000)
    await drive.execute(update(schema.accounts).values(quota_bytes=5, file_bytes=4))
    usage = await drive.sessions.usage(laptop.caller)
    assert usage == messages.UsageReply(usage=reply.usage, limits=messages.Limits(file_bytes=4, quota_bytes=5))
