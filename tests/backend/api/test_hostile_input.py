"""Whatever arrives is answered within bounds: no failure of ours, nobody else's data, nobody else's data changed.

Owns a server with two accounts. One is attacked from by its own device, by one that is revoked and by nobody in
particular; the other, the victim, never asks for anything. `--hostile-requests` chooses how many requests; a failure
names the seed of the one request that shows it.
"""

import random
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, delete

from backend.metadata import schema
from backend.service.ground import Limits
from drivefs.protocol import blocks as codec
from drivefs.protocol import messages, routes, wire
from drivefs.protocol.errors import Code
from drivefs.protocol.ids import Epoch, InodeId, WorkspaceId
from tests.backend.api.hostile import Hostile, Known, bomb
from tests.backend.api.served import SESSION, Drive, Request, Served, framed, serving
from tests.backend.service import invariants

pytestmark = pytest.mark.anyio
SECRET_NAME, SECRET = b"the victim's diary", b"dear diary, nobody must know " * 20
MOST_KIBIBYTES = 300 * 1024
REPLY_BYTES = 80 * 2**20
ANSWER_SECONDS = 60.0


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def a_drive(served: Served) -> Drive:
    session = (await served.post(routes.SESSION, SESSION)).message(messages.SessionReply)
    ranges = await served.post(routes.ID_RANGES, messages.IdRangesRequest(epoch=Epoch(session.epoch)))
    return Drive(served, session, ranges.message(messages.IdRangesReply).starts[0])


class World:
    """The server, who attacks and who is attacked."""

    def __init__(self, served: Served, victim: Served) -> None:
        self.served = served
        self.victim = victim

    async def prepare(self) -> None:
        mine, theirs = await a_drive(self.served), await a_drive(self.victim)
        for number in range(5):
            await mine.store_file(10 + 2 * number, b"%d" % number, b"mine %d" % number)
            await self.served.put(b"data")
        await theirs.store_file(10, SECRET_NAME, SECRET)
        self.theirs = theirs
        session = (await self.victim.post(routes.SESSION, SESSION)).message(messages.SessionReply)
        self.account = session.workspaces[0].account
        self.untouched = await self.victims_view()
        devices = (await self.victim.post(routes.DEVICES)).message(messages.DevicesReply).devices
        block = codec.block_id(SECRET)
        self.known = Known(
            workspace=self.served.workspace,
            root=mine.root,
            epoch=mine.epoch,
            first_inode=mine.start,
            inodes=[mine.root, *(mine.start + 10 + 2 * number for number in range(5))],  # type: ignore[list-item]
            blocks=[codec.block_id(b"data"), *(codec.block_id(b"mine %d" % number) for number in range(5)), block],
            foreign=[self.victim.workspace, theirs.root, theirs.start + 10, devices[0].device, block, theirs.epoch],
            foreign_workspace=self.victim.workspace,
        )
        gone = await self.served.log_in_as("ann")
        await gone.post(routes.LOGOUT)
        self.tokens = [self.served.token] * 8 + [gone.token, "", "x" * 5000]

    async def victims_view(self) -> list[bytes]:
        request = messages.ListRequest(directory=self.theirs.root)
        seen = [(await self.victim.post(routes.LIST, request)).reply]
        frames = await self.victim.get(codec.block_id(SECRET))
        return [*seen, frames[0].payload or b"", wire.encode(await self.victim.usage())]

    async def send(self, seed: int) -> Request:
        """One hostile request, answered within bounds."""
        chance = random.Random(seed)
        path, body = Hostile(chance, self.known).request()
        pieces = [body] if chance.random() < 0.8 else [body[at : at + 7000] for at in range(0, len(body), 7000)]
        headers = {"content-length": chance.choice(["", "0", "9" * 30, "-1", "x"])} if chance.random() < 0.1 else {}
        request = Request(path, pieces, chance.choice(self.tokens), headers, is_broken_off=chance.random() < 0.05)
        request.address = f"198.51.100.{chance.randrange(256)}"  # who guesses passwords is locked out by address
        request.gone.set()  # whoever polls goes away at once
        with anyio.fail_after(ANSWER_SECONDS):
            await self.served.run(request)
        return request

    def heard(self, request: Request) -> None:
        """A new session may have begun another epoch, without which commits are not even looked at."""
        if request.path == routes.SESSION and request.status == 200:
            self.known.epoch = request.message(messages.SessionReply).epoch

    async def log_in_again(self) -> None:
        """The attacker may have revoked itself."""
        again = await self.served.log_in_as("ann")
        self.served.token = again.token
        session = (await self.served.post(routes.SESSION, SESSION)).message(messages.SessionReply)
        self.known.epoch = session.epoch
        self.tokens = [again.token] * 8 + self.tokens[-3:]


def judge(request: Request) -> None:
    """An answer says nothing of the victim, and what is refused is refused properly."""
    assert request.status < 500 or request.status == 507, (request.status, request.reply)
    assert len(request.reply) < REPLY_BYTES
    assert SECRET_NAME not in request.reply
    if request.status >= 400:
        assert request.problem()
    elif request.path.endswith("blocks/get"):
        reader = codec.FrameReader()
        for frame in reader.feed(request.reply):
            assert frame.payload is None or frame.block != codec.block_id(SECRET), "a block of the victim's"


