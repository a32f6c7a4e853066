"""The client against servers that answer, refuse, stall, lie or are not there."""

import json
from collections.abc import Awaitable, Callable

import httpcore
import pytest
import trio

from drivefs.protocol import blocks as codec
from drivefs.protocol import changes, messages, routes, wire
from drivefs.protocol.errors import STATUS, Code
from drivefs.protocol.ids import BlockId, Epoch, Incarnation, InodeId, OpNumber, Seq, WorkspaceId
from drivefs.remote import client, errors, transport
from tests.remote.server import World, http, message, run, says

WORKSPACE = WorkspaceId(5)
USAGE = messages.UsageReply(usage=messages.Usage(), limits=messages.Limits(file_bytes=1, quota_bytes=2))
Scenario = Callable[[World], Awaitable[None]]


def problem(code: str, text: str = "No.", status: int = 0) -> bytes:
    number = status or STATUS[Code(code)]
    return http(wire.encode(messages.Problem(code=code, message=text)), status=f"{number} Refused")


def payloads(*seeds: int, size: int = 1000) -> list[tuple[BlockId, bytes]]:
    plaintexts = [seed.to_bytes(8, "big") * (size // 8) for seed in seeds]
    return [(codec.block_id(each), codec.encode_payload(each, codec.Compression.RAW)) for each in plaintexts]


def in_parts(sent: list[tuple[BlockId, bytes]]) -> list[tuple[BlockId, codec.Parts]]:
    header_bytes = codec.PAYLOAD_HEADER.size
    return [(block, (payload[:header_bytes], memoryview(payload)[header_bytes:])) for block, payload in sent]


def framed(*frames: tuple[BlockId, bytes | None]) -> bytes:
    return b"".join(part for block, payload in frames for part in codec.frame(block, payload))


async def fails(world: World, kind: type[errors.RemoteError], match: str | None = None) -> errors.RemoteError:
    """The call ends in exactly this error."""
    with pytest.raises(kind, match=match) as caught:
        await world.remote.usage()
    assert type(caught.value) is kind
    return caught.value


def test_a_call_says_who_asks_and_gives_the_answer() -> None:
    async def scenario(world: World) -> None:
        assert await world.remote.usage() == USAGE
        head = world.server.requests[0][0].decode().lower()
        assert head.startswith(f"post {routes.USAGE} ")
        assert "authorization: bearer a-token" in head
        assert "accept-encoding: identity" in head
        for _ in range(5):
            await world.remote.usage()
        assert world.server.connection_count <= 6

    run(says(message(USAGE)), scenario)


def test_a_request_carries_its_message() -> None:
    asked = messages.ListRequest(directory=1, after=b"name", limit=7)

    async def scenario(world: World) -> None:
        with pytest.raises(errors.NotDrivefs):
            await world.remote.list_directory(WORKSPACE, asked)
        head, body = world.server.requests[0]
        assert routes.LIST.format(workspace=5).encode() in head
        assert wire.decode(body, messages.ListRequest) == asked
        assert f"{routes.CHECKSUM}: {wire.checksum(body)}".encode() in head

    run(says(message(messages.MissingReply(missing=[]))), scenario)


def shown(world: World) -> list[tuple[str, str]]:
    """Which token or pass each request showed, and where."""
    heads = [head.decode() for head, _ in world.server.requests]
    return [(head.split()[1], head.lower().partition("bearer ")[2].split("\r")[0]) for head in heads]


@pytest.mark.fault(52)
def test_who_is_told_that_a_pass_ran_out_gets_another_and_asks_again() -> None:
    async def scenario(world: World) -> None:
        assert await world.remote.usage() == USAGE
        assert await world.remote.usage() == USAGE
        expected = [(routes.USAGE, "a-token"), (routes.PASS, "a-token"), *[(routes.USAGE, "one")] * 3]
        assert shown(world) == [*expected[:-1], (routes.PASS, "a-token"), (routes.USAGE, "two")]

    expired = problem("pass_expired")
    first, second = (message(messages.PassReply(token=token)) for token in ("one", "two"))
    run(says(expired, first, message(USAGE), expired, second, message(USAGE)), scenario)


@pytest.mark.fault(52)
def test_many_whose_pass_ran_out_together_ask_for_one() -> None:
    count = 5

    async def answer(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
        await trio.sleep(1)  # all of them are on their way at once
        if routes.PASS.encode() in head:
            await stream.send_all(message(messages.PassReply(token="one")))
        else:
            await stream.send_all(message(USAGE) if b"Bearer one" in head else problem("pass_expired"))

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(world.remote.usage)
        assert sorted(shown(world)) == sorted(
            [(routes.PASS, "a-token"), *[(routes.USAGE, "a-token"), (routes.USAGE, "one")] * count]
        )

    run(answer, scenario)


@pytest.mark.fault(52)
def test_blocks_whose_pass_ran_out_on_the_way_are_sent_whole_again() -> None:
    sent = payloads(1, 2)

    async def scenario(world: World) -> None:
        await world.remote.put_blocks(WORKSPACE, in_parts(sent))
        first, _, again = (body for _, body in world.server.requests)
        assert first == again == framed(*sent)

    stored = message(messages.PutReply(stored_count=2))
    run(says(problem("pass_expired"), message(messages.PassReply(token="one")), stored), scenario)


@pytest.mark.parametrize(("answer", "kind"), [("device_revoked", errors.Refused), ("pass_expired", errors.PassExpired)])
def test_who_gets_no_pass_is_told_why(answer: str, kind: type[errors.RemoteError]) -> None:
    async def scenario(world: World) -> None:
        await fails(world, kind)

    run(says(problem("pass_expired"), problem(answer)), scenario)


@pytest.mark.parametrize(
    "code", [code for code in Code if code not in (Code.UNAVAILABLE, Code.INTERNAL, Code.PASS_EXPIRED)]
)
def test_a_refusal_keeps_its_code_and_is_not_tried_again(code: Code) -> None:
    async def scenario(world: World) -> None:
        refused = await fails(world, errors.Refused, "You may not.")
        assert isinstance(refused, errors.Refused)
        assert refused.code is code
        assert len(world.server.requests) == 1

    run(says(problem(code, "You may not.")), scenario)


@pytest.mark.fault(26)
@pytest.mark.parametrize(
    "reply",
    [
        problem("unavailable"),
        problem("internal"),
        http(b"<h1>Bad gateway</h1>", status="502 Bad Gateway", kind="text/html"),
    ],
)
def test_a_server_that_cannot_serve_now_is_tried_again(reply: bytes) -> None:
    async def comes_back(world: World) -> None:
        assert await world.remote.usage() == USAGE
        assert len(world.server.requests) == 3

    async def stays_so(world: World) -> None:
        await fails(world, errors.Offline)
        assert len(world.server.requests) == client.QUICK.attempts

    run(says(reply, reply, message(USAGE)), comes_back)
    run(says(reply), stays_so)


def test_a_code_from_the_future_is_not_misread() -> None:
    async def scenario(world: World) -> None:
        await fails(world, errors.OtherProtocol, "new reason")

    run(says(problem("new_code", "new reason", status=400)), scenario)


@pytest.mark.fault(34)
@pytest.mark.parametrize(
    "reply",
    [
        http(b"<html>Please log in to the hotel's network</html>", kind="text/html"),
        http(b"<html>Please log in</html>", kind="text/html; charset=utf-8"),
        http(b"", kind=""),
        http(b"", status="302 Found", kind="text/html"),
        http(b"<h1>Not found</h1>", status="404 Not Found", kind="text/html"),
        http(b'{"detail": "Not Found"}', status="404 Not Found", kind="application/json"),
        http(wire.encode(USAGE), status="204 No Content"),
    ],
    ids=["portal", "portal with charset", "nothing", "redirect", "foreign 404", "json 404", "foreign 2xx"],
)
def test_whoever_else_answers_is_not_believed(reply: bytes) -> None:
    async def scenario(world: World) -> None:
        await fails(world, errors.NotDrivefs, "not a drivefs server")
        assert len(world.server.requests) == 1

    run(says(reply), scenario)


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", wire.encode([[]] * 1000), wire.encode(messages.PutReply(stored_count=1)), b"\x80"]
)
def test_a_damaged_message_is_not_believed(body: bytes) -> None:
    async def scenario(world: World) -> None:
        await fails(world, errors.NotDrivefs, "damaged")

    run(says(http(body)), scenario)


@pytest.mark.fault(34)
@pytest.mark.parametrize("status", ["200 OK", "409 Refused"])
def test_an_answer_of_which_a_bit_was_changed_on_the_way_is_not_believed(status: str) -> None:
    """It is well-formed, and says another number, or another reason."""
    told = USAGE if status.startswith("200") else messages.Problem(code=Code.CONFLICT, message="No.")
    body = wire.encode(told)
    damaged = body[:-1] + bytes([body[-1] ^ 1])
    reply = http(damaged, status=status, checksum=wire.checksum(body))

    async def scenario(world: World) -> None:
        await fails(world, errors.NotDrivefs, "damaged on the way")

    run(says(reply), scenario)


def test_an_answer_to_what_was_not_sent_is_not_believed() -> None:
    store = changes.Store(n=OpNumber(1), time_ns=1, inode=InodeId(5), base=changes.Base(), size=0, runs=[], mtime_ns=1)
    results = [changes.OpResult(OpNumber(n), changes.Status.OK) for n in (1, 2)]
    head = messages.Cursor(incarnation=Incarnation(1), seq=Seq(7))

    async def scenario(world: World) -> None:
        request = messages.CommitRequest(epoch=Epoch(1), watermark=OpNumber(1), mutations=[store])
        with pytest.raises(errors.NotDrivefs, match="was not sent"):
            await world.remote.commit(WORKSPACE, request)

    run(says(message(messages.CommitReply(results=results, head=head, usage=messages.Usage()))), scenario)


def test_a_damaged_problem_is_not_believed() -> None:
    async def scenario(world: World) -> None:
        await fails(world, errors.NotDrivefs)

    run(says(http(b"\xc1\xc1", status="403 Forbidden")), scenario)


def test_a_reply_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_REPLY_BYTES", 100_000)
    sent = 0

    async def answer(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
        nonlocal sent
        await stream.send_all(f"HTTP/1.1 200 OK\r\ncontent-type: {routes.MSGPACK}\r\n\r\n".encode())
        while sent < 10**7:
            await stream.send_all(bytes(10_000))
            sent += 10_000
            await trio.sleep(0.001)

    async def scenario(world: World) -> None:
        await fails(world, errors.NotDrivefs, "longer")
        assert sent < 10**6

    run(answer, scenario)


async def hang_up(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
    await stream.aclose()


async def stay_silent(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
    await trio.sleep_forever()


async def trickle(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
    await stream.send_all(http(b"", length=10_000))
    while True:
        await stream.send_all(b"x")
        await trio.sleep(5)


async def break_off(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
    await stream.send_all(http(b"begun", length=10_000))
    await stream.aclose()


async def talk_rubbish(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
    await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n" * 3)


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    ("answer", "kind", "seconds"),
    [
        (hang_up, errors.Offline, 1.0),
        (stay_silent, errors.Silent, client.ANSWER_SECONDS),
        (trickle, errors.Silent, client.ANSWER_SECONDS + 5.0),
        (break_off, errors.Offline, 1.0),
        (talk_rubbish, errors.Silent, client.ANSWER_SECONDS),
    ],
)
def test_every_call_ends_within_its_deadline(
    answer: Callable[..., Awaitable[None]], kind: type[errors.Offline], seconds: float
) -> None:
    async def scenario(world: World) -> None:
        began = trio.current_time()
        await fails(world, kind)
        assert trio.current_time() - began <= seconds + 0.001

    run(answer, scenario)


def test_an_answer_that_comes_slowly_is_waited_for() -> None:
    async def dawdle(stream: trio.abc.Stream, head: bytes, request: bytes) -> None:
        whole = message(USAGE)
        await trio.sleep(client.ANSWER_SECONDS * client.PATIENCE_PART - 0.1)
        for start in range(0, len(whole), 10):
            await stream.send_all(whole[start : start + 10])
            await trio.sleep(0.5 if start > 90 else 0.0)

    async def scenario(world: World) -> None:
        assert await world.remote.usage() == USAGE
        assert len(world.server.requests) == 1

    run(dawdle, scenario)


@pytest.mark.fault(30)
def test_a_connection_that_died_without_a_word_costs_a_moment_only() -> None:
    async def answer(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
        if stream in dead:
            await trio.sleep_forever()
        dead.append(stream)
        await stream.send_all(message(USAGE))

    dead: list[trio.abc.Stream] = []

    async def scenario(world: World) -> None:
        assert await world.remote.usage() == USAGE
        began = trio.current_time()
        assert await world.remote.usage() == USAGE
        assert trio.current_time() - began <= client.ANSWER_SECONDS * client.PATIENCE_PART + 0.001
        assert world.server.connection_count == 2

    run(answer, scenario)


@pytest.mark.fault(27)
@pytest.mark.parametrize("answer", [hang_up, stay_silent, break_off])
def test_a_lost_reply_is_asked_for_again(answer: Callable[..., Awaitable[None]]) -> None:
    async def lose_first(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
        seen.append(body)
        await (answer if len(seen) == 1 else says(message(USAGE)))(stream, head, body)

    seen: list[bytes] = []

    async def scenario(world: World) -> None:
        assert await world.remote.usage() == USAGE
        assert len(seen) == 2

    run(lose_first, scenario)


@pytest.mark.parametrize(
    ("fault", "kind", "seconds"),
    [
        (httpcore.ConnectError("refused"), errors.Offline, 1.0),
        (httpcore.ConnectTimeout(), errors.Silent, client.ANSWER_SECONDS),
    ],
)
def test_a_server_that_is_not_there_is_offline_soon(
    fault: Exception, kind: type[errors.Offline], seconds: float
) -> None:
    async def scenario(world: World) -> None:
        world.network.faults = [fault] * 100
        began = trio.current_time()
        await fails(world, kind)
        assert trio.current_time() - began <= seconds
        world.network.faults = [fault]
        assert await world.remote.usage() == USAGE

    run(says(message(USAGE)), scenario)


def test_login_is_tried_once_and_carries_no_token() -> None:
    request = messages.LoginRequest(user="u", password="p", device="d")

    async def scenario(world: World) -> None:
        with pytest.raises(errors.Offline):
            await world.remote.login(request)
        assert len(world.server.requests) == 1
        assert b"authorization" not in world.server.requests[0][0].lower()

    run(hang_up, scenario, token="")


HEALTH = {"service": "drivefs", "protocol": routes.PROTOCOL, "status": "ok"}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (http(json.dumps(HEALTH).encode(), kind="application/json"), None),
        (http(json.dumps({**HEALTH, "more": 1}).encode(), kind="application/json; charset=utf-8"), None),
        (http(json.dumps({**HEALTH, "protocol": 99}).encode(), kind="application/json"), errors.OtherProtocol),
        (http(json.dumps({**HEALTH, "service": "x"}).encode(), kind="application/json"), errors.NotDrivefs),
        (http(b'{"ok": true}', kind="application/json"), errors.NotDrivefs),
        (http(b"ok", kind="application/json"), errors.NotDrivefs),
        (http(b"ok", kind="text/plain"), errors.NotDrivefs),
        (http(b"", status="404 Not Found", kind="text/html"), errors.NotDrivefs),
    ],
)
def test_health_tells_a_drivefs_server_from_anything_else(
    reply: bytes, expected: type[errors.RemoteError] | None
) -> None:
    async def scenario(world: World) -> None:
        if expected is None:
            assert (await world.remote.health()).service == "drivefs"
        else:
            with pytest.raises(errors.RemoteError) as caught:
                await world.remote.health()
            assert type(caught.value) is expected

    run(says(reply), scenario)


def test_a_long_poll_may_take_as_long_as_it_says() -> None:
    async def answer(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
        await trio.sleep(200)
        await stream.send_all(message(messages.ChangesReply(pages=[])))

    async def scenario(world: World) -> None:
        reply = await world.remote.changes(messages.ChangesRequest(cursors=[], wait_seconds=200))
        assert reply.pages == []
        began = trio.current_time()
        with pytest.raises(errors.Offline):
            await world.remote.changes(messages.ChangesRequest(cursors=[], wait_seconds=20))
        assert trio.current_time() - began <= 20 + client.POLL_GRACE_SECONDS + 0.001
        assert len(world.server.requests) == 2

    run(answer, scenario)


def test_many_ids_are_asked_about_in_several_requests() -> None:
    blocks = [BlockId(number.to_bytes(32, "big")) for number in range(messages.MAX_BLOCKS_PER_REQUEST + 10)]

    async def answer(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
        asked = wire.decode(body, messages.MissingRequest).blocks
        await stream.send_all(message(messages.MissingReply(missing=asked[::2])))

    async def scenario(world: World) -> None:
        assert await world.remote.missing(WORKSPACE, blocks) == blocks[::2]
        assert len(world.server.requests) == 2

    run(answer, scenario)


@pytest.mark.parametrize("sizes", [[8], [1000] * 50, [2 * 2**20, 16, 600_000, 16, 16, 300_000]])
def test_blocks_are_sent_as_frames(sizes: list[int]) -> None:
    sent = [each for seed, size in enumerate(sizes) for each in payloads(seed, size=size)]

    async def scenario(world: World) -> None:
        await world.remote.put_blocks(WORKSPACE, in_parts(sent))
        head, body = world.server.requests[0]
        assert body == framed(*sent)
        assert routes.FRAMED.encode() in head
        assert b"transfer-encoding" not in head.lower()

    run(says(message(messages.PutReply(stored_count=len(sizes)))), scenario)


def test_blocks_count_as_sent_only_if_all_were_taken() -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(errors.Offline):
            await world.remote.put_blocks(WORKSPACE, in_parts(payloads(1, 2)))

    run(says(message(messages.PutReply(stored_count=1))), scenario)


def test_an_upload_that_is_refused_before_its_end_says_why() -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(errors.Refused) as caught:
            await world.remote.put_blocks(WORKSPACE, in_parts(payloads(1)))
        assert caught.value.code is Code.OVER_QUOTA

    run(says(problem("over_quota")), scenario)
