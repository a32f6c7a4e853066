"""One route of the sync API: what a request becomes, what its failures do, and what both sides of it are made of.

Owns the way from a handler's message to a response. An endpoint knows the types of its request and of its reply, so
that the description of the API says what the code does.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, get_type_hints

import msgspec
from starlette.types import Receive, Scope, Send

from backend.api import problems, replies, requests
from backend.api.services import Services
from backend.service.caller import Caller
from backend.service.intake import Disconnected
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.ids import WorkspaceId

Handle = Callable[[Scope, Receive], Awaitable[Any]]
M = TypeVar("M")


class Empty(msgspec.Struct):
    """A reply that says no more than that it was done."""


class Framed:
    """Stands where the type of a message would: blocks, framed."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is exchanged at a route."""

    asks: type | None
    """None: a request carries nothing."""
    gives: type
    is_open: bool = False
    """Whether it needs no token."""


class Endpoint:
    """One route: `handle` gives the reply's message (None: done); what it raises becomes a `Problem`."""

    def __init__(self, handle: Handle, shape: Shape) -> None:
        self._handle = handle
        self.shape = shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        try:
            reply = await self._handle(scope, receive)
            response = replies.message(Empty() if reply is None else reply)
        except ProtocolError as error:
            response = problems.response(error)
        except Disconnected:
            return
        except Exception as error:
            response = problems.unexpected(error)
        await response(scope, receive, send)


class Endpoints:
    """Makes endpoints of calls that want to know who asks, and for what."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def of_caller(self, call: Callable[[Caller], Awaitable[Any]]) -> Endpoint:
        """A request that carries nothing."""

        async def handle(scope: Scope, receive: Receive) -> Any:
            return await call(await requests.caller(scope, self._services))

        return Endpoint(handle, Shape(None, reply_of(call)))

    def asked(self, kind: type[M], call: Callable[[Caller, M], Awaitable[Any]]) -> Endpoint:
        """A request that carries a message."""

        async def handle(scope: Scope, receive: Receive) -> Any:
            caller = await requests.caller(scope, self._services)
            return await call(caller, await requests.message(scope, receive, kind))

        return Endpoint(handle, Shape(kind, reply_of(call)))

    def within(self, call: Callable[[Caller, WorkspaceId], Awaitable[Any]]) -> Endpoint:
        """A request about a workspace that carries nothing."""

        async def handle(scope: Scope, receive: Receive) -> Any:
            caller = await requests.caller(scope, self._services)
            return await call(caller, requests.workspace(scope))

        return Endpoint(handle, Shape(None, reply_of(call)))

    def about(
        self,
        kind: type[M],
        call: Callable[[Caller, WorkspaceId, M], Awaitable[Any]],
        limit_bytes: int = requests.MAX_MESSAGE_BYTES,
    ) -> Endpoint:
        """A request about a workspace that carries a message."""

        async def handle(scope: Scope, receive: Receive) -> Any:
            caller = await requests.caller(scope, self._services)
            workspace = requests.workspace(scope)
            return await call(caller, workspace, await requests.message(scope, receive, kind, limit_bytes))

        return Endpoint(handle, Shape(kind, reply_of(call)))


def reply_of(call: Callable[..., Awaitable[Any]]) -> type:
    """The type of what a call answers."""
    return _annotated(getattr(call, "__func__", call))


@cache
def _annotated(function: Callable[..., Any]) -> type:
    found: type = get_type_hints(function)["return"]
    return Empty if found is type(None) else found
