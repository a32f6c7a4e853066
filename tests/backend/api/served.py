"""The whole application in this process, over real stores, and a caller that controls each ASGI message.

Owns one data directory, one user and the requests to it; time and randomness are the test's.
"""

import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio

from backend import app
from backend.api.services import Services
from backend.blockstore import sealed
from backend.blockstore.local import LocalStore
from backend.blockstore.store import ObjectStore
from backend.metadata.sqlite import Database
from backend.notify.hub import InProcessHub
from backend.service.ground import Ground, Limits
from backend.service.keys import AccountKeys, MasterKey
from drivefs.protocol import blocks as codec
from drivefs.protocol import changes, messages, model, routes, wire
from drivefs.protocol.ground import Offload
from drivefs.protocol.ids import BlockId, InodeId, OpNumber, RevisionNumber, WorkspaceId
from tests.backend.service.drive import Clock, Random, empty_database, offload

M = TypeVar("M")
USER, PASSWORD = "ann", "correct horse"
NO_WORKSPACE = WorkspaceId(0)
MASTER = MasterKey(bytes(range(32)))


@dataclass
class Request:
    """One request: what is sent, piece by piece, and what came back."""

    path: str
    pieces: Sequence[bytes] = ()
    token: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    address: str = "192.0.2.7"
    is_broken_off: bool = False
    """Whether the connection ends after the pieces, before the body does."""
    gone: anyio.Event = field(default_factory=anyio.Event)
    """Set when the connection ends while the reply is awaited."""
    taken_count: int = 0
    status: int = 0
    reply_headers: dict[str, str] = field(default_factory=dict)
    reply: bytes = b""

    def scope(self) -> dict[str, Any]:
        headers = dict(self.headers)
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": (self.address, 40000),
            "server": ("test", 80),
        }

    async def receive(self) -> dict[str, Any]:
        position, self.taken_count = self.taken_count, self.taken_count + 1
        if position < len(self.pieces):
            more = position + 1 < len(self.pieces) or self.is_broken_off
            return {"type": "http.request", "body": self.pieces[position], "more_body": more}
        if not self.pieces and position == 0 and not self.is_broken_off:
            return {"type": "http.request", "body": b"", "more_body": False}
        if not self.is_broken_off:
            await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.reply_headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        else:
            self.reply += message.get("body", b"")

    def problem(self) -> str:
        """The code of the refusal, which must be well-formed and of the right kind."""
        assert self.status >= 400, f"not refused: {self.status}"
        self._assert_message()
        found = wire.decode(self.reply, messages.Problem)
        assert found.message
        return found.code

    def _assert_message(self) -> None:
        assert self.reply_headers["content-type"] == routes.MSGPACK
        assert self.reply_headers[routes.CHECKSUM] == wire.checksum(self.reply)

    def message(self, kind: type[M]) -> M:
        assert self.status == 200, (self.status, self.reply)
        self._assert_message()
        return wire.decode(self.reply, kind)


@dataclass
class Served:
    """The application and what it stands on."""

    services: Services
    ground: Ground
    clock: Clock
    data: Path
    asgi: Callable[..., Any]
    workspace: WorkspaceId = NO_WORKSPACE
    token: str = ""

    async def run(self, request: Request) -> Request:
        await self.asgi(request.scope(), request.receive, request.send)
        return request

    async def post(self, path: str, message: Any = None, *, token: str | None = None) -> Request:
        """Send a message, as the logged-in device unless told otherwise."""
        body = message if isinstance(message, bytes) else wire.encode(message) if message is not None else b""
        path = path.format(workspace=self.workspace)
        return await self.run(Request(path, [body], self.token if token is None else token))

    async def login(self, user: str = USER, password: str = PASSWORD) -> Request:
        return await self.post(routes.LOGIN, messages.LoginRequest(user=user, password=password, device="d"), token="")

    async def log_in_as(self, user: str) -> "Served":
        """The same server as another user's device sees it."""
        reply: messages.LoginReply | messages.PassReply = (await self.login(user)).message(messages.LoginReply)
        if self.ground.limits.pass_seconds:
            reply = (await self.post(routes.PASS, token=reply.token)).message(messages.PassReply)
        other = Served(self.services, self.ground, self.clock, self.data, self.asgi, token=reply.token)
        session = (await other.post(routes.SESSION, SESSION)).message(messages.SessionReply)
        other.workspace = session.workspaces[0].workspace
        return other

    async def put(self, *plaintexts: bytes, compression: codec.Compression = codec.Compression.AUTO) -> Request:
        return await self.post(routes.PUT_BLOCKS, framed(*plaintexts, compression=compression))

    async def missing(self, *ids: BlockId) -> list[BlockId]:
        reply = await self.post(routes.MISSING, messages.MissingRequest(blocks=list(ids)))
        return reply.message(messages.MissingReply).missing

    async def get(self, *ids: BlockId) -> list[codec.Frame]:
        reply = await self.post(routes.GET_BLOCKS, messages.BlocksRequest(blocks=list(ids)))
        assert reply.status == 200, reply.reply
        assert reply.reply_headers["content-type"] == routes.FRAMED
        reader = codec.FrameReader()
        frames = reader.feed(reply.reply)
        reader.close()
        return frames

    async def usage(self) -> messages.Usage:
        return (await self.post(routes.USAGE)).message(messages.UsageReply).usage

    def objects(self) -> list[Path]:
        return sorted(path for path in (self.data / "blocks" / "objects").rglob("*") if path.is_file())


