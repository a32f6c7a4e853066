"""What a request carries: its body within a limit, its message, its caller.

Invariant: no more of a body is read than its limit allows, and none at all of one that says it is longer.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import TypeVar

import anyio
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from backend.api.services import Services
from backend.notify import hub
from backend.service.caller import Caller
from backend.service.intake import Disconnected
from drivefs.protocol import routes, wire
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import MAX_ID, WorkspaceId

M = TypeVar("M")
Check = Callable[[], Awaitable[None]]

MAX_MESSAGE_BYTES = 2**20
BODY_IDLE_SECONDS = 60.0
"""A body of which nothing more arrives for so long is taken to have broken off."""
BODY_SECONDS = 6 * 3600.0
"""So is one that has not ended by then: what it has brought is recorded long before it could be taken for left over."""
SEND_IDLE_SECONDS = 60.0
LEAST_BYTES_PER_SECOND = 16 * 2**10
"""Who takes a reply more slowly than that is taken to have gone: there is room for few such replies at once."""


async def body(scope: Scope, receive: Receive, limit_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body as it arrives; whoever stops before its end closes it.

    Raises:
        ProtocolError: `too_large`.
        Disconnected: it broke off.
    """
    declared = Request(scope).headers.get("content-length", "0")
    total = int(declared) if declared.isascii() and declared.isdigit() else 0
    if total > limit_bytes:
        raise _too_large(limit_bytes)
    total = 0
    more = True
    end = anyio.current_time() + BODY_SECONDS
    while more:
        with anyio.CancelScope(deadline=min(anyio.current_time() + BODY_IDLE_SECONDS, end)) as waiting:
            message = await receive()
        if waiting.cancelled_caught or message["type"] == "http.disconnect":
            raise Disconnected
        more = message.get("more_body", False)
        data = message.get("body", b"")
        total += len(data)
        if total > limit_bytes:
            raise _too_large(limit_bytes)
        if data:
            yield data


async def message(scope: Scope, receive: Receive, kind: type[M], limit_bytes: int = MAX_MESSAGE_BYTES) -> M:
    """The body as one message.

    Raises:
        ProtocolError: `too_large`, `malformed`; `unavailable`: it is not what was sent.
        Disconnected: it broke off.
    """
    data = b"".join([part async for part in body(scope, receive, limit_bytes)])
    said = Request(scope).headers.get(routes.CHECKSUM)
    if said is not None and said != wire.checksum(data):
        raise ProtocolError(Code.UNAVAILABLE, "This request was damaged on its way here. Send it again.")
    return wire.decode(data, kind)


async def send_in_time(send: Send, message: Message) -> None:
    """Send a part of a reply.

    Raises:
        Disconnected: it is not taken: the other side stands still, or is frozen.
    """
    seconds = SEND_IDLE_SECONDS + len(message.get("body", b"")) / LEAST_BYTES_PER_SECOND
    with anyio.move_on_after(seconds) as waiting:
        await send(message)
    if waiting.cancelled_caught:
        raise Disconnected


async def caller(scope: Scope, services: Services) -> Caller:
    """Who asks.

    Raises:
        ProtocolError: `unauthenticated`, `device_revoked`, `pass_expired`.
    """
    return await services.accounts.authenticate(token(scope))


def token(scope: Scope) -> str:
    """What the request shows of who asks.

    Raises:
        ProtocolError: `unauthenticated`: nothing.
    """
    scheme, _, shown = Request(scope).headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not shown:
        raise ProtocolError(Code.UNAUTHENTICATED, "This device is not logged in here. Log in again.")
    return shown.strip()


async def _nothing() -> None:
    pass


@contextmanager
def still_let_in(
    scope: Scope, services: Services, asking: Caller, *topics: hub.Topic, check_more: Check = _nothing
) -> Iterator[Check]:
    """What to call again and again while something long goes on for a caller: it raises once the device is revoked.

    And where `check_more` raises, which is asked when one of these topics was woken.
    """
    with services.lifecycle.hub.listen([hub.of_device(asking.device), *topics]) as listener:

        async def check() -> None:
            if listener.was_woken():
                await caller(scope, services)
                await check_more()

        yield check


async def checked(arriving: AsyncGenerator[bytes, None], check: Check) -> AsyncGenerator[bytes, None]:
    """A body as it arrives, up to where `check` raises; closed with it."""
    async with aclosing(arriving):
        async for data in arriving:
            await check()
            yield data


def workspace(scope: Scope) -> WorkspaceId:
    """Which workspace the address names.

    Raises:
        ProtocolError: `not_found`: it cannot be one.
    """
    named = scope["path_params"]["workspace"]
    if not (named.isascii() and named.isdigit()) or len(named) > 19 or int(named) > MAX_ID:
        raise ProtocolError(Code.NOT_FOUND, "There is no such drive, or it is not shared with this user.")
    return WorkspaceId(int(named))


def _too_large(limit_bytes: int) -> ProtocolError:
    return ProtocolError(Code.TOO_LARGE, f"This request is longer than the {limit_bytes} bytes that are allowed.")
