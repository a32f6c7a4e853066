"""One route of the sync API: what a request becomes, and what its failures do.

Owns the way from a handler's message to a response.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backend.api import problems
from backend.service.intake import Disconnected
from drivefs.protocol import routes, wire
from drivefs.protocol.errors import ProtocolError

Handle = Callable[[Scope, Receive], Awaitable[Any]]


class Empty(msgspec.Struct):
    """A reply that says no more than that it was done."""


class Endpoint:
    """One route: `handle` gives the reply's message; what it raises becomes a `Problem`."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        try:
            reply = await self._handle(scope, receive)
            response = Response(wire.encode(reply), media_type=routes.MSGPACK)
        except ProtocolError as error:
            response = problems.response(error)
        except Disconnected:
            return
        except Exception as error:
            response = problems.unexpected(error)
        await response(scope, receive, send)
