"""What reaches a real socket: URLs that a token may be sent to, certificates, and servers that are not there."""

import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from drivefs.protocol import messages
from drivefs.remote import errors, transport
from drivefs.remote.client import Remote
from drivefs.sync.follower import POLL_SECONDS
from tests.remote.server import Server, message, says

USAGE = messages.UsageReply(usage=messages.Usage(stored_bytes=5), limits=messages.Limits(file_bytes=1, quota_bytes=2))


@pytest.mark.parametrize(
    "url",
    ["https://drive.example.com", "https://drive.example.com:8443/below/", "http://127.0.0.1:8420", "http://[::1]:8420/",
     "http://localhost:8420", "http://127.8.9.1"],
)  # fmt: skip
def test_a_url_that_nobody_can_listen_in_on_is_accepted(url: str) -> None:
    assert transport.check_url(url, allow_insecure=False) == url.rstrip("/")


@pytest.mark.parametrize(
    "url", ["http://drive.example.com", "http://10.0.0.7:8420", "http://127.0.0.1.example.com", "http://[2001:db8::1]/"]
)
def test_plain_http_to_another_machine_is_refused_unless_allowed(url: str) -> None:
    with pytest.raises(errors.InsecureUrl, match=r"https://.*--allow-insecure-http"):
        transport.check_url(url, allow_insecure=False)
    assert transport.check_url(url, allow_insecure=True) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    ["", "drive.example.com", "ftp://x", "file:///etc", "https://", "https://u:p@x", "https://x/?a=b", "https://x:port",
     "https://[::1", "https://x:99999"],
)  # fmt: skip
def test_what_is_no_server_url_is_refused_even_if_allowed(url: str) -> None:
    with pytest.raises(errors.InsecureUrl, match=r"https://drive\.example\.com$"):
        transport.check_url(url, allow_insecure=True)


async def serve(
    server: Server, scenario: Callable[[int], Awaitable[None]], context: ssl.SSLContext | None = None
) -> None:
    """Run a scenario with a port on loopback on which the server listens."""

    async def handle(stream: trio.abc.Stream) -> None:
        if context is not None:
            stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        await server.handle(stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        await scenario(listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def ask(url: str) -> messages.UsageReply:
    async with transport.open_client(url) as client:
        return await Remote(url, "a-token", client=client, jitter=lambda: 0.0).usage()


def test_a_server_on_loopback_answers() -> None:
    async def scenario(port: int) -> None:
        assert await ask(f"http://127.0.0.1:{port}") == USAGE

    trio.run(serve, Server(says(message(USAGE))), scenario)


def test_a_proxy_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def scenario(port: int) -> None:
        assert await ask(f"http://127.0.0.1:{port}") == USAGE

    trio.run(serve, Server(says(message(USAGE))), scenario)


def test_a_port_on_which_nobody_listens_is_offline() -> None:
    async def scenario() -> None:
        with trio.socket.socket() as unused:
            await unused.bind(("127.0.0.1", 0))
            with pytest.raises(errors.Offline, match="cannot be reached"):
                await ask(f"http://127.0.0.1:{unused.getsockname()[1]}")

    trio.run(scenario)


@pytest.mark.fault(26)
def test_a_connection_that_the_server_dropped_while_idle_is_replaced() -> None:
    async def once(stream: trio.abc.Stream, head: bytes, body: bytes) -> None:
        await stream.send_all(message(USAGE))
        await stream.aclose()

    async def scenario(port: int) -> None:
        url = f"http://127.0.0.1:{port}"
        async with transport.open_client(url) as client:
            remote = Remote(url, "a-token", client=client, jitter=lambda: 0.0)
            for _ in range(5):
                assert await remote.usage() == USAGE

    server = Server(once)
    trio.run(serve, server, scenario)
    assert len(server.requests) == server.connection_count == 5


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 and its key, signed by nobody but itself."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=drive"
    more = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "certificate.pem"]
    made = subprocess.run([*command.split(), *more], capture_output=True, check=False)
    assert made.returncode == 0, made.stderr
    return folder


def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
    return context


@pytest.mark.fault(30)
def test_the_kernel_breaks_a_silent_connection_whose_other_end_is_gone() -> None:
    """A long poll is silent for as long as nothing happens; a machine that has gone is noticed well before it ends."""

    async def scenario(port: int) -> None:
        async with transport.open_client(url := f"http://127.0.0.1:{port}") as client:
            made = (await client.post(url, content=b"")).extensions["network_stream"].get_extra_info("socket")
            assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            idle, between, count = (made.getsockopt(socket.IPPROTO_TCP, option) for option in options)
            assert idle + between * count <= 20.0 < POLL_SECONDS

    trio.run(serve, Server(says(message(USAGE))), scenario)


@pytest.mark.fault(37)
def test_a_certificate_that_proves_nothing_is_refused_before_anything_is_sent(certificate: Path) -> None:
    async def scenario(port: int) -> None:
        with pytest.raises(errors.UntrustedServer, match="certificate"):
            await ask(f"https://127.0.0.1:{port}")

    server = Server(says(message(USAGE)))
    trio.run(serve, server, scenario, tls(certificate))
    assert server.requests == []


def test_a_certificate_that_the_machine_trusts_is_accepted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "certificate.pem"))

    async def scenario(port: int) -> None:
        assert await ask(f"https://127.0.0.1:{port}") == USAGE
        with pytest.raises(errors.UntrustedServer):
            await ask(f"https://localhost:{port}")

    trio.run(serve, Server(says(message(USAGE))), scenario, tls(certificate))


def test_plain_http_where_tls_is_expected_is_no_connection() -> None:
    async def rubbish(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    class Plain(Server):
        async def handle(self, stream: trio.abc.Stream) -> None:
            await rubbish(stream)

    async def scenario(port: int) -> None:
        with pytest.raises(errors.Offline):
            await ask(f"https://127.0.0.1:{port}")

    trio.run(serve, Plain(says(b"")), scenario)
