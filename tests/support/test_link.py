"""The link does to a connection what its orders say: tests that use it to break things rely on that."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.link import GARBAGE, REPLIES, REQUESTS, Link
from tests.support.mounts import wait_until

ECHO = """
import contextlib, trio
async def echo(stream):
    with contextlib.suppress(trio.BrokenResourceError):
        while data := await stream.receive_some(65536):
            await stream.send_all(data)
async def main():
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(echo, listeners)
trio.run(main)
"""
SILENT_SECONDS = 0.3


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    """A link to a server that sends back what it gets."""
    with subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        made = Link(f"127.0.0.1:{int(server.stdout.readline())}")
        yield made
        made.close()
        server.kill()


@pytest.fixture
def connection(link: Link) -> Iterator[socket.socket]:
    link.restore()
    with connected(link) as made:
        assert echoed(made, b"first") == b"first"
        yield made


def connected(link: Link) -> socket.socket:
    host, port = link.address.rsplit(":", 1)
    made = socket.create_connection((host, int(port)), timeout=10)
    made.settimeout(10)
    return made


def echoed(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    found = b""
    while len(found) < len(data):
        piece = connection.recv(65536)
        if not piece:
            break
        found += piece
    return found


def assert_silent(connection: socket.socket) -> None:
    connection.settimeout(SILENT_SECONDS)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    connection.settimeout(10)


def test_bytes_pass_in_both_directions(link: Link, connection: socket.socket) -> None:
    data = bytes(range(256)) * 100
    before = link.seen()
    assert echoed(connection, data) == data
    after = link.seen()
    assert after[REQUESTS] - before[REQUESTS] == after[REPLIES] - before[REPLIES] == len(data)


def test_a_pause_holds_everything_and_loses_nothing(link: Link, connection: socket.socket) -> None:
    link.pause()
    connection.sendall(b"held")
    with connected(link) as late:
        late.sendall(b"later")
        assert_silent(connection)
        assert_silent(late)
        link.restore()
        assert connection.recv(100) == b"held"
        assert late.recv(100) == b"later"


def test_a_cut_breaks_and_refuses_until_it_is_restored(link: Link, connection: socket.socket) -> None:
    link.cut()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            connected(link)
    link.restore()
    with connected(link) as again:
        assert echoed(again, b"again") == b"again"


def test_unreachable_does_not_even_refuse(link: Link, connection: socket.socket) -> None:
    link.unreachable()
    host, port = link.address.rsplit(":", 1)
    with pytest.raises(TimeoutError):
        socket.create_connection((host, int(port)), timeout=SILENT_SECONDS)
    link.restore()
    with connected(link) as again:
        assert echoed(again, b"again") == b"again"


def test_half_open_connections_stay_dead_and_new_ones_work(link: Link, connection: socket.socket) -> None:
    link.half_open()
    connection.sendall(b"into the void")
    assert_silent(connection)
    with connected(link) as fresh:
        assert echoed(fresh, b"fresh") == b"fresh"
    link.restore()
    assert_silent(connection)


@pytest.mark.parametrize("direction", [REQUESTS, REPLIES])
def test_one_way_loss_ends_in_a_reset(link: Link, connection: socket.socket, direction: str) -> None:
    link.lose(direction)
    connection.sendall(b"lost")
    assert_silent(connection)
    link.restore()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)


def test_a_trickle_is_slow_and_whole(link: Link, connection: socket.socket) -> None:
    link.trickle(100)
    connection.sendall(b"x" * 1000)
    assert len(connection.recv(65536)) < 1000
    link.restore()


def test_flapping_goes_and_comes(link: Link, connection: socket.socket) -> None:
    link.flap(0.2)

    def is_refused() -> bool:
        try:
            connected(link).close()
        except ConnectionRefusedError:
            return True
        return False

    for _ in range(2):
        wait_until("refused", is_refused)
        wait_until("accepted", lambda: not is_refused())
    link.restore()


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_answers_every_request(link: Link, connection: socket.socket, kind: str) -> None:
    link.garbage(kind)
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    with connected(link) as asking:
        asking.sendall(b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc")
        answer = asking.recv(65536)
        assert answer == b"" if kind == "nothing" else len(answer) > 10
