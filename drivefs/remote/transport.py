"""Bytes to the backend and bytes back: one HTTP exchange, its timeouts, and the translation of all that can go wrong.

Owns the HTTP client's settings, what is believed of a reply, and the table from HTTP and socket errors to
`remote.errors`; knows no message. Retrying is `retry`'s.

Invariants: a reply is believed only if its status is 200 and its content type is the one that drivefs uses for that
call, and a refusal only if it is a well-formed `Problem`; whatever else answers is not our server (what a message may
say is `belief`'s). No reply takes more memory than `MAX_REPLY_BYTES`. Redirects, proxies from the environment and
compressed transfer are never followed.
"""

import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import trio

import drivefs
from drivefs.protocol import messages, routes, wire
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.remote import errors
from drivefs.remote.pace import GRACE_SECONDS, Pace

MAX_REPLY_BYTES = 64 * 2**20
MAX_PROBLEM_BYTES = 64 * 2**10
WRITE_PIECE_BYTES = 256 * 2**10
"""Bodies are written in pieces of at most this size, each with its own timeout, so that a slow link is no dead one."""

MAX_CONNECTIONS = 16
CONNECT_SECONDS = 5.0
STALL_SECONDS = 15.0
"""How long nothing at all may arrive, or one piece may take to leave, before the connection counts as dead."""
IDLE_SECONDS = 30.0
"""How long an unused connection is kept: past this, a suspended machine or a router may have dropped it."""
KEEPALIVE_SECONDS = 10
"""A connection on which nothing moves is probed so often by the kernel: a long poll does not wait for a machine that
has gone."""
PROBE_SECONDS = 2
PROBE_COUNT = 3
"""After a probe in vain, the others follow so soon; after so many, the connection is broken: 16 s in all."""
FRESH = "drivefs.fresh"
"""The mark of a request that is not to go over a connection that was used before."""
ANEW = "drivefs.anew"
"""The mark of a request before which all connections that are kept are to be closed."""


def check_url(url: str, *, allow_insecure: bool) -> str:
    """The server's URL without a trailing slash.

    Raises:
        errors.InsecureUrl: not http or https; or plain http to anything but this machine, unless `allow_insecure`.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise errors.InsecureUrl(
            f"{url!r} is not a URL: {error}. It should look like https://drive.example.com"
        ) from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or parts.username:
        raise errors.InsecureUrl(f"{url!r} is not a server's URL. It should look like https://drive.example.com")
    if parts.scheme == "http" and not is_loopback(host) and not allow_insecure:
        raise errors.InsecureUrl(
            f"{url} is not encrypted: your password and files could be read on the way to {host}. "
            "Use https://, or allow plain HTTP explicitly (--allow-insecure-http) if the network between is your own"
        )
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether what is sent there never leaves this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_client(url: str) -> httpx.AsyncClient:
    """An HTTP client with our settings for this server; the caller closes it (`async with`)."""
    verify: ssl.SSLContext | bool = trusted_authorities() if url.startswith("https:") else False
    return httpx.AsyncClient(
        transport=Connections(verify),
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(STALL_SECONDS, connect=CONNECT_SECONDS),
    )


class Connections(httpx.AsyncBaseTransport):
    """Connections that are kept for the next request, and one of its own for each request that is marked `FRESH`."""

    def __init__(self, verify: ssl.SSLContext | bool) -> None:
        self._verify = verify
        self.kept = self._pool(verify, MAX_CONNECTIONS)
        self.fresh = self._pool(verify, 0)

    @staticmethod
    def _pool(verify: ssl.SSLContext | bool, kept_count: int) -> httpx.AsyncHTTPTransport:
        limits = httpx.Limits(
            max_connections=MAX_CONNECTIONS, max_keepalive_connections=kept_count, keepalive_expiry=IDLE_SECONDS
        )
        return httpx.AsyncHTTPTransport(verify=verify, trust_env=False, limits=limits, socket_options=_SOCKET_OPTIONS)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request over a connection of the kind that it asks for."""
        if request.extensions.get(ANEW):
            old, self.kept = self.kept, self._pool(self._verify, MAX_CONNECTIONS)
            await old.aclose()
        pool = self.fresh if request.extensions.get(FRESH) else self.kept
        return await pool.handle_async_request(request)

    async def aclose(self) -> None:
        """Close all connections."""
        await self.kept.aclose()
        await self.fresh.aclose()


_SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_SECONDS),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBE_COUNT),
)


def trusted_authorities() -> ssl.SSLContext:
    """The authorities of this machine, and the usual ones for machines that have none installed."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request: where it goes, what it carries, and what a believable reply is.

    `patience_seconds`: how long the first byte may take before the request is made again on a new connection, since the
    one that it went over may be dead without a word; 0: never, because it is large or takes long to be answered.
    """

    path: str
    body: tuple[bytes | memoryview, ...] = ()
    method: str = "POST"
    sends: str = routes.MSGPACK
    expects: str = routes.MSGPACK
    stall_seconds: float = STALL_SECONDS
    patience_seconds: float = 0.0


