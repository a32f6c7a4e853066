"""The sync API: who comes in, what is refused before it costs anything, and the way of a change from commit to poll."""

from typing import Any

import anyio
import msgpack
import msgspec
import pytest

from backend.api import problems
from backend.api.sync import MAX_LOGIN_BYTES
from backend.service import passwords
from backend.service.caller import Caller
from drivefs.protocol import changes, errors, messages, routes
from drivefs.protocol.ids import InodeId, Seq
from tests.backend.api.served import PASSWORD, SESSION, USER, Drive, Request, Served

pytestmark = pytest.mark.anyio

IN_WORKSPACES = [path for path in vars(routes).values() if isinstance(path, str) and "{workspace}" in path]


async def test_every_code_has_a_status_and_crosses_the_wire(served: Served) -> None:
    for code in errors.Code:
        response = problems.response(errors.ProtocolError(code, "why"))
        assert response.status_code == errors.STATUS[code] >= 400


async def test_wrong_password_and_unknown_user_are_told_the_same(served: Served) -> None:
    wrong, unknown = await served.login(USER, "wrong"), await served.login("nobody", PASSWORD)
    assert wrong.problem() == unknown.problem() == "wrong_password"
    assert wrong.reply == unknown.reply


async def test_device_whose_name_would_act_on_a_terminal_is_refused(served: Served) -> None:
    request = messages.LoginRequest(user=USER, password=PASSWORD, device="laptop\x1b[2J")
    assert (await served.post(routes.LOGIN, request, token="")).problem() == "malformed"


async def test_guessing_is_stopped_by_name_and_the_right_password_then_has_to_wait_too(served: Served) -> None:
    for _ in range(10):
        assert (await served.login(USER, "wrong")).problem() == "wrong_password"
    refused = await served.login(USER, PASSWORD)
    assert refused.problem() == "too_many_attempts"
    assert refused.status == 429
    served.clock.ns += 16 * 60 * 10**9
    assert (await served.login(USER, PASSWORD)).status == 200


async def test_logins_that_succeed_do_not_count_as_guesses(served: Served) -> None:
    for _ in range(12):
        assert (await served.login()).status == 200


