"""The first exchange with the kernel: what is changed in it, and that libfuse has the kernel's descriptor after it."""

import errno
import os
import socket
import struct

import pytest
import trio

from drivefs.fuse import handshake
from drivefs.fuse.handshake import HANDLE_KILLPRIV_V2, INIT, Handshake, offers, with_flag
from drivefs.fuse.polling import PolledFirst

pytestmark = pytest.mark.anyio

OTHER_FLAGS = 0b1011


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


def request(flags: int, opcode: int = INIT) -> bytes:
    return (
        struct.pack("=IIQQIIII", 104, opcode, 7, 0, 0, 0, 1, 0) + struct.pack("=IIII", 7, 45, 2**17, flags) + bytes(48)
    )


def answer(flags: int, error: int = 0) -> bytes:
    return struct.pack("=IiQ", 80, error, 7) + struct.pack("=IIII", 7, 38, 2**17, flags) + bytes(48)


def test_the_offer_is_seen() -> None:
    assert offers(request(HANDLE_KILLPRIV_V2 | OTHER_FLAGS))
    assert not offers(request(OTHER_FLAGS))
    assert not offers(request(HANDLE_KILLPRIV_V2, opcode=3))
    assert not offers(request(HANDLE_KILLPRIV_V2)[:48])


def test_only_the_flag_is_added() -> None:
    assert with_flag(answer(OTHER_FLAGS)) == answer(OTHER_FLAGS | HANDLE_KILLPRIV_V2)


@pytest.mark.parametrize("kept", [answer(OTHER_FLAGS, error=-71), answer(OTHER_FLAGS)[:24]])
def test_an_error_or_a_short_answer_stays_as_it_is(kept: bytes) -> None:
    assert with_flag(kept) == kept


@pytest.mark.parametrize("is_offered", [True, False])
async def test_what_follows_comes_from_the_kernel(is_offered: bool) -> None:
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    flags = OTHER_FLAGS | (HANDLE_KILLPRIV_V2 if is_offered else 0)
    with kernel, ours:
        fd, polled = ours.fileno(), PolledFirst(Handshake())
        kernel.send(request(flags))
        await polled.wait_readable(fd)
        assert os.read(fd, 1000) == request(flags)
        os.write(fd, answer(OTHER_FLAGS))
        kernel.send(b"next")
        await polled.wait_readable(fd)
        assert kernel.recv(1000) == answer(flags)
        assert os.read(fd, 1000) == b"next"
        os.write(fd, b"answered")
        assert kernel.recv(1000) == b"answered"
        trio.lowlevel.notify_closing(fd)


async def test_libfuse_that_does_not_answer_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "ANSWER_SECONDS", 0.01)
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel, ours:
        polled = PolledFirst(Handshake())
        kernel.send(request(OTHER_FLAGS))
        await polled.wait_readable(ours.fileno())
        with pytest.raises(trio.TooSlowError):
            await polled.wait_readable(ours.fileno())
        trio.lowlevel.notify_closing(ours.fileno())


async def test_what_is_unmounted_at_once_is_left_to_libfuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def unmounted(*_: object) -> bytes:
        raise OSError(errno.ENODEV, "No such device")

    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel, ours:
        polled = PolledFirst(Handshake())
        kernel.send(request(OTHER_FLAGS))
        with monkeypatch.context() as patched:
            patched.setattr(os, "read", unmounted)
            await polled.wait_readable(ours.fileno())
        await polled.wait_readable(ours.fileno())
        assert os.read(ours.fileno(), 1000) == request(OTHER_FLAGS)
        trio.lowlevel.notify_closing(ours.fileno())