class Transport:
    """Exchanges with one server on behalf of one token, which may be empty (before login)."""

    def __init__(self, url: str, token: str, client: httpx.AsyncClient) -> None:
        self._url = url
        self._client = client
        self._is_distrusted = False
        self._headers = {"accept-encoding": "identity", "user-agent": f"drivefs/{drivefs.__version__}"}
        self._token = token
        self._shown = token
        """A pass, once the server has asked for one: the token itself is sent as seldom as can be."""
        self._renewing = trio.Lock()

    async def exchange(self, exchange: Exchange) -> bytes:
        """Send a request and read its whole reply, as long as it gets on. Cancellation drops the connection.

        Raises:
            errors.Offline, errors.NotDrivefs, errors.UntrustedServer, errors.Refused
        """
        async with self.stream(exchange) as pieces:
            return await pieces.whole(MAX_REPLY_BYTES, Pace(trio.current_time(), exchange.stall_seconds))

    @asynccontextmanager
    async def stream(self, exchange: Exchange) -> AsyncIterator["_Body"]:
        """Send a request; gives the body of a believable reply piece by piece. Leaving early drops the connection.

        Raises:
            as `exchange`, on entering and from the iterator; what the block itself raises is left as it is.
        """
        shown = self._shown
        try:
            try:
                body = await self._begun(exchange)
            except errors.PassExpired:
                await self._renew(shown, exchange)
                body = await self._begun(exchange)
            try:
                yield body
            finally:
                await body.close()
        except errors.NotDrivefs:
            self.distrust()
            raise

    async def _renew(self, shown: str, refused: Exchange) -> None:
        """Get another pass than the one that was shown, unless somebody has meanwhile, or is about to."""
        if refused.path == routes.PASS:
            raise errors.PassExpired("the server gives this device no pass")
        async with self._renewing:
            if self._shown == shown:
                reply = await self.exchange(replace(refused, path=routes.PASS, body=(), expects=routes.MSGPACK))
                with translated(self._url):
                    self._shown = wire.decode(reply, messages.PassReply).token

    async def _begun(self, exchange: Exchange) -> "_Body":
        """Send a request; gives the body of a believable reply, which the caller closes."""
        with translated(self._url):
            response = await self._answer(exchange)
        body = _Body(self._url, response)
        try:
            await self._believe(response, body, exchange.expects)
        except BaseException:
            await body.close()
            raise
        return body

    def distrust(self) -> None:
        """Whoever is at the other end of the connections now, if anybody, is not our server: the next request closes
        them all."""
        self._is_distrusted = True

    async def _answer(self, exchange: Exchange) -> httpx.Response:
        """The head of the reply: on a connection of its own if one that was used before stays silent."""
        if exchange.patience_seconds:
            with trio.move_on_after(exchange.patience_seconds):
                return await self._client.send(self._request(exchange), stream=True)
        return await self._client.send(self._request(exchange, is_fresh=exchange.patience_seconds > 0), stream=True)

    def _request(self, exchange: Exchange, *, is_fresh: bool = False) -> httpx.Request:
        is_distrusted, self._is_distrusted = self._is_distrusted, False
        return self._client.build_request(
            exchange.method,
            self._url + exchange.path,
            content=_pieces(exchange.body) if exchange.body else None,
            headers=self._headers | self._authorization(exchange) | _describe(exchange),
            timeout=httpx.Timeout(exchange.stall_seconds, connect=CONNECT_SECONDS),
            extensions={FRESH: is_fresh, ANEW: is_distrusted},
        )

    def _authorization(self, exchange: Exchange) -> dict[str, str]:
        shown = self._token if exchange.path == routes.PASS else self._shown
        return {"authorization": f"Bearer {shown}"} if shown else {}

    async def _believe(self, response: httpx.Response, body: "_Body", expects: str) -> None:
        """Return if the body to come is the answer; raise what it is otherwise."""
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.status_code == httpx.codes.OK:
            if kind != expects:
                raise errors.NotDrivefs(_not_drivefs(self._url, f"it answered with {kind or 'no type of content'}"))
            return
        if kind == routes.MSGPACK:
            problem = await body.whole(MAX_PROBLEM_BYTES, Pace(trio.current_time(), GRACE_SECONDS))
            with translated(self._url):
                raise refusal(wire.decode(problem, messages.Problem))
        if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise errors.Offline(f"the server at {self._url} cannot serve at the moment (HTTP {response.status_code})")
        raise errors.NotDrivefs(_not_drivefs(self._url, f"it answered with HTTP {response.status_code}"))


