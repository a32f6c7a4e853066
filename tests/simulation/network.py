"""The network between devices and the server, with all that can happen to a message on it.

Owns the ways (`Way`, one for each device) and their moods; knows no message. A request runs in the server's process,
not in the client's: whatever becomes of the client, the server goes on with what has reached it, and finds out later
that nobody listens. Drawn for each message: how long it takes, whether it is lost on the way there (the server never
hears of it) or back (the server has done it), whether it comes again later, whether the reply trickles, breaks off, or
is someone else's page. A way may be cut altogether, or in one direction. Timeouts are the caller's, and are enforced
here.
"""

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import trio

from tests.simulation.lives import Life

ASGI = Callable[..., Any]
PAGE = b"<html><body>Welcome to our hotel. Please log in.</body></html>"
PIECE_BYTES = 16 * 2**10


@dataclass
class Mood:
    """How a way treats messages: seconds, and chances from 0 to 1."""

    shortest_seconds: float = 0.001
    longest_seconds: float = 0.02
    lost_request: float = 0.0
    lost_reply: float = 0.0
    refused: float = 0.0
    broken: float = 0.0
    repeated: float = 0.0
    trickling: float = 0.0
    foreign: float = 0.0
    """A captive portal answers."""
    garbled: float = 0.0


QUIET = Mood()


