"""Public links, as browsers and curl meet them: a file as a download, a folder as a tar archive.

Owns the way from an address to bytes; who may have them is `links`' matter. A password is asked for as HTTP Basic, with
any user name. What is given is an attachment and nothing that a browser would show or run. A part of a file can be
asked for, so that a download which broke off goes on. Invariant: refusals come before the first byte; a body that
breaks off is shorter than its declared length.
"""

import base64
import binascii
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import quote

import anyio
from blake3 import blake3
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from backend.api import archives, ranges, requests
from backend.api.services import Services
from backend.notify import hub
from backend.service.intake import Disconnected
from backend.service.links import Found, Opened
from drivefs.protocol.errors import STATUS, Code, ProtocolError
from drivefs.protocol.links import ADDRESS
from drivefs.protocol.model import InodeKind

log = logging.getLogger(__name__)

MAX_TOKEN_LENGTH = 64
SAFE = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "sandbox; default-src 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "private, no-store",
}


class Downloads:
    """The route of public links."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        """The one route; HEAD says what GET would give."""
        return [Route(ADDRESS, self, methods=["GET", "HEAD"])]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one download."""
        request = Request(scope)
        token = str(scope["path_params"]["token"])[:MAX_TOKEN_LENGTH]
        address = scope["client"][0] if scope.get("client") else ""
        try:
            opened = await self._services.links.open(token, _password(request), address)
        except ProtocolError as error:
            await _refusal(error)(scope, receive, send)
            return
        except Exception:
            log.exception("a public link could not be opened")
            failed = ProtocolError(Code.INTERNAL, "The server failed at this request; the fault is its own.")
            await _refusal(failed)(scope, receive, send)
            return
        part, status, headers = _asked(request, opened)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if request.method != "HEAD" and not await self._is_sent(opened, part, receive, send):
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _is_sent(self, opened: Opened, part: ranges.Part, receive: Receive, send: Send) -> bool:
        """Send the content; False: the other side has gone, and nothing more is read for it."""
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            try:
                await self._send(opened, part, send)
            except Exception as error:
                failure = error
            tasks.cancel_scope.cancel()
            if failure is None:
                return True
        if failure is None or isinstance(failure, Disconnected):
            return False
        raise failure

    async def _send(self, opened: Opened, part: ranges.Part, send: Send) -> None:
        topics = [hub.of_link(opened.link), hub.of_workspace(opened.drive)]
        with self._services.lifecycle.hub.listen(topics) as listener:
            # It may have been revoked since it was opened.
            await self._services.links.check(opened)
            async with aclosing(self._content(opened, part)) as pieces:
                async for piece in pieces:
                    if listener.was_woken():
                        await self._services.links.check(opened)
                    message = {"type": "http.response.body", "body": piece, "more_body": True}
                    await requests.send_in_time(send, message)

    async def _content(self, opened: Opened, part: ranges.Part) -> AsyncGenerator[bytes, None]:
        """The body; what fails ends the connection, since the server has promised more."""
        if opened.top.state.kind is InodeKind.FILE:
            async with aclosing(self._bytes(opened.top, part)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        yield archives.header(opened.top.path, opened.top.state)
        async with aclosing(self._services.links.walk(opened)) as members:
            async for member in members:
                if member.state.kind not in archives.TYPES:
                    continue
                yield archives.header(member.path, member.state)
                if member.state.kind is InodeKind.FILE:
                    async with aclosing(self._bytes(member, ranges.Part(0, member.state.size))) as pieces:
                        async for piece in pieces:
                            yield piece
                    yield archives.padding(member.state.size)
        yield archives.END

    async def _bytes(self, found: Found, part: ranges.Part) -> AsyncGenerator[bytes, None]:
        blocks, before = ranges.covering(found.blocks, part)
        left = part.end - part.start
        async with aclosing(self._services.blocks.plaintexts(found.account, blocks)) as contents:
            async for content in contents:
                piece = content[before : before + left]
                yield piece
                left -= len(piece)
                before = 0


def _password(request: Request) -> str | None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(given.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return None


def _refusal(error: ProtocolError) -> Response:
    headers = dict(SAFE)
    if error.code is Code.WRONG_PASSWORD:
        headers["www-authenticate"] = 'Basic realm="This file needs a password; the user name is of no matter"'
    if error.code is Code.TOO_MANY_ATTEMPTS:
        headers["retry-after"] = "60"
    return PlainTextResponse(f"{error.message}\n", STATUS[error.code], headers)


def _asked(request: Request, opened: Opened) -> tuple[ranges.Part, int, list[tuple[bytes, bytes]]]:
    """Which part is to be sent, with which status and headers."""
    headers = _headers(opened)
    size = opened.top.state.size
    part, status = ranges.Part(0, size), 200
    if opened.top.state.kind is InodeKind.FILE:
        headers |= {"accept-ranges": "bytes", "etag": _tag(opened.top)}
        # Who has the beginning of another content begins anew.
        if request.method == "GET" and request.headers.get("if-range", headers["etag"]) == headers["etag"]:
            wanted = ranges.asked(request.headers.get("range"), size)
            if wanted is ranges.NOTHING:
                part, status = wanted, 416
                headers["content-range"] = f"bytes */{size}"
            elif wanted is not None:
                part, status = wanted, 206
                headers["content-range"] = f"bytes {part.start}-{part.end - 1}/{size}"
        headers["content-length"] = str(part.end - part.start)
    return part, status, [(name.encode(), value.encode()) for name, value in headers.items()]


def _tag(found: Found) -> str:
    """What is the same for the same content only."""
    return f'"{blake3(b"".join(ref.block for ref in found.blocks)).hexdigest(length=16)}"'


def _headers(opened: Opened) -> dict[str, str]:
    # Old programs read the first name only, which has letters that mean nothing in a header; the second one is exact.
    is_file = opened.top.state.kind is InodeKind.FILE
    name = opened.top.path if is_file else opened.top.path + b".tar"
    plain = re.sub(rb"[^A-Za-z0-9 ._-]", b"_", name).decode()
    return {
        **SAFE,
        "content-type": "application/octet-stream" if is_file else "application/x-tar",
        "content-disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}",
    }