class Drive:
    """What a device knows of its drive after the first calls."""

    def __init__(self, served: Served, session: messages.SessionReply, start: InodeId) -> None:
        self.served = served
        self.root = session.workspaces[0].root
        self.head = session.workspaces[0].head
        self.epoch = session.epoch
        self.start = start

    async def store_file(self, n: int, name: bytes, content: bytes) -> None:
        """Upload and commit a file of one block."""
        await self.served.put(content)
        store = self._store(n + 1, InodeId(self.start + n), content, base=0)
        reply = await self._commit(n, [self._create(n, name, model.InodeKind.FILE), store])
        assert [result.status for result in reply.results] == [changes.Status.OK] * 2

    async def write_anew(self, n: int, file: int, content: bytes, base: int) -> None:
        """Upload and commit another content of the file that was made as number `file`."""
        await self.served.put(content)
        reply = await self._commit(n, [self._store(n, InodeId(self.start + file), content, base)])
        assert [result.status for result in reply.results] == [changes.Status.OK]

    def _store(self, n: int, inode: InodeId, content: bytes, base: int) -> changes.Store:
        packed = list(model.cut_runs([model.BlockRef(codec.block_id(content), len(content))]))
        return changes.Store(
            n=OpNumber(n),
            time_ns=1,
            inode=inode,
            base=changes.Base(revision=RevisionNumber(base)),
            size=len(content),
            runs=[model.run_id(run) for run in packed],
            new_runs=packed,
            mtime_ns=1,
        )

    async def make_directory(self, n: int, name: bytes) -> messages.CommitReply:
        return await self._commit(n, [self._create(n, name, model.InodeKind.DIRECTORY)])

    def _create(self, n: int, name: bytes, kind: model.InodeKind) -> changes.Create:
        inode = InodeId(self.start + n)
        return changes.Create(n=OpNumber(n), time_ns=1, inode=inode, parent=self.root, name=name, kind=kind, mode=0o755)

    async def _commit(self, n: int, mutations: list[changes.Mutation]) -> messages.CommitReply:
        request = messages.CommitRequest(epoch=self.epoch, watermark=OpNumber(n), mutations=mutations)
        return (await self.served.post(routes.COMMIT, request)).message(messages.CommitReply)

    def poll(self, wait_seconds: float) -> Request:
        cursor = messages.WorkspaceCursor(workspace=self.served.workspace, cursor=self.head)
        body = wire.encode(messages.ChangesRequest(cursors=[cursor], wait_seconds=wait_seconds))
        return Request(routes.CHANGES, [body], self.served.token)


SESSION = messages.SessionRequest(next_nonce=bytes(16))


def framed(*plaintexts: bytes, compression: codec.Compression = codec.Compression.AUTO) -> bytes:
    return b"".join(
        part
        for plaintext in plaintexts
        for part in codec.frame(codec.block_id(plaintext), codec.encode_payload(plaintext, compression))
    )


@asynccontextmanager
async def serving(
    data: Path, limits: Limits, offload: Offload = offload, store: ObjectStore | None = None
) -> AsyncIterator[Served]:
    """A server with one user, whose one device is logged in; the directory exists. `store`: not one in there."""
    clock, random = Clock(), Random()
    path = data / "metadata.db"
    if path.exists():
        database = await Database.open(path, offload)
    else:
        shutil.copy(await empty_database(), path)
        database = Database(path, offload)
    if store is None:
        store = LocalStore(data / "blocks")
        store.prepare()
    ground = Ground(database, store, InProcessHub(), offload, clock, random, limits)
    keys = AccountKeys(database, MASTER, clock, random)
    services = app.make_services(ground, keys, sealed.Algorithm.AEGIS_256X4)
    try:
        await services.accounts.add_user(USER, PASSWORD)
        served = Served(services, ground, clock, data, app.make_app(services))
        yield await served.log_in_as(USER)
    finally:
        database.close()
