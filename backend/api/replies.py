"""Messages as HTTP replies, with the checksum by which who gets one knows that it is what was sent."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from drivefs.protocol import routes, wire


def message(told: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The reply of a route of the sync API."""
    body = wire.encode(told)
    return Response(body, status, {**(headers or {}), routes.CHECKSUM: wire.checksum(body)}, routes.MSGPACK)