async def test_guessing_is_stopped_by_address_over_all_names(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.service.accounts.MAX_ATTEMPTS_BY_ADDRESS", 3)
    for name in ("a", "b", "c"):
        assert (await served.login(name, "wrong")).problem() == "wrong_password"
    assert (await served.login("d", "wrong")).problem() == "too_many_attempts"


async def test_a_refused_login_hashes_nothing(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.service.accounts.MAX_ATTEMPTS_BY_NAME", 0)
    monkeypatch.setattr("backend.service.accounts.MAX_ATTEMPTS_BY_ADDRESS", 1)
    await served.login("x", "wrong")
    monkeypatch.setattr("backend.service.passwords.low_level", None)
    assert (await served.login("x", "wrong")).problem() == "too_many_attempts"


async def test_a_login_of_nobody_is_hashed_as_any_other(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else how long the answer takes would tell who is a user here."""
    hashed, hash_secret = list[bytes](), passwords.low_level.hash_secret

    def counted(secret: bytes, *how: Any) -> bytes:
        hashed.append(secret)
        return hash_secret(secret, *how)

    monkeypatch.setattr(passwords.low_level, "hash_secret", counted)
    assert (await served.login("nobody", PASSWORD)).problem() == "wrong_password"
    assert hashed == [PASSWORD.encode()]


async def test_a_token_that_is_shown_as_something_else_is_none(served: Served) -> None:
    shown = Request(routes.USAGE, [], headers={"Authorization": f"Basic {served.token}"})
    assert (await served.run(shown)).problem() == "unauthenticated"


@pytest.mark.parametrize("token", ["", "nonsense", "ä"])
async def test_without_a_token_nothing_is_to_be_had(served: Served, token: str) -> None:
    for path in (routes.SESSION, routes.USAGE, routes.CHANGES, routes.LOGOUT, *IN_WORKSPACES):
        reply = await served.post(path, SESSION, token=token.encode().decode("latin-1"))
        assert reply.problem() == "unauthenticated"
        assert reply.reply_headers["www-authenticate"]


async def test_a_device_that_logged_out_is_told_that_it_is_revoked(served: Served) -> None:
    assert (await served.post(routes.LOGOUT)).status == 200
    for path in (routes.SESSION, routes.USAGE, routes.CHANGES, *IN_WORKSPACES):
        assert (await served.post(path, SESSION)).problem() == "device_revoked"


async def test_a_token_is_not_in_the_database(served: Served) -> None:
    assert len(served.token) >= 43
    for path in served.data.glob("metadata.db*"):
        assert served.token.encode() not in path.read_bytes()


@pytest.mark.fault(56)
@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"\x00", msgpack.packb({}), msgpack.packb({"blocks": [b"short"]}), msgpack.packb({"next_nonce": 5})],
)
async def test_malformed_messages_are_refused(served: Served, body: bytes) -> None:
    for path in (routes.SESSION, routes.COMMIT, routes.LOGIN):
        assert (await served.post(path, body)).problem() == "malformed"


@pytest.mark.fault(56)
async def test_deep_nesting_is_refused_at_once(served: Served) -> None:
    for path in (routes.COMMIT, routes.CHANGES, routes.MISSING):
        assert (await served.post(path, b"\x91" * 1_000_000)).problem() == "malformed"


async def test_who_is_not_let_in_yet_sends_little(served: Served) -> None:
    assert (await served.login(USER, "x" * MAX_LOGIN_BYTES)).problem() == "too_large"


@pytest.mark.fault(56)
async def test_messages_beyond_their_bound_are_refused_unread(served: Served) -> None:
    for path in (routes.LOGIN, routes.SESSION, routes.COMMIT, routes.CHANGES, routes.MISSING, routes.GET_BLOCKS):
        request = Request(path.format(workspace=served.workspace), [bytes(2**20)] * 64, served.token)
        assert (await served.run(request)).problem() == "too_large"
        assert request.taken_count <= 5


@pytest.mark.fault(57)
@pytest.mark.parametrize("workspace", ["0", "1", str(2**63 - 1), str(2**63), "9" * 30, "-1", "x", "%00", "١"])
async def test_a_workspace_that_is_not_ones_own_is_not_found(served: Served, workspace: str) -> None:
    for path in IN_WORKSPACES:
        listing = messages.ListRequest(directory=InodeId(1))
        reply = await served.post(path.replace("{workspace}", workspace), listing)
        assert reply.problem() in ("not_found", "malformed")
    listed = await served.post(
        routes.LIST.replace("{workspace}", workspace), messages.ListRequest(directory=InodeId(1))
    )
    assert listed.problem() == "not_found"


async def test_addresses_and_methods_that_are_not_are_not_found(served: Served) -> None:
    assert (await served.post("/sync/v1/nothing")).problem() == "not_found"
    assert (await served.run(Request(routes.USAGE, [], served.token, method="GET"))).problem() == "not_found"


async def test_an_error_of_the_server_says_no_more_than_that(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("inner detail")

    monkeypatch.setattr(served.services.sessions, "_figures", fail)
    reply = await served.post(routes.USAGE)
    assert reply.problem() == "internal"
    assert b"inner detail" not in reply.reply


async def test_health_names_the_service_and_the_protocol(served: Served) -> None:
    reply = await served.run(Request(routes.HEALTH, method="GET"))
    assert reply.status == 200
    assert reply.reply_headers["content-type"] == "application/json"
    assert msgspec.json.decode(reply.reply, type=messages.Health).service == "drivefs"


async def test_readiness_ends_when_the_server_is_about_to_stop(served: Served) -> None:
    assert (await served.run(Request("/readyz", method="GET"))).status == 200
    served.services.lifecycle.stop()
    assert (await served.run(Request("/readyz", method="GET"))).status == 503


async def test_what_is_committed_is_listed_and_in_the_feed(served: Served, drive: Drive) -> None:
    reply = await drive.make_directory(1, b"photos")
    assert [result.status for result in reply.results] == [changes.Status.OK]
    listed = await served.post(routes.LIST, messages.ListRequest(directory=drive.root))
    assert [entry.name for entry in listed.message(messages.ListReply).entries] == [b"photos"]
    page = (await served.run(drive.poll(0))).message(messages.ChangesReply).pages[0]
    assert [dentry.name for dentry in page.dentries] == [b"photos"]
    assert page.cursor.seq == Seq(drive.head.seq + 1)


async def test_a_poll_without_news_ends_when_its_wait_runs_out(served: Served, drive: Drive) -> None:
    assert (await served.run(drive.poll(0.05))).message(messages.ChangesReply).pages == []


async def until_listening(served: Served) -> None:
    while not served.services.lifecycle.hub.listener_count():  # noqa: ASYNC110 - the hub tells nobody that it is heard
        await anyio.sleep(0.001)


async def test_a_commit_answers_the_polls_that_wait(served: Served, drive: Drive) -> None:
    poll = drive.poll(300)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.run, poll)
            await until_listening(served)
            await drive.make_directory(1, b"news")
    page = poll.message(messages.ChangesReply).pages[0]
    assert [dentry.name for dentry in page.dentries] == [b"news"]


@pytest.mark.fault(41, 44)
async def test_a_wake_up_that_never_comes_costs_the_poll_its_wait_and_nothing_else(
    served: Served, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever carries wake-ups is down, or the server died between the commit and the wake-up."""
    monkeypatch.setattr(served.services.lifecycle.hub, "wake", lambda *topics: None)
    read, has_looked = served.services.changes.read, anyio.Event()

    async def look(caller: Caller, request: messages.ChangesRequest) -> messages.ChangesReply:
        reply = await read(caller, request)
        has_looked.set()
        return reply

    monkeypatch.setattr(served.services.changes, "read", look)
    poll = drive.poll(2)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.run, poll)
            # Who only listens may still look, and find what is made now.
            await has_looked.wait()
            await drive.make_directory(1, b"news")
    assert poll.message(messages.ChangesReply).pages == []
    page = (await served.run(drive.poll(300))).message(messages.ChangesReply).pages[0]
    assert [dentry.name for dentry in page.dentries] == [b"news"]


async def test_a_stop_answers_the_polls_that_wait_and_those_that_come(served: Served, drive: Drive) -> None:
    poll = drive.poll(300)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.run, poll)
            await until_listening(served)
            served.services.lifecycle.stop()
        assert poll.message(messages.ChangesReply).pages == []
        assert (await served.run(drive.poll(300))).message(messages.ChangesReply).pages == []


async def test_a_poll_whose_device_goes_away_ends_and_leaves_nothing(served: Served, drive: Drive) -> None:
    poll = drive.poll(300)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.run, poll)
            await until_listening(served)
            poll.gone.set()
    assert poll.status == 0
    assert served.services.lifecycle.hub.listener_count() == 0


async def test_revoking_a_device_ends_its_poll(served: Served, drive: Drive) -> None:
    poll = drive.poll(300)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.run, poll)
            await until_listening(served)
            await served.post(routes.LOGOUT)
    assert poll.problem() == "device_revoked"