@dataclass(eq=False)
class _Exchange:
    """One request that has left a device, and what comes back for it."""

    request: dict[str, Any]
    pieces: list[bytes]
    reply: trio.MemorySendChannel[tuple[float, dict[str, Any]]]
    gone: trio.Event = field(default_factory=trio.Event)
    taken_count: int = 0
    last_arrival: float = 0.0

    async def receive(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        position, self.taken_count = self.taken_count, self.taken_count + 1
        if position < len(self.pieces):
            more = position + 1 < len(self.pieces)
            return {"type": "http.request", "body": self.pieces[position], "more_body": more}
        await self.gone.wait()
        return {"type": "http.disconnect"}


class Server:
    """Where requests go: the application of a server that lives, or nobody."""

    def __init__(self) -> None:
        self.life: Life | None = None
        self.asgi: ASGI | None = None
        self.open: set[_Exchange] = set()
        self.may_fail = False
        """Whether a 500 is to be expected."""
        self.failures: list[str] = []
        """Where it was not."""

    def begin(self, life: Life, asgi: ASGI) -> None:
        self.life, self.asgi = life, asgi

    def end(self) -> None:
        """Nobody answers any more; connections that are open break."""
        self.life = self.asgi = None
        for exchange in self.open:
            exchange.reply.close()
        self.open.clear()

    def take(self, exchange: _Exchange, send: Callable[[dict[str, Any]], Any]) -> bool:
        """A request has arrived; whether anybody is there."""
        if self.life is None or self.life.is_dead:
            return False
        self.life.nursery.start_soon(self._serve, exchange, send)
        return True

    async def _serve(self, exchange: _Exchange, send: Callable[[dict[str, Any]], Any]) -> None:
        assert self.asgi is not None
        self.open.add(exchange)
        try:
            await self.asgi(exchange.request, exchange.receive, send)
        except Exception as error:
            # An HTTP server breaks the connection off, and goes on.
            if not self.may_fail:
                self.failures.append(f"{exchange.request['path']}: {error!r}")
        finally:
            self.open.discard(exchange)
            exchange.reply.close()


class Way(httpx.AsyncBaseTransport):
    """The way of one process of one device to the server."""

    def __init__(self, life: Life, server: Server, chance: random.Random, note: Callable[..., None]) -> None:
        self.mood = QUIET
        self.can_send = True
        self.can_receive = True
        self._life = life
        self._server = server
        self._chance = chance
        self._note = note

    def _delay(self) -> float:
        mood = self.mood
        # Most messages are quick, and a few are slow.
        return mood.shortest_seconds + self._chance.random() ** 3 * (mood.longest_seconds - mood.shortest_seconds)

    def _happens(self, chance: float) -> bool:
        return chance > 0 and self._chance.random() < chance

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._life.is_dead:
            raise httpx.ConnectError("the process is dead")
        timeouts = request.extensions["timeout"]
        body = [bytes(piece) async for piece in request.stream]  # type: ignore[union-attr]
        await self._connect(timeouts["connect"])
        if self._happens(self.mood.foreign):
            self._note("foreign", request.url.path)
            return httpx.Response(200, headers={"content-type": "text/html"}, content=PAGE)
        sending, receiving = trio.open_memory_channel[tuple[float, dict[str, Any]]](float("inf"))
        exchange = _Exchange(_scope(request), body, sending)
        self._send(exchange)
        return await self._reply(exchange, receiving, timeouts["read"])

    async def _connect(self, seconds: float) -> None:
        if not self.can_send or not self.can_receive:
            await trio.sleep(seconds)
            raise httpx.ConnectTimeout("cut")
        await trio.sleep(self._delay())
        if self._server.life is None or self._happens(self.mood.refused):
            raise httpx.ConnectError("refused")

    def _send(self, exchange: _Exchange) -> None:
        """The request is on its way, whatever becomes of who sent it."""
        path = exchange.request["path"]
        if self._happens(self.mood.lost_request):
            self._note("lost request", path)
            return
        self._server_later(exchange, self._delay(), is_last=True)
        if self._happens(self.mood.repeated):
            self._note("repeated", path)
            again = _Exchange(exchange.request, exchange.pieces, trio.open_memory_channel[Any](float("inf"))[0])
            again.gone.set()
            self._server_later(again, self._chance.random() * 30.0, is_last=False)

    def _server_later(self, exchange: _Exchange, delay: float, *, is_last: bool) -> None:
        life = self._server.life
        if life is None or life.is_dead:
            exchange.reply.close()
            return
        life.nursery.start_soon(self._arrive, exchange, delay, is_last)

    async def _arrive(self, exchange: _Exchange, delay: float, is_last: bool) -> None:
        """In the server's process: a connection ends with it, and so does what travels on it."""
        self._server.open.add(exchange)
        await trio.sleep(delay)
        self._server.open.discard(exchange)
        if not self.can_send:
            self._note("cut request", exchange.request["path"])
            return
        is_lost, is_broken = self._happens(self.mood.lost_reply), self._happens(self.mood.broken)
        if is_lost and is_last:
            self._note("lost reply", exchange.request["path"])

        async def send(message: dict[str, Any]) -> None:
            await trio.lowlevel.checkpoint()
            if message.get("status") == httpx.codes.INTERNAL_SERVER_ERROR and not self._server.may_fail:
                self._server.failures.append(exchange.request["path"])
            if is_lost or not self.can_receive:
                return
            if is_broken and message["type"] == "http.response.body":
                self._note("broken", exchange.request["path"])
                exchange.reply.close()
                return
            exchange.last_arrival = max(exchange.last_arrival, trio.current_time() + self._delay())
            try:
                exchange.reply.send_nowait((exchange.last_arrival, message))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

        self._server.take(exchange, send)

    async def _reply(
        self, exchange: _Exchange, receiving: trio.MemoryReceiveChannel[Any], seconds: float
    ) -> httpx.Response:
        stream = _Reply(self, exchange, receiving, seconds)
        try:
            head = await stream.next()
        except BaseException:
            await stream.aclose()
            raise
        assert head is not None
        self._note("reply", exchange.request["path"], head["status"])
        return httpx.Response(head["status"], headers=head["headers"], stream=stream)

    def is_lost_now(self) -> bool:
        return not self.can_receive or self._life.is_dead


class _Reply(httpx.AsyncByteStream):
    """The body of a reply as it arrives."""

    def __init__(
        self, way: Way, exchange: _Exchange, receiving: trio.MemoryReceiveChannel[Any], seconds: float
    ) -> None:
        self._way = way
        self._exchange = exchange
        self._receiving = receiving
        self._seconds = seconds
        self._is_trickling = way._happens(way.mood.trickling)
        # What travels is protected by TLS, and metadata is believed; but a block is what its id says, or nothing.
        self._is_garbled = exchange.request["path"].endswith("/blocks/get") and way._happens(way.mood.garbled)

    async def next(self) -> dict[str, Any] | None:
        """The next message, once it is here; None after the last one."""
        with trio.move_on_after(self._seconds):
            try:
                arrival, message = await self._receiving.receive()
                await trio.sleep_until(arrival)
            except (trio.EndOfChannel, trio.ClosedResourceError):
                raise httpx.ReadError("the connection broke") from None
            if not self._way.is_lost_now():
                return message
            await trio.sleep_forever()
        raise httpx.ReadTimeout("nothing comes")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            message = await self.next()
            assert message is not None
            body = message.get("body", b"")
            if self._is_garbled and body:
                body = self._garble(body)
            for start in range(0, len(body), PIECE_BYTES):
                yield body[start : start + PIECE_BYTES]
                if self._is_trickling:
                    await trio.sleep(self._way._chance.random() * 10.0)
            if not message.get("more_body", False):
                return

    def _garble(self, body: bytes) -> bytes:
        self._way._note("garbled", self._exchange.request["path"])
        place = self._way._chance.randrange(len(body))
        return body[:place] + bytes([body[place] ^ 0x55]) + body[place + 1 :]

    async def aclose(self) -> None:
        """The device lets go of the connection; the server hears of it, if it hears anything."""
        if self._way.can_send:
            self._exchange.gone.set()
        self._receiving.close()
        await trio.lowlevel.checkpoint()


def _scope(request: httpx.Request) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.url.path,
        "raw_path": request.url.raw_path,
        "root_path": "",
        "query_string": request.url.query,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": ("192.0.2.7", 40000),
        "server": ("simulated", 80),
    }
