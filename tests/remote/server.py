"""A server that says whatever a test wants, byte for byte, and a client for it."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpcore
import trio
import trio.testing

from drivefs.protocol import routes, wire
from drivefs.remote import transport
from drivefs.remote.client import Remote

Answer = Callable[[trio.abc.Stream, bytes, bytes], Awaitable[None]]
"""Gets the connection and a request's head and body, and writes what it likes. Returning keeps the connection open."""


def http(
    body: bytes, *, status: str = "200 OK", kind: str = routes.MSGPACK, length: int | None = None, checksum: str = ""
) -> bytes:
    """A whole reply."""
    summed = f"{routes.CHECKSUM}: {checksum}\r\n" if checksum else ""
    length = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{summed}\r\n"
    return head.encode() + body


def says(*replies: bytes) -> Answer:
    """Answers each request with the next of the replies, the last one from then on."""
    left = list(replies)

    async def answer(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
        await stream.send_all(left.pop(0) if len(left) > 1 else left[0])

    return answer


def message(value: object) -> bytes:
    """A reply with a message."""
    return http(wire.encode(value))


@dataclass
class Server:
    """Serves connections; `requests` are the heads and bodies that came whole."""

    answer: Answer
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)
    connection_count: int = 0

    async def handle(self, stream: trio.abc.Stream) -> None:
        self.connection_count += 1
        buffer = bytearray()
        try:
            while True:
                while b"\r\n\r\n" not in buffer:
                    data = await stream.receive_some()
                    if not data:
                        return
                    buffer += data
                head, _, rest = bytes(buffer).partition(b"\r\n\r\n")
                length = content_length(head)
                body = bytearray(rest)
                while len(body) < length:
                    body += await stream.receive_some()
                buffer = bytearray(body[length:])
                self.requests.append((head, bytes(body[:length])))
                await self.answer(stream, head, bytes(body[:length]))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


def content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


class MemoryStream(httpcore.AsyncNetworkStream):
    """The client's end of a connection without a network, so that a virtual clock drives its timeouts."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            with trio.fail_after(math.inf if timeout is None else timeout):
                return bytes(await self.stream.receive_some(max_bytes))
        except trio.TooSlowError:
            raise httpcore.ReadTimeout from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.ReadError from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            with trio.fail_after(math.inf if timeout is None else timeout):
                await self.stream.send_all(buffer)
        except trio.TooSlowError:
            raise httpcore.WriteTimeout from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.WriteError from error

    async def aclose(self) -> None:
        await self.stream.aclose()

    def get_extra_info(self, info: str) -> None:
        return None


class MemoryNetwork(httpcore.AsyncNetworkBackend):
    """Connects to one server; `fault` is raised, or awaited for ever, in place of a connection."""

    def __init__(self, server: Server, nursery: trio.Nursery) -> None:
        self.server = server
        self.nursery = nursery
        self.faults: list[Exception | None] = []

    async def connect_tcp(self, host: str, port: int, timeout: float | None = None, **_: Any) -> MemoryStream:
        if self.faults and (fault := self.faults.pop(0)) is not None:
            if isinstance(fault, httpcore.ConnectTimeout):
                await trio.sleep(timeout or math.inf)
            raise fault
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.server.handle, theirs)
        return MemoryStream(ours)


@dataclass
class World:
    """What a test of the client has."""

    server: Server
    network: MemoryNetwork
    remote: Remote


def _connect_through(connections: transport.Connections, network: MemoryNetwork) -> None:
    """Let all connections, those of pools to come too, go to the server in memory."""
    make = connections._pool

    def pool(*arguments: Any) -> Any:
        made = make(*arguments)
        made._pool._network_backend = network
        return made

    connections._pool = pool
    for each in (connections.kept, connections.fresh):
        each._pool._network_backend = network


def run(answer: Answer, scenario: Callable[[World], Awaitable[None]], token: str = "a-token") -> None:
    """Run a scenario against a server in memory, under a virtual clock."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = Server(answer)
            network = MemoryNetwork(server, nursery)
            client = transport.open_client("http://127.0.0.1")
            async with client:
                _connect_through(client._transport, network)
                await scenario(
                    World(server, network, Remote("http://127.0.0.1", token, client=client, jitter=lambda: 0.5))
                )
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