class _Body:
    """The pieces of a reply, with errors translated; `close` ends it wherever it stands."""

    def __init__(self, url: str, response: httpx.Response) -> None:
        self._url = url
        self._response = response
        self._pieces: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._pieces is None:
            self._pieces = self._response.aiter_raw()
        with translated(self._url):
            return await anext(self._pieces)

    async def whole(self, most_bytes: int, pace: Pace) -> bytes:
        """All of it, as it was sent.

        Raises:
            errors.NotDrivefs: it is longer than `most_bytes`, or not what its checksum says.
            errors.Silent: it comes too slowly.
        """
        data = await read_all(self, most_bytes, pace)
        said = self._response.headers.get(routes.CHECKSUM)
        if said is not None and said != wire.checksum(data):
            raise errors.NotDrivefs(_not_drivefs(self._url, "its answer was damaged on the way"))
        return data

    async def close(self) -> None:
        """Give the connection back or, before the end of the reply, close it."""
        try:
            await self._response.aclose()
        finally:
            if self._pieces is not None:
                # Several generators lie between here and the socket, each waiting to go on. Going on, they find it
                # closed, or us cancelled, and end; left alone, they would be collected later, by no task of ours.
                with suppress(httpx.HTTPError):
                    async for _ in self._pieces:
                        pass


def refusal(problem: messages.Problem) -> errors.RemoteError:
    """What a `Problem` means: the backend's no, or that it cannot say yes or no now."""
    if problem.code not in Code.__members__.values():
        return errors.OtherProtocol(
            f"the server refused for a reason that this version does not know: {problem.message}"
        )
    code = Code(problem.code)
    if code is Code.PASS_EXPIRED:
        return errors.PassExpired(f"the server wants to know again who asks: {problem.message}")
    if code in (Code.UNAVAILABLE, Code.INTERNAL):
        return errors.Offline(f"the server cannot serve at the moment: {problem.message}")
    return errors.Refused(ProtocolError(code, problem.message))


async def read_all(pieces: AsyncIterator[bytes], most_bytes: int, pace: Pace) -> bytes:
    """The whole body, if it is not longer than it may be.

    Raises:
        errors.NotDrivefs: it is.
        errors.Silent: it comes too slowly.
    """
    parts: list[bytes] = []
    total = 0
    async for piece in pieces:
        pace.check(len(piece), trio.current_time())
        parts.append(piece)
        total += len(piece)
        if total > most_bytes:
            raise errors.NotDrivefs("the server's answer is longer than any drivefs server's")
    return b"".join(parts)


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turns what httpx, sockets, TLS and decoders raise into `errors`."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise errors.Silent(f"the server at {url} does not answer") from error
    except (httpx.HTTPError, OSError) as error:
        raise _network_error(url, error) from error
    except ProtocolError as error:
        raise errors.NotDrivefs(_not_drivefs(url, f"its answer is damaged: {error.message}")) from error


_PLAIN_ANSWERS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
"""What OpenSSL calls an answer that is no TLS."""


def _network_error(url: str, error: Exception) -> errors.RemoteError:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return errors.UntrustedServer(
                f"the certificate of {url} is not to be trusted ({cause.verify_message}); nothing was sent. "
                "If the server is yours, add its authority to this machine's trusted certificates"
            )
        if isinstance(cause, ssl.SSLError):
            hint = "; what answers there may speak plain HTTP" if cause.reason in _PLAIN_ANSWERS else ""
            return errors.Offline(f"no secure connection to {url} ({cause.reason or cause}){hint}")
    if isinstance(error, httpx.ConnectError):
        return errors.Offline(f"the server at {url} cannot be reached ({_innermost(error)})")
    return errors.Offline(f"the connection to {url} broke ({_innermost(error)})")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _innermost(error: Exception) -> str:
    found = [cause for cause in _causes(error) if isinstance(cause, OSError) and cause.strerror]
    return (found[-1].strerror if found else str(error)) or type(error).__name__


def _not_drivefs(url: str, why: str) -> str:
    return f"what answers at {url} is not a drivefs server: {why}"


def _describe(exchange: Exchange) -> dict[str, str]:
    """The headers of a body: a message's checksum, and the length, since a body in pieces would otherwise travel in a
    slower encoding."""
    if not exchange.body:
        return {}
    described = {"content-type": exchange.sends, "content-length": str(sum(map(len, exchange.body)))}
    if exchange.sends == routes.MSGPACK:
        described[routes.CHECKSUM] = wire.checksum(*exchange.body)
    return described


async def _pieces(body: Iterable[bytes | memoryview]) -> AsyncIterator[Any]:
    """The parts of a body in pieces of `WRITE_PIECE_BYTES`: small ones joined, long ones sliced without a copy: any
    buffer is sent as bytes are."""
    small: list[bytes | memoryview] = []
    small_bytes = 0
    for part in body:
        rest = memoryview(part)
        while small_bytes + len(rest) >= WRITE_PIECE_BYTES:
            lacking = WRITE_PIECE_BYTES - small_bytes
            yield b"".join((*small, rest[:lacking])) if small else rest[:lacking]
            rest = rest[lacking:]
            small, small_bytes = [], 0
        if rest:
            small.append(rest)
            small_bytes += len(rest)
    if small:
        yield b"".join(small)
