"""Downloads of blocks: whole, in pieces, broken off, slow, wrong, and left in the middle."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from drivefs.protocol import blocks as codec
from drivefs.protocol import messages, routes, wire
from drivefs.protocol.ids import BlockId
from drivefs.remote import client, errors
from tests.remote.server import World, http, run, says
from tests.remote.test_client import WORKSPACE, framed, payloads, problem


def blocks_reply(body: bytes, length: int | None = None) -> bytes:
    return http(body, kind=routes.FRAMED, length=length)


async def get(world: World, *blocks: BlockId) -> list[codec.Frame]:
    found: list[codec.Frame] = []

    async def arrived(frames: list[codec.Frame]) -> None:
        found.extend(frames)

    await world.remote.get_blocks(WORKSPACE, blocks, arrived)
    return found


def asked(body: bytes) -> list[BlockId]:
    return wire.decode(body, messages.BlocksRequest).blocks


def test_blocks_arrive_in_the_order_asked_for() -> None:
    sent = payloads(1, 2, 3, size=200_000)

    async def scenario(world: World) -> None:
        assert await get(world, *(block for block, _ in sent)) == sent

    run(says(blocks_reply(framed(*sent))), scenario)


def test_a_block_that_the_backend_lacks_arrives_as_such() -> None:
    (first, _), second = payloads(1, 2)

    async def scenario(world: World) -> None:
        assert await get(world, first, second[0]) == [(first, None), second]

    run(says(blocks_reply(framed((first, None), second))), scenario)


def test_after_a_break_only_what_is_lacking_is_asked_for_again() -> None:
    sent = payloads(*range(10), size=10_000)
    store = dict(sent)
    requests: list[list[BlockId]] = []

    async def answer(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
        requests.append(asked(body))
        whole = framed(*((block, store[block]) for block in requests[-1]))
        if len(requests) < 6:
            await stream.send_all(blocks_reply(whole[:25_000], len(whole)))
            await stream.aclose()
        else:
            await stream.send_all(blocks_reply(whole))

    async def scenario(world: World) -> None:
        assert await get(world, *store) == sent
        assert [len(request) for request in requests] == [10, 8, 6, 4, 2]

    run(answer, scenario)


def test_a_download_that_brings_nothing_ends() -> None:
    ((block, _),) = payloads(1)

    async def scenario(world: World) -> None:
        with pytest.raises(errors.Offline):
            await get(world, block)
        assert len(world.server.requests) == client.FETCH_FAILURES

    run(says(blocks_reply(b"")), scenario)


async def trickle(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
    await stream.send_all(blocks_reply(b"", length=10**6))
    while True:
        await stream.send_all(bytes(1))
        await trio.sleep(5)


async def stay_silent(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
    await stream.send_all(blocks_reply(bytes(10), length=10**6))
    await trio.sleep_forever()


@pytest.mark.parametrize("answer", [trickle, stay_silent])
def test_a_download_that_does_not_get_on_ends(answer: Callable[..., Awaitable[None]]) -> None:
    ((block, _),) = payloads(1)

    async def scenario(world: World) -> None:
        with pytest.raises(errors.Offline):
            await get(world, block)
        assert trio.current_time() < 1000

    run(answer, scenario)


def test_a_slow_download_that_gets_on_is_waited_for() -> None:
    sent = payloads(1, size=2**20)
    whole = framed(*sent)

    async def answer(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
        await stream.send_all(blocks_reply(b"", length=len(whole)))
        for start in range(0, len(whole), 2**16):
            await trio.sleep(4)
            await stream.send_all(whole[start : start + 2**16])

    async def scenario(world: World) -> None:
        assert await get(world, sent[0][0]) == sent
        assert len(world.server.requests) == 1

    run(answer, scenario)


@pytest.mark.parametrize("body", [b"\xff" * 1000, framed(*payloads(99)), framed(*payloads(1, 1)), bytes(36)])
def test_a_body_that_is_none_is_not_believed(body: bytes) -> None:
    ((block, _),) = payloads(1)

    async def scenario(world: World) -> None:
        with pytest.raises(errors.NotDrivefs):
            await get(world, block)

    run(says(blocks_reply(body)), scenario)


@pytest.mark.fault(34)
def test_a_page_in_place_of_blocks_is_not_believed() -> None:
    ((block, _),) = payloads(1)

    async def scenario(world: World) -> None:
        with pytest.raises(errors.NotDrivefs):
            await get(world, block)

    run(says(http(b"<html>", kind="text/html")), scenario)


def test_a_refused_download_says_why() -> None:
    ((block, _),) = payloads(1)

    async def scenario(world: World) -> None:
        with pytest.raises(errors.Refused):
            await get(world, block)
        assert len(world.server.requests) == 1

    run(says(problem("not_found")), scenario)


def test_what_the_receiver_raises_is_passed_on_as_it_is() -> None:
    sent = payloads(1, 2, size=200_000)

    async def arrived(frames: list[codec.Frame]) -> None:
        raise OSError("the receiver's own")

    async def scenario(world: World) -> None:
        with pytest.raises(OSError, match="own"):
            await world.remote.get_blocks(WORKSPACE, [block for block, _ in sent], arrived)
        assert await get(world, *(block for block, _ in sent)) == sent

    run(says(blocks_reply(framed(*sent))), scenario)


def test_a_download_cancelled_by_the_receiver_leaves_a_client_that_works() -> None:
    sent = payloads(1, 2, size=200_000)

    async def scenario(world: World) -> None:
        with trio.CancelScope() as scope:

            async def arrived(frames: list[codec.Frame]) -> None:
                scope.cancel()
                await trio.sleep_forever()

            await world.remote.get_blocks(WORKSPACE, [block for block, _ in sent], arrived)
        assert scope.cancelled_caught
        assert await get(world, *(block for block, _ in sent)) == sent

    run(says(blocks_reply(framed(*sent))), scenario)


def test_time_that_the_receiver_takes_is_not_held_against_the_network() -> None:
    sent = payloads(1, 2, size=200_000)

    async def arrived(frames: list[codec.Frame]) -> None:
        await trio.sleep(10_000)

    async def scenario(world: World) -> None:
        await world.remote.get_blocks(WORKSPACE, [block for block, _ in sent], arrived)
        assert len(world.server.requests) == 1

    run(says(blocks_reply(framed(*sent))), scenario)
