"""The long poll: answered when there is news, when the wait runs out, or when the server stops.

A bare ASGI application: while it waits it holds neither a thread nor a database connection, only a listener. Invariant:
the listener listens before the feed is read, so that no commit falls between the read and the wait.
"""

from collections.abc import Awaitable, Callable

import anyio
from starlette.types import Receive, Scope, Send

from backend.api import problems, replies, requests
from backend.api.endpoints import Shape
from backend.api.services import Services
from backend.notify import hub
from backend.service.caller import Caller
from backend.service.intake import Disconnected
from drivefs.protocol import messages
from drivefs.protocol.errors import ProtocolError

RETRY_SECONDS = 2.0
"""How long devices are asked to wait, more or less, before they come back to a server that is stopping."""


class ChangesPoll:
    """The route of the change feed."""

    shape = Shape(messages.ChangesRequest, messages.ChangesReply)

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one poll."""
        try:
            caller = await requests.caller(scope, self._services)
            request = await requests.message(scope, receive, messages.ChangesRequest)
            reply = await self._answer(caller, request, receive)
            response = replies.message(reply)
        except ProtocolError as error:
            response = problems.response(error)
        except Disconnected:
            return
        except Exception as error:
            response = problems.unexpected(error)
        await response(scope, receive, send)

    async def _answer(
        self, caller: Caller, request: messages.ChangesRequest, receive: Receive
    ) -> messages.ChangesReply:
        lifecycle = self._services.lifecycle
        topics = [*await self._services.changes.topics(caller, request), hub.of_device(caller.device)]
        here = self._services.devices.polling(caller, request.pending)
        with here, lifecycle.hub.listen(topics) as listener, anyio.move_on_after(request.wait_seconds) as waiting:
            while not lifecycle.stopping.is_set():
                with anyio.CancelScope(shield=True):
                    # Refuses a device that was revoked since it was let in, or since it fell asleep.
                    reply = await self._services.changes.read(caller, request)
                if reply.pages or reply.uploads or reply.notified or waiting.cancel_called:
                    return reply
                await _until(listener.wait, receive)
        return messages.ChangesReply(pages=[], retry_seconds=RETRY_SECONDS if lifecycle.stopping.is_set() else 0.0)


async def _until(wait: Callable[[], Awaitable[None]], receive: Receive) -> None:
    """Wait for a wake-up.

    Raises:
        Disconnected: the device went away first.
    """
    is_gone = False
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            nonlocal is_gone
            while (await receive())["type"] != "http.disconnect":
                pass
            is_gone = True
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        await wait()
        tasks.cancel_scope.cancel()
    if is_gone:
        raise Disconnected
