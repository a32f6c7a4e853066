"""Refusals as HTTP replies: the one place where an error becomes a status and a body.

Invariant: whatever goes wrong, a caller of the sync API gets a msgpack `Problem`; what is our own fault is logged
whole, and the caller learns only that it happened.
"""

import logging

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backend.api import replies
from drivefs.protocol.errors import STATUS, Code, ProtocolError
from drivefs.protocol.messages import Problem

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = {Code.UNAVAILABLE: "5", Code.TOO_MANY_ATTEMPTS: "60"}


def response(error: ProtocolError) -> Response:
    """A refusal as a reply."""
    headers = {}
    if error.code in RETRY_AFTER_SECONDS:
        headers["retry-after"] = RETRY_AFTER_SECONDS[error.code]
    if STATUS[error.code] == 401:
        headers["www-authenticate"] = "Bearer"
    return replies.message(Problem(code=error.code, message=error.message), STATUS[error.code], headers)


def unexpected(error: Exception) -> Response:
    """An error of our own as a reply; it is in the log with its traceback."""
    log.error("a request failed", exc_info=error)
    message = "The server failed at this request; the fault is its own. What it acknowledged before is safe."
    return response(ProtocolError(Code.INTERNAL, message))


async def nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to requests for which the sync API has no route, or not with that method."""
    error = ProtocolError(Code.NOT_FOUND, "The server has nothing at this address, or not for this kind of request.")
    await response(error)(scope, receive, send)
