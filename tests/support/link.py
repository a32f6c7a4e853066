"""A network between a mount and its server that a test can pause, cut, slow down and spoil.

Owns a process of its own that listens on one loopback port and passes bytes on to one address: a process, since tests
hang in system calls and fork. Knows nothing of what passes but, where it answers with garbage, the outline of HTTP.
Invariants: every order is in force when its method returns; each order replaces the one before, and `restore()` ends
them all; the port stays the link's while it refuses connections.

What the orders mean to the two ends:

| order | connections that are open | new ones |
| --- | --- | --- |
| `restore` | flow; those that lost bytes are reset | flow |
| `pause` | stand still, and lose nothing | are accepted and stand still |
| `cut` | are reset | are refused at once |
| `unreachable` | stand still | are not answered at all, not even refused |
| `reset` | are reset, once | flow |
| `half_open` | are dead for ever, and nobody is told | flow |
| `lose(REQUESTS or REPLIES)` | bytes of one direction vanish | likewise |
| `delay`, `trickle` | flow late, or slowly | likewise |
| `garbage(kind)` | are reset | are answered by the link, with nonsense, for as long as they are used |
| `flap` | as `cut`, and as `restore`, in turns | likewise |
"""

import json
import math
import os
import random
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import trio

ROOT = Path(__file__).resolve().parent.parent.parent
REQUESTS = "requests"
"""The direction from the mount to the server."""
REPLIES = "replies"
"""The direction from the server to the mount."""
PIECE_BYTES = 65536
QUEUE_PIECES = 64
TRICKLE_STEP_SECONDS = 0.05
MSGPACK = "application/vnd.drivefs.msgpack"