async def test_hostile_requests_are_answered_within_bounds(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    first, _, last = str(pytestconfig.getoption("--hostile-requests")).partition("-")
    seeds = range(int(first), int(last)) if last else range(int(first))
    statuses: dict[int, int] = {}
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as served:
        await served.services.accounts.add_user("victim", "correct horse")
        world = World(served, await served.log_in_as("victim"))
        await world.prepare()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in seeds:
            try:
                request = await world.send(seed)
                judge(request)
                world.heard(request)
            except Exception as error:
                raise AssertionError(f"--hostile-requests {seed}-{seed + 1}") from error
            statuses[request.status] = statuses.get(request.status, 0) + 1
            if request.status == 401 and (await served.post(routes.USAGE)).status == 401:
                await world.log_in_again()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < MOST_KIBIBYTES, f"{grown} KiB more"
        assert await world.victims_view() == world.untouched
        report = await served.services.checks.check(_quiet)
        assert report.is_sound, report.findings
        await served.ground.database.write(forget_account, world.account)
        await served.ground.database.read(invariants.check)  # it knows of one account only
    if len(seeds) >= 300:
        assert {200, 400, 404, 401} <= statuses.keys(), statuses
    print(statuses)


def forget_account(connection: Connection, account: int) -> None:
    for table in schema.metadata.sorted_tables:
        if "account" in table.c:
            connection.execute(delete(table).where(table.c.account == account))


async def _quiet(_done: int, _total: int) -> None:
    pass


async def test_a_valid_request_of_each_kind_is_valid(tmp_path: Path) -> None:
    """What is mutated has to be right before, or the fuzzer tries nothing."""
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as served:
        await served.services.accounts.add_user("victim", "correct horse")
        world = World(served, await served.log_in_as("victim"))
        await world.prepare()
        hostile = Hostile(random.Random(1), world.known)
        for route, make in hostile._routes():
            message: Any = framed(b"data") if route == routes.PUT_BLOCKS else make()
            reply = await served.post(route, message)
            world.heard(reply)
            expected = {
                routes.REVOKE: 404,
                routes.SHARE: 404,
                routes.UNSHARE: 404,
                routes.ANSWER: 404,
                routes.REVOKE_LINK: 404,
                routes.LOGIN: 401,
            }.get(route, 200)
            assert reply.status == expected, (route, reply.reply)


def test_every_route_that_takes_bytes_is_tried() -> None:
    known = Known(WorkspaceId(1), InodeId(1), Epoch(1), InodeId(2), [InodeId(1)], [], [], WorkspaceId(2))
    tried = {route for route, _ in Hostile(random.Random(1), known)._routes()}
    every = {value for value in vars(routes).values() if isinstance(value, str) and value.startswith("/sync/")}
    assert tried == every


async def test_what_belongs_to_somebody_else_is_as_if_it_did_not_exist(tmp_path: Path) -> None:
    """Each call with another account's ids answers exactly as with ids that nobody has."""
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as served:
        await served.services.accounts.add_user("victim", "correct horse")
        world = World(served, await served.log_in_as("victim"))
        await world.prepare()
        foreign, unknown = replace(served, workspace=world.victim.workspace), replace(served, workspace=12345)
        hostile = Hostile(random.Random(1), world.known)
        for route, make in hostile._routes():
            if "{workspace}" not in route:
                continue
            message: Any = framed(b"data") if route == routes.PUT_BLOCKS else make()
            replies = [await each.post(route, message) for each in (foreign, unknown)]
            assert [reply.problem() for reply in replies] == ["not_found"] * 2, route
            assert replies[0].reply == replies[1].reply, route


@pytest.mark.parametrize(
    "body",
    [
        b"\x81\xa9directory\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x81\xa9directory\xff",
        b"\x81\xa9\xc6irectory\x01",
        b"\x82\xa9directory\x01\xa5as_of\xcf\x80" + bytes(7),
    ],
    ids=["an id of 64 bits", "a negative id", "a name that is no text", "a seq of 64 bits"],
)
async def test_what_the_fuzzer_has_found_is_malformed(tmp_path: Path, body: bytes) -> None:
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as served:
        assert (await served.post(routes.LIST, body)).problem() == Code.MALFORMED


@pytest.mark.parametrize("kind", ["bomb", "nested", "long array", "endless"])
async def test_what_is_meant_to_fill_memory_does_not(tmp_path: Path, kind: str) -> None:
    """[56] Refused with 4xx, and the process has not grown by it."""
    chance = random.Random(7)
    async with serving(tmp_path, Limits(quota_bytes=2**24)) as served:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(20):
            if kind == "bomb":
                payload = b"\1\1" + (2**22).to_bytes(4, "big") + bomb(chance)
                body = b"".join(codec.frame(codec.block_id(b"x"), payload))
                request = await served.post(routes.PUT_BLOCKS, body)
            elif kind == "endless":
                pieces = [b"x" * 2**20] * 70
                request = await served.run(
                    Request(routes.COMMIT.format(workspace=served.workspace), pieces, served.token)
                )
                assert request.taken_count < 10
            else:
                body = {"nested": b"\x91" * 900_000, "long array": b"\x81\xa6blocks\xdd\xff\xff\xff\xff"}[kind]
                request = await served.post(routes.MISSING, body)
            assert 400 <= request.status < 500, request.reply
            assert request.problem() in {Code.MALFORMED, Code.BLOCK_INVALID, Code.TOO_LARGE}
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
