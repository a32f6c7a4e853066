"""The mount's end of the control socket: reads one request per connection and runs its handler.

Owns the socket file and the translation of a handler's outcome into a reply; the table of handlers is passed in.
Invariant: whatever a client sends, and whatever a handler raises, the mount goes on. A client that goes away cancels
nothing by itself, but its handler ends at its next report.
"""

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import trio

from drivefs.control import addresses, frames
from drivefs.control.errors import Refused

log = logging.getLogger(__name__)


class Report(Protocol):
    """Sends progress to the client."""

    async def __call__(self, progress: Any, seconds: float = ..., /) -> None:
        """Raises `trio.BrokenResourceError` when it has gone, `trio.TooSlowError` when it took longer to take it."""
        ...


Handler = Callable[[dict[str, Any], Report], Awaitable[Any]]
"""Takes the request's arguments; msgpack must be able to carry what it returns."""

REQUEST_SECONDS = 5.0
"""How long a connected client may take to state its request, and to take any one reply."""
MAX_CLIENTS = 64


def listen(directory: Path) -> trio.SocketListener:
    """Open the control socket in `directory`, for its owner alone, in place of one that a dead mount left.

    The caller holds the lock of the drive's state, so nobody else listens here.

    Raises:
        OSError: the directory cannot be made or used.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = directory / addresses.SOCKET_NAME
    place.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with addresses.short_address(directory) as address:
            listening.bind(address)
        os.chmod(place, 0o600)
        listening.listen(MAX_CLIENTS)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


async def serve(listener: trio.SocketListener, handlers: Mapping[str, Handler], nursery: trio.Nursery) -> None:
    """Answer requests until cancelled; each runs in `nursery`."""
    places = trio.Semaphore(MAX_CLIENTS)

    async def answer(stream: trio.SocketStream) -> None:
        async with places, stream:
            await _answer(stream, handlers)

    await trio.serve_listeners(answer, [listener], handler_nursery=nursery)


async def _answer(stream: trio.SocketStream, handlers: Mapping[str, Handler]) -> None:
    async def send(message: dict[str, Any], seconds: float = REQUEST_SECONDS) -> None:
        with trio.fail_after(seconds):
            await stream.send_all(frames.encode(message))

    async def report(progress: Any, seconds: float = REQUEST_SECONDS, /) -> None:
        await send({"progress": progress}, seconds)

    try:
        try:
            with trio.fail_after(REQUEST_SECONDS):
                request = await _receive(stream)
            result = await _handler(request, handlers)(request.get("arguments", {}), report)
            await send({"result": result})
        except Refused as refusal:
            await send({"error": {"kind": refusal.kind, "message": refusal.message}})
        except ValueError as error:
            await send({"error": {"kind": "malformed", "message": str(error)}})
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        log.debug("a control client went away")
    except Exception:
        log.exception("a control request failed")
        with trio.move_on_after(REQUEST_SECONDS):
            await _send_failure(stream)


async def _send_failure(stream: trio.SocketStream) -> None:
    message = "the mount could not answer because of an error of its own; the details are in its log"
    try:
        await stream.send_all(frames.encode({"error": {"kind": "internal", "message": message}}))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        log.debug("a control client went away")


def _handler(request: dict[str, Any], handlers: Mapping[str, Handler]) -> Handler:
    command = request.get("command")
    if not isinstance(command, str) or command not in handlers:
        raise Refused("unknown", f"the mount knows no command {command!r}: it runs another version of drivefs")
    return handlers[command]


async def _receive(stream: trio.SocketStream) -> dict[str, Any]:
    length = frames.body_length(await _read(stream, frames.HEADER.size))
    return frames.decode(await _read(stream, length))


async def _read(stream: trio.SocketStream, length: int) -> bytes:
    parts = []
    while length:
        part = await stream.receive_some(min(length, 2**16))
        if not part:
            raise trio.BrokenResourceError("the client closed the connection")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