class Link:
    """A link to a `host:port`; `url` is what a device logs in to instead of the server's own."""

    def __init__(self, target: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.link", target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd="/",
        )
        self.address: str = self._answer()
        self.url = f"http://{self.address}"

    def restore(self) -> None:
        """All flows again."""
        self._order("restore")

    def pause(self) -> None:
        """Nothing passes, in either direction, and nothing is lost: what a frozen server looks like."""
        self._order("pause")

    def cut(self) -> None:
        """There is no server: connections are reset, new ones refused."""
        self._order("cut")

    def unreachable(self) -> None:
        """There is no way to the server: not even a refusal comes back."""
        self._order("unreachable")

    def reset(self) -> None:
        """Every open connection breaks, once; new ones flow."""
        self._order("reset")

    def half_open(self) -> None:
        """Connections that are open now never bring anything again, without a word; new ones flow."""
        self._order("half_open")

    def lose(self, direction: str) -> None:
        """The bytes of one direction, `REQUESTS` or `REPLIES`, vanish."""
        self._order("lose", direction)

    def delay(self, seconds: float) -> None:
        """Bytes take so long one way; throughput stays what it is."""
        self._order("delay", seconds)

    def trickle(self, bytes_per_second: float) -> None:
        """So many bytes a second pass in each direction of each connection, never more."""
        self._order("trickle", bytes_per_second)

    def garbage(self, kind: str) -> None:
        """Every request is answered by nonsense: one of `GARBAGE`."""
        self._order("garbage", kind)

    def flap(self, seconds: float = 2.0) -> None:
        """Cut for so long, flowing for so long, and again."""
        self._order("flap", seconds)

    def seen(self) -> dict[str, int]:
        """`open` connections, how many were `accepted` in all, and the bytes of `requests` and `replies` passed on."""
        found: dict[str, int] = self._order("seen")
        return found

    def close(self) -> None:
        """End the link; connections break."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def _order(self, name: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the link ended with {self._process.wait()}")
        return json.loads(line)


# -- what it answers by itself -----------------------------------------------------------------------------------------


def _reply(content_type: str, body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


_PAGE = b"<!DOCTYPE html><html><body><h1>Welcome to the hotel</h1><a href='/accept'>Accept our terms</a></body></html>"
_MAP: bytes = msgpack.packb({"pages": [{"workspace": 1, "status": "changes"}], "state": b"x" * 64})
_HALF = _MAP[: len(_MAP) // 2]

GARBAGE: dict[str, Callable[[], bytes]] = {
    "page": lambda: _reply("text/html", _PAGE),
    "page as msgpack": lambda: _reply(MSGPACK, _PAGE),
    "redirect": lambda: _reply("text/html", _PAGE, "302 Found\r\nlocation: http://127.0.0.1:9/accept"),
    "bad gateway": lambda: _reply("text/html", b"<html><body>502 Bad Gateway</body></html>", "502 Bad Gateway"),
    "random": lambda: random.randbytes(4096),
    "random body": lambda: _reply(MSGPACK, random.randbytes(4096)),
    "wrong type": lambda: _reply("text/plain", _MAP),
    "half a message": lambda: _reply(MSGPACK, _HALF),
    "half a reply": lambda: _reply(MSGPACK, _MAP)[: -len(_HALF)],
    "empty": lambda: _reply(MSGPACK, b""),
    "nothing": lambda: b"",
}
"""Ways to answer that no drivefs server has; after those that break HTTP the connection ends."""

_CLOSING = ("random", "half a reply", "nothing")


# -- the process -------------------------------------------------------------------------------------------------------


class _Connection:
    """One connection of a client, and the one to the server that carries on its bytes."""

    def __init__(self, client: trio.SocketStream) -> None:
        self.client = client
        self.server: trio.SocketStream | None = None
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.is_dead = False
        self.has_lost = False

    def reset(self) -> None:
        """Break both halves in a way that both ends notice."""
        for stream in (self.client, self.server):
            if stream is not None:
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.scope.cancel()


class _Relay:
    """What the link does now, and the connections through it."""

    def __init__(self, target: str, nursery: trio.Nursery) -> None:
        host, port = target.rsplit(":", 1)
        self._host, self._port = host, int(port)
        self._nursery = nursery
        # Bound and never listening: it keeps the port while nobody listens on it.
        self._place = self._bound(0)
        self.address = "{}:{}".format(*self._place.getsockname())
        self._connections: set[_Connection] = set()
        self._listening: trio.CancelScope | None = None
        self._deaf = trio.Event()
        self._flapping = trio.CancelScope()
        self._fillers: list[socket.socket] = []
        self._accepted_count = 0
        self._passed = {REQUESTS: 0, REPLIES: 0}
        self._open = trio.Event()
        self._lost = ""
        self._delay_seconds = 0.0
        self._rate = math.inf
        self._garbage = ""

    @staticmethod
    def _bound(port: int) -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", port))
        return made

    # Orders

    async def restore(self) -> None:
        self._flapping.cancel()
        self._clear()
        await self._listen()

    def _clear(self) -> None:
        self._lost, self._delay_seconds, self._rate, self._garbage = "", 0.0, math.inf, ""
        for each in [each for each in self._connections if each.has_lost and not each.is_dead]:
            each.reset()
        self._open.set()

    async def pause(self) -> None:
        await self.restore()
        self._open = trio.Event()

    async def cut(self) -> None:
        await self.restore()
        await self._refuse()

    async def _refuse(self) -> None:
        await self._stop_listening()
        await self.reset()

    async def unreachable(self) -> None:
        await self.pause()
        await self._stop_listening()
        # A listener whose queue is full lets the kernel drop whoever knocks.
        full = self._bound(self._place.getsockname()[1])
        full.listen(0)
        self._fillers.append(full)
        for _ in range(2):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            self._fillers.append(filler)

    async def reset(self) -> None:
        broken = [each for each in self._connections if not each.is_dead]
        for each in broken:
            each.reset()
        for each in broken:
            await each.ended.wait()

    async def half_open(self) -> None:
        await self.restore()
        for each in self._connections:
            each.is_dead = True

    async def lose(self, direction: str) -> None:
        await self.restore()
        self._lost = direction

    async def delay(self, seconds: float) -> None:
        await self.restore()
        self._delay_seconds = seconds

    async def trickle(self, bytes_per_second: float) -> None:
        await self.restore()
        self._rate = bytes_per_second

    async def garbage(self, kind: str) -> None:
        await self.restore()
        await self.reset()
        self._garbage = kind

    async def flap(self, seconds: float) -> None:
        await self.restore()
        self._flapping = trio.CancelScope()
        self._nursery.start_soon(self._flap, seconds, self._flapping)

    async def _flap(self, seconds: float, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                await self._refuse()
                await trio.sleep(seconds)
                await self._listen()
                await trio.sleep(seconds)

    async def seen(self) -> dict[str, int]:
        return {"open": len(self._connections), "accepted": self._accepted_count, **self._passed}

    # Connections

    async def _listen(self) -> None:
        for each in self._fillers:
            each.close()
        self._fillers.clear()
        if self._listening is None:
            listener = self._bound(self._place.getsockname()[1])
            listener.listen(1024)
            self._listening = trio.CancelScope()
            self._deaf = trio.Event()
            self._nursery.start_soon(self._accept, listener, self._listening)

    async def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await self._deaf.wait()

    async def _accept(self, listener: socket.socket, scope: trio.CancelScope) -> None:
        with trio.socket.from_stdlib_socket(listener) as accepting, scope:
            while True:
                made, _ = await accepting.accept()
                self._accepted_count += 1
                self._nursery.start_soon(self._carry, _Connection(trio.SocketStream(made)))
        self._listening = None
        self._deaf.set()

    async def _carry(self, connection: _Connection) -> None:
        self._connections.add(connection)
        try:
            with connection.scope:
                await (self._answer(connection) if self._garbage else self._join(connection))
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass  # both directions may break, which comes as a group
        finally:
            connection.client.socket.close()
            if connection.server is not None:
                connection.server.socket.close()
            self._connections.discard(connection)
            connection.ended.set()

    async def _join(self, connection: _Connection) -> None:
        await self._open.wait()
        try:
            connection.server = server = await trio.open_tcp_stream(self._host, self._port)
        except OSError:
            connection.reset()
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, REQUESTS, connection, connection.client, server)
            nursery.start_soon(self._pump, REPLIES, connection, server, connection.client)

    async def _pump(
        self, direction: str, connection: _Connection, source: trio.SocketStream, sink: trio.SocketStream
    ) -> None:
        """Carry one direction; the end of the stream, or its breaking, travels like a byte."""
        put, take = trio.open_memory_channel[tuple[float, bytes | None]](QUEUE_PIECES)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver, direction, connection, take, sink)
            data: bytes | None = b"first"
            while data:
                try:
                    data = bytes(await source.receive_some(PIECE_BYTES))
                except trio.BrokenResourceError:
                    data = None
                await put.send((trio.current_time() + self._delay_seconds, data))

    async def _deliver(
        self,
        direction: str,
        connection: _Connection,
        take: trio.MemoryReceiveChannel[tuple[float, bytes | None]],
        sink: trio.SocketStream,
    ) -> None:
        data: bytes | None = b"first"
        while data:
            due, data = await take.receive()
            await trio.sleep_until(due)
            await self._open.wait()
            if connection.is_dead or self._lost == direction:
                connection.has_lost = True
            elif data is None:
                connection.reset()
            elif not data:
                await sink.send_eof()
            else:
                await self._send(direction, data, sink)
        if connection.is_dead or connection.has_lost:
            await trio.sleep_forever()

    async def _send(self, direction: str, data: bytes, sink: trio.SocketStream) -> None:
        while data:
            await self._open.wait()
            rate = self._rate
            size = len(data) if rate == math.inf else max(1, int(rate * TRICKLE_STEP_SECONDS))
            self._passed[direction] += len(data[:size])
            await sink.send_all(data[:size])
            data = data[size:]
            if rate != math.inf:
                await trio.sleep(size / rate)

    async def _answer(self, connection: _Connection) -> None:
        kind, asked = self._garbage, b""
        while True:
            while b"\r\n\r\n" not in asked:
                piece = await connection.client.receive_some(PIECE_BYTES)
                if not piece:
                    return
                asked += piece
            head, _, asked = asked.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            left = int(length.group(1)) if length else 0
            while len(asked) < left:
                asked += await connection.client.receive_some(PIECE_BYTES) or b"\0" * left
            asked = asked[left:]
            await connection.client.send_all(GARBAGE[kind]())
            if kind in _CLOSING:
                return


async def _obey(target: str) -> None:
    """Take orders from standard input, a JSON array on each line, until it ends."""
    async with trio.open_nursery() as nursery:
        relay = _Relay(target, nursery)
        await relay.restore()
        print(json.dumps(relay.address), flush=True)
        orders, rest = trio.lowlevel.FdStream(os.dup(0)), b""
        while piece := await orders.receive_some():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                name, *arguments = json.loads(line)
                print(json.dumps(await getattr(relay, name)(*arguments)), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_obey, sys.argv[1])
